"""Which cold knobs a model factory offers, and with what values it starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .activation import checked_activation
from .depth import checked_depth

COLD_KNOBS = ("depth", "activation")
_CHECKS: dict[str, Callable[[object], Any]] = {
    "depth": checked_depth,
    "activation": checked_activation,
}


@dataclass(frozen=True)
class ColdKnob:
    """A knob that rebuilds the model: its value, or the reason why it can't be turned."""

    name: str
    value: Any = None
    reason: str = ""

    @property
    def offered(self) -> bool:
        """Whether the knob can be turned."""
        return not self.reason


def knobs_of_module() -> dict[str, ColdKnob]:
    """Return the knobs of a model that is given ready made: none can be turned yet."""
    reason = (
        "This model was given ready made: give a function that makes it, "
        "def build(depth=…, activation=…), to turn these knobs."
    )
    return {name: ColdKnob(name, reason=reason) for name in COLD_KNOBS}


def knobs_of_factory(factory: Callable[..., Any]) -> dict[str, ColdKnob]:
    """Return the cold knobs, offered where the factory names them as parameters.

    Raises:
        TypeError: the factory needs an argument that is no cold knob.
        ValueError: a knob's default value is out of range or unknown.
    """
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        parameters = {}
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in parameters.items():
        if (
            parameter.default is inspect.Parameter.empty
            and parameter.kind not in fixed
            and name not in COLD_KNOBS
        ):
            raise TypeError(
                f"model is a factory that needs {name!r}: give that parameter a default, "
                "or pass functools.partial(factory, ...)."
            )
    offered: dict[str, ColdKnob] = {}
    defaults: Mapping[str, Any] = {"depth": 8, "activation": "tanh"}
    for name in COLD_KNOBS:
        named = parameters.get(name)
        if named is None or named.kind is inspect.Parameter.POSITIONAL_ONLY:
            reason = f"The model's factory has no parameter {name!r}."
            offered[name] = ColdKnob(name, reason=reason)
            continue
        default = named.default
        value = defaults[name] if default is inspect.Parameter.empty else default
        offered[name] = ColdKnob(name, _CHECKS[name](value))
    return offered


def checked_knob(name: str, value: object) -> Any:
    """Return the value of a cold knob if it is in range.

    Raises:
        ValueError: it is not, or is unknown; the message says what would do.
    """
    return _CHECKS[name](value)

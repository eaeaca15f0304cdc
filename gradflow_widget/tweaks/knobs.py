"""Which cold knobs a model or a factory offers, with what values they start, and which they take.

A knob stands at first on what the model has. Of the values that two knobs share, ``"as given"``
is what the model came with where that has no name, and None is off.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

from torch import nn

from ..checked import as_float
from ..quoting import quoted
from .activation import ACTIVATIONS, activation_of, checked_activation, put_on_activation
from .depth import DEEPEST, SHALLOWEST, checked_depth, depth_of
from .errors import CannotTweak
from .initialization import SCHEMES, check_initializable, checked_scheme
from .normalization import KINDS, check_normalizable, has_normalization
from .orthogonality import HARD, check_orthogonalizable
from .record import value_of
from .skips import DEPTH_SCALE, LEARNED, check_skippable

COLD_KNOBS = (
    "depth",
    "activation",
    "initialization",
    "normalization",
    "skips",
    "orthogonality",
)
CAN_BE_OFF = ("normalization", "skips", "orthogonality")
"""The knobs for which None is a value; for the others it means that there is none."""

AS_GIVEN = "as given"
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
Option = tuple[str, Any]


def _checked_activation(value: object) -> str:
    return AS_GIVEN if is_as_given(value) else checked_activation(value)


def _checked_initialization(value: object) -> str:
    return AS_GIVEN if is_as_given(value) else checked_scheme(value)


def _checked_normalization(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value in (AS_GIVEN, *KINDS)):
        return value
    raise ValueError(
        f"normalization {quoted(value)} is unknown: choose one of {', '.join(KINDS)}, "
        "or None for off."
    )


def _checked_skips(value: object) -> float | str | None:
    if value is None or (isinstance(value, str) and value in (DEPTH_SCALE, LEARNED)):
        return value
    if _is_positive(value):
        return float(value)  # type: ignore[arg-type]
    raise ValueError(
        f"skips {quoted(value)} is unknown: give a positive number, {DEPTH_SCALE!r}, {LEARNED!r}, "
        "or None for off."
    )


def _checked_orthogonality(value: object) -> float | str | None:
    if value is None or (isinstance(value, str) and value == HARD):
        return value
    if _is_positive(value):
        return float(value)  # type: ignore[arg-type]
    raise ValueError(
        f"orthogonality {quoted(value)} is unknown: give a positive number, {HARD!r}, "
        "or None for off."
    )


def is_as_given(value: object) -> bool:
    """Whether a knob is set to "as given", whatever else it may be set to."""
    return isinstance(value, str) and value == AS_GIVEN


def _is_positive(value: object) -> bool:
    number = as_float(value)
    return math.isfinite(number) and number > 0


_CHECKS: dict[str, Callable[[object], Any]] = {
    "depth": checked_depth,
    "activation": _checked_activation,
    "initialization": _checked_initialization,
    "normalization": _checked_normalization,
    "skips": _checked_skips,
    "orthogonality": _checked_orthogonality,
}


def checked_knob(name: str, value: object) -> Any:
    """Return the value of a cold knob if it is in range.

    Raises:
        ValueError: it is not, or is unknown; the message says what would do.
    """
    return _CHECKS[name](value)


@dataclass(frozen=True)
class ColdKnob:
    """A knob that rebuilds the model: its first value, or the reason why it can't be turned.

    Attributes:
        name: one of ``COLD_KNOBS``.
        value: what is there before anybody turns it.
        reason: a sentence where the knob is not offered; else "".
        argument: what a factory that names the knob gets for ``value``.
        is_named: whether a factory has it for a parameter, which it gets where the knob is
            offered; otherwise the model is tweaked.
    """

    name: str
    value: Any = None
    reason: str = ""
    argument: Any = None
    is_named: bool = False

    @property
    def offered(self) -> bool:
        """Whether the knob can be turned."""
        return not self.reason

    @property
    def options(self) -> tuple[Option, ...]:
        """Pairs of label and value for a menu; where one is neutral, it stands first."""
        listed = _options(self.name)
        first = (AS_GIVEN, AS_GIVEN) if self.value == AS_GIVEN else None
        if first is None and self.name in CAN_BE_OFF:
            first = next((option for option in listed if option[1] == self.value), None)
        if first is None:
            return listed
        return (first, *(option for option in listed if option != first))


def _options(name: str) -> tuple[Option, ...]:
    off: Option = ("off", None)
    if name == "activation":
        return tuple((one, one) for one in ACTIVATIONS)
    if name == "initialization":
        return tuple((one, one) for one in SCHEMES)
    if name == "normalization":
        return (off, *((kind, kind) for kind in KINDS))
    if name == "skips":
        return (off, ("1", 1.0), ("1/√(2L)", DEPTH_SCALE), ("learned", LEARNED))
    if name == "orthogonality":
        return (off, *((f"{strength:g}", strength) for strength in _STRENGTHS), (HARD, HARD))
    return ()


# -- a model that is there ---------------------------------------------------------------


def knobs_of_module(model: nn.Module) -> dict[str, ColdKnob]:
    """Return what the tweaks can change in ``model``, which is left as it is.

    What can't be known without a copy is found when the knob is turned.
    """
    found = {}
    for name in COLD_KNOBS:
        try:
            found[name] = ColdKnob(name, _FIRST_VALUES[name](model))
        except CannotTweak as error:
            found[name] = ColdKnob(name, reason=str(error))
        except Exception as error:
            # The rest of the widget must work on whatever a model may be.
            reason = f"This model can't be looked into for it ({type(error).__name__})."
            found[name] = ColdKnob(name, reason=reason)
    return found


def _first_depth(model: nn.Module) -> int:
    blocks = depth_of(model).blocks
    if blocks > DEEPEST:
        raise CannotTweak(
            f"The model has {blocks} blocks, and the depth knob goes to {DEEPEST} at most."
        )
    return blocks


def _first_activation(model: nn.Module) -> str:
    name = activation_of(model)
    if name is None:
        put_on_activation(model, None)  # says why where there is none to change
    return name or AS_GIVEN


def _first_initialization(model: nn.Module) -> str:
    check_initializable(model)
    return AS_GIVEN


def _first_normalization(model: nn.Module) -> str | None:
    if has_normalization(model):
        return value_of(model, "normalization") or AS_GIVEN
    check_normalizable(model)
    return None


def _first_skips(model: nn.Module) -> float | str | None:
    check_skippable(model)
    return checked_knob("skips", value_of(model, "skips"))  # type: ignore[no-any-return]


def _first_orthogonality(model: nn.Module) -> float | str | None:
    check_orthogonalizable(model)
    value = value_of(model, "orthogonality")
    return checked_knob("orthogonality", value)  # type: ignore[no-any-return]


_FIRST_VALUES: dict[str, Callable[[nn.Module], Any]] = {
    "depth": _first_depth,
    "activation": _first_activation,
    "initialization": _first_initialization,
    "normalization": _first_normalization,
    "skips": _first_skips,
    "orthogonality": _first_orthogonality,
}


# -- a factory ---------------------------------------------------------------------------


def knobs_of_factory(factory: Callable[..., Any]) -> dict[str, ColdKnob]:
    """Return the cold knobs, offered where the factory names them with defaults that they know.

    Raises:
        TypeError: the factory needs an argument that is no cold knob.
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
    for name in COLD_KNOBS:
        named = parameters.get(name)
        if named is None or named.kind in (inspect.Parameter.POSITIONAL_ONLY, *fixed):
            reason = f"The model's factory has no parameter {name!r}."
            offered[name] = ColdKnob(name, reason=reason)
            continue
        default = named.default
        if default is inspect.Parameter.empty:
            default = _WITHOUT_DEFAULT[name]
        is_nameless = default is None and name == "initialization"
        try:
            value = AS_GIVEN if is_nameless else _CHECKS[name](default)
        except ValueError:
            offered[name] = ColdKnob(name, reason=_unknown_default(name, default), is_named=True)
        else:
            offered[name] = ColdKnob(name, value, argument=default, is_named=True)
    return offered


def _unknown_default(name: str, default: object) -> str:
    shown = default.__name__ if isinstance(default, type | FunctionType) else quoted(default)
    own = f"The factory's own default, {name}={shown}, is none of the known ones"
    if name == "depth":
        return f"{own}: give it a default from {SHALLOWEST} to {DEEPEST}."
    return f"{own}: {', '.join(label for label, _ in _options(name))}."


_WITHOUT_DEFAULT: Mapping[str, Any] = {
    "depth": 8,
    "activation": "tanh",
    "initialization": "default",
    "normalization": None,
    "skips": None,
    "orthogonality": None,
}


def completed(named: Mapping[str, ColdKnob], product: nn.Module) -> dict[str, ColdKnob]:
    """Add to the knobs that a factory names those that tweaks can turn on its product."""
    found = knobs_of_module(product)
    return {name: knob if knob.is_named else found[name] for name, knob in named.items()}


def without_training(knobs: Mapping[str, ColdKnob]) -> dict[str, ColdKnob]:
    """Return ``knobs`` for a model that only the user's own loop trains.

    That loop would go on with the model that it holds, so a changed copy is of no use.
    """
    reason = (
        "Your own loop trains this model: give data with loss_fn or objective to have it rebuilt."
    )
    return {
        name: knob if knob.is_named else replace(knob, value=None, reason=reason)
        for name, knob in knobs.items()
    }

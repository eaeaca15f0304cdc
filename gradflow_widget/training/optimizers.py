"""Optimizers by name, in the place of the one that was given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from ..measurement.optimizers import number_in, rate_of
from ..quoting import quoted
from ..tweaks.copying import is_ours
from ..tweaks.knobs import AS_GIVEN

KINDS: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "SGD": (SGD, {"momentum": 0.0, "dampening": 0.0, "nesterov": False}),
    "momentum": (SGD, {"momentum": 0.9, "dampening": 0.0, "nesterov": False}),
    "Nesterov": (SGD, {"momentum": 0.9, "dampening": 0.0, "nesterov": True}),
    "Adam": (Adam, {}),
    "AdamW": (AdamW, {}),
    "RMSProp": (RMSprop, {"momentum": 0.0}),
}
"""By name: the class, and the options that make the kind, whatever they were before."""

# What a class has for its own ends, AdamW being an Adam with a flag.
_NOT_HANDED_ON = frozenset({"params", "param_names", "decoupled_weight_decay"})


def checked_kind(kind: object) -> str:
    """Return ``kind`` if it is a known one.

    Raises:
        ValueError: it is not; the message lists the known ones.
    """
    if isinstance(kind, str) and (kind == AS_GIVEN or kind in KINDS):
        return kind
    known = ", ".join([repr(AS_GIVEN), *KINDS])
    raise ValueError(f"optimizer_kind {quoted(kind)} is unknown: choose one of {known}.")


def of_kind(kind: str, given: Optimizer) -> Optimizer:
    """Return the optimizer of a kind over the parameter groups of ``given``.

    With ``"as given"`` that is ``given`` itself. Otherwise it is a new one without any state.
    Groups keep those of their options, the learning rate and weight decay among them, that
    the new class knows and that do not make the kind itself; ``given`` is untouched. One without
    a learning rate has the first group's.
    """
    if kind == AS_GIVEN:
        return given
    cls, own = KINDS[kind]
    known = inspect.signature(cls).parameters
    groups = []
    for group in given.param_groups:
        kept = {
            name: value
            for name, value in group.items()
            if name in known.keys() - own.keys() - _NOT_HANDED_ON
            and _is_like(value, known[name].default)
        }
        # A tensor would be shared, and not every class takes one.
        for one in (group, given.param_groups[0]):
            if (rate := rate_of(one)) is not None:
                kept["lr"] = rate
                break
        # Where a warm-up begins with a rate of 0, this tells the groups' ratio.
        if (initial := number_in(group.get("initial_lr"))) is not None:
            kept["initial_lr"] = initial
        groups.append({**kept, **own, "params": list(group["params"])})
    return cls(groups)


def begin_anew(optimizer: Optimizer, kind: str, given: Optimizer) -> None:
    """Let an optimizer that :func:`of_kind` has made be again as one made now.

    It is the same object, for a loop or a scheduler may hold it.
    """
    groups = optimizer.param_groups
    first = of_kind(kind, given).param_groups
    # Groups may have been added, or taken away, since.
    del groups[len(first) :]
    groups.extend({} for _ in first[len(groups) :])
    for group, options in zip(groups, first, strict=True):
        # A scheduler made since keeps numbers of its own there, without which it could not go on.
        group.update(options)
    optimizer.state.clear()


def _is_like(value: object, default: object) -> bool:
    """Whether an option of one class can be one of another, as Adafactor's two eps can not.

    None stands for an option of its own only where the other class says so.
    """
    if value is None:
        return default is None
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and len(value) == len(default)
    return not isinstance(value, tuple | list)


def decays_of(optimizer: Optimizer) -> list[float | None]:
    """Return each parameter group's weight decay; None where it has none."""
    return [group.get("weight_decay") for group in optimizer.param_groups]


def steered_decays(decay: float | None, own: list[float | None]) -> list[float | None]:
    """Return ``decay`` for groups that have most weight decay of their own, for others in ratio.

    So groups that are spared, biases and norms often, stay spared. Where no group has any,
    all get ``decay``. With None each has its own. None stays None.
    """
    most = max((one for one in own if one is not None), default=0.0)
    return [
        one if one is None or decay is None else decay * (one / most) if most else decay
        for one in own
    ]


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether the user has put hooks on an optimizer's steps, as for a scheduler."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return any(not is_ours(hook) for here in hooks for hook in here.values())

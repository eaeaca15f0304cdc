"""What an optimizer must be to be watched, and how the numbers in its groups are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from ..quoting import quoted


def check_watchable(optimizer: object) -> None:
    """Raise TypeError where ``optimizer`` is none, or none that hooks and rates can be had of."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}."
        )
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__} but not set up by Optimizer.__init__: "
            "watch the optimizer that it wraps."
        )
    for group in optimizer.param_groups:
        rate = group.get("lr")
        if rate is not None and number_in(rate) is None:
            raise TypeError(
                f"optimizer has a learning rate of {quoted(rate)}: give it a number, or a "
                "tensor of one element, or None where it has none of its own."
            )


def number_in(value: object) -> float | None:
    """Return the number that an option of a group is, as a tensor of one element too, or None."""
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def rate_of(group: Mapping[str, Any]) -> float | None:
    """Return a group's learning rate; None where it has none of its own."""
    return number_in(group.get("lr"))

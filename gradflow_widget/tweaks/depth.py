"""The range of the depth knob."""

from __future__ import annotations

from numbers import Integral
from typing import Any

SHALLOWEST, DEEPEST = 1, 64


def checked_depth(depth: Any) -> int:
    """Return ``depth`` if it is a whole number in range.

    Raises:
        ValueError: it is not.
    """
    is_whole = isinstance(depth, Integral) and not isinstance(depth, bool)
    if is_whole and SHALLOWEST <= depth <= DEEPEST:
        return int(depth)
    raise ValueError(f"depth must be a whole number from {SHALLOWEST} to {DEEPEST}, not {depth!r}.")

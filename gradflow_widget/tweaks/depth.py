"""The range of the depth knob."""

from __future__ import annotations

SHALLOWEST, DEEPEST = 1, 64


def checked_depth(depth: object) -> int:
    """Return ``depth`` if it is a whole number in range.

    Raises:
        ValueError: it is not.
    """
    if isinstance(depth, int) and not isinstance(depth, bool) and SHALLOWEST <= depth <= DEEPEST:
        return depth
    raise ValueError(f"depth must be a whole number from {SHALLOWEST} to {DEEPEST}, not {depth!r}.")

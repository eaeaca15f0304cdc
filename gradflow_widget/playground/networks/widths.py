"""How wide a network of the playground may be."""

from __future__ import annotations

from ...checked import checked_whole

# One Linear layer of it takes 400 MB.
_WIDEST = 10_000


def checked_width(width: object, *, heads: object = 1) -> int:
    """Return ``width`` as an int if it is a whole number in range that ``heads`` divide.

    Raises:
        ValueError: it is not, or ``heads`` are not.
    """
    heads = checked_whole("heads", heads, 1, _WIDEST)
    return checked_whole("width", width, 1, _WIDEST, multiple_of=heads)

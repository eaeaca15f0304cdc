"""How values and numbers of things stand in a sentence."""

from __future__ import annotations

import reprlib

_LONGEST = 60


def quoted(value: object) -> str:
    """Return what ``repr`` makes of a value, in one line of 60 characters at most."""
    ends = reprlib.Repr()
    ends.maxstring = ends.maxlong = ends.maxother = _LONGEST
    try:
        text = " ".join(ends.repr(value).split())
    except Exception:  # a value's own repr may fail, and one of too many digits has none
        return f"<{type(value).__name__}>"[:_LONGEST]
    if len(text) <= _LONGEST:
        return text
    end = (_LONGEST - 3) // 2
    return f"{text[: _LONGEST - 3 - end]}...{text[-end:]}"


def counted(number: int, thing: str) -> str:
    """Return how many things there are, such as "1 layer" or "2 layers"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"

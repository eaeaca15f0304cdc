"""Python's own iterators: another one that goes on from the same place."""

from __future__ import annotations

import itertools
import re
from typing import Any

_COUNT = re.compile(r"count\((-?\d+)(?:, (-?\d+))?\)")


def is_iterator(value: object) -> bool:
    """Whether ``value`` is an iterator of Python's own, such as ``itertools.count()``."""
    kind = type(value)
    return kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__")


def at_the_same_place(iterator: Any) -> Any:
    """Return another iterator with the same to come; None where none can be made.

    What it goes through is shared, unless that is an iterator too.
    """
    # Newer versions of Python don't tell the state of those in itertools.
    if isinstance(iterator, itertools.count) and (whole := _COUNT.fullmatch(repr(iterator))):
        return itertools.count(int(whole[1]), int(whole[2] or 1))
    try:
        make, arguments, *state = iterator.__reduce__()
        twin = make(*map(_apart, arguments))
        if state and state[0] is not None:
            twin.__setstate__(_state_apart(state[0]))
    except Exception:  # as that of a generator, whose state nobody can tell
        return None
    return twin


def _apart(value: Any) -> Any:
    if not is_iterator(value):
        return value
    twin = at_the_same_place(value)
    if twin is None:
        raise TypeError(f"nothing tells the state of a {type(value).__name__}")
    return twin


def _state_apart(state: Any) -> Any:
    if not isinstance(state, tuple):
        return state
    # itertools.cycle goes on adding to the list that is in its state.
    return tuple([list(one) if isinstance(one, list) else _apart(one) for one in state])

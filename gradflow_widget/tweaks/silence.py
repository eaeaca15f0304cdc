"""Keeps from the page what a model prints, or warns of, while it is only looked into.

What other threads print meanwhile comes through, which ``contextlib.redirect_stdout`` would lose.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..uninterrupted import uninterrupted

_lock = threading.Lock()
_STREAMS = ("stdout", "stderr")
# How many times over each thread is silent, 0 of those that were.
_silent: defaultdict[int, int] = defaultdict(int)


@contextmanager
def nothing_printed() -> Iterator[None]:
    """Drop within what this thread writes to ``sys.stdout`` and ``sys.stderr``."""
    thread = threading.get_ident()
    # Python raises an interrupt where something is called: not between this and the try, nor
    # between the finally and the giving back. Nothing is left silent, whenever one comes.
    _silent[thread] += 1
    try:
        with _lock:
            for name in _STREAMS:
                stream = getattr(sys, name)
                # Without a console, as under pythonw, there is none.
                if stream is not None and not isinstance(stream, _SilentForSome):
                    setattr(sys, name, _SilentForSome(stream))
        yield
    finally:
        _silent[thread] -= 1
        with uninterrupted(), _lock:
            for name in _STREAMS:
                stream = getattr(sys, name)
                # Somebody else may have put another in its place.
                if not any(_silent.values()) and isinstance(stream, _SilentForSome):
                    setattr(sys, name, stream.stream)
        # Python shows a warning once; after this, what was dropped would be shown again.
        with warnings.catch_warnings():
            pass


class _SilentForSome:
    """Stands for a stream, and passes on all but what silent threads write."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, or seem to."""
        if _silent.get(threading.get_ident(), 0) > 0:
            return len(text)
        return self.stream.write(text)  # type: ignore[no-any-return]

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of ``lines``, or seem to."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

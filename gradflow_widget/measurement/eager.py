"""uncompiled: compiled models run as they are written, for a while."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_stance: AbstractContextManager[object] | None = None


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile has compiled as plain Python inside the ``with`` block.

    A single pass over a network costs a hundredth of its compilation, and hooks that are there
    only for that pass would have it compiled again. What other threads call meanwhile runs
    uncompiled too, which changes its speed alone.
    """
    # Importing the compiler takes seconds; who has compiled something has imported it.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    # The stance is one for the process: of two threads, the last to leave puts it back.
    global _inside, _stance
    with _lock:
        if not _inside:
            _stance = torch.compiler.set_stance("force_eager")
        _inside += 1


def _leave() -> None:
    global _inside, _stance
    with _lock:
        _inside -= 1
        if not _inside and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None

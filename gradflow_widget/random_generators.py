"""Torch's, Python's and NumPy's random generators, which are those of the whole process."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# Held from when their state is read or exchanged until it is put back: of two runs that train at
# once each steps alone.
exchanging = threading.RLock()
# In s, for a step that waits for data: they may come from whoever waits for its end here.
PATIENCE = 10.0


@contextmanager
def between_steps(patience: float | None = None) -> Iterator[bool]:
    """Keep steps of sessions out, so that what puts a random state back reaches into none.

    It waits boundedly for the step under way, and then goes on all the same; gives whether that
    has ended.

    Args:
        patience: how long to wait, in s; None: ``PATIENCE``.
    """
    is_held = exchanging.acquire(timeout=PATIENCE if patience is None else patience)
    try:
        yield is_held
    finally:
        if is_held:
            exchanging.release()


@contextmanager
def python_and_numpy_kept() -> Iterator[None]:
    """Put the state of Python's and NumPy's generators back on leaving."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)

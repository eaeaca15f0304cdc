"""OpenMP's threads, which one thread must not keep while another trains."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _found_pause() -> Callable[[int], int] | None:
    try:
        pause: Callable[[int], int] = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # not there, or Windows, which has no None
        return None
    return pause


_pause = _found_pause()
_SOFT = 1


def end_idle_threads() -> None:
    """End the calling thread's idle OpenMP threads; its next long operation starts others.

    Each thread that has shared an operation of torch's among cores keeps OpenMP threads of its own.
    Where those of several threads are more than the machine has cores, GNU's OpenMP lets all of
    them sleep between any two operations: on two cores, a network of 30 layers of 256 trained at
    half its speed because a cell had multiplied a matrix before. So whoever is about to rest, or
    to let another thread train, calls this (omp_pause_resource_all of OpenMP 5.0); it takes
    0.1 µs where there are none.
    """
    if _pause is not None:
        _pause(_SOFT)

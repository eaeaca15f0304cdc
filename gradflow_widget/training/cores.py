"""On how many cores a session steps, and that no other thread's helpers stand in the way."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_SMALL = 1_000_000


def is_small(model: nn.Module) -> bool:
    """Whether a model's operations are too short to be worth sharing among cores.

    Who shares one waits for the other core too, and that may be the one that draws the page:
    on two cores a GRU's steps took twice as long.
    """
    return sum(parameter.numel() for parameter in model.parameters()) <= _SMALL


@contextmanager
def on_one_core() -> Iterator[None]:
    """Run torch's operations of this thread on one core inside the ``with`` block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _found_pause() -> Callable[[int], int] | None:
    try:
        pause: Callable[[int], int] = ctypes.CDLL(None).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):  # not there, or Windows, which has no None
        return None
    return pause


_pause = _found_pause()
_SOFT = 1


def let_helpers_go() -> None:
    """End the OpenMP threads that help the calling thread; its next long operation gets others.

    Each thread that has shared an operation of torch's among cores keeps helpers of its own.
    Where those of several threads are more than the machine has cores, GNU's OpenMP lets all of
    them sleep between any two operations: on two cores, a network of 30 layers of 256 trained at
    half its speed because a cell had multiplied a matrix before. So whoever is about to rest, or
    to let another thread train, calls this (omp_pause_resource_all of OpenMP 5.0); it takes
    0.1 µs where there are no helpers.
    """
    if _pause is not None:
        _pause(_SOFT)

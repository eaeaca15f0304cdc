"""On how many cores a session of ours steps."""

from __future__ import annotations

from collections.abc import Iterator
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

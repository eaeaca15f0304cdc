"""Two half moons in the plane: scikit-learn's."""

from __future__ import annotations

import torch
from torch import nn

from ...checked import checked_from_zero, checked_whole
from .holding_out import held_out_rows, loaded
from .source import Kind, Loaded

KINDS: tuple[Kind, ...] = ("vector",)


def load(kind: str, seed: int, *, noise: float = 0.1, samples: int = 1_000) -> Loaded:
    """Return points on two interleaved half circles of radius 1, and which half each is on.

    Inputs of shape (samples, 2), float32; ``noise`` is the standard deviation of what is
    added to each coordinate. A fifth is held out.

    Raises:
        ValueError: noise is negative or samples no whole number from 2 to 50,000.
    """
    from sklearn.datasets import make_moons

    noise = checked_from_zero("noise", noise)
    samples = checked_whole("samples", samples, 2, 50_000)
    # Its generator takes 32 bits.
    points, halves = make_moons(samples, noise=noise, random_state=seed % 2**32)
    inputs = torch.tensor(points, dtype=torch.float32)
    targets = torch.tensor(halves, dtype=torch.int64)
    return loaded(inputs, targets, held_out_rows(samples, seed), nn.CrossEntropyLoss(), 2)

"""A smooth surface over the plane, to be fitted from noisy points."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...checked import checked_from_zero, checked_whole
from .holding_out import generator, held_out_rows, loaded
from .source import Kind, Loaded

KINDS: tuple[Kind, ...] = ("vector",)


def load(kind: str, seed: int, *, noise: float = 0.1, samples: int = 1_000) -> Loaded:
    """Return points uniform in the square [-1, 1)² and y = 2 sin(πx₁) sin(πx₂) + noise.

    Inputs of shape (samples, 2), targets (samples, 1), float32; ``noise`` is the standard
    deviation of what is added. A fifth is held out. Always answering 0 has a mean squared
    error of 1 + noise², and no network can do better than noise².

    Raises:
        ValueError: noise is negative or samples no whole number from 2 to 50,000.
    """
    noise = checked_from_zero("noise", noise)
    samples = checked_whole("samples", samples, 2, 50_000)
    draw = generator(seed)
    inputs = 2 * torch.rand(samples, 2, generator=draw) - 1
    surface = 2 * (math.pi * inputs).sin().prod(dim=1, keepdim=True)
    targets = surface + noise * torch.randn(samples, 1, generator=draw)
    return loaded(inputs, targets, held_out_rows(samples, seed), nn.MSELoss(), 1)

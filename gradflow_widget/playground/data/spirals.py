"""Two spirals in the plane, wound into each other."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...checked import checked_from_zero, checked_whole
from .holding_out import generator, held_out_rows, loaded
from .source import Kind, Loaded

KINDS: tuple[Kind, ...] = ("vector",)
TURNS = 1.5


def load(kind: str, seed: int, *, noise: float = 0.02, samples: int = 1_000) -> Loaded:
    """Return points on two Archimedean spirals, and which one each is on.

    Inputs of shape (samples, 2), float32: radius r uniform in [0.1, 1), angle 3π·r, and for
    the second spiral half a turn more; ``noise`` is the standard deviation of what is added
    to each coordinate. Arms lie a third apart. A fifth is held out. (After Lang &
    Witbrock 1988, with half their three turns.)

    Raises:
        ValueError: noise is negative or samples no whole number from 2 to 50,000.
    """
    noise = checked_from_zero("noise", noise)
    samples = checked_whole("samples", samples, 2, 50_000)
    draw = generator(seed)
    targets = torch.arange(samples) % 2
    radius = 0.1 + 0.9 * torch.rand(samples, generator=draw)
    angle = 2 * math.pi * TURNS * radius + math.pi * targets
    inputs = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    inputs = inputs + noise * torch.randn(samples, 2, generator=draw)
    return loaded(inputs, targets, held_out_rows(samples, seed), nn.CrossEntropyLoss(), 2)

"""The adding problem: remember two numbers over a long time (Hochreiter & Schmidhuber 1997)."""

from __future__ import annotations

import torch
from torch import nn

from ...checked import checked_whole
from .holding_out import generator, held_out_rows, loaded
from .source import Kind, Loaded

KINDS: tuple[Kind, ...] = ("sequence",)


def load(kind: str, seed: int, *, length: int = 50, samples: int = 5_000) -> Loaded:
    """Return sequences of numbers with two of them marked; the target is their sum.

    Inputs of shape (samples, length, 2), float32: at each time step a number uniform in
    [0, 1) and a mark, 1 at one step of the first half and at one of the second, else 0.
    Targets of shape (samples, 1). A fifth is held out. Always answering 1 has a mean
    squared error of 1/6, the variance of the sum; to do better is to remember. (The form
    of Le, Jaitly & Hinton 2015; the original's numbers and targets are scaled otherwise.)

    Raises:
        ValueError: length is no whole number from 2 to 2,000 or samples none from 2 to 50,000.
    """
    length = checked_whole("length", length, 2, 2_000)
    samples = checked_whole("samples", samples, 2, 50_000)
    draw = generator(seed)
    values = torch.rand(samples, length, generator=draw)
    half = length // 2
    first = torch.randint(half, (samples,), generator=draw)
    second = torch.randint(half, length, (samples,), generator=draw)
    marks = torch.zeros(samples, length)
    every = torch.arange(samples)
    marks[every, first] = 1
    marks[every, second] = 1
    sums = values[every, first] + values[every, second]
    inputs = torch.stack([values, marks], dim=2)
    return loaded(inputs, sums[:, None], held_out_rows(samples, seed), nn.MSELoss(), 1)

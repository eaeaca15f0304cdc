"""Two knobs give the same run in whatever order they are turned, bit for bit."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow

TURNS: list[tuple[str, Any]] = [
    ("depth", 7),
    ("activation", "relu"),
    ("initialization", "he"),
    ("normalization", "batch"),
    ("normalization", "weight"),
    ("skips", "learned"),
    ("orthogonality", 0.1),
    ("orthogonality", "hard"),
    ("optimizer_kind", "Adam"),
    ("weight_decay", 0.01),
    ("clip_norm", 0.1),
]
REFUSED = [{"normalization", "orthogonality"}]
"""A weight is computed in one way at a time: the second of these says so."""


@cache
def losses(*turns: tuple[str, Any]) -> list[float]:
    torch.manual_seed(0)
    blocks = [module for _ in range(4) for module in (nn.Linear(8, 8), nn.Tanh())]
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *blocks, nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(50, 6), torch.randint(3, (50,))
    flow = GradientFlow(model, optimizer, nn.CrossEntropyLoss(), data)
    try:
        for name, value in turns:
            setattr(flow, name, value)
        flow.step(3)
        return flow.history.loss.tolist()
    finally:
        flow.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [pair for pair in itertools.combinations(TURNS, 2) if pair[0][0] != pair[1][0]],
    ids=lambda turn: f"{turn[0]}={turn[1]}",
)
def test_in_either_order(one: tuple[str, Any], other: tuple[str, Any]) -> None:
    if {one[0], other[0]} in REFUSED and {one[1], other[1]} == {"weight", "hard"}:
        for turns in ([one, other], [other, one]):
            with pytest.raises(ValueError, match="computed"):
                losses(*turns)
        return
    assert losses(one, other) == losses(other, one)
    assert losses(one, other) != losses()

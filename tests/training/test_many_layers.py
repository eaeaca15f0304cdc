"""Networks of very many layers: what each takes does not grow with their number."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget.tweaks.hidden import find_hidden

from .parts import CROSS_ENTROPY, samples


def flat(blocks: int) -> nn.Module:
    layers = [layer for _ in range(blocks) for layer in (nn.Linear(6, 6), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def nested(blocks: int) -> nn.Module:
    block = (nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(blocks))
    return nn.Sequential(*block, nn.Linear(6, 3))


class Looped(nn.Module):
    """A loop over a ModuleList, with a skip connection around each block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(blocks)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Untraceable(Looped):
    """One whose forward asks for values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "flat": flat,
    "nested": nested,
    "loop with skips": Looped,
    "untraceable": Untraceable,
}


def calls_of(work: Callable[[], Any]) -> int:
    """Return how many functions ``work`` calls on this thread."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_every_further_layer_takes_as_many_calls_as_those_before(
    make_flow: Any, network: Any
) -> None:
    def begin_and_change(blocks: int) -> list[int]:
        flow = None

        def begin() -> None:
            nonlocal flow
            flow = make_flow(network(blocks), sgd, CROSS_ENTROPY, samples())

        def change() -> None:
            flow.activation = "relu"

        calls = [calls_of(begin), calls_of(change), calls_of(lambda: flow.reset())]
        assert len(find_hidden(flow.model).modules) == blocks
        return calls

    begin_and_change(2)  # what is imported and remembered at first counts for none
    numbers = [begin_and_change(blocks) for blocks in (12, 24, 36)]
    for few, more, most in zip(*numbers, strict=True):
        assert most - more < 1.1 * (more - few)

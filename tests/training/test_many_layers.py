"""Networks of very many layers: what each takes does not grow with their number."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget.measurement.layers import find_layers
from gradflow_widget.tweaks.hidden import find_hidden
from gradflow_widget.tweaks.knobs import knobs_of_module

from .parts import CROSS_ENTROPY, samples


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
    "nested": nested,
    "loop with skips": Looped,
    "untraceable": Untraceable,
}


def calls_of(work: Callable[[], Any], of: CodeType | None = None) -> int:
    """Return how many functions ``work`` calls on this thread, or how often it calls one."""
    calls = 0

    def count(frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal calls
        if of is None:
            calls += event in ("call", "c_call")
        else:
            calls += event == "call" and frame.f_code is of

    before = sys.getprofile()
    # What earlier tests have left would be counted where it is finalised.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_to_find_the_knobs_each_layer_takes_as_many_calls_as_the_others(network: Any) -> None:
    networks = [network(blocks) for blocks in (2, 50, 98)]
    few, more, most = (calls_of(partial(knobs_of_module, one)) for one in networks)
    assert most - more < 1.05 * (more - few)
    assert len(find_hidden(networks[1]).modules) == 50


def test_controls_do_not_look_for_the_layers_anew(make_flow: Any) -> None:
    def begin() -> None:
        make_flow(nested(4), sgd, CROSS_ENTROPY, samples())

    assert calls_of(begin, find_layers.__code__) <= 4

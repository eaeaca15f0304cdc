"""Skips that stand around the blocks, in the forward that calls them, and what looks like some."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.skips import Residual, with_skips


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


class Stack(nn.Module):
    """Calls its blocks one after another; a subclass says how."""

    def __init__(self, *, is_opaque: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(4)])
        self.norms = nn.ModuleList([nn.LayerNorm(4) for _ in range(4)])
        self.heads = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])
        self.position = nn.Parameter(torch.zeros(4))
        self.is_opaque = is_opaque

    def forward(self, x: Tensor) -> Tensor:
        # By the values of a tensor no tracer knows which way to go.
        if self.is_opaque and x.sum() > 1e9:
            return x
        return self.through(x)

    def through(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Plain(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class PlainFromTheEnd(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            x = block(x)
        return x


class PlainInAList(Stack):
    def through(self, x: Tensor) -> Tensor:
        hidden = [x]
        for block in self.blocks:
            hidden.append(block(hidden[-1]))
        return hidden[-1] + hidden[0]


class AroundAll(Stack):
    def through(self, x: Tensor) -> Tensor:
        first = x
        for block in self.blocks:
            x = block(x)
        return x + first


class SumOfHeads(Stack):
    def through(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for block, head in zip(self.blocks, self.heads, strict=True):
            hidden = block(x)
            total = total + head(hidden)
            x = hidden
        return total


class SumOfOutputs(Stack):
    def through(self, x: Tensor) -> Tensor:
        total = 0.0
        for block in self.blocks:
            x = block(x)
            total = total + x
        return total


class Shifted(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + self.position
        return x


class Added(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class AddedInPlace(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x += block(x)
        return x


class AddedByName(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            residual = x
            x = block(x)
            x = x + residual
        return x


class AddedScaled(Stack):
    def through(self, x: Tensor) -> Tensor:
        for index in range(len(self.blocks)):
            out = self.blocks[index](x)
            x = out + 0.5 * x
        return x


class AddedAfterNorm(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            h = norm(x)
            x = x + block(h)
        return x


class AddedAroundCheckpoint(Stack):
    def through(self, x: Tensor) -> Tensor:
        for _, block in enumerate(self.blocks):
            x = x + checkpoint(block, x, use_reentrant=False)
        return x


class AddedFromTheEnd(Stack):
    def through(self, x: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            x = x + block(x)
        return x


class AddedInAList(Stack):
    def through(self, x: Tensor) -> Tensor:
        hidden = [x]
        for block in self.blocks:
            hidden.append(hidden[-1] + block(hidden[-1]))
        return hidden[-1]


WITH = [
    Added,
    AddedFromTheEnd,
    AddedInAList,
    AddedInPlace,
    AddedByName,
    AddedScaled,
    AddedAfterNorm,
    AddedAroundCheckpoint,
]
WITHOUT = [Plain, PlainFromTheEnd, PlainInAList, AroundAll, SumOfHeads, SumOfOutputs, Shifted]


@pytest.mark.parametrize("is_opaque", [False, True], ids=["traced", "by source"])
@pytest.mark.parametrize("kind", WITH)
def test_a_skip_around_each_block_is_not_doubled(kind: type[Stack], is_opaque: bool) -> None:
    with pytest.raises(CannotTweak, match=r"^Around the repeated blocks of blocks \(Block\) "):
        with_skips(kind(is_opaque=is_opaque), 1.0)


@pytest.mark.parametrize("is_opaque", [False, True], ids=["traced", "by source"])
@pytest.mark.parametrize("kind", WITHOUT)
def test_other_sums_are_no_skips_around_the_blocks(kind: type[Stack], is_opaque: bool) -> None:
    wrapped = with_skips(kind(is_opaque=is_opaque), 1.0)
    assert all(isinstance(block, Residual) for block in wrapped.blocks)


def test_around_the_members_of_a_sequential_that_is_gone_through() -> None:
    class Inside(Added):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*self.blocks)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Inside()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    with pytest.raises(CannotTweak, match=r"^Around the repeated blocks of body\.blocks"):
        with_skips(Model(), 1.0)

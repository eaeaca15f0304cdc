from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradflow_widget.tweaks.blocks import find_runs
from tests.models.zoo import Cnn, Siamese, made, mlp


def runs(model: nn.Module) -> list[tuple[str, int, int, int]]:
    return [(run.at, run.start, run.period, run.count) for run in find_runs(model)]


@given(hidden=st.integers(2, 9))
def test_a_period_of_several_modules_is_one_block(hidden: int) -> None:
    assert runs(mlp(hidden)) == [("", 2, 2, hidden)]


def test_a_block_begins_with_its_weights() -> None:
    block = (nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(3, 4), *block, *block, *block, *block[:2])
    (run,) = find_runs(model)
    assert [type(module) for module in run.blocks[0]] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]


def test_of_several_runs_the_one_with_most_blocks_comes_first() -> None:
    narrow = [nn.Linear(4, 4) for _ in range(6)]
    wide = [nn.Linear(32, 32) for _ in range(2)]
    assert runs(nn.Sequential(*narrow, nn.Linear(4, 32), *wide)) == [("", 0, 1, 6), ("", 7, 1, 2)]


def test_what_is_not_alike_is_no_run() -> None:
    assert runs(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 5), nn.Linear(5, 6))) == []
    assert runs(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, stride=2))) == []
    assert runs(mlp(1)) == []


def test_modules_without_weights_are_no_blocks() -> None:
    assert runs(nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Dropout(), nn.Dropout())) == []


def test_a_growing_rate_of_dropout_does_not_tell_blocks_apart() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Dropout(rate)) for rate in (0.1, 0.2, 0.3)]
    assert runs(nn.Sequential(*blocks)) == [("", 0, 1, 3)]


def test_blocks_within_a_block_are_left_out() -> None:
    block = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3)]
    assert runs(nn.Sequential(*block)) == [("", 0, 1, 3)]


def test_weights_that_two_inputs_share_are_one_run() -> None:
    assert runs(Siamese()) == [("encoder", 2, 2, 3)]


def test_a_cnn_repeats_convolution_norm_and_activation() -> None:
    assert runs(Cnn()) == [("features", 2, 3, 3)]


class Parallel(nn.Module):
    """Members side by side, told by a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total = self.members[0](x)
        for member in list(self.members)[1:]:
            total = total + member(x)
        return total


class Chosen(Parallel):
    """Members side by side, where control flow keeps a trace from telling."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for member in self.members:
            if x.sum() > 0:
                total = total + member(x)
        return total


class Stopping(Parallel):
    """Members one after another, where control flow keeps a trace from telling."""

    def forward(self, x: Tensor) -> Tensor:
        for index in range(3):
            result = self.members[index](x)
            if result.sum() > 0:
                return result
            x = result
        return x


class Routed(Parallel):
    """Members side by side, each with the samples whose choice is its index."""

    def forward(self, x: Tensor) -> Tensor:
        choice = x.argmax(1)
        out = torch.zeros_like(x)
        for index, member in enumerate(self.members):
            mask = (choice == index).any(-1)
            if mask.any():
                out[mask] += member(x[mask])
        return out


class RoutedByNumber(Parallel):
    """The same, its members looked up by their number."""

    def forward(self, x: Tensor) -> Tensor:
        choice = x.argmax(1)
        out = torch.zeros_like(x)
        for index in range(len(self.members)):
            rows = choice.eq(index).nonzero().squeeze(-1)
            if len(rows):
                out[rows] = self.members[index](x[rows])
        return out


class Numbered(Parallel):
    """Members one after another, whose number is told too."""

    def forward(self, x: Tensor) -> Tensor:
        for index, (member, _) in enumerate(zip(self.members, range(3), strict=True)):
            x = member(x)
            if (x > index).all():
                break
        return x


class FromTheEnd(Parallel):
    """Members one after another, the last one first, as in a decoder; told by a trace."""

    def forward(self, x: Tensor) -> Tensor:
        for member in reversed(self.members):
            x = member(x)
        return x


class KeptInAList(Parallel):
    """Members one after another through a list, where control flow keeps a trace from telling."""

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = [x]
        for member in self.members:
            if hidden[-1].sum() > 1e9:
                break
            hidden.append(member(hidden[-1]))
        return hidden


class Collected(Parallel):
    """Members side by side whose outputs a list takes up, where no trace can tell."""

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for member in self.members:
            if x.sum() > 0:
                found.append(member(x))
        return found


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Parallel(), 0),
        (FromTheEnd(), 1),
        (KeptInAList(), 1),
        (Collected(), 0),
        (Chosen(), 0),
        (Routed(), 0),
        (RoutedByNumber(), 0),
        (Stopping(), 1),
        (Numbered(), 1),
    ],
    ids=lambda one: "",
)
def test_only_members_that_work_on_each_other_are_a_run(model: nn.Module, expected: int) -> None:
    assert len(runs(model)) == expected


@pytest.mark.parametrize(("name", "expected"), [("experts", 0), ("heads", 0), ("layers", 1)])
def test_without_trace_or_source_the_names_decide(name: str, expected: int) -> None:
    model = nn.Module()
    model.add_module(name, nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
    assert len(runs(model)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixture of experts", []),
        ("soft mixture", []),
        ("GPT-2", ["transformer.h"]),
        ("BERT", ["bert.encoder.layer"]),
        ("ViT", ["vit.layers"]),
        ("nn.Transformer", ["decoder.layers", "encoder.layers"]),
        ("compiled MLP", ["_orig_mod"]),
        ("residual", ["blocks"]),
    ],
)
def test_the_runs_of_models_that_people_use(name: str, expected: list[str]) -> None:
    model, _ = made(name)
    assert [run.at for run in find_runs(model)] == expected

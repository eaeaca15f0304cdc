"""Stages of a network: which layers are compared whatever their names, and what adds up."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from gradflow_widget import GradientProbe, Reading, take_reading
from gradflow_widget.diagnosis.rules import judge
from gradflow_widget.measurement.stages import Stage, stages


class Chain(nn.Module):
    """Layers of these names, called one after the other."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names = [name.replace(".", "/") for name in names]
        for name in names:
            *path, leaf = name.split(".")
            at: nn.Module = self
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.add_module(leaf, nn.Linear(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = torch.tanh(self.get_submodule(name.replace("/", "."))(x))
        return x


def looked_at(model: nn.Module, *shape: int) -> Reading:
    x = torch.randn(shape or (32, 16), generator=torch.Generator().manual_seed(1))
    return take_reading(model, lambda output, _: output.square().mean(), x, None)


NAMES = {
    "VGG": [f"conv{i}_{j}" for i in range(1, 6) for j in range(1, 4)],
    "Keras": [f"block{i}_conv{j}" for i in range(1, 6) for j in range(1, 4)],
    "encoder and decoder": [f"{part}.{i}" for part in ("encoder", "decoder") for i in range(5)],
    "stem, body, head": [f"{part}.{i}" for part in ("stem", "body", "head") for i in range(4)],
    "one list": [f"layers.{i}" for i in range(12)],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_chain_of_like_layers_is_one_group_whatever_their_names(names: list[str]) -> None:
    reading = looked_at(Chain(names))
    signal = reading.signal_grad_norm
    assert stages(reading.described) == (Stage((tuple(range(len(names))),)),)
    assert reading.decades == pytest.approx(math.log10(signal[0] / signal[-1]), rel=1e-12)
    numbers = looked_at(Chain(NAMES["one list"][: len(names)]))
    if len(names) == 12:
        assert reading.decades == pytest.approx(numbers.decades, rel=1e-6)
        assert reading.slope == pytest.approx(numbers.slope, rel=1e-6)


def test_a_step_knows_the_stages_as_a_look_does() -> None:
    model = Chain(NAMES["VGG"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(32, 16)
    look = take_reading(model, lambda output, _: output.square().mean(), x, None)
    with GradientProbe(model, optimizer) as probe:
        for full in (False, True, False, True):
            probe.full = full
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if full:
                assert probe.history.latest.decades == pytest.approx(look.decades, rel=1e-6)
                assert probe.history.latest.slope == pytest.approx(look.slope, rel=1e-6)
                assert probe.history.latest.layers == look.layers


def test_decades_of_stages_that_follow_one_another_add_up() -> None:
    torch.manual_seed(0)
    channels = [1, 4, 4, 4, 4, 4]
    convolutions = [
        module
        for before, after in pairwise(channels)
        for module in (nn.Conv2d(before, after, 3, padding=1), nn.Tanh())
    ]
    linear = [m for _ in range(3) for m in (nn.Linear(16, 16), nn.Tanh())]
    # Pooling takes from the norm what harms nobody, and lies between the stages.
    pooled = [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    reading = looked_at(nn.Sequential(*convolutions, *pooled, *linear), 8, 1, 16, 16)
    signal = reading.signal_grad_norm
    assert [stage.after for stage in stages(reading.described)] == [None, 0]
    parts = (signal[0] / signal[4], signal[5] / signal[7])
    assert reading.decades == pytest.approx(sum(np.log10(parts)), rel=1e-12)
    rises = [np.polyfit(np.arange(len(g)), -np.log(g), 1)[0] for g in (signal[:5], signal[5:])]
    assert reading.slope == pytest.approx((4 * rises[0] + 2 * rises[1]) / 6, rel=1e-9)


class Towers(nn.Module):
    """Two chains side by side that meet at the end."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = (nn.Sequential(*map(self.layer, [s] * 5)) for s in scales)

    @staticmethod
    def layer(scale: float) -> nn.Module:
        linear = nn.Linear(16, 16, bias=False)
        nn.init.orthogonal_(linear.weight, scale)
        return linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.user(x) + self.item(x)


def test_chains_side_by_side_do_not_add_up() -> None:
    reading = looked_at(Towers(0.5, 1.5))
    assert len(stages(reading.described)) == 2
    # Of −1.2 and 0.7, the one that is nearer to 0.
    assert reading.decades == pytest.approx(4 * math.log10(1.5), abs=1e-4)
    reading = looked_at(Towers(0.5, 0.5))
    assert reading.decades == pytest.approx(-4 * math.log10(2), rel=1e-4)
    assert reading.slope == pytest.approx(-math.log(2), rel=1e-4)


def test_blocks_between_two_chains_keep_these_apart() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Linear(16, 8), nn.Linear(8, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = x + self.wide(torch.tanh(self.narrow(x)))
            return out

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Sequential(*[nn.Linear(16, 16) for _ in range(3)])
            self.blocks = nn.Sequential(*[Block() for _ in range(4)])
            self.last = nn.Sequential(*[nn.Linear(16, 16) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.blocks(self.first(x)))
            return out

    reading = looked_at(Model())
    described, signal = reading.described, reading.signal_grad_norm
    assert stages(described) == (
        Stage(((0, 1, 2),)),
        Stage(((3, 5, 7, 9), (4, 6, 8, 10)), after=0),
        Stage(((11, 12, 13),), after=1),
    )
    logarithms = np.log10(signal)
    blocks = np.median(logarithms[[3, 4]] - logarithms[[9, 10]])
    expected = logarithms[0] - logarithms[2] + blocks + logarithms[11] - logarithms[13]
    assert reading.decades == pytest.approx(expected, rel=1e-9)


class Batch:
    """A batch of one's own, in which nobody sees how many samples it has."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens


class Tagger(nn.Module):
    """Joins samples and places on its way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 16)
        self.first, self.second, self.last = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, batch: object) -> torch.Tensor:
        tokens = getattr(batch, "tokens", batch)
        h = torch.tanh(self.first(self.embedding(tokens))).flatten(0, 1)
        out: torch.Tensor = self.last(torch.tanh(self.second(h)))
        return out

    def training_step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.forward(tokens)


def test_a_signal_is_per_sample_where_no_call_of_the_model_tells_of_how_many() -> None:
    model = Tagger()
    tokens = torch.randint(20, (8, 32), generator=torch.Generator().manual_seed(1))

    def loss(output: torch.Tensor, _: object) -> torch.Tensor:
        return F.cross_entropy(output, tokens.flatten() % 16)

    expected = take_reading(model, loss, tokens, None)
    hidden = take_reading(model, loss, Batch(tokens), None)
    np.testing.assert_allclose(hidden.signal_grad_norm, expected.signal_grad_norm, rtol=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        loss(model.training_step(tokens), None).backward()
        optimizer.step()
        stepped = probe.history.latest
    np.testing.assert_allclose(stepped.signal_grad_norm, expected.signal_grad_norm, rtol=1e-6)


def test_a_single_number_given_first_is_not_the_number_of_samples() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.time, self.body = nn.Linear(1, 8), nn.Linear(8, 8)

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(x + self.time(t.reshape(-1, 1)))
            return out

    model, x = Timed(), torch.randn(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        model(torch.tensor(0.5), x).square().mean().backward()
        optimizer.step()
        signal = probe.history.latest.signal_grad_norm
    out = model.time(torch.tensor([[0.5]])).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.body(x + out).square().mean(), out)
    assert signal[0] == pytest.approx(float(gradient.norm()) / 8, rel=1e-5)


class Heads(nn.Module):
    """A trunk whose output goes into heads side by side, each with a weight in the loss."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(*[Towers.layer(1.0) for _ in range(5)])
        self.heads = nn.ModuleList(Towers.layer(1.0) for _ in weights)
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.trunk(x)
        parts = [w * head(x) for w, head in zip(self.weights, self.heads, strict=True)]
        out: torch.Tensor = torch.stack(parts).sum(dim=0)
        return out


@pytest.mark.parametrize("weights", [[1.0, 0.1, 0.001], [0.001, 0.1, 1.0]])
def test_heads_side_by_side_are_not_compared(weights: list[float]) -> None:
    reading = looked_at(Heads(weights))
    assert stages(reading.described) == (Stage((tuple(range(5)),)),)
    assert reading.decades == pytest.approx(0.0, abs=1e-5)


def test_members_of_an_ensemble_are_ways_of_their_own() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.members = nn.ModuleList(
                nn.Sequential(*[Towers.layer(0.5) for _ in range(4)]) for _ in range(3)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = [10.0**-k * member(x) for k, member in enumerate(self.members)]
            out: torch.Tensor = torch.stack(parts).sum(dim=0)
            return out

    reading = looked_at(Ensemble())
    assert stages(reading.described) == tuple(
        Stage((tuple(range(first, first + 4)),)) for first in (0, 4, 8)
    )
    assert reading.decades == pytest.approx(-3 * math.log10(2), rel=1e-4)


def test_experts_of_one_number_are_compared_from_block_to_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(Towers.layer(0.5) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = torch.stack([expert(x) for expert in self.experts]).mean(dim=0)
            return out

    torch.manual_seed(0)
    reading = looked_at(nn.Sequential(*[Block() for _ in range(4)]))
    assert stages(reading.described) == (Stage(((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))),)


def test_blocks_that_are_run_again_lie_one_behind_the_other() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(Towers.layer(0.5) for _ in range(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone().requires_grad_()
            for block in self.blocks:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=True)
            return x

    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        model(torch.randn(32, 16)).square().mean().backward()
        optimizer.step()
        reading = probe.history.latest
    assert stages(reading.described) == (Stage((tuple(range(5)),)),)
    assert reading.decades == pytest.approx(-4 * math.log10(2), rel=1e-4)


class Integrated(nn.Module):
    """Eight layers, and many steps without weights in the middle."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            for _ in range(self.steps if number == 3 else 0):
                x = x + 0.001 * torch.sin(x)
        return x


def test_however_much_lies_between_two_layers_they_are_on_one_way() -> None:
    assert stages(looked_at(Integrated(200)).described) == (Stage((tuple(range(8)),)),)


class LinearExperts(nn.Module):
    """Four layers side by side, with nothing before or behind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(16, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = zip((0.001, 0.1, 0.3, 0.6), self.experts, strict=True)
        return torch.stack([share * expert(x) for share, expert in pairs]).sum(0)


def test_layers_that_all_stand_alone_are_compared_with_nothing() -> None:
    reading = looked_at(LinearExperts())
    assert math.isnan(reading.decades)
    sentence = judge([reading]).sentence
    assert sentence == "The weight layers lie side by side: nothing to compare them with."


def test_what_follows_a_layers_states_follows_the_layer() -> None:
    class LastState(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.rnn(x)[1][0][-1])
            return out

    torch.manual_seed(0)
    reading = take_reading(
        LastState(), lambda out, _: out.square().mean(), torch.randn(8, 5, 4), None
    )
    assert [layer.follows for layer in reading.described] == [(), ("rnn",)]


def test_several_models_in_turn_are_grouped_once() -> None:
    looks = [looked_at(Integrated(0)) for _ in range(3)]
    first = [stages(look.described) for look in looks]
    assert all(stages(look.described) is known for look, known in zip(looks, first, strict=True))

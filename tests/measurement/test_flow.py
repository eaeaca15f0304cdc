"""Slope and decades: which layers are compared, and the known answers of the theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import Layer, take_reading
from gradflow_widget.measurement import flow
from gradflow_widget.measurement.layers import find_layers
from gradflow_widget.measurement.stages import comparable_groups

from .networks import plain


def layers_of(*names: str, kind: str = "Linear") -> tuple[Layer, ...]:
    """Layers as a model with modules of these names would have them."""

    class Tree(nn.Module):
        pass

    root = Tree()
    for name in names:
        *path, leaf = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, Tree())
            at = at.get_submodule(part)
        at.add_module(leaf, nn.Conv2d(2, 2, 1) if kind == "Conv2d" else nn.Linear(2, 2))
    return tuple(part.layer for part in find_layers(root))


def groups_of(layers: tuple[Layer, ...]) -> list[set[str]]:
    return [{layers[i].name for i in group} for group in comparable_groups(layers)]


class TestGrouping:
    def test_a_plain_sequential_is_one_group(self):
        layers = layers_of("0", "2", "4", "6")
        assert groups_of(layers) == [{"0", "2", "4", "6"}]

    @pytest.mark.parametrize("prefix", ["fc", "net.fc", "layers.", "encoder.lin_"])
    def test_numbered_names_are_one_group(self, prefix):
        names = [f"{prefix}{i}" for i in range(1, 5)]
        assert groups_of(layers_of(*names)) == [set(names)]

    def test_a_transformer_has_a_group_for_each_projection(self):
        jobs = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
        names = [f"h.{i}.{job}" for i in range(4) for job in jobs]
        groups = groups_of(layers_of(*names, "head"))
        assert sorted(map(sorted, groups)) == sorted([f"h.{i}.{j}" for i in range(4)] for j in jobs)

    def test_a_resnet_has_a_group_for_each_place_in_its_blocks(self):
        places = ("conv1", "conv2")
        names = [
            f"layer{stage}.{block}.{place}"
            for stage in range(1, 5)
            for block in range(2)
            for place in places
        ]
        shortcuts = [f"layer{stage}.0.downsample.0" for stage in range(2, 5)]
        groups = groups_of(layers_of("conv1", *names, *shortcuts, kind="Conv2d"))
        assert {n for n in names if n.endswith("conv1")} in groups
        assert {n for n in names if n.endswith("conv2")} in groups
        assert set(shortcuts) in groups
        assert len(groups) == 3

    def test_places_in_residual_blocks_stay_apart(self):
        names = [f"blocks.{i}.f.{place}" for i in range(3) for place in (0, 2)]
        groups = groups_of(layers_of(*names))
        assert groups == [{n for n in names if n.endswith(e)} for e in (".0", ".2")]

    def test_blocks_with_numbers_in_their_own_names(self):
        names = [f"block{i}.conv{place}" for i in range(1, 4) for place in (1, 2)]
        groups = groups_of(layers_of(*names, kind="Conv2d"))
        assert groups == [{n for n in names if n.endswith(e)} for e in ("conv1", "conv2")]

    def test_fewer_than_three_alike_are_compared_with_all(self):
        layers = layers_of("embed", "body", "head")
        assert groups_of(layers) == [{"embed", "body", "head"}]

    def test_norm_layers_and_biases_are_never_compared(self):
        model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(3, 3), nn.LayerNorm(3))])
        layers = tuple(part.layer for part in find_layers(model))
        assert groups_of(layers) == [{"0", "2", "4", "6"}]


def decades_of(signal, layers):
    return flow.decades(flow.paths(signal, layers))


def slope_of(signal, layers):
    return flow.slope(signal, layers, flow.paths(signal, layers))


class TestArithmetic:
    four = layers_of("0", "1", "2", "3")

    def test_a_geometric_decay_has_its_rate_as_slope(self):
        signal = np.exp(-0.3 * np.arange(4)[::-1])
        assert slope_of(signal, self.four) == pytest.approx(-0.3)
        assert decades_of(signal, self.four) == pytest.approx(-0.9 / math.log(10))

    def test_the_median_over_groups_is_the_answer(self):
        layers = layers_of(*[f"h.{i}.{p}" for i in range(3) for p in "abc"])
        rates = {"a": -1.0, "b": 0.1, "c": 0.4}
        signal = np.array(
            [math.exp(rates[layer.name[-1]] * -int(layer.name[2])) for layer in layers]
        )
        assert slope_of(signal, layers) == pytest.approx(0.1)
        assert decades_of(signal, layers) == pytest.approx(0.2 / math.log(10))

    def test_nothing_that_arrives_at_the_first_layer_is_minus_infinity(self):
        assert decades_of(np.array([0.0, 0.0, 1.0, 1.0]), self.four) == -math.inf

    def test_no_signal_anywhere_is_no_number(self):
        assert math.isnan(decades_of(np.zeros(4), self.four))
        assert math.isnan(slope_of(np.zeros(4), self.four))
        assert math.isnan(slope_of(np.full(4, np.nan), self.four))

    def test_layers_never_reached_are_left_out(self):
        signal = np.array([np.nan, 4.0, 2.0, 1.0])
        assert slope_of(signal, self.four) == pytest.approx(math.log(2))


SEEDS = range(5)


def linear_objective(width: int, seed: int):
    """A loss whose gradient at the output is the same for every network."""
    generator = torch.Generator().manual_seed(1000 + seed)
    direction = torch.randn(64, width, generator=generator)
    return lambda output, _: (output * direction).sum() / 64


def measured_slope(model: nn.Module, width: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(64, width, generator=generator)
    reading = take_reading(model, linear_objective(width, seed), inputs, None)
    assert reading.slope is not None
    return reading.slope


class TestKnownAnswers:
    """theory.md, Known answers: float32, batch 64, equal widths, zero bias."""

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize(
        ("activation", "sigma_w", "slope", "tolerance"),
        [
            (nn.ReLU, math.sqrt(2), 0.0, 0.03),
            (nn.ReLU, 2.0, 0.5 * math.log(2), 0.03),
            (nn.Tanh, math.sqrt(1 / 3), 0.5 * math.log(1 / 3), 0.03),
            (nn.Tanh, 3.0, 0.3103, 0.025),
        ],
        ids=["ReLU, He", "ReLU, sigma_w = 2", "tanh, default", "tanh, sigma_w = 3"],
    )
    def test_plain_networks(self, activation, sigma_w, slope, tolerance, seed):
        model = plain(30, 256, activation, sigma_w, seed)
        assert measured_slope(model, 256, seed) == pytest.approx(slope, abs=tolerance)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_pytorchs_own_initialisation_of_a_tanh_network_vanishes(self, seed):
        model = plain(30, 256, nn.Tanh, None, seed)
        assert measured_slope(model, 256, seed) == pytest.approx(-0.5493, abs=0.03)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_layer_norm_and_relu_without_skips(self, seed):
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for _ in range(30):
            linear = nn.Linear(256, 256, bias=False)
            nn.init.normal_(linear.weight, std=math.sqrt(2 / 256))
            modules += [linear, nn.LayerNorm(256), nn.ReLU()]
        model = nn.Sequential(*modules[:-2])
        assert measured_slope(model, 256, seed) == pytest.approx(0, abs=0.05)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_residual_blocks_that_keep_the_variance(self, seed):
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.f = nn.Linear(256, 256, bias=False)
                nn.init.normal_(self.f.weight, std=math.sqrt(1 / 256))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                moved: torch.Tensor = x + self.f(x)
                return moved

        torch.manual_seed(seed)
        model = nn.Sequential(*[Block() for _ in range(20)])
        assert measured_slope(model, 256, seed) == pytest.approx(0.3466, abs=0.02)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_a_severed_network_has_exactly_no_gradient_upstream(self, seed):
        model = plain(10, 64, nn.ReLU, math.sqrt(2), seed)
        with torch.no_grad():
            model[2].bias.fill_(-1000)
        inputs = torch.randn(64, 64)
        reading = take_reading(model, linear_objective(64, seed), inputs, None)
        assert (reading.signal_grad_norm[:2] == 0).all()
        assert (reading.weight_grad_norm[:2] == 0).all()
        assert reading.gradient_states[:2] == ("zero", "zero")
        assert reading.dead_fraction[1] == 1.0
        assert reading.decades == -math.inf

    @pytest.mark.parametrize("sigma_w", [1.0, math.sqrt(2), 2.0])
    def test_weight_gradients_hide_what_the_signal_shows(self, sigma_w):
        model = plain(30, 256, nn.ReLU, sigma_w)
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(64, 256, generator=generator)
        reading = take_reading(model, linear_objective(256, 0), inputs, None)
        norms = reading.weight_grad_norm
        assert abs(math.log10(norms[0] / norms[-1])) < 0.5
        assert reading.decades == pytest.approx(
            29 * math.log(sigma_w / math.sqrt(2)) / math.log(10), abs=0.5
        )

"""Computed weights that are frozen, drawn anew, or in new blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from gradflow_widget import GradientFlow
from gradflow_widget.tweaks.computed import put_computed
from gradflow_widget.tweaks.depth import with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality

from .computing_tweaks import TWEAKS, UNDO


def partly_frozen() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    return model


def flow_of(make_flow: Any, model: nn.Module) -> GradientFlow:
    data = (torch.randn(32, 6), torch.randint(2, (32,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow: GradientFlow = make_flow(model, optimizer, nn.CrossEntropyLoss(), data)
    return flow


def trains(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def assert_same(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


class TestFrozen:
    @pytest.mark.parametrize("scheme", ["he", "default", "orthogonal"])
    @pytest.mark.parametrize("kind", TWEAKS)
    def test_frozen_computed_weights_are_not_drawn(self, kind: str, scheme: str) -> None:
        model = TWEAKS[kind](partly_frozen())
        drawn = with_initialization(model, scheme, seed=9)
        assert torch.equal(drawn[0].weight, model[0].weight)
        assert_same(drawn[0], model[0])
        assert not torch.equal(drawn[2].weight, model[2].weight)
        assert trains(drawn) == trains(model)
        assert not any(parameter.requires_grad for parameter in drawn[0].parameters())

    @pytest.mark.parametrize("kind", [None, "layer", "spectral"])
    def test_weight_norm_comes_off_a_frozen_layer(self, kind: str | None) -> None:
        model = partly_frozen()
        changed = with_normalization(with_normalization(model, "weight"), kind)
        wanted = with_normalization(model, kind)
        assert_same(changed, wanted)
        assert trains(changed) == trains(wanted)
        assert [name for name, _ in changed.named_parameters()] == [
            name for name, _ in wanted.named_parameters()
        ]

    @pytest.mark.parametrize("kind", [None, "layer", "spectral"])
    def test_so_does_a_users_own(self, kind: str | None) -> None:
        model = partly_frozen()
        # Weights of which the norm was put on, taken off and computed by the user.
        parametrizations.weight_norm(model[0])
        before = model[0].weight.detach().clone()
        changed = with_normalization(model, kind)
        weights = {name: p for name, p in changed.named_parameters() if name.startswith("0.")}
        assert not any(parameter.requires_grad for parameter in weights.values())
        [weight] = [p for name, p in weights.items() if p.dim() == 2]
        assert type(weight) is nn.Parameter
        assert torch.equal(weight, before)
        assert parametrize.is_parametrized(model[0])

    def test_a_layer_of_which_a_part_trains_comes_back_trained_without_gradients_too(self) -> None:
        model = partly_frozen()
        changed = with_normalization(model, "weight")
        with torch.no_grad():
            back = with_normalization(changed, None)
        assert_same(back, model)
        assert trains(back) == trains(model)

    def test_the_widget_takes_it_off(self) -> None:
        model = partly_frozen()
        parametrizations.weight_norm(model[0])
        data = (torch.randn(32, 6), torch.rand(32, 2))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        flow = GradientFlow(model, optimizer, nn.MSELoss(), data)
        try:
            for kind in (None, "layer", "spectral"):
                flow.normalization = kind
                assert flow.normalization == kind
                assert not any(p.requires_grad for p in flow.model[0].parameters())
        finally:
            flow.close()


class Small(nn.Module):
    """Blocks whose model initialises them, as nanoGPT does it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(3)
        )
        self.head = nn.Linear(8, 5)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0.0, 0.02)
            module.bias.data.zero_()
        for name, parameter in module.named_parameters():
            # What Hugging Face's GPT-2 does from the block that is around.
            if name == "2.weight":
                parameter.data.normal_(0.0, 0.005)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        out: torch.Tensor = self.head(x)
        return out


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Transformer(8, 2, 2, 2, 16, batch_first=True)


class TestNewBlocks:
    @pytest.mark.parametrize("build", [small, encoder])
    @pytest.mark.parametrize("kind", TWEAKS)
    def test_they_are_drawn_as_plain_ones_and_then_computed(
        self, kind: str, build: Callable[[], nn.Module]
    ) -> None:
        model, tweak = build(), TWEAKS[kind]
        assert_same(with_depth(tweak(model), 5), tweak(with_depth(model, 5)))

    def test_init_weights_of_the_model_is_used(self) -> None:
        deep = with_depth(with_normalization(small(), "weight"), 6)
        stds = [float(block[0].weight.std()) for block in deep.blocks]
        assert stds == pytest.approx([0.02] * 6, rel=0.2)

    @pytest.mark.parametrize("kind", TWEAKS)
    def test_taking_it_off_leaves_what_was_drawn(self, kind: str) -> None:
        model = small()
        deep = with_depth(TWEAKS[kind](model), 5)
        assert_same(UNDO[kind](deep), with_depth(model, 5))

    @pytest.mark.parametrize("kind", TWEAKS)
    def test_the_default_initialisation_is_the_models_too(self, kind: str) -> None:
        model, tweak = small(), TWEAKS[kind]
        drawn = with_initialization(tweak(model), "default", seed=3)
        assert_same(drawn, tweak(with_initialization(model, "default", seed=3)))

    def test_the_model_given_is_untouched(self) -> None:
        model = with_normalization(small(), "spectral").train()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with_depth(model, 5)
        with_initialization(model, "default")
        after = model.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert all(parametrize.is_parametrized(block[0]) for block in model.blocks)


PUT_ON = {"weight": parametrizations.weight_norm, "spectral": parametrizations.spectral_norm}
MAKE_ZEROS: dict[str, tuple[str, dict[str, float]]] = {
    "zeros": ("zeros", {}),
    "constant of 0": ("constant", {"value": 0.0}),
    "normal without spread": ("normal", {"std": 0.0}),
    "a gain whose square underflows": ("he", {"gain": 1e-40}),
}


def zeros_within(model: nn.Module) -> nn.Module:
    nn.init.zeros_(model[2].weight)
    return model


class ZeroAtFirst(nn.Linear):
    """Starts from 0 by its own class, as the last layer of a residual branch may."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


@pytest.mark.parametrize("kind", PUT_ON)
class TestNormsOfZero:
    @pytest.mark.parametrize("zeros", MAKE_ZEROS)
    def test_are_refused_in_either_order(self, kind: str, zeros: str) -> None:
        scheme, options = MAKE_ZEROS[zeros]
        with pytest.raises(CannotTweak, match=f"0 for some with '{scheme}': take {kind} norm off"):
            with_initialization(with_normalization(small(), kind), scheme, **options)
        with pytest.raises(CannotTweak, match=r"0 for some of these: initialise the model anew"):
            with_normalization(with_initialization(small(), scheme, **options), kind)

    def test_are_refused_where_the_model_has_the_norm_itself(self, kind: str) -> None:
        model = partly_frozen()
        PUT_ON[kind](model[2])
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(CannotTweak, match=f"{kind.capitalize()} norm divides weights"):
            with_initialization(model, "zeros")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert with_initialization(model, "constant")[2].weight.isfinite().all()

    def test_of_frozen_weights_that_stay_are_none(self, kind: str) -> None:
        model = partly_frozen()
        PUT_ON[kind](model[0])
        drawn = with_initialization(model, "zeros")
        assert drawn[0].weight.any()
        assert not drawn[4].weight.any()

    def test_are_refused_where_a_class_draws_zeros(self, kind: str) -> None:
        model = nn.Sequential(ZeroAtFirst(4, 4), nn.Tanh(), nn.Linear(4, 2))
        with pytest.raises(CannotTweak, match="0 for some of these"):
            with_normalization(model, kind)
        nn.init.normal_(model[0].weight)
        with pytest.raises(CannotTweak, match="0 for some with 'default'"):
            with_initialization(with_normalization(model, kind), "default")

    def test_refuse_a_knob_and_the_run_goes_on(self, make_flow: Any, kind: str) -> None:
        flow = flow_of(make_flow, partly_frozen())
        flow.normalization = kind
        with pytest.raises(CannotTweak, match="0 for some with 'zeros'"):
            flow.initialization = "zeros"
        assert (flow.initialization, flow.normalization) == ("as given", kind)
        flow.normalization = None
        flow.initialization = "zeros"
        with pytest.raises(CannotTweak, match="0 for some with 'zeros'"):
            flow.normalization = kind
        assert (flow.initialization, flow.normalization) == ("zeros", None)
        flow.step(2)
        assert all(map(math.isfinite, flow.history.loss))

    def test_of_given_weights_do_not_matter_where_they_are_drawn_anew(
        self, make_flow: Any, kind: str
    ) -> None:
        flow = flow_of(make_flow, zeros_within(partly_frozen()))
        with pytest.raises(CannotTweak, match="initialise the model anew before"):
            flow.normalization = kind
        flow.initialization = "he"
        flow.normalization = kind
        flow.step(2)
        assert all(map(math.isfinite, flow.history.loss))


def test_weight_norm_is_refused_where_one_output_has_weights_of_zero() -> None:
    model = partly_frozen()
    with torch.no_grad():
        model[2].weight[3] = 0
    with pytest.raises(CannotTweak, match="Weight norm divides"):
        with_normalization(model, "weight")
    assert with_normalization(model, "spectral")[2].weight.isfinite().all()


def test_buffers_behind_a_weight_stay_the_same_tensors() -> None:
    """Who moves a model's tensors to a device and back holds them."""
    model = with_orthogonality(partly_frozen(), "hard")
    buffers = [id(buffer) for buffer in model.buffers()]
    before = model[2].weight.detach().clone()
    put_computed(model[2], "weight", torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))
    assert [id(buffer) for buffer in model.buffers()] == buffers
    assert not torch.allclose(model[2].weight, before)

"""Weights that hooks compute, as torch's older weight and spectral norm and pruning do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm
from torch.nn.utils.weight_norm import WeightNorm

from gradflow_widget.tweaks.depth import with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import (
    SCHEMES,
    check_initializable,
    with_initialization,
)
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.record import tweaks_of


def older_weight_norm(layer: nn.Module, name: str = "weight") -> nn.Module:
    # The function itself warns that it is older.
    WeightNorm.apply(layer, name, 0)
    return layer


def pruned(layer: nn.Module, name: str = "weight") -> nn.Module:
    prune.l1_unstructured(layer, name, 0.5)
    return layer


HOOKS: dict[str, Callable[..., nn.Module]] = {
    "torch.nn.utils.weight_norm": older_weight_norm,
    "torch.nn.utils.spectral_norm": spectral_norm,
    "torch.nn.utils.prune": pruned,
}
X = torch.linspace(-1, 1, 32 * 8).reshape(32, 8)


def hooked_model(by: str) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [part for _ in range(2) for part in (HOOKS[by](nn.Linear(8, 8)), nn.Tanh())]
    model = nn.Sequential(*blocks, nn.Linear(8, 3))
    model(X)
    return model


@pytest.mark.parametrize("by", HOOKS)
class TestHooks:
    @pytest.mark.parametrize("kind", ["weight", "spectral"])
    def test_leave_no_place_for_another_norm_of_the_weights(self, by: str, kind: str) -> None:
        says = f"computed already, by {by}: take that off before {kind} norm."
        with pytest.raises(CannotTweak, match=re.escape(says)):
            with_normalization(hooked_model(by), kind)

    def test_stay_behind_a_norm_of_the_signal(self, by: str) -> None:
        model = hooked_model(by)
        normed = with_normalization(model, "batch")
        assert torch.equal(with_normalization(normed, None).eval()(X), model.eval()(X))
        assert normed(X).isfinite().all()

    @pytest.mark.parametrize("strength", [0.01, "hard"])
    def test_are_not_made_orthogonal(self, by: str, strength: float | str) -> None:
        says = f"computed already, by {by}: take that off before making them orthogonal."
        with pytest.raises(CannotTweak, match=re.escape(says)):
            with_orthogonality(hooked_model(by), strength)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_keep_their_numbers_and_that_is_said(self, by: str, scheme: str) -> None:
        model = hooked_model(by)
        drawn = with_initialization(model, scheme, seed=4, batch=X)
        behind = {name for name, _ in model.named_parameters() if "weight_" in name}
        assert all(
            torch.equal(parameter, model.get_parameter(name)) == (name in behind)
            for name, parameter in drawn.named_parameters()
            if "weight" in name
        )
        sentence = tweaks_of(drawn)[-1].sentence
        assert f"kept, for {by} computes weights from them: 0.weight_" in sentence
        assert "does not say how" not in sentence
        assert "not scaled" not in sentence

    def test_that_compute_all_weights_leave_none_to_draw(self, by: str) -> None:
        model = nn.Sequential(HOOKS[by](nn.Linear(8, 8)), nn.Tanh())
        with pytest.raises(CannotTweak, match=f"computed already, by {re.escape(by)}"):
            check_initializable(model)
        with pytest.raises(CannotTweak, match=f"computed already, by {re.escape(by)}"):
            with_initialization(model, "he")

    def test_of_a_recurrent_layer_are_no_weights_to_draw(self, by: str) -> None:
        model = nn.Sequential(HOOKS[by](nn.RNNCell(8, 8), "weight_hh"), nn.Tanh(), nn.Linear(8, 3))
        model(X)
        drawn = with_initialization(model, "constant")
        kept = [name for name, _ in model.named_parameters() if "weight_hh_" in name]
        assert kept
        assert all(torch.equal(drawn.get_parameter(k), model.get_parameter(k)) for k in kept)
        assert (drawn[0].weight_ih == 0.01).all()

    def test_are_why_no_block_is_added(self, by: str) -> None:
        with pytest.raises(CannotTweak, match=f"Linear are computed already, by {re.escape(by)}"):
            with_depth(hooked_model(by), 5)

    def test_leave_the_knobs_to_say_so(self, make_flow: Any, by: str) -> None:
        model = hooked_model(by)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = (X, torch.arange(32) % 3)
        flow = make_flow(model, optimizer, nn.CrossEntropyLoss(), data)
        with pytest.raises(
            ValueError, match=f"orthogonality.*computed already, by {re.escape(by)}"
        ):
            flow.orthogonality = 0.01
        flow.initialization = "lsuv"
        flow.step(2)
        assert f"kept, for {by}" in flow.status


def test_a_weight_that_is_an_attribute_of_ones_own_is_not_among_those_that_are_known() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    own = torch.eye(8)
    del model[0].weight
    model[0].weight = own
    assert "1 × gain" in tweaks_of(with_initialization(model, "lsuv", batch=X))[-1].sentence
    assert "over 1 weights" in tweaks_of(with_orthogonality(model, 0.1))[-1].sentence
    assert torch.equal(model[0].weight, torch.eye(8))

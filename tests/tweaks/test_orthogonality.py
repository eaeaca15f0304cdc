"""Orthogonality: a penalty in the loss, or weights that are computed as orthogonal ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradflow_widget.tweaks.computed import computed_as
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import (
    check_orthogonalizable,
    orthogonality_penalty,
    penalty_of,
    with_orthogonality,
)
from gradflow_widget.tweaks.record import tweaks_of
from tests.models.zoo import ZOO, fingerprint, made, output

from .networks import measured_slope, plain


def singular_values(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(weight.detach().flatten(1))


class TestPenalty:
    @pytest.mark.parametrize("shape", [(6, 6), (6, 9), (9, 6)])
    def test_is_the_squared_distance_of_the_gram_matrix_from_one(self, shape):
        layer = nn.Linear(*shape)
        values = singular_values(layer.weight)
        expected = float((values**2 - 1).square().sum())
        assert float(orthogonality_penalty(layer).detach()) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(
        ("layer", "matrices"),
        [
            (nn.Conv2d(3, 5, 3), lambda m: [m.weight.flatten(1)]),
            (nn.LSTM(3, 4), lambda m: [*m.weight_ih_l0.chunk(4), *m.weight_hh_l0.chunk(4)]),
            (
                nn.MultiheadAttention(4, 2),
                lambda m: [*m.in_proj_weight.chunk(3), m.out_proj.weight],
            ),
        ],
        ids=["convolution", "LSTM gates", "attention"],
    )
    def test_sums_over_the_matrices_of_a_layer(self, layer, matrices):
        expected = sum(
            float((singular_values(matrix) ** 2 - 1).square().sum()) for matrix in matrices(layer)
        )
        assert float(orthogonality_penalty(layer).detach()) == pytest.approx(expected, rel=1e-4)

    def test_is_nothing_at_orthogonal_weights(self):
        model = with_initialization(plain(4, 16, nn.Identity), "orthogonal")
        assert float(orthogonality_penalty(model).detach()) == pytest.approx(0, abs=1e-8)

    def test_leaves_out_embeddings_frozen_weights_and_counts_tied_ones_once(self):
        model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 7))
        model[3].weight = model[0].weight
        model[2].weight = model[1].weight
        alone = orthogonality_penalty(model[1])
        torch.testing.assert_close(orthogonality_penalty(model), alone)
        model[1].weight.requires_grad_(False)
        with pytest.raises(CannotTweak, match="no trained weight"):
            orthogonality_penalty(model)

    def test_in_the_objective_draws_weights_to_orthogonal_ones(self):
        model = with_orthogonality(plain(2, 8, nn.Tanh), 0.1)
        penalty = penalty_of(model)
        assert penalty is not None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(300):
            optimizer.zero_grad()
            penalty().backward()
            optimizer.step()
        assert singular_values(model[0].weight) == pytest.approx(1, abs=1e-2)

    def test_has_the_strength_that_was_asked_for(self):
        model = plain(2, 8, nn.Tanh)
        penalty = penalty_of(with_orthogonality(model, 0.25))
        assert penalty is not None
        torch.testing.assert_close(penalty(), 0.25 * orthogonality_penalty(model))
        assert penalty_of(model) is None
        assert penalty_of(with_orthogonality(model, 0)) is None

    def test_belongs_to_the_copy_that_a_later_tweak_makes(self):
        model = with_orthogonality(plain(3, 8, nn.Tanh), 1.0)
        later = with_initialization(model, "orthogonal", gain=1.0)
        penalty = penalty_of(later)
        assert penalty is not None
        assert float(penalty().detach()) == pytest.approx(0, abs=1e-8)

    def test_changes_no_weight(self):
        model, x = plain(3, 8, nn.Tanh), torch.randn(4, 8)
        changed = with_orthogonality(model, 0.1)
        assert torch.equal(changed(x), model(x))
        assert "0.1·Σ‖WᵀW − I‖² over 3 weights" in tweaks_of(changed)[-1].sentence


class TestHard:
    @pytest.mark.parametrize(
        "layer",
        [
            nn.Linear(8, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Conv2d(3, 8, 3),
            nn.Conv1d(8, 3, 2),
        ],
        ids=str,
    )
    def test_weights_are_orthogonal_and_stay_so(self, layer):
        model = with_orthogonality(nn.Sequential(layer), "hard")
        assert singular_values(model[0].weight) == pytest.approx(1, abs=1e-5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = model[0].weight.detach().clone()
        for _ in range(5):
            optimizer.zero_grad()
            model[0].weight.pow(3).sum().backward()
            optimizer.step()
        assert singular_values(model[0].weight) == pytest.approx(1, abs=1e-4)
        assert not torch.equal(model[0].weight, before)

    @pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.Linear(8, 12), nn.Conv2d(3, 8, 3)])
    def test_weights_stay_orthogonal_under_weight_decay(self, layer):
        model = with_orthogonality(nn.Sequential(layer), "hard")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            model[0].weight.pow(3).sum().backward()
            optimizer.step()
        assert singular_values(model[0].weight) == pytest.approx(1, abs=1e-4)

    def test_makes_a_deep_linear_network_an_isometry(self):
        model = with_orthogonality(
            with_initialization(plain(30, 64, nn.Identity), "xavier"), "hard"
        )
        assert measured_slope(model, 64) == pytest.approx(0, abs=1e-5)

    def test_tied_weights_are_not_torn_apart(self):
        model = plain(3, 8, nn.Tanh)
        model[2].weight = model[0].weight
        changed = with_orthogonality(model, "hard")
        assert changed[2].weight is changed[0].weight
        assert [computed_as(layer) for layer in changed[::2]] == ["", "", "orthogonal"]

    def test_what_was_trained_since_stays_when_it_is_taken_off(self):
        changed, x = with_orthogonality(plain(3, 8, nn.Tanh), "hard"), torch.randn(4, 8)
        with torch.no_grad():
            for layer in changed[::2]:
                layer.parametrizations.weight.original += 0.1
        torch.testing.assert_close(with_orthogonality(changed, None)(x), changed(x))

    @pytest.mark.parametrize("scheme", ["zeros", "constant"])
    def test_has_no_place_to_start_from_at_weights_that_are_alike(self, scheme):
        model = with_initialization(plain(3, 8, nn.Tanh), scheme)
        with pytest.raises(CannotTweak, match="of a Linear are zeros or alike"):
            with_orthogonality(model, "hard")

    def test_does_not_go_with_norms_of_the_weights(self):
        model = with_normalization(plain(3, 8, nn.Tanh), "weight")
        with pytest.raises(CannotTweak, match="computed already, by weight norm"):
            with_orthogonality(model, "hard")


class TestLaws:
    @settings(max_examples=30)
    @given(
        strengths=st.lists(st.sampled_from([0.1, 2.0, "hard"]), min_size=1, max_size=3),
        training=st.booleans(),
    )
    def test_put_on_and_taken_off_nothing_has_changed(self, strengths, training):
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
        model.train(training)
        before, x = fingerprint(model), torch.randn(3, 2, 5, 5)
        random = torch.get_rng_state().tolist()
        changed = model
        for strength in strengths:
            changed = with_orthogonality(changed, strength)
        back = with_orthogonality(changed, None)
        assert fingerprint(model) == {**before, "random state": random}
        assert torch.equal(back(x), model(x))
        assert list(back.state_dict()) == list(model.state_dict())
        assert tweaks_of(back) == ()

    @settings(max_examples=20)
    @given(
        strength=st.sampled_from([0.1, "hard", None]),
        scheme=st.sampled_from(["default", "normal", "he", "orthogonal", "critical"]),
        kind=st.sampled_from(["batch", "layer", "group", "rms", None]),
    )
    def test_commutes_with_initialization_and_normalization(self, strength, scheme, kind):
        model, x = plain(3, 6, nn.Tanh), torch.randn(7, 6)

        def others(m: nn.Module) -> nn.Module:
            return with_normalization(with_initialization(m, scheme), kind)

        one, other = (
            others(with_orthogonality(model, strength)),
            with_orthogonality(others(model), strength),
        )
        torch.testing.assert_close(one(x), other(x))


class TestRealModels:
    @pytest.mark.parametrize("strength", [0.1, "hard"])
    @pytest.mark.parametrize("name", ZOO)
    def test_works_and_is_undone_or_says_why_not(self, name, strength):
        model, inputs = made(name)
        before = fingerprint(model)
        if strength == "hard" and name == "bfloat16 MLP":
            with pytest.raises(CannotTweak, match=r"dtype torch.bfloat16, in which torch can't"):
                with_orthogonality(model, strength)
            return
        changed = with_orthogonality(model, strength)
        assert fingerprint(model) == before
        assert torch.isfinite(output(changed, inputs)).all()
        assert (penalty_of(changed) is None) == (strength == "hard")
        back = with_orthogonality(changed, None)
        assert torch.equal(output(back, inputs), output(model, inputs))


class TestBadInput:
    @pytest.mark.parametrize("strength", [-1, math.nan, math.inf, "soft", True, [1]])
    def test_unknown_strength(self, strength):
        with pytest.raises(ValueError, match="is unknown: give a number from 0, 'hard' or None"):
            with_orthogonality(nn.Linear(2, 2), strength)

    def test_is_told_beforehand(self):
        check_orthogonalizable(plain(3, 8, nn.Tanh))
        with pytest.raises(CannotTweak, match="no weight that could be made orthogonal"):
            check_orthogonalizable(nn.LayerNorm(3))

    def test_nothing_to_make_orthogonal(self):
        for strength in (1.0, "hard"):
            with pytest.raises(CannotTweak, match="no weight that could be made orthogonal"):
                with_orthogonality(nn.Sequential(nn.Tanh(), nn.LayerNorm(3)), strength)

    def test_lazy_layers(self):
        with pytest.raises(CannotTweak, match="run one batch"):
            with_orthogonality(nn.Sequential(nn.LazyLinear(3)), 1.0)


@pytest.mark.parametrize("scheme", ["zeros", "constant"])
def test_what_can_not_be_orthogonal_is_refused_in_either_order(scheme):
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    with pytest.raises(CannotTweak, match="kept orthogonal"):
        with_initialization(with_orthogonality(model, "hard"), scheme)
    with pytest.raises(CannotTweak, match="zeros or alike"):
        with_orthogonality(with_initialization(model, scheme), "hard")
    with_initialization(with_orthogonality(model, 0.1), scheme)

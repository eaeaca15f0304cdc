"""Initialisation: what each scheme draws, and what it does to the signal (theory.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from gradflow_widget.tweaks import gains
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.following import following
from gradflow_widget.tweaks.gains import forward_gain
from gradflow_widget.tweaks.initialization import (
    SCHEMES,
    check_initializable,
    with_initialization,
)
from gradflow_widget.tweaks.mean_field import critical_point
from gradflow_widget.tweaks.nonlinearities import Nonlinearity, as_nonlinearity
from gradflow_widget.tweaks.record import tweaks_of
from gradflow_widget.tweaks.weights import weights_of
from tests.models.zoo import ZOO, fingerprint, made, output

from .networks import Branching, Functional, Listed, measured_slope, plain
from .nonlinearity_moments import (
    PHI,
    SCHEMES_WITH_A_NUMBER,
    moments,
    nonlinearity,
    scheme_options,
    sigmas,
)

Array = NDArray[np.float64]
WIDTH, DEPTH = 256, 24


def predicted_slope(name: str, sigma_w: float, sigma_b: float = 0.0, last: float = 1.0) -> float:
    """G of a plain network as it is fitted: ½ ln χ₁ at each layer's own variance."""
    q, logs = sigma_w**2 + sigma_b**2, [0.0]
    for layer in range(1, DEPTH):
        value, slope = moments(name, q)
        out = last if layer == DEPTH - 1 else sigma_w
        logs.append(logs[-1] - 0.5 * math.log(out**2 * slope))
        q = sigma_w**2 * value + sigma_b**2
    return -float(np.polyfit(np.arange(DEPTH), logs, 1)[0])


def backward_gain(phi: Nonlinearity) -> float:
    """1/√E[φ'²]: with σ_w of this size a gradient keeps its norm at variance 1."""
    return 1 / math.sqrt(gains.moments(phi)[1])


class TestGains:
    @pytest.mark.parametrize(
        ("module", "forward", "backward"),
        [
            (nn.Tanh(), 1.5925, 1.4674),
            (nn.GELU(), 1.5335, 1.4811),
            (nn.SiLU(), 1.6765, 1.6233),
            (nn.ELU(), 1.2452, 1.2234),
            (nn.SELU(), 1.0, 0.9660),
            (nn.Sigmoid(), 1.8462, 4.7226),
            (nn.Mish(), 1.4868, 1.4448),
            (nn.ReLU(), math.sqrt(2), math.sqrt(2)),
        ],
        ids=str,
    )
    def test_are_those_of_the_theory(self, module, forward, backward):
        assert forward_gain(nonlinearity(module)) == pytest.approx(forward, abs=1e-4)
        assert backward_gain(nonlinearity(module)) == pytest.approx(backward, abs=1e-4)

    @pytest.mark.parametrize("name", PHI)
    def test_agree_with_quadrature_of_the_formulas(self, name):
        found = nonlinearity(PHI[name].module())
        value, slope = moments(name, 1.0)
        assert forward_gain(found) == pytest.approx(1 / math.sqrt(value), rel=1e-4)
        assert backward_gain(found) == pytest.approx(1 / math.sqrt(slope), rel=1e-4)

    def test_see_a_modules_own_numbers(self):
        leaky = nonlinearity(nn.LeakyReLU(0.5))
        assert forward_gain(leaky) == pytest.approx(math.sqrt(2 / 1.25))
        assert forward_gain(nonlinearity(nn.PReLU(init=0.5))) == pytest.approx(math.sqrt(2 / 1.25))

    @pytest.mark.parametrize("module", [nn.Softmax(-1), nn.LayerNorm(14), nn.Dropout(), nn.GLU()])
    def test_are_only_of_what_acts_on_each_entry(self, module):
        assert as_nonlinearity(module) is None

    def test_do_not_depend_on_how_a_processor_rounds_the_last_entries(self):
        """Vector units take four or eight at a time, and what is left over one by one."""

        def rounded(z: torch.Tensor) -> torch.Tensor:
            last_bit = torch.zeros_like(z)
            last_bit[len(z) // 4 * 4 :] = 1e-16
            return torch.tanh(z) * (1 + 2 * last_bit) + last_bit

        found = as_nonlinearity(rounded)
        assert found is not None
        assert forward_gain(found) == pytest.approx(1.5925, abs=1e-4)


class TestCriticalLine:
    @pytest.mark.parametrize(
        ("bias_variance", "weight_variance"),
        [(0, 1), (0.01, 1.42421), (0.05, 1.76095), (0.1, 1.98607), (0.3, 2.50513), (1, 3.44321)],
    )
    def test_of_tanh_is_that_of_the_theory(self, bias_variance, weight_variance):
        point = critical_point(nonlinearity(nn.Tanh()), math.sqrt(bias_variance))
        assert point is not None
        assert point.sigma_w**2 == pytest.approx(weight_variance, abs=6e-6)

    def test_of_relu_is_one_point(self):
        relu = nonlinearity(nn.ReLU())
        for asked in (None, 0.0):
            point = critical_point(relu, asked)
            assert point is not None
            assert (point.sigma_w**2, point.sigma_b) == (pytest.approx(2), 0)
        assert critical_point(relu, 0.1) is None

    def test_of_softplus_does_not_exist(self):
        assert critical_point(nonlinearity(nn.Softplus())) is None

    @pytest.mark.parametrize("name", ["tanh", "ELU", "SELU", "GELU", "SiLU", "sigmoid"])
    def test_is_where_variance_stays_and_gradients_neither_grow_nor_shrink(self, name):
        phi = nonlinearity(PHI[name].module())
        point = critical_point(phi)
        assert point is not None
        value, slope, _ = gains.moments(phi, point.q)
        assert point.sigma_w**2 * slope == pytest.approx(1)
        q = point.sigma_w**2 * value + point.sigma_b**2
        assert q == pytest.approx(point.q, rel=1e-6)

    @pytest.mark.parametrize(("sigma_w", "slope"), [(1.5, 0.06522), (3, 0.31025)])
    def test_beyond_it_tanh_explodes_as_the_theory_says(self, sigma_w, slope):
        tanh, q = nonlinearity(nn.Tanh()), 1.0
        for _ in range(500):
            q = sigma_w**2 * gains.moments(tanh, q)[0]
        growth = 0.5 * math.log(sigma_w**2 * gains.moments(tanh, q)[1])
        assert growth == pytest.approx(slope, abs=6e-6)


class TestSignal:
    @pytest.mark.parametrize("name", PHI)
    @pytest.mark.parametrize("scheme", SCHEMES_WITH_A_NUMBER)
    def test_grows_as_the_mean_field_says(self, scheme, name):
        # He's fixed point is unstable for GELU and SiLU, where variance grows on from layer to
        # layer: the mean field follows it.
        model = plain(DEPTH, WIDTH, PHI[name].module)
        changed = with_initialization(model, scheme, seed=3, **scheme_options(scheme))
        sigma_w, sigma_b, last = sigmas(scheme, name, WIDTH)
        expected = predicted_slope(name, sigma_w, sigma_b, last)
        assert measured_slope(changed, WIDTH) == pytest.approx(expected, abs=0.03)

    @pytest.mark.parametrize("name", PHI)
    def test_under_lsuv_grows_by_the_ratio_of_the_gains(self, name):
        value, slope = moments(name, 1.0)
        inputs = torch.randn(256, WIDTH, generator=torch.Generator().manual_seed(1))
        model = plain(DEPTH, WIDTH, PHI[name].module)
        changed = with_initialization(model, "lsuv", batch=inputs)
        expected = 0.5 * math.log(slope / value)
        # Outputs that all samples share narrow the scatter that LSUV keeps at 1.
        tolerance = 0.1 if name in ("GELU", "SiLU") else 0.03
        assert measured_slope(changed, WIDTH) == pytest.approx(expected, abs=tolerance)

    @pytest.mark.parametrize(
        ("activation", "scheme", "gain", "slope", "tolerance"),
        [
            (nn.ReLU, "he", None, 0.0, 0.03),
            (nn.ReLU, "he", 2.0, 0.3466, 0.03),
            (nn.Tanh, "default", None, -0.5493, 0.03),
            (nn.ReLU, "default", None, -0.8959, 0.03),
            (nn.Tanh, "lecun", 3.0, 0.3103, 0.025),
        ],
    )
    def test_known_answers(self, activation, scheme, gain, slope, tolerance):
        changed = with_initialization(plain(30, 256, activation), scheme, gain=gain)
        assert measured_slope(changed, 256) == pytest.approx(slope, abs=tolerance)

    def test_zeros_sever_it(self):
        changed = with_initialization(plain(5, 16, nn.Tanh), "zeros")
        assert math.isnan(measured_slope(changed, 16))

    def test_lsuv_gives_every_layer_unit_variance(self):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 144, 5)
        )
        images = 7 * torch.randn(8, 3, 16, 16) + 2
        changed = with_initialization(model, "lsuv", batch=images)
        x = images
        for module in changed:
            x = module(x)
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert float(x.detach().std(unbiased=False)) == pytest.approx(1, abs=1e-4)

    def test_lsuv_leaves_an_embedding_and_the_projection_tied_to_it(self):
        model = nn.Sequential(
            nn.Embedding(100, 32),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 100),
        )
        model[5].weight = model[0].weight
        tokens = torch.arange(100).reshape(10, 10)
        changed = with_initialization(model, "lsuv", batch=tokens)
        assert changed[5].weight is changed[0].weight
        assert torch.equal(changed[0].weight, with_initialization(model, "he")[0].weight)
        assert "not scaled" not in tweaks_of(changed)[-1].sentence
        for end in (2, 4):
            spread = float(changed[:end](tokens).detach().std(unbiased=False))
            assert spread == pytest.approx(1, abs=1e-4)

    def test_lsuv_leaves_running_statistics_and_dropout_alone(self):
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
        changed = with_initialization(model, "lsuv", batch=torch.randn(16, 8) + 3)
        assert torch.equal(changed[1].running_mean, torch.zeros(8))
        assert [module.training for module in changed] == [True] * 4


class TestMatrices:
    def test_deep_orthogonal_linear_network_has_all_singular_values_1(self):
        model = with_initialization(plain(50, 128, nn.Identity), "orthogonal")
        product = torch.eye(128)
        for layer in model:
            if isinstance(layer, nn.Linear):
                product = layer.weight.detach() @ product
        assert torch.linalg.svdvals(product) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)])
    def test_orthogonal_wide_and_tall_ones_have_orthonormal_rows_or_columns(self, shape):
        weight = with_initialization(nn.Linear(*shape), "orthogonal").weight
        assert torch.linalg.svdvals(weight.detach()) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize(
        ("layer", "inputs"),
        [
            (nn.Conv1d(6, 9, 5, padding=2, padding_mode="circular"), (3, 6, 11)),
            (nn.Conv2d(6, 9, 3, padding=1), (3, 6, 7, 7)),
            (nn.Conv2d(6, 6, 3, padding=1, groups=6), (3, 6, 7, 7)),
            (nn.Conv2d(3, 48, 4, stride=4), (3, 3, 8, 8)),
            (nn.Conv3d(2, 4, 3, padding=1), (3, 2, 5, 5, 5)),
        ],
        ids=str,
    )
    def test_delta_orthogonal_convolutions_keep_norms(self, layer, inputs):
        x = torch.randn(inputs)
        out = with_initialization(layer, "orthogonal")(x)
        assert out.flatten(1).norm(dim=1).tolist() == pytest.approx(
            x.flatten(1).norm(dim=1).tolist(), rel=1e-5
        )

    def test_recurrent_ones_are_orthogonal_gate_by_gate(self):
        changed = with_initialization(nn.LSTM(5, 7, bidirectional=True), "orthogonal")
        for name in ("weight_hh_l0", "weight_hh_l0_reverse", "weight_ih_l0"):
            for gate in getattr(changed, name).detach().chunk(4):
                assert torch.linalg.svdvals(gate) == pytest.approx(1, abs=1e-5)
        assert not changed.bias_ih_l0.any()

    @pytest.mark.parametrize(
        ("layer", "fan_in", "fan_out"),
        [
            (nn.Linear(30, 50), 30, 50),
            (nn.Conv2d(16, 32, 3), 144, 288),
            (nn.Conv2d(16, 32, 3, groups=4), 36, 72),
            (nn.ConvTranspose2d(16, 32, 4, stride=2), 64, 512),
            (nn.Bilinear(12, 13, 40), 156, 40),
        ],
        ids=str,
    )
    def test_variance_goes_by_the_connections(self, layer, fan_in, fan_out):
        (weight,) = weights_of(layer)
        assert (weight.fan_in, weight.fan_out) == (fan_in, fan_out)
        lecun = with_initialization(layer, "lecun").weight
        assert float(lecun.std()) == pytest.approx(1 / math.sqrt(fan_in), rel=0.08)
        xavier = with_initialization(layer, "xavier", gain=2.0).weight
        expected = 2 * math.sqrt(2 / (fan_in + fan_out))
        assert float(xavier.std()) == pytest.approx(expected, rel=0.08)

    def test_constants(self):
        changed = with_initialization(nn.Linear(3, 3), "constant", value=-0.5)
        assert (changed.weight == -0.5).all()
        assert (changed.bias == 0).all()
        assert not with_initialization(nn.Linear(3, 3), "zeros").weight.any()

    def test_critical_biases_have_the_spread_of_the_point(self):
        model = plain(2, 2000, nn.Tanh)
        changed = with_initialization(model, "critical", sigma_b=math.sqrt(0.3))
        assert float(changed[0].weight.var()) * 2000 == pytest.approx(2.50513, rel=0.01)
        assert float(changed[0].bias.var()) == pytest.approx(0.3, rel=0.1)
        assert not changed[2].bias.any()

    @pytest.mark.parametrize("layer", [nn.RNN(4, 5000), nn.RNNCell(4, 5000)], ids=str)
    def test_critical_biases_of_a_recurrent_layer_have_it_together(self, layer):
        changed = with_initialization(layer, "critical", sigma_b=math.sqrt(0.3))
        biases = [p.detach() for name, p in changed.named_parameters() if "bias" in name]
        assert float(biases[0].var()) == pytest.approx(0.15, rel=0.1)
        assert float(sum(biases).var()) == pytest.approx(0.3, rel=0.1)

    def test_a_critical_recurrence_without_input_keeps_the_gradient(self):
        # One matrix at every step: single seeds scatter by 0.015.
        width, slopes = 512, []
        generator = torch.Generator().manual_seed(1)
        for seed in range(4):
            layer = with_initialization(nn.RNNCell(4, width), "critical", seed=seed)
            states = [torch.randn(16, width, generator=generator)]
            for _ in range(60):
                states.append(layer(torch.zeros(16, 4), states[-1]))
            last = torch.randn(16, width, generator=generator)
            grads = torch.autograd.grad(states[-1], states[20:-1], last)
            norms = torch.stack([grad.norm(dim=1).mean() for grad in grads]).log()
            slopes.append(-float(np.polyfit(np.arange(len(norms)), norms.numpy(), 1)[0]))
        assert float(np.mean(slopes)) == pytest.approx(0, abs=0.01)

    def test_output_layer_counts_as_linear(self):
        model = nn.Sequential(nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 400), nn.Sigmoid())
        first, _, last, _ = with_initialization(model, "he")
        assert float(first.weight.std()) * 20 == pytest.approx(math.sqrt(2), rel=0.02)
        assert float(last.weight.std()) * 20 == pytest.approx(1, rel=0.02)

    def test_default_is_a_freshly_built_network(self):
        changed = with_initialization(plain(3, 8, nn.Tanh, seed=5), "default", seed=7)
        fresh = plain(3, 8, nn.Tanh, seed=7)
        assert all(map(torch.equal, changed.parameters(), fresh.parameters()))

    def test_default_follows_init_weights_of_the_model(self):
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
                self.apply(self._init_weights)

            def _init_weights(self, module: nn.Module) -> None:
                if isinstance(module, nn.Linear):
                    nn.init.constant_(module.weight, 3.0)

        model = Own()
        nn.init.zeros_(model.inner[0].weight)
        nn.init.zeros_(model.inner[1].weight)
        changed = with_initialization(model, "default")
        assert (changed.inner[0].weight == 3).all()
        assert (changed.inner[1].weight == 1).all()

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_norms_start_at_their_own_default(self, scheme):
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        model(torch.randn(16, 8))
        nn.init.constant_(model[1].weight, 5.0)
        norm = with_initialization(model, scheme, batch=torch.randn(16, 8))[1]
        assert (norm.weight == 1).all()
        assert not norm.running_mean.any()
        assert not norm.bias.any()

    def test_embeddings_multiply_nothing_and_keep_their_class_default(self):
        embedding = nn.Embedding(2000, 64, padding_idx=3)
        model = nn.Sequential(embedding, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        changed = with_initialization(model, "he")[0].weight
        assert float(changed.detach().std()) == pytest.approx(1, rel=0.02)
        assert not changed[3].any()
        drawn = with_initialization(model, "normal", std=0.1)[0].weight
        assert float(drawn.detach().std()) == pytest.approx(0.1, rel=0.02)
        assert not drawn[3].any()
        filled = with_initialization(model, "constant")[0].weight
        assert (filled[4] == 0.01).all()
        assert not filled[3].any()

    def test_tied_weights_stay_tied_and_count_as_embedding(self):
        model, _ = made("GPT-2")
        changed = with_initialization(model, "he")
        assert changed.lm_head.weight is changed.transformer.wte.weight
        assert float(changed.lm_head.weight.detach().std()) == pytest.approx(0.02, rel=0.2)

    def test_frozen_weights_stay(self):
        model = plain(3, 8, nn.Tanh)
        model[0].requires_grad_(False)
        for scheme in SCHEMES:
            changed = with_initialization(model, scheme, seed=4, batch=torch.randn(16, 8))
            assert torch.equal(changed[0].weight, model[0].weight)
            assert not changed[0].weight.requires_grad
            assert not torch.equal(changed[2].weight, model[2].weight)
            assert "2 frozen ones stay" in tweaks_of(changed)[-1].sentence

    def test_parametrized_weights_are_drawn_through_their_parametrization(self):
        model = plain(3, 16, nn.ReLU)
        torch.nn.utils.parametrizations.weight_norm(model[0])
        before = model[0].weight.detach().clone()
        for scheme in ("he", "default"):
            changed = with_initialization(model, scheme, seed=4)
            assert not torch.equal(changed[0].weight, before)
            assert torch.equal(model[0].weight, before)
        plainly = with_initialization(plain(3, 16, nn.ReLU), "he")
        torch.testing.assert_close(with_initialization(model, "he")[0].weight, plainly[0].weight)

    def test_half_precision_draws_the_same_weights(self):
        model = plain(3, 16, nn.Tanh)
        for scheme in SCHEMES:
            batch = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
            full = with_initialization(model, scheme, batch=batch)
            half = with_initialization(
                plain(3, 16, nn.Tanh).bfloat16(), scheme, batch=batch.bfloat16()
            )
            assert half[0].weight.dtype == torch.bfloat16
            torch.testing.assert_close(half[2].weight.float(), full[2].weight, rtol=0.05, atol=0.02)


class TestFollowing:
    def test_functions_are_found_by_tracing(self):
        found = {f.nonlinearity.name for f in following(Functional()).values()}
        assert found == {"relu", "leaky_relu", "tanh", "linear"}

    def test_the_order_of_registration_does_not_mislead(self):
        model, _ = made("GPT-2")
        behind = following(model)
        mlp = model.transformer.h[0].mlp
        assert behind[mlp.c_fc].nonlinearity.name == "NewGELUActivation"
        assert behind[mlp.c_proj].nonlinearity.name == "linear"
        assert behind[model.lm_head].is_output

    def test_the_order_of_registration_serves_where_nothing_traces(self):
        model = Listed()
        behind = following(model)
        assert {behind[layer].nonlinearity.name for layer in model.layers} == {"Tanh"}
        assert behind[model.layers[0]].evidence == "order"
        assert behind[model.head].is_output

    def test_he_takes_relu_where_nothing_is_known(self):
        model = Branching()
        changed = with_initialization(model, "he")
        assert float(changed.conv2.weight.std()) * 12 == pytest.approx(math.sqrt(2), rel=0.05)
        assert "not known" in tweaks_of(changed)[-1].sentence


class TestLaws:
    @settings(max_examples=20)
    @given(scheme=st.sampled_from(SCHEMES), seed=st.integers(0, 2**40))
    def test_the_same_seed_gives_the_same_weights(self, scheme, seed):
        batch = torch.ones(4, 6).cumsum(0)
        one, two = (
            with_initialization(plain(3, 6, nn.Tanh, seed=s), scheme, seed=seed, batch=batch)
            for s in (1, 2)
        )
        assert all(map(torch.equal, one.parameters(), two.parameters()))

    @settings(max_examples=20)
    @given(scheme=st.sampled_from(SCHEMES), training=st.booleans())
    def test_the_given_model_is_untouched(self, scheme, training):
        model = nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 2)
        ).train(training)
        before = fingerprint(model)
        changed = with_initialization(model, scheme, batch=torch.ones(4, 6).cumsum(0))
        assert fingerprint(model) == before
        assert [module.training for module in changed] == [training] * 5

    @settings(max_examples=20)
    @given(
        scheme=st.sampled_from(["xavier", "he", "lecun", "orthogonal"]),
        factor=st.floats(0.1, 10),
    )
    def test_weights_are_proportional_to_the_gain(self, scheme, factor):
        one = with_initialization(nn.Linear(6, 6), scheme, gain=1.0)
        other = with_initialization(nn.Linear(6, 6), scheme, gain=factor)
        torch.testing.assert_close(other.weight, factor * one.weight)


class TestRealModels:
    @pytest.mark.parametrize("scheme", ["default", "he", "orthogonal", "critical"])
    @pytest.mark.parametrize("name", ZOO)
    def test_is_drawn_and_runs(self, name, scheme):
        model, inputs = made(name)
        before = fingerprint(model)
        changed = with_initialization(model, scheme)
        assert fingerprint(model) == before
        assert torch.isfinite(output(changed, inputs)).all()
        assert tweaks_of(changed)[-1].knob == "initialization"

    @pytest.mark.parametrize("name", ZOO)
    def test_lsuv_is_driven_by_what_the_model_takes(self, name):
        model, inputs = made(name)
        changed = with_initialization(model, "lsuv", batch=inputs)
        assert torch.isfinite(output(changed, inputs)).all()


class TestBadInput:
    def test_unknown_scheme_names_the_known_ones(self):
        with pytest.raises(ValueError, match=r"'glorot' is unknown.*xavier.*lsuv"):
            with_initialization(nn.Linear(2, 2), "glorot")
        with pytest.raises(ValueError, match="unknown"):
            with_initialization(nn.Linear(2, 2), None)

    @pytest.mark.parametrize("gain", [0, -1, math.nan, math.inf, "2", True])
    def test_gain_out_of_range(self, gain):
        with pytest.raises(ValueError, match="gain must be a number above 0"):
            with_initialization(nn.Linear(2, 2), "he", gain=gain)

    @pytest.mark.parametrize("scheme", ["default", "zeros", "constant", "normal", "critical"])
    def test_gain_without_meaning(self, scheme):
        with pytest.raises(ValueError, match="gain has no meaning"):
            with_initialization(nn.Linear(2, 2), scheme, gain=2.0)

    @pytest.mark.parametrize("seed", [-1, 1.5, "a", None, 2**63])
    def test_seed(self, seed):
        with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to 2\*\*63"):
            with_initialization(nn.Linear(2, 2), "he", seed=seed)

    def test_options(self):
        with pytest.raises(TypeError, match="no option 'std': it has none"):
            with_initialization(nn.Linear(2, 2), "he", std=1.0)
        with pytest.raises(ValueError, match="std must be a number from 0"):
            with_initialization(nn.Linear(2, 2), "normal", std=-1.0)
        with pytest.raises(ValueError, match="not on the critical line of ReLU"):
            with_initialization(plain(2, 4, nn.ReLU), "critical", sigma_b=0.5)

    def test_no_critical_line(self):
        with pytest.raises(CannotTweak, match=r"Softplus.* has no critical line"):
            with_initialization(plain(2, 4, nn.Softplus), "critical")

    def test_lsuv_without_a_batch_or_with_a_wrong_one(self):
        with pytest.raises(ValueError, match="give batch="):
            with_initialization(nn.Linear(2, 2), "lsuv")
        with pytest.raises(CannotTweak, match="does not take the batch"):
            with_initialization(nn.Linear(2, 2), "lsuv", batch=torch.randn(3, 5))

    def test_nothing_to_draw(self):
        with pytest.raises(CannotTweak, match="no weight matrix"):
            with_initialization(nn.Sequential(nn.Tanh(), nn.LayerNorm(3)), "he")
        with pytest.raises(CannotTweak, match="no weight matrix"):
            check_initializable(nn.Sequential(nn.Tanh(), nn.LayerNorm(3)))
        check_initializable(plain(2, 4, nn.Tanh))

    def test_lazy_layers(self):
        with pytest.raises(CannotTweak, match="run one batch"):
            with_initialization(nn.Sequential(nn.LazyLinear(3)), "he")

    def test_custom_layers_without_reset_parameters_are_kept_and_named(self):
        class Custom(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.matrix = nn.Parameter(torch.eye(4))

            def forward(self, x: Any) -> Any:
                return x @ self.matrix

        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Custom())
        for scheme in ("he", "default"):
            changed = with_initialization(model, scheme)
            assert torch.equal(changed[2].matrix, torch.eye(4))
            assert "2.matrix" in tweaks_of(changed)[-1].sentence

"""Normalisation: put in, exchanged, taken out, and what it does to the signal (theory.md)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from gradflow_widget.measurement.layers import find_layers
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import (
    KINDS,
    Normalized,
    RemovedNorm,
    check_normalizable,
    normalization_of,
    with_normalization,
)
from gradflow_widget.tweaks.norms import BatchNormOver, GroupNormOver
from gradflow_widget.tweaks.record import tweaks_of
from tests.models.zoo import ZOO, fingerprint, made, output

from .networks import Branching, Functional, Listed, measured_slope, plain
from .nonlinearity_moments import PHI, SCHEMES_WITH_A_NUMBER, moments, scheme_options, sigmas

SCHEMES = (*SCHEMES_WITH_A_NUMBER, "lsuv")


def drawn(model: nn.Sequential, scheme: str) -> nn.Module:
    """The model with weights by a scheme, for inputs as ``measured_slope`` gives them."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(256, model[0].in_features, generator=generator)
    return with_initialization(model, scheme, batch=batch, **scheme_options(scheme))


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def normed(kind: Any = nn.BatchNorm2d) -> nn.Sequential:
    """A convolutional network with trained norms of its own."""
    torch.manual_seed(0)
    norms = [
        nn.BatchNorm2d(16) if kind is nn.BatchNorm2d else nn.GroupNorm(4, 16) for _ in range(2)
    ]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        norms[0],
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        norms[1],
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 4),
    )


class TestSignal:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_batch_norm_and_relu_explode_by_the_known_factor(self, scheme):
        model = drawn(plain(30, 256, nn.ReLU), scheme)
        factor = math.exp(measured_slope(with_normalization(model, "batch"), 256, batch=128))
        assert factor == pytest.approx(1.2164, abs=0.02)

    def test_the_factor_goes_to_that_of_large_batches(self):
        model = with_normalization(plain(20, 256, nn.ReLU), "batch")
        factor = math.exp(measured_slope(model, 256, batch=1024))
        assert factor == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), abs=0.02)

    @pytest.mark.parametrize("name", PHI)
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_layer_norm_makes_it_grow_by_the_ratio_of_the_moments(self, scheme, name):
        # Every activation then sees a variance of 1, whatever the weights' scale; what biases
        # add to that carries no gradient.
        model = drawn(plain(24, 256, PHI[name].module), scheme)
        slope = measured_slope(with_normalization(model, "layer"), 256)
        value, slope_moment = moments(name, 1.0)
        biases = 0.0
        if scheme in ("default", "critical"):
            sigma_w, sigma_b, _ = sigmas(scheme, name, 256)
            biases = (sigma_b / sigma_w) ** 2
        expected = 0.5 * math.log(slope_moment / (value + biases))
        # theory.md has 0 ± 0.05 for ReLU.
        assert slope == pytest.approx(expected, abs=0.04)

    @pytest.mark.parametrize("name", PHI)
    def test_so_does_rms_norm(self, name):
        model = drawn(plain(24, 256, PHI[name].module), "lecun")
        slope = measured_slope(with_normalization(model, "rms"), 256)
        value, slope_moment = moments(name, 1.0)
        assert slope == pytest.approx(0.5 * math.log(slope_moment / value), abs=0.04)

    @pytest.mark.parametrize("kind", ["batch", "layer", "group", "rms"])
    def test_scaling_weights_before_a_norm_scales_their_gradient_back(self, kind):
        model = with_initialization(plain(3, 32, nn.ReLU), "he")
        model = with_normalization(model, kind)
        x, gradients = torch.randn(64, 32), []
        layer = model[0].layer
        for scale in (1.0, 4.0):
            with torch.no_grad():
                layer.weight *= scale
            (gradient,) = torch.autograd.grad(model(x).square().sum(), layer.weight)
            gradients.append(gradient)
        torch.testing.assert_close(gradients[1], gradients[0] / 4, rtol=1e-3, atol=1e-3)
        inner = float((gradients[0] * layer.weight.detach()).sum())
        assert abs(inner) < 1e-3 * float(gradients[0].norm() * layer.weight.detach().norm())

    def test_spectral_norm_makes_the_largest_singular_value_1(self):
        model = with_normalization(plain(3, 32, nn.ReLU), "spectral").eval()
        for layer in (model[0], model[2]):
            largest = torch.linalg.svdvals(layer.weight.detach())[0]
            assert float(largest) == pytest.approx(1, abs=0.05)

    def test_weight_norm_changes_nothing_at_first(self):
        model, x = plain(4, 16, nn.ReLU), torch.randn(8, 16)
        torch.testing.assert_close(with_normalization(model, "weight")(x), model(x))


class TestPlaces:
    def test_before_each_hidden_activation_and_not_at_the_output(self):
        model = nn.Sequential(
            nn.Linear(8, 16),
            nn.Tanh(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
            nn.Sigmoid(),
        )
        changed = with_normalization(model, "batch")
        assert [type(module) for module in changed] == [
            Normalized,
            nn.Tanh,
            Normalized,
            nn.ReLU,
            nn.Linear,
            nn.Sigmoid,
        ]
        assert tweaks_of(changed)[-1].sentence == "Batch norm behind 2 hidden layers."

    def test_functional_activations_are_found(self):
        model = Functional()
        changed = with_normalization(model, "batch")
        assert isinstance(changed.conv1, Normalized)
        assert isinstance(changed.fc1, Normalized)
        assert isinstance(changed.fc2, nn.Linear)
        assert changed.conv1.in_channels == 3

    def test_identity_is_an_activation_too(self):
        # with_activation("identity") must not move the norms.
        changed = with_normalization(plain(3, 8, nn.Identity), "layer")
        assert [type(module) for module in changed[::2]] == [Normalized, Normalized, nn.Linear]

    @pytest.mark.parametrize(
        ("layer", "inputs", "norm"),
        [
            (nn.Conv1d(3, 32, 3), (4, 3, 9), nn.BatchNorm1d),
            (nn.Conv2d(3, 32, 3), (4, 3, 9, 9), nn.BatchNorm2d),
            (nn.Conv3d(3, 32, 3), (4, 3, 5, 5, 5), nn.BatchNorm3d),
            (nn.ConvTranspose2d(3, 32, 3), (4, 3, 5, 5), nn.BatchNorm2d),
            (nn.Linear(6, 32), (8, 6), BatchNormOver),
            (nn.Linear(6, 32), (8, 5, 6), BatchNormOver),
        ],
        ids=str,
    )
    def test_takes_the_form_that_the_layer_asks_for(self, layer, inputs, norm):
        model = (
            nn.Sequential(layer, nn.ReLU(), type(layer)(32, 4, *[3] * (len(inputs) - 2)))
            if isinstance(layer, nn.modules.conv._ConvNd)
            else nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 4))
        )
        x = 3 * torch.randn(inputs) + 2
        for kind in KINDS:
            changed = with_normalization(model, kind)
            assert changed(x).shape == model(x).shape
        changed = with_normalization(model, "batch")
        assert isinstance(changed[0].norm, norm)
        out = changed[0](x).detach()
        out = out.transpose(0, 1).flatten(1) if norm is not BatchNormOver else out.reshape(-1, 32).T
        assert float(out.mean(1).abs().max()) < 1e-4
        assert out.std(1, unbiased=False).tolist() == pytest.approx([1] * 32, abs=1e-2)

    def test_on_sequences_layer_and_group_norm_take_every_position_by_itself(self):
        x = torch.randn(4, 5, 32)
        for norm in (nn.LayerNorm(32), GroupNormOver(2, 32), nn.RMSNorm(32)):
            torch.testing.assert_close(norm(x)[1, 2], norm(x[1, 2][None])[0])

    def test_batch_norm_over_vectors_is_batch_norm_1d(self):
        x = torch.randn(16, 8)
        torch.testing.assert_close(BatchNormOver(8)(x), nn.BatchNorm1d(8)(x))

    def test_norms_have_the_mode_dtype_and_freedom_of_their_layer(self):
        model = plain(3, 8, nn.ReLU).to(torch.float64).eval()
        model[0].requires_grad_(False)
        changed = with_normalization(model, "batch")
        assert changed[0].norm.weight.dtype == torch.float64
        assert not changed[0].norm.training
        assert not changed[0].norm.weight.requires_grad
        assert changed[2].norm.weight.requires_grad

    def test_batch_norm_takes_a_single_row_by_its_running_statistics(self):
        norm, x = BatchNormOver(4), torch.randn(1, 4)
        torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=1e-4)
        assert not norm.running_mean.any()

    def test_modules_used_twice_share_their_norm(self):
        layer = nn.Linear(8, 8)
        model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(8, 2))
        changed = with_normalization(model, "batch")
        assert changed[0] is changed[2]

    def test_asked_for_twice_trained_norms_are_kept(self):
        changed = with_normalization(plain(3, 8, nn.ReLU), "batch")
        nn.init.constant_(changed[0].norm.weight, 5.0)
        again = with_normalization(changed, "batch")
        assert (again[0].norm.weight == 5).all()
        assert isinstance(again[0].layer, nn.Linear)

    def test_another_kind_takes_their_place(self):
        changed = with_normalization(with_normalization(plain(3, 8, nn.ReLU), "batch"), "rms")
        assert isinstance(changed[0].layer, nn.Linear)
        assert isinstance(changed[0].norm, nn.RMSNorm)


class TestOwnNorms:
    @pytest.mark.parametrize(
        ("kind", "norm"),
        [("layer", nn.GroupNorm), ("group", nn.GroupNorm), ("rms", nn.Module), (None, RemovedNorm)],
    )
    def test_are_exchanged_where_they_stand(self, kind, norm):
        changed = with_normalization(normed(), kind)
        assert isinstance(changed[1], norm)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in changed.modules())
        assert not any(isinstance(module, Normalized) for module in changed.modules())
        assert changed(images(2, 3, 8, 8)).shape == (2, 4)

    @pytest.mark.parametrize("via", ["layer", "group", "rms", "weight", "spectral", None])
    @pytest.mark.parametrize("training", [True, False])
    def test_come_back_as_they_were(self, via, training):
        model, x = normed().train(training), images(4, 3, 8, 8)
        back = with_normalization(with_normalization(model, via), "batch")
        assert list(back.state_dict()) == list(model.state_dict())
        assert torch.equal(back(x), model(x))
        assert tweaks_of(back) == ()

    def test_their_own_kind_changes_nothing(self):
        model, x = normed(nn.GroupNorm), images(4, 3, 8, 8)
        assert torch.equal(with_normalization(model, "group")(x), model(x))

    def test_follow_the_model_to_another_dtype_while_they_are_out(self):
        changed = with_normalization(normed(), None).to(torch.float64).eval()
        back = with_normalization(changed, "batch")
        assert back[1].weight.dtype == torch.float64
        assert not back[1].training

    def test_of_a_transformer_are_taken_out_of_the_fused_kernel_too(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), images(2, 3, 8)
        for kind in ("rms", "batch", None):
            changed = with_normalization(model, kind).eval()
            with torch.no_grad():
                torch.testing.assert_close(changed(x), changed.requires_grad_(True)(x))
            with_gradients = changed(x)
            with torch.no_grad():
                torch.testing.assert_close(changed(x), with_gradients)
        back = with_normalization(changed, "layer").eval()
        with torch.no_grad():
            assert torch.equal(back(x), model.eval()(x))

    def test_of_weights_are_taken_off_and_put_back(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            parametrizations.weight_norm(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 2)
        )
        nn.init.normal_(model[0].parametrizations.weight.original0)
        x = torch.randn(4, 8)
        off = with_normalization(model, None)
        assert type(off[0]) is nn.Linear
        assert torch.equal(off(x), model(x))
        assert "out" in tweaks_of(off)[-1].sentence
        back = with_normalization(off, "weight")
        assert torch.equal(back(x), model(x))
        assert torch.equal(
            back[0].parametrizations.weight.original0, model[0].parametrizations.weight.original0
        )

    def test_of_weights_that_trained_keep_what_they_learned(self):
        changed, x = with_normalization(plain(3, 8, nn.Tanh), "weight"), torch.randn(4, 8)
        with torch.no_grad():
            changed[0].parametrizations.weight.original0 *= 2
        torch.testing.assert_close(with_normalization(changed, None)(x), changed(x))


class TestLaws:
    @settings(max_examples=40)
    @given(
        kind=st.sampled_from(KINDS),
        depth=st.integers(2, 5),
        activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.Identity]),
        training=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    def test_put_in_and_taken_out_nothing_has_changed(
        self, kind, depth, activation, training, dtype
    ):
        model = plain(depth, 6, activation).to(dtype).train(training)
        before, x = fingerprint(model), torch.randn(5, 6, dtype=dtype)
        random = torch.get_rng_state()
        changed = with_normalization(model, kind)
        changed(x)
        back = with_normalization(changed, None)
        assert torch.equal(torch.get_rng_state(), random)
        assert fingerprint(model) == {**before, "random state": random.tolist()}
        assert torch.equal(back(x), model(x))
        assert [name for name, _ in back.named_parameters()] == [
            name for name, _ in model.named_parameters()
        ]
        assert tweaks_of(back) == ()

    @settings(max_examples=40)
    @given(
        kind=st.sampled_from([*KINDS, None]),
        scheme=st.sampled_from(
            ["default", "constant", "normal", "xavier", "he", "lecun", "orthogonal", "critical"]
        ),
        own=st.booleans(),
    )
    def test_commutes_with_initialization(self, kind, scheme, own):
        model = normed() if own else Functional()
        x = images(4, 3, 8, 8)
        one = with_initialization(with_normalization(model, kind), scheme)
        other = with_normalization(with_initialization(model, scheme), kind)
        torch.testing.assert_close(one(x), other(x), rtol=1e-4, atol=1e-5)


REFUSED = dict.fromkeys(
    ["LSTM tagger", "GRU tagger", "RNN tagger", "tied blocks"], "no hidden activation"
)


class TestRealModels:
    @pytest.mark.parametrize("kind", [*KINDS, None])
    @pytest.mark.parametrize("name", ZOO)
    def test_works_and_is_undone_or_says_why_not(self, name, kind):
        model, inputs = made(name)
        before = fingerprint(model)
        if kind is not None and name in REFUSED:
            with pytest.raises(CannotTweak, match=REFUSED[name]):
                with_normalization(model, kind)
            return
        changed = with_normalization(model, kind)
        assert fingerprint(model) == before
        assert torch.isfinite(output(changed, inputs)).all()
        owned = kinds_of_norms(model)
        if len(owned) < 2:
            back = with_normalization(with_normalization(model, kind), *(owned or [None]))
            assert torch.equal(output(back, inputs), output(model, inputs))


def kinds_of_norms(model: nn.Module) -> list[str]:
    from gradflow_widget.tweaks.norms import is_norm, kind_of

    return sorted({kind_of(module) for module in model.modules() if is_norm(module)})


class TestWhatIsThere:
    @pytest.mark.parametrize("kind", [*KINDS, None])
    def test_the_kind_in_use_is_told(self, kind):
        for model in (normed(), Functional()):
            assert normalization_of(with_normalization(model, kind)) == kind
        assert normalization_of(normed()) == "batch"

    def test_of_several_kinds_none_is(self):
        assert normalization_of(nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3))) is None

    @pytest.mark.parametrize("name", ZOO)
    def test_whether_norms_have_a_place_is_told_beforehand(self, name):
        model, _ = made(name)
        before = fingerprint(model)
        if name in REFUSED:
            with pytest.raises(CannotTweak, match=REFUSED[name]):
                check_normalizable(model)
        else:
            check_normalizable(model)
        assert fingerprint(model) == before


class TestBadInput:
    @pytest.mark.parametrize("kind", ["instance", "", 3, True])
    def test_unknown_kind_names_the_known_ones(self, kind):
        with pytest.raises(ValueError, match=r"is unknown: choose one of batch.*spectral, or None"):
            with_normalization(plain(2, 4, nn.ReLU), kind)

    def test_a_forward_that_does_not_trace(self):
        with pytest.raises(CannotTweak, match=r"make them modules, such as self.act"):
            with_normalization(Branching(), "batch")

    def test_a_forward_that_does_not_trace_is_no_obstacle_to_modules(self):
        changed = with_normalization(Listed(), "layer")
        assert all(isinstance(layer, Normalized) for layer in changed.layers)

    def test_no_hidden_activation(self):
        with pytest.raises(CannotTweak, match="no hidden activation"):
            with_normalization(nn.Linear(3, 3), "batch")

    def test_lazy_layers(self):
        with pytest.raises(CannotTweak, match="run one batch"):
            with_normalization(nn.Sequential(nn.LazyLinear(3), nn.ReLU()), "batch")

    def test_tied_weights_are_not_torn_apart(self):
        model = plain(3, 8, nn.Tanh)
        model[2].weight = model[0].weight
        with pytest.raises(CannotTweak, match="untie"):
            with_normalization(model, "weight")
        assert with_normalization(model, "batch")[0].weight is not None

    def test_weights_computed_otherwise(self):
        model = plain(3, 8, nn.Tanh)
        parametrizations.orthogonal(model[0])
        with pytest.raises(CannotTweak, match="computed already"):
            with_normalization(model, "weight")


@pytest.mark.parametrize(("kind", "shown"), [("batch", "BatchNorm"), ("group", "GroupNorm")])
def test_the_bars_call_a_norm_by_its_usual_name(kind: str, shown: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    kinds = {part.layer.kind for part in find_layers(with_normalization(model, kind))}
    assert kinds == {"Linear", shown}

"""Skips: repeated blocks as x + scale·f(x), and what that does to the signal (theory.md)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradflow_widget.tweaks.depth import with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.record import tweaks_of
from gradflow_widget.tweaks.skips import Residual, check_skippable, with_skips
from tests.models.zoo import ZOO, fingerprint, made, output

from . import relu_skips
from .networks import Listed, measured_slope, plain
from .nonlinearity_moments import PHI, SCHEMES_WITH_A_NUMBER, moments, scheme_options, sigmas

SCALES = [1.0, 0.5, 0.0, "1/sqrt(2L)", "learned"]


def blocks(count: int, width: int, *parts: Callable[[], nn.Module]) -> nn.Sequential:
    """``count`` blocks, each of these parts and then a Linear layer, with He's weights."""
    torch.manual_seed(0)
    built = [
        nn.Sequential(*(part() for part in parts), nn.Linear(width, width)) for _ in range(count)
    ]
    for block in built:
        gain = math.sqrt(2) if nn.ReLU in parts else 1
        nn.init.normal_(block[-1].weight, std=gain / math.sqrt(width))
        nn.init.zeros_(block[-1].bias)
    return nn.Sequential(*built)


def growth(model: nn.Module, width: int) -> float:
    """How much larger a random gradient at the output is when it comes to the input."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, width, generator=generator).requires_grad_()
    outside = torch.randn(64, width, generator=generator)
    (gradient,) = torch.autograd.grad((model(x) * outside).sum(), x)
    return float(gradient.norm() / outside.norm())


def residuals(model: nn.Module) -> list[Residual]:
    return [module for module in model.modules() if isinstance(module, Residual)]


class TestSignal:
    @pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, "1/sqrt(2L)"])
    @pytest.mark.parametrize("parts", [(), (nn.ReLU,)], ids=["linear", "ReLU"])
    def test_grows_by_the_root_of_1_and_the_squared_scale(self, parts, scale):
        model = with_skips(blocks(20, 256, *parts), scale)
        squared = 1 / 40 if isinstance(scale, str) else scale**2
        expected = 0.5 * math.log(1 + squared)
        assert math.log(growth(model, 256)) / 20 == pytest.approx(expected, abs=0.02)
        assert measured_slope(model, 256) == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("scheme", ["he", "orthogonal", "xavier", "lecun", "critical", "lsuv"])
    def test_so_it_does_with_every_scheme_that_keeps_the_variance(self, scheme):
        inputs = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))
        model = with_initialization(plain(21, 256, nn.Identity), scheme, batch=inputs)
        assert measured_slope(with_skips(model, 1.0), 256) == pytest.approx(0.3466, abs=0.02)

    def test_the_depth_scale_tames_relu_blocks(self):
        model = with_initialization(plain(21, 256, nn.ReLU), "he")[:-1]
        slope = measured_slope(with_skips(model, "1/sqrt(2L)"), 256)
        assert slope == pytest.approx(0.0123, abs=0.02)

    @pytest.mark.parametrize(
        ("width", "scale"), [(128, 1.0), (256, 1.0), (512, 1.0), (256, 0.5), (256, "1/sqrt(2L)")]
    )
    def test_blocks_that_end_in_relu_grow_faster_by_its_mean(self, width, scale):
        alpha = 1 / math.sqrt(40) if isinstance(scale, str) else scale
        slopes = []
        for seed in range(3):
            model = with_initialization(plain(21, width, nn.ReLU), "he", seed=seed)[:-1]
            slopes.append(measured_slope(with_skips(model, scale), width, seed=seed))
        expected = relu_skips.slope(width, 20, alpha)
        assert sum(slopes) / 3 == pytest.approx(expected, abs=0.02)
        assert expected > 0.5 * math.log(1 + alpha**2) + 0.001

    def test_and_as_fast_as_others_at_infinite_width(self):
        assert relu_skips.slope(10**7, 20, 1.0) == pytest.approx(0.5 * math.log(2), abs=1e-4)
        assert relu_skips.slope(256, 20, 1.0) == pytest.approx(0.4161, abs=1e-4)

    def test_what_their_gradients_are_along_their_inputs_stays_exactly(self):
        model = with_initialization(plain(21, 64, nn.ReLU), "he")[:-1].double()
        inputs: list[Tensor] = []
        x = torch.randn(8, 64, dtype=torch.float64).requires_grad_()
        for block in (changed := with_skips(model, 1.0)):
            block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        outside = torch.randn(8, 64, dtype=torch.float64)
        out = changed(x)
        gradients = torch.autograd.grad((out * outside).sum(), inputs)
        along = torch.stack([(g * x).sum(1) for g, x in zip(gradients, inputs, strict=True)])
        torch.testing.assert_close(along, (out * outside).sum(1).expand(20, 8).detach())

    @pytest.mark.parametrize("scale", [1.0, "1/sqrt(2L)"])
    @pytest.mark.parametrize("name", PHI)
    @pytest.mark.parametrize("scheme", SCHEMES_WITH_A_NUMBER)
    def test_of_every_scheme_and_activation_is_that_of_the_mean_field(self, scheme, name, scale):
        # Blocks φ → Linear, whose outputs have no mean: nothing of one block goes along another.
        depth, width = 12, 256
        parts = [(PHI[name].module(), nn.Linear(width, width)) for _ in range(depth)]
        model = nn.Sequential(*(module for pair in parts for module in pair))
        model = with_initialization(model, scheme, seed=3, **scheme_options(scheme))
        found = measured_slope(with_skips(model, scale), width)
        alpha = 1 / math.sqrt(2 * depth) if isinstance(scale, str) else scale
        sigma_w, sigma_b, last = sigmas(scheme, name, width)
        q, logs = 1.0, [0.0]
        for layer in range(depth):
            value, slope = moments(name, q)
            out = last if layer == depth - 1 else sigma_w
            logs.append(logs[-1] - 0.5 * math.log(1 + alpha**2 * out**2 * slope))
            q += alpha**2 * (sigma_w**2 * value + sigma_b**2)
        # The first is the gradient in front of all blocks, where no layer's output is.
        expected = -float(np.polyfit(np.arange(depth), logs[1:], 1)[0])
        assert found == pytest.approx(expected, abs=0.03)

    @pytest.mark.parametrize("scale", [0.0, "learned"])
    def test_at_scale_0_nothing_grows_exactly(self, scale):
        model = with_skips(blocks(10, 32, nn.ReLU), scale)
        x = torch.randn(4, 32)
        assert torch.equal(model(x), x)
        assert growth(model, 32) == 1

    def test_pre_norm_grows_by_the_root_of_the_depth_in_all(self):
        model = with_skips(blocks(20, 512, lambda: nn.LayerNorm(512)), 1.0)
        assert growth(model, 512) == pytest.approx(math.sqrt(21), rel=0.05)


class TestResidual:
    def test_says_what_it_is(self):
        text = repr(Residual(nn.Linear(3, 3), 0.5))
        assert "scale=0.5" in text
        assert "learned from 0" in repr(Residual(nn.Linear(3, 3), None))

    def test_a_learned_scale_is_trained_where_its_block_lives(self):
        residual = Residual(nn.Linear(3, 3).to(torch.float64), None)
        assert isinstance(residual.scale, nn.Parameter)
        assert residual.scale.dtype == torch.float64
        residual(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
        assert residual.scale.grad is not None
        assert residual.scale.grad != 0

    def test_skips_to_the_first_of_several_outputs(self):
        class Pair(nn.Module):
            def forward(self, hidden: Tensor, mask: Any = None) -> tuple[Tensor, str]:
                return 2 * hidden, "cache"

        x = torch.ones(2, 3)
        out, cache = Residual(Pair(), 0.5)(hidden=x, mask=None)
        assert torch.equal(out, 2 * x)
        assert cache == "cache"

    def test_shows_the_attributes_of_its_block(self):
        assert Residual(nn.Linear(3, 4), 1.0).out_features == 4
        with pytest.raises(AttributeError, match="colour"):
            _ = Residual(nn.Linear(3, 4), 1.0).colour

    def test_a_block_that_changes_the_shape_is_told_of(self):
        with pytest.raises(RuntimeError, match=r"\(2, 3\) becomes \(2, 4\): take the skips off"):
            Residual(nn.Linear(3, 4), 1.0)(torch.randn(2, 3))

    def test_keeps_half_precision(self):
        residual = Residual(nn.Linear(3, 3).bfloat16(), 0.5)
        assert residual(torch.randn(2, 3).bfloat16()).dtype == torch.bfloat16


class TestWrapping:
    def test_wraps_blocks_of_several_modules(self):
        changed = with_skips(plain(5, 8, nn.Tanh), 1.0)
        assert [type(module) for module in changed] == [Residual] * 4 + [nn.Linear]
        assert [type(module) for module in changed[0].body] == [nn.Linear, nn.Tanh]

    def test_wraps_the_members_of_a_list(self):
        changed = with_skips(Listed(), 0.5)
        assert all(isinstance(layer, Residual) for layer in changed.layers)
        assert "4 blocks compute x + 0.5·f(x)" in tweaks_of(changed)[-1].sentence

    def test_counts_the_blocks_for_the_depth_scale(self):
        changed = with_skips(plain(9, 8, nn.Tanh), "1/sqrt(2L)")
        assert residuals(changed)[0].scale == pytest.approx(1 / 4)

    def test_another_scale_takes_the_place_of_the_first(self):
        changed = with_skips(with_skips(plain(5, 8, nn.Tanh), 1.0), "learned")
        assert len(residuals(changed)) == 4
        assert all(residual.is_learned for residual in residuals(changed))
        assert all(residual.scale == 0.5 for residual in residuals(with_skips(changed, 0.5)))

    def test_learned_again_keeps_what_was_learned(self):
        changed = with_skips(plain(5, 8, nn.Tanh), "learned")
        nn.init.constant_(residuals(changed)[0].scale, 0.7)
        assert float(residuals(with_skips(changed, "learned"))[0].scale.detach()) == pytest.approx(
            0.7
        )

    @pytest.mark.parametrize("depth", [2, 4, 8])
    def test_the_depth_scale_follows_a_change_of_depth(self, depth):
        model = plain(5, 8, nn.Tanh)
        changed = with_depth(with_skips(model, "1/sqrt(2L)"), depth)
        scales = [residual.scale for residual in residuals(changed)]
        assert scales == [pytest.approx(1 / math.sqrt(2 * depth))] * depth
        sentences = {tweak.knob: tweak.sentence for tweak in tweaks_of(changed)}
        assert sentences["skips"].startswith(f"Skips: {depth} blocks compute x + 1/√(2·{depth})")
        x = torch.randn(3, 8)
        other = with_skips(with_depth(model, depth), "1/sqrt(2L)")
        assert torch.equal(changed(x), other(x))
        back = with_depth(changed, 4)
        assert torch.equal(back(x), with_skips(model, "1/sqrt(2L)")(x))

    @pytest.mark.parametrize("listed", [False, True])
    def test_depth_can_change_in_between(self, listed):
        if listed:
            model: nn.Module = Listed()
        else:
            model = nn.Sequential(
                OrderedDict(
                    (f"{kind}{i}", nn.Linear(8, 8) if kind == "fc" else nn.Tanh())
                    for i in range(4)
                    for kind in ("fc", "act")
                )
            )
        x = torch.randn(3, 8)
        deeper = with_depth(with_skips(model, "learned"), 6)
        assert len(residuals(deeper)) == 6
        back = with_skips(deeper, None)
        assert not residuals(back)
        assert torch.equal(with_depth(back, 4)(x), model(x))
        assert torch.equal(with_skips(with_depth(deeper, 4), None)(x), model(x))

    def test_trained_weights_frozen_ones_and_modes_are_kept(self):
        model = plain(5, 8, nn.Tanh).eval()
        model[0].requires_grad_(False)
        changed = with_skips(model, 1.0)
        assert torch.equal(changed[0].body[0].weight, model[0].weight)
        assert not changed[0].body[0].weight.requires_grad
        assert not any(module.training for module in changed.modules())


class TestLaws:
    @settings(max_examples=30)
    @given(
        scales=st.lists(st.sampled_from(SCALES), min_size=1, max_size=3),
        depth=st.integers(3, 7),
        training=st.booleans(),
    )
    def test_put_in_and_taken_off_nothing_has_changed(self, scales, depth, training):
        model, x = plain(depth, 6, nn.Tanh).train(training), torch.randn(3, 6)
        before = fingerprint(model)
        changed = model
        for scale in scales:
            changed = with_skips(changed, scale)
        back = with_skips(changed, None)
        assert fingerprint(model) == before
        assert torch.equal(back(x), model(x))
        assert repr(back) == repr(model)
        assert list(back.state_dict()) == list(model.state_dict())
        assert tweaks_of(back) == ()

    @settings(max_examples=40)
    @given(
        scale=st.sampled_from(SCALES),
        other=st.sampled_from(
            [
                *[
                    lambda m, k=k: with_normalization(m, k)
                    for k in ("batch", "layer", "group", "rms", "weight", "spectral", None)
                ],
                *[
                    lambda m, s=s: with_initialization(m, s)
                    for s in ("default", "normal", "he", "orthogonal", "critical")
                ],
                *[lambda m, s=s: with_orthogonality(m, s) for s in (0.1, "hard", None)],
            ]
        ),
    )
    def test_commutes_with_the_other_tweaks(self, scale, other):
        model, x = plain(5, 6, nn.Tanh), torch.randn(7, 6)
        torch.testing.assert_close(
            other(with_skips(model, scale))(x), with_skips(other(model), scale)(x)
        )


OWN_SKIP = "have a skip connection inside already"
NO_BLOCK = "repeats no block"
WITHIN = "run within one module"
REFUSED = {
    "residual": OWN_SKIP,
    "compiled residual": OWN_SKIP,
    "mixture of experts": NO_BLOCK,
    "soft mixture": NO_BLOCK,
    "LSTM tagger": WITHIN,
    "GRU tagger": WITHIN,
    "RNN tagger": WITHIN,
    "nn.Transformer": OWN_SKIP,
    "nn.TransformerEncoder": OWN_SKIP,
    "GPT-2": OWN_SKIP,
    "BERT": OWN_SKIP,
    "ViT": OWN_SKIP,
    "ResNet": OWN_SKIP,
    "ConvNeXT": OWN_SKIP,
}


class TestRealModels:
    @pytest.mark.parametrize("name", ZOO)
    def test_works_and_is_undone_or_says_why_not(self, name):
        model, inputs = made(name)
        before = fingerprint(model)
        if name in REFUSED:
            for tweak in (check_skippable, lambda one: with_skips(one, 1.0)):
                with pytest.raises(CannotTweak, match=REFUSED[name]):
                    tweak(model)
            return
        check_skippable(model)
        changed = with_skips(model, 0.5)
        assert fingerprint(model) == before
        assert residuals(changed)
        assert torch.isfinite(output(changed, inputs)).all()
        assert torch.equal(output(with_skips(changed, None), inputs), output(model, inputs))

    @pytest.mark.parametrize("name", ZOO)
    def test_taking_off_what_is_not_there_changes_nothing(self, name):
        model, inputs = made(name)
        back = with_skips(model, None)
        assert torch.equal(output(back, inputs), output(model, inputs))


class TestBadInput:
    @pytest.mark.parametrize("scale", ["1", "rezero", True, math.nan, math.inf, [1]])
    def test_unknown_scale_names_the_known_ones(self, scale):
        with pytest.raises(
            ValueError, match=r"is unknown: give a number, '1/sqrt\(2L\)', 'learned'"
        ):
            with_skips(plain(4, 4, nn.Tanh), scale)

    def test_no_repeats(self):
        with pytest.raises(CannotTweak, match="repeats no block"):
            with_skips(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 1.0)

    def test_blocks_that_change_the_shape(self):
        halving = [
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for _ in range(3)
        ]
        with pytest.raises(CannotTweak, match="change the shape of their input"):
            with_skips(nn.Sequential(*halving), 1.0)

    def test_a_skip_that_no_tracer_sees_is_found_in_the_source(self):
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                residual = x
                if x.sum() > 1e9:
                    return x
                x = torch.relu(self.linear(x))
                return x + residual

        with pytest.raises(CannotTweak, match=r"\(Block\) have a skip connection inside already"):
            with_skips(nn.Sequential(Block(), Block(), Block()), 1.0)

    def test_a_bias_is_no_skip(self):
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 4)
                self.shift = nn.Parameter(torch.zeros(4))

            def forward(self, x: Tensor) -> Tensor:
                return torch.relu(self.linear(x)) + self.shift

        assert len(residuals(with_skips(nn.Sequential(Block(), Block(), Block()), 1.0))) == 3

    def test_one_module_several_times(self):
        block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        with pytest.raises(CannotTweak, match="one and the same module several times"):
            with_skips(nn.Sequential(block, block, block), 1.0)

    def test_lazy_layers(self):
        with pytest.raises(CannotTweak, match="run one batch"):
            with_skips(nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(3)), 1.0)

"""Networks to explore: what they take, that they learn, and what may be done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import (
    CannotTweak,
    GradientProbe,
    take_reading,
    with_initialization,
    with_normalization,
    with_skips,
)
from gradflow_widget.playground.assembly import Playground, assemble
from gradflow_widget.playground.data import DATA
from gradflow_widget.playground.networks import NETWORKS, linear, rnn, transformer, vgg
from gradflow_widget.training.batches import TensorBatches
from gradflow_widget.tweaks.knobs import COLD_KNOBS

# The data that shows what a network is for.
NATURAL = {
    "mlp": "digits",
    "linear": "digits",
    "residual": "digits",
    "cnn": "digits",
    "vgg": "digits",
    "resnet": "digits",
    "rnn": "digits",
    "lstm": "digits",
    "gru": "digits",
    "transformer": "text",
}
RECURRENT = ("rnn", "lstm", "gru")


def made(name: str, **knobs: Any) -> tuple[Playground, nn.Module]:
    playground = assemble(name, NATURAL[name], knobs)
    torch.manual_seed(0)
    return playground, playground.build()


def first_batch(playground: Playground, size: int = 16) -> tuple[Tensor, Tensor]:
    inputs, targets = playground.data
    return inputs[:size], targets[:size]


def train(playground: Playground, model: nn.Module, steps: int, size: int) -> list[float]:
    optimizer = playground.optimize(model.parameters())
    batches = TensorBatches(*playground.data)
    batches.restart(0)
    losses = []
    for _ in range(steps):
        inputs, targets = batches.next(size)
        optimizer.zero_grad()
        loss = playground.loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_every_network_has_data_that_show_what_it_is_for():
    assert set(NATURAL) == set(NETWORKS)
    assert all(NETWORKS[name].name == name for name in NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_what_loss_and_targets_ask_for(name):
    for source in DATA.values():
        if source.name == "spoken_digits" or not set(source.kinds) & set(NETWORKS[name].takes):
            continue
        playground = assemble(name, source.name, {})
        inputs, targets = first_batch(playground, 3)
        outputs = playground.build()(inputs)
        expected = (3, playground.loaded.outputs)
        if inputs.dtype is torch.int64:
            expected = (3, inputs.shape[1], playground.loaded.outputs)
        assert outputs.shape == expected
        assert outputs.dtype is torch.float32
        assert playground.loss_fn(outputs, targets).shape == ()


# Steps, batch size, and the loss below which the mean of the last ten is to come.
LEARNS = {
    "mlp": (200, 64, 1.5),
    "linear": (60, 64, 0.4),
    "residual": (100, 64, 0.4),
    "cnn": (200, 64, 1.2),
    "vgg": (120, 64, 0.7),
    "resnet": (40, 64, 0.5),
    "rnn": (120, 64, 0.8),
    "lstm": (80, 64, 0.6),
    "gru": (80, 64, 0.6),
    "transformer": (80, 16, 3.0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_with_its_own_optimizer_and_rate(name):
    steps, size, below = LEARNS[name]
    playground, model = made(name)
    losses = train(playground, model, steps, size)
    assert losses[0] > 2.2
    assert np.mean(losses[-10:]) < below


@pytest.mark.parametrize("name", NETWORKS)
def test_the_seed_repeats_weights_and_losses_bit_for_bit(name):
    runs = []
    for _ in range(2):
        playground, model = made(name)
        losses = train(playground, model, 3, 16)
        runs.append((losses, [p.detach().clone() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


# What there is as many of as the depth knob says, with as many as there are besides.
COUNTED: dict[str, tuple[Callable[[nn.Module], int], int]] = {
    "mlp": (lambda m: count(m, nn.Linear), 0),
    "linear": (lambda m: count(m, nn.Linear), 0),
    "residual": (lambda m: count(m, nn.Linear) // 2, 1),
    "cnn": (lambda m: count(m, nn.Conv2d), 0),
    "vgg": (lambda m: count(m, nn.Conv2d), 0),
    "resnet": (lambda m: count(m, nn.Conv2d) // 2, 0),
    "rnn": (lambda m: count(m, nn.RNN), 0),
    "lstm": (lambda m: count(m, nn.LSTM), 0),
    "gru": (lambda m: count(m, nn.GRU), 0),
    "transformer": (lambda m: len(m.blocks), 0),
}


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_depth_knob_says_how_deep(name, depth):
    counted, besides = COUNTED[name]
    playground, model = made(name, depth=depth)
    assert counted(model) == depth + besides
    inputs, targets = first_batch(playground)
    playground.loss_fn(model(inputs), targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("depth", [0, 65, 2.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_depth_out_of_range_is_refused(name, depth):
    with pytest.raises(ValueError, match="depth must be a whole number from 1 to 64"):
        NETWORKS[name].make(depth)


@pytest.mark.parametrize("name", [n for n in NETWORKS if "activation" in NETWORKS[n].parameters])
def test_the_activation_knob_says_which(name):
    other = "relu" if name == "rnn" else "elu"
    playground, model = made(name)
    _, changed = made(name, activation=other)
    inputs, _ = first_batch(playground)
    assert not torch.equal(model(inputs), changed(inputs))
    if name != "rnn":
        assert count(changed, nn.ELU) > 0
        assert count(changed, nn.ELU) == count(model, nn.Tanh, nn.ReLU, nn.GELU)
    with pytest.raises(ValueError, match="activation 'swish' is"):
        NETWORKS[name].make(1, "swish")


def test_a_vanilla_rnn_refuses_what_pytorchs_has_not():
    with pytest.raises(ValueError, match="choose tanh or relu"):
        rnn(1, "gelu")


SKIPPED = [name for name in NETWORKS if "skips" in NETWORKS[name].parameters]


@pytest.mark.parametrize("name", SKIPPED)
def test_the_skips_knob_scales_what_a_block_adds(name):
    parameters = NETWORKS[name].parameters
    assert parameters["skips"] == 1.0
    playground, plain = made(name, skips=None)
    inputs, _ = first_batch(playground)
    learned = made(name, skips="learned")[1]
    tiny = made(name, skips=1e-30)[1]
    outputs = {
        "off": plain(inputs),
        "1": made(name)[1](inputs),
        "1/sqrt(2L)": made(name, skips="1/sqrt(2L)")[1](inputs),
        "learned": learned(inputs),
    }
    values = list(outputs.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    # Learned from 0: at first a block adds nothing.
    torch.testing.assert_close(outputs["learned"], tiny(inputs), rtol=0, atol=1e-6)
    scales = [p for n, p in learned.named_parameters() if n.endswith("scale")]
    assert len(scales) == parameters["depth"]
    assert all(float(scale.detach()) == 0 for scale in scales)
    with pytest.raises(ValueError, match="skips must be a number"):
        NETWORKS[name].make(2, skips="both")


class TestIsometry:
    @pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (64, 10), (8, 64)])
    def test_a_deep_linear_network_keeps_every_length(self, inputs, outputs):
        """theory.md, Dynamical isometry: orthogonal weights, every singular value 1."""
        torch.manual_seed(0)
        model = linear(50, inputs=inputs, outputs=outputs)
        jacobian = torch.func.jacrev(model)(torch.randn(inputs))
        singular = torch.linalg.svdvals(jacobian)
        assert singular.shape == (min(inputs, outputs),)
        torch.testing.assert_close(singular, torch.ones_like(singular), rtol=0, atol=1e-5)

    def test_the_initialization_tweak_has_the_same_gain(self):
        model = with_initialization(linear(50, outputs=64), "orthogonal")
        singular = torch.linalg.svdvals(torch.func.jacrev(model)(torch.randn(64)))
        torch.testing.assert_close(singular, torch.ones_like(singular), rtol=0, atol=1e-5)

    def test_other_weights_do_not(self):
        model = with_initialization(linear(50, outputs=64), "lecun")
        singular = torch.linalg.svdvals(torch.func.jacrev(model)(torch.randn(64))).detach()
        assert float(singular[0] / singular[-1]) > 1e3


class TestTransformer:
    @pytest.mark.parametrize("norm", ["pre", "post"])
    def test_no_output_sees_a_later_token(self, norm):
        torch.manual_seed(0)
        model = transformer(norm=norm, length=10)
        tokens = torch.randint(96, (2, 10))
        changed = tokens.clone()
        changed[:, 6:] = (changed[:, 6:] + 1) % 96
        before, after = model(tokens), model(changed)
        torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-6)
        assert (before[:, 6:] - after[:, 6:]).abs().amax(2).min() > 1e-3

    def test_the_norm_stands_before_or_after(self):
        torch.manual_seed(0)
        pre, post = (transformer(norm=norm) for norm in ("pre", "post"))
        stream = torch.randn(3, 7, 32)
        normal = post.blocks[0](stream)
        torch.testing.assert_close(normal.std(2, correction=0), torch.ones(3, 7), rtol=1e-3, atol=0)
        assert pre.blocks[0](stream * 100).std() > 50
        assert isinstance(pre.norm, nn.LayerNorm)
        assert isinstance(post.norm, nn.Identity)

    def test_only_pre_ln_gradients_shrink_with_depth(self):
        """theory.md, Normalisation and skips: as 1/√L at the last layer (Xiong 2020)."""

        def last_gradient(norm: str, depth: int) -> float:
            norms = []
            for seed in range(5):
                torch.manual_seed(seed)
                model = transformer(depth, "relu", norm=norm, width=64, length=16)
                # The stream begins small, so that L blocks have L times the variance of one.
                nn.init.normal_(model.embedding.weight, std=0.02)
                nn.init.normal_(model.position.weight, std=0.02)
                for name, parameter in model.named_parameters():
                    if name.startswith("blocks") and parameter.dim() == 2:
                        nn.init.xavier_normal_(parameter)
                tokens = torch.randint(96, (16, 16))
                loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
                (gradient,) = torch.autograd.grad(loss, model.blocks[-1].fc2.weight)
                norms.append(float(gradient.norm()))
            return float(np.mean(norms))

        ratio = {norm: last_gradient(norm, 16) / last_gradient(norm, 2) for norm in ("pre", "post")}
        assert ratio["pre"] == pytest.approx((2 / 16) ** 0.5, rel=0.25)
        assert ratio["post"] == pytest.approx(1.0, abs=0.25)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"norm": "middle"}, "norm 'middle' is unknown: choose one of pre, post"),
            ({"width": 33}, "width must be a whole number from 1 to 10,000 that 2 divides, not 33"),
            ({"heads": 0}, "heads must be a whole number from 1 to 10,000, not 0"),
        ],
    )
    def test_what_can_t_be_is_refused(self, arguments, says):
        with pytest.raises(ValueError, match=says):
            transformer(**arguments)


def test_vgg_takes_images_of_any_size_and_doubles_its_channels():
    channels = [layer.out_channels for layer in vgg(7) if isinstance(layer, nn.Conv2d)]
    assert channels == [16, 16, 32, 32, 64, 64, 64]
    for size in (1, 5, 8, 33):
        assert vgg(7)(torch.randn(2, 1, size, size)).shape == (2, 10)


class TestMeasured:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_probe_gives_every_weight_layer_its_numbers(self, name):
        playground, model = made(name)
        optimizer = playground.optimize(model.parameters())
        inputs, targets = first_batch(playground)
        with GradientProbe(model, optimizer, full=True) as probe:
            playground.loss_fn(model(inputs), targets).backward()
            optimizer.step()
            reading = probe.history.latest
        assert reading is not None
        assert len(reading.layers) >= 2
        for column in ("weight_grad_norm", "signal_grad_norm", "activation_rms", "update_ratio"):
            numbers = getattr(reading, column)
            norms = [layer.kind.endswith("Norm") for layer in reading.described]
            assert np.isfinite(numbers[~np.array(norms)]).all(), column
            if column != "update_ratio":
                assert (numbers > 0).all(), column
        assert np.isfinite(reading.decades)
        assert (reading.signal_grad_through_time is not None) == (name in RECURRENT)

    @pytest.mark.parametrize("name", RECURRENT)
    def test_recurrent_layers_have_their_bars_through_time(self, name):
        playground, model = made(name, depth=2)
        inputs, targets = first_batch(playground)
        reading = take_reading(model, playground.loss_fn, inputs, targets)
        signals = reading.signal_grad_through_time
        assert list(signals) == ["layers.0", "layers.1"]
        assert all(signal.shape == (8,) for signal in signals.values())
        # Read off the last step, nothing but the way back through time is left for the first.
        assert signals["layers.1"][0] < signals["layers.1"][-1]

    @pytest.mark.parametrize(("name", "factor"), [("rnn", 1e-6), ("lstm", 1e-7), ("gru", 1e-9)])
    def test_the_signal_of_an_untrained_network_vanishes_over_time(self, name, factor):
        playground = assemble(name, "adding", {"length": 100, "samples": 100})
        torch.manual_seed(0)
        inputs, targets = first_batch(playground)
        reading = take_reading(playground.build(), playground.loss_fn, inputs, targets)
        (signal,) = reading.signal_grad_through_time.values()
        assert signal.shape == (100,)
        assert signal[0] < factor * signal[-1]


class TestTweaked:
    """What the panel's cold knobs do to the networks that don't name them."""

    @pytest.mark.parametrize("scheme", ["default", "xavier", "he", "orthogonal"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_initialization(self, name, scheme):
        playground, model = made(name)
        inputs, _ = first_batch(playground)
        tweaked = with_initialization(model, scheme, seed=5)
        assert tweaked(inputs).shape == model(inputs).shape
        assert not torch.equal(tweaked(inputs), model(inputs))

    @pytest.mark.parametrize("name", NETWORKS)
    def test_normalization(self, name):
        playground, model = made(name)
        inputs, _ = first_batch(playground)
        if name in ("linear", *RECURRENT):
            with pytest.raises(CannotTweak):
                with_normalization(model, "layer")
            return
        tweaked = with_normalization(model, "layer")
        assert count(tweaked, nn.LayerNorm, nn.GroupNorm) > 0
        assert tweaked(inputs).shape == model(inputs).shape

    @pytest.mark.parametrize("name", [name for name in NETWORKS if name not in SKIPPED])
    def test_skips(self, name):
        # Of a VGG-like network, a stage repeats from its second convolution on.
        playground, model = made(name, depth=9 if name == "vgg" else 4)
        inputs, _ = first_batch(playground)
        tweaked = with_skips(model, 1.0)
        assert tweaked(inputs).shape == model(inputs).shape
        assert not torch.equal(tweaked(inputs), model(inputs))

    def test_a_shallow_vgg_repeats_nothing_to_skip(self):
        with pytest.raises(CannotTweak, match="repeats no block"):
            with_skips(vgg(4), 1.0)


def test_networks_and_data_have_no_parameter_of_one_name():
    of_networks = {name for network in NETWORKS.values() for name in network.parameters}
    of_data = {name for source in DATA.values() for name in source.parameters}
    assert not of_networks & of_data
    assert {"depth", "activation", "skips"} == of_networks & set(COLD_KNOBS)

"""Watching changes nothing, holds on to nothing and leaves nothing behind."""

from __future__ import annotations

import copy
import gc
import random
import threading
import time
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from gradflow_widget import GradientProbe, Reading, take_reading
from gradflow_widget.measurement import loss_watch
from gradflow_widget.measurement.layer_notes import NoteTaker
from tests.waiting import join, started

from .networks import batch, small


def noisy(seed: int = 0) -> nn.Sequential:
    """A network with buffers and with randomness in its forward pass."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(1, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(12, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )


def noisy_batch() -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = batch(dtype=torch.float32)
    return inputs[:, None], targets


def train(watch: str, optimizer_class: type[torch.optim.Optimizer]) -> list[torch.Tensor]:
    """Return losses, weights and buffers of ten steps."""
    model = noisy()
    inputs, targets = noisy_batch()
    optimizer = optimizer_class(model.parameters(), lr=0.05)
    probe = None if watch == "off" else GradientProbe(model, optimizer, full=watch == "full")
    torch.manual_seed(7)
    results = []
    for step in range(10):
        if watch == "in turn":
            probe.full = step % 2 == 0
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        if step > 4:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        results.append(loss.detach().clone())
    if probe is not None:
        probe.close()
        assert len(probe.history) == 10
    return [*results, *(value.clone() for value in model.state_dict().values())]


@pytest.mark.parametrize("watch", ["cheap", "full", "in turn"])
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_training_is_bit_identical_with_and_without_the_probe(watch, optimizer_class):
    without, with_probe = train("off", optimizer_class), train(watch, optimizer_class)
    assert all(torch.equal(a, b) for a, b in zip(without, with_probe, strict=True))


def hooks_on(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    count = len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    for module in model.modules():
        count += len(module._forward_hooks) + len(module._forward_pre_hooks)
        count += len(module._forward_hooks_with_kwargs) + len(module._forward_hooks_always_called)
        count += len(module._forward_pre_hooks_with_kwargs)
        count += len(module._backward_hooks) + len(module._backward_pre_hooks)
    return count + sum(bool(parameter._backward_hooks) for parameter in model.parameters())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("steps", [0, 2])
def test_no_hook_is_left_after_closing(full, steps):
    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    model = noisy()
    inputs, targets = noisy_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = GradientProbe(model, optimizer, full=full)
    kept = [model(inputs)]
    for _ in range(steps):
        kept.append(model(inputs))
        F.mse_loss(kept[-1], targets).backward()
        optimizer.step()
    kept.append(model(inputs))
    assert hooks_on(model, optimizer) > 0
    assert torch.autograd.backward is not backward
    probe.close()
    probe.close()
    assert hooks_on(model, optimizer) == 0
    assert not any(output._backward_hooks for output in kept)
    assert torch.autograd.backward is backward
    assert torch.amp.GradScaler.scale is scale
    optimizer.zero_grad()
    F.mse_loss(model(inputs), targets).backward()
    optimizer.step()
    assert len(probe.history) == steps


def watch_every_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    GradientProbe(model, optimizer, full=True).close()


def look(model: nn.Module, _: torch.optim.Optimizer) -> None:
    take_reading(model, F.mse_loss, *noisy_batch())


@pytest.mark.parametrize("watch", [watch_every_step, look])
@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_forward_hook"])
def test_an_interrupt_while_the_hooks_are_put_on_leaves_none(watch, register, monkeypatch):
    model, backward = noisy(), torch.autograd.backward
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original, calls = getattr(nn.Module, register), 0

    def interrupted(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == comes_at:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, register, interrupted)
    comes_at = None
    watch(model, optimizer)
    for place in range(1, calls + 1):
        comes_at, calls = place, 0
        with pytest.raises(KeyboardInterrupt):
            watch(model, optimizer)
        assert hooks_on(model, optimizer) == 0
        assert torch.autograd.backward is backward


def test_an_interrupt_while_a_probe_begins_to_read_in_full_leaves_it_as_it_was(monkeypatch):
    model = noisy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        before = hooks_on(model, optimizer)
        with monkeypatch.context() as while_it_lasts:
            while_it_lasts.setattr(NoteTaker, "open", interrupt)
            with pytest.raises(KeyboardInterrupt):
                probe.full = True
        assert not probe.full
        assert hooks_on(model, optimizer) == before
        probe.full = True
        F.mse_loss(model(noisy_batch()[0]), noisy_batch()[1]).backward()
        optimizer.step()
        assert probe.history.latest.is_full


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_only_the_last_probe_to_leave_takes_the_wrapping_off():
    original = torch.autograd.backward
    pairs = [(m, torch.optim.SGD(m.parameters(), lr=0.1)) for m in (small(0), small(1))]
    first, second = (GradientProbe(*pair) for pair in pairs)
    first.close()
    assert torch.autograd.backward is not original
    second.close()
    assert torch.autograd.backward is original


def test_somebody_elses_wrapping_is_left_in_place(monkeypatch):
    original = torch.autograd.backward
    model = small()
    probe = GradientProbe(model, torch.optim.SGD(model.parameters(), lr=0.1))
    ours = torch.autograd.backward
    calls = []

    def theirs(*args, **kwargs):
        calls.append(args)
        return ours(*args, **kwargs)

    torch.autograd.backward = theirs
    probe.close()
    assert torch.autograd.backward is theirs
    model(batch()[0]).sum().backward()
    assert len(calls) == 1
    torch.autograd.backward = ours
    GradientProbe(model, torch.optim.SGD(model.parameters(), lr=0.1)).close()
    assert torch.autograd.backward is original


def test_a_probe_that_nobody_closed_goes_with_its_model():
    original = torch.autograd.backward
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = GradientProbe(model, optimizer, full=True)
    model(batch()[0]).sum().backward()
    optimizer.step()
    gone = weakref.ref(probe)
    del model, optimizer, probe
    gc.collect()
    assert gone() is None
    assert torch.autograd.backward is original
    assert not loss_watch._listeners


class Mark(torch.autograd.Function):
    """Passes on what it gets, and tells for how long its node of the graph lives."""

    @staticmethod
    def forward(ctx, x, alive):
        class Life:
            pass

        ctx.life = Life()
        alive.append(weakref.ref(ctx.life))
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("ends", ["step", "no backward", "raised"])
def test_no_graph_and_no_activation_is_kept_alive(full, ends):
    alive: list[weakref.ref[object]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for module in self.model:
                x = module(x)
                alive.append(weakref.ref(x))
                x = Mark.apply(x, alive)
            if ends == "raised":
                raise RuntimeError("in the middle of forward")
            return x

    model = Watched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=full) as probe:
        for _ in range(2):
            if ends == "raised":
                with pytest.raises(RuntimeError, match="middle"):
                    model(batch()[0])
            elif ends == "no backward":
                model(batch()[0])
            else:
                model(batch()[0]).sum().backward()
                optimizer.step()
        gc.collect()
        assert alive
        assert all(reference() is None for reference in alive)
        assert probe.history.steps_recorded == (2 if ends == "step" else 0)


def test_evaluation_with_autograd_left_on_does_not_pile_up():
    model = small()
    with GradientProbe(model, torch.optim.SGD(model.parameters(), lr=0.1), full=True) as probe:
        for _ in range(50):
            output = model(batch()[0])
        assert len(probe._capture._passes) <= 2
        del output


def test_gradients_thrown_away_are_not_kept_alive():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=True):
        model(batch()[0]).sum().backward()
        gradient = weakref.ref(model[0].weight.grad)
        optimizer.zero_grad()
        assert gradient() is None


def test_a_backward_pass_that_fails_does_no_harm():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs, targets = batch()
    with GradientProbe(model, optimizer, full=True) as probe:
        output = model(inputs)
        output.register_hook(lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            output.sum().backward()
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        reading = probe.history.latest
    expected = take_reading(model, F.mse_loss, inputs, targets)
    assert reading.loss == pytest.approx(expected.loss)
    np.testing.assert_allclose(reading.signal_grad_norm, expected.signal_grad_norm)


class Everything:
    """All the state that a look at a model may not touch, with its identities."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.named = {
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }
        self.bits = {name: value.detach().clone() for name, value in self.named.items()}
        self.gradients = {n: p.grad for n, p in model.named_parameters()}
        self.gradient_bits = {
            n: None if g is None else g.clone() for n, g in self.gradients.items()
        }
        self.modes = [module.training for module in model.modules()]
        self.torch_state = torch.get_rng_state()
        self.python_state = random.getstate()
        self.numpy_state = np.random.get_state()
        self.hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ]

    def assert_untouched(self) -> None:
        now = Everything(self.model)
        assert list(now.named) == list(self.named)
        assert all(now.named[name] is value for name, value in self.named.items())
        for name, value in self.bits.items():
            assert torch.equal(value.nan_to_num(), now.bits[name].nan_to_num()), name
            assert torch.equal(value.isnan(), now.bits[name].isnan()), name
        for name, gradient in self.gradients.items():
            assert now.gradients[name] is gradient
            if gradient is not None:
                assert torch.equal(gradient, self.gradient_bits[name])
        assert now.modes == self.modes
        assert torch.equal(now.torch_state, self.torch_state)
        assert now.python_state == self.python_state
        assert now.numpy_state[1].tolist() == self.numpy_state[1].tolist()
        assert now.hooks == self.hooks


class Restless(nn.Module):
    """Changes whatever a forward pass can change."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = noisy()
        self.words = nn.Embedding(4, 3, max_norm=0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("later", None)
        self.fails = fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.calls = self.calls + 1
        self.register_buffer("later", torch.ones(1))
        random.random()
        np.random.random()
        self.body[3].eval()
        out: torch.Tensor = self.body(x) + self.words(torch.tensor([0, 1, 2])).sum()
        if self.fails:
            raise RuntimeError("in the middle of forward")
        return out


class KeepsInAttributes(nn.Module):
    """Keeps its running mean in a plain attribute, and writes it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = torch.zeros(4), torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.mean, self.variance, training=True)


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm1d(4), KeepsInAttributes])
def test_a_loss_can_be_gone_back_through_after_a_look_at_the_model(norm):
    model = nn.Sequential(nn.Linear(5, 4), norm(), nn.Linear(4, 3))
    x, y = batch(dtype=torch.float32)
    expected = torch.autograd.grad(F.mse_loss(model(x), y), list(model.parameters()))
    loss = F.mse_loss(model(x), y)
    take_reading(model, F.mse_loss, x, y)
    loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_look_hides_no_change_of_one_s_own_from_a_loss():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    x, y = batch(dtype=torch.float32)
    loss = F.mse_loss(model(x), y)
    model[1].running_mean.zero_()
    take_reading(model, F.mse_loss, x, y)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("has_gradients", [False, True])
def test_take_reading_leaves_everything_as_it_was(mode, fails, has_gradients):
    model = Restless(fails).train(mode != "eval")
    if mode == "mixed":
        model.body[1].eval()
    inputs, targets = noisy_batch()
    if has_gradients:
        for parameter in model.body.parameters():
            parameter.grad = torch.randn_like(parameter)
    before = Everything(model)
    if fails:
        with pytest.raises(RuntimeError, match="middle of forward"):
            take_reading(model, F.mse_loss, inputs, targets)
    else:
        take_reading(model, F.mse_loss, inputs, targets)
    before.assert_untouched()


def test_take_reading_repeats_itself():
    model = noisy()
    one, other = (take_reading(model, F.mse_loss, *noisy_batch()) for _ in range(2))
    torch.manual_seed(99)
    assert one.loss == other.loss
    np.testing.assert_array_equal(one.signal_grad_norm, other.signal_grad_norm)


def test_take_reading_works_where_autograd_is_off():
    model = noisy()
    expected = take_reading(model, F.mse_loss, *noisy_batch()).loss
    with torch.no_grad():
        torch.manual_seed(0)
        assert np.isfinite(take_reading(model, F.mse_loss, *noisy_batch()).slope)
    assert np.isfinite(expected)


def test_a_look_at_the_model_does_not_disturb_a_probe_on_it():
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    expected = take_reading(model, F.mse_loss, inputs, targets)
    with GradientProbe(model, optimizer, full=True) as probe:
        take_reading(model, F.mse_loss, 10 * inputs, targets)
        loss = F.mse_loss(model(inputs), targets)
        take_reading(model, F.mse_loss, 10 * inputs, targets)
        loss.backward()
        take_reading(model, F.mse_loss, 10 * inputs, targets)
        optimizer.step()
        reading = probe.history.latest
    assert reading.loss == pytest.approx(expected.loss)
    np.testing.assert_allclose(reading.signal_grad_norm, expected.signal_grad_norm)
    np.testing.assert_allclose(reading.activation_rms, expected.activation_rms)


networks = st.lists(
    st.sampled_from(
        ["linear", "relu", "relu_", "tanh", "norm", "batch norm", "dropout", "gelu", "frozen"]
    ),
    min_size=1,
    max_size=8,
)


def build(words: list[str], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    made = {
        "linear": lambda: nn.Linear(6, 6),
        "relu": nn.ReLU,
        "relu_": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)),
        "tanh": nn.Tanh,
        "norm": lambda: nn.LayerNorm(6),
        "batch norm": lambda: nn.BatchNorm1d(6),
        "dropout": lambda: nn.Dropout(0.2),
        "gelu": nn.GELU,
        "frozen": lambda: nn.Linear(6, 6).requires_grad_(False),
    }
    return nn.Sequential(nn.Linear(6, 6), *(made[word]() for word in words), nn.Linear(6, 3))


@given(words=networks, seed=st.integers(0, 1000), full=st.booleans(), clip=st.booleans())
@settings(max_examples=40)
def test_the_probe_leaves_every_bit_of_state_as_it_was(words, seed, full, clip):
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    states = []
    for watched in (False, True):
        model = build(words, seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        probe = GradientProbe(model, optimizer, full=full) if watched else None
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
        if probe is not None:
            probe.close()
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        moments = copy.deepcopy(optimizer.state_dict()["state"])
        states.append((model.state_dict(), gradients, moments, torch.get_rng_state()))
    plainly, watched_state = states
    for name, value in plainly[0].items():
        assert torch.equal(value, watched_state[0][name])
    for a, b in zip(plainly[1], watched_state[1], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    for key, moment in plainly[2].items():
        for name, value in moment.items():
            assert torch.equal(value, watched_state[2][key][name])
    assert torch.equal(plainly[3], watched_state[3])


@given(words=networks, seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_take_reading_leaves_every_bit_of_state_as_it_was(words, seed):
    model = build(words, seed)
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    before = Everything(model)
    take_reading(model, lambda o, _: o.square().mean(), inputs, None)
    before.assert_untouched()


def scaled_readings(words: list[str], seed: int, factor: float) -> tuple[Reading, Reading]:
    """Return what is read of a network with a loss, and with that loss times the factor."""
    # In double, because some gradients are what is left of a cancellation.
    model = build([word for word in words if word != "dropout"], seed).double()
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)).double()
    one = take_reading(model, lambda o, _: o.square().mean(), inputs, None)
    scaled = take_reading(model, lambda o, _: o.square().mean() * factor, inputs, None)
    for name in ("activation_rms", "dead_fraction", "saturated_fraction", "weight_norm"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(one, name))
    assert scaled.gradient_states == one.gradient_states
    return one, scaled


@given(words=networks, seed=st.integers(0, 1000), power=st.integers(-20, 16))
# All that comes to the first layers is the rounding of a cancellation.
@example(words=["relu_"] * 3 + ["norm"] * 4, seed=110, power=-20)
@settings(max_examples=50)
def test_scaling_the_loss_scales_every_gradient_and_changes_no_shape(words, seed, power):
    # By a power of two nothing is rounded otherwise.
    one, scaled = scaled_readings(words, seed, 2.0**power)
    for name in ("weight_grad_norm", "weight_grad_max", "signal_grad_norm"):
        np.testing.assert_array_equal(getattr(scaled, name), 2.0**power * getattr(one, name))
    assert scaled.total_norm == 2.0**power * one.total_norm
    assert scaled.slope == pytest.approx(one.slope, abs=1e-9, nan_ok=True)
    assert scaled.decades == pytest.approx(one.decades, abs=1e-9, nan_ok=True)


@given(words=networks, seed=st.integers(0, 1000), factor=st.floats(1e-6, 65536.0))
@example(words=["relu_"] * 3 + ["norm"] * 4, seed=110, factor=1e-6)
@settings(max_examples=50)
def test_scaling_the_loss_by_any_factor_scales_every_gradient(words, seed, factor):
    one, scaled = scaled_readings(words, seed, factor)
    for name in ("weight_grad_norm", "weight_grad_max", "signal_grad_norm"):
        np.testing.assert_allclose(
            getattr(scaled, name),
            factor * getattr(one, name),
            rtol=1e-6,
            atol=1e-12 * max(scaled.total_norm, np.nanmax(scaled.signal_grad_norm)),
        )
    assert scaled.total_norm == pytest.approx(factor * one.total_norm, rel=1e-4)
    # A signal that is the rounding of a greater one is rounded in another way with each factor.
    if np.nanmin(one.signal_grad_norm) > 1e-9 * np.nanmax(one.signal_grad_norm):
        assert scaled.slope == pytest.approx(one.slope, abs=1e-4, nan_ok=True)
        assert scaled.decades == pytest.approx(one.decades, abs=1e-4, nan_ok=True)


def test_readings_reach_the_callback_in_order_while_another_thread_reads():
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen: list[int] = []
    done = threading.Event()
    with GradientProbe(model, optimizer) as probe:
        probe.on_reading = lambda reading: seen.append(reading.step)

        def read() -> None:
            while not done.is_set():
                step, loss = probe.history.columns("step", "loss")
                assert len(step) == len(loss)
                time.sleep(0.001)

        reader = started(read)
        for _ in range(100):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        done.set()
        join(reader)
    assert seen == list(range(1, 101))


def test_a_history_alone_keeps_no_model_alive():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = batch()
    with GradientProbe(model, optimizer) as probe:
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    history, weight = probe.history, weakref.ref(model[0].weight)
    del model, optimizer, probe
    gc.collect()
    assert weight() is None
    assert len(history) == 1


def test_gradients_of_inference_mode_are_read():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        with torch.inference_mode():
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        with torch.no_grad():
            optimizer.step()
        expected = [layer.weight.numel() ** 0.5 for layer in model[::2]]
        np.testing.assert_allclose(probe.history.weight_grad_norm[0], expected)


def test_a_reading_is_told_after_the_one_before_however_long_that_takes():
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen: list[int] = []
    under_way, go_on = threading.Event(), threading.Event()
    with GradientProbe(model, optimizer) as probe:

        def tell(reading: Reading) -> None:
            if reading.step == 1:
                under_way.set()
                assert go_on.wait(30)
            seen.append(reading.step)

        def step() -> None:
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()

        probe.on_reading = tell
        first = started(step)
        assert under_way.wait(30)
        step()  # while somebody is still being told of the first
        assert seen == []
        go_on.set()
        join(first)
    assert seen == [1, 2]

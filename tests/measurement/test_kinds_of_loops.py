"""Loops of every kind under the probe: accumulated, adversarial, scaled, compiled, in threads."""

from __future__ import annotations

import math
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradflow_widget import GradientFlow, GradientProbe, take_reading
from gradflow_widget.diagnosis.rules import judge
from tests.waiting import PATIENCE, join, started

from .networks import batch, one_reading, sgd, small


def test_accumulated_micro_batches_read_as_the_one_batch_that_they_are():
    model = small()
    inputs, targets = batch(8)
    whole = one_reading(model, lambda: F.mse_loss(model(inputs), targets), rate=0.0)
    optimizer = sgd(model, 0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        for _ in range(2):
            optimizer.zero_grad()
            for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
                (F.mse_loss(model(x), y) / 4).backward()
            optimizer.step()
            reading = probe.history.latest
            for name in ("loss", "total_norm"):
                assert getattr(reading, name) == pytest.approx(getattr(whole, name))
            for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms"):
                np.testing.assert_allclose(getattr(reading, name), getattr(whole, name))
    assert len(probe.history) == 2


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_thrown_away_leave_no_trace(to_none):
    """A loss whose gradient was set to zero was not stepped on."""
    model = small()
    inputs, targets = batch()
    optimizer = sgd(model, 0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        (100 * model(inputs[:3]).square().sum()).backward()
        optimizer.zero_grad(set_to_none=to_none)
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        reading = probe.history.latest
    expected = take_reading(model, F.mse_loss, inputs, targets)
    assert reading.loss == pytest.approx(loss.item())
    np.testing.assert_allclose(reading.signal_grad_norm, expected.signal_grad_norm)
    np.testing.assert_allclose(reading.activation_rms, expected.activation_rms)


@pytest.mark.parametrize("between", ["steps", "passes"])
def test_some_gradients_are_kept_and_some_thrown_away(between):
    """After steps that began without any; those of the first and the last layer go again."""
    model = small()
    inputs, targets = batch()
    optimizer = sgd(model)
    ends = [*model[0].parameters(), *model[4].parameters()]
    expected, losses = [], []
    with GradientProbe(model, optimizer) as probe:
        for step in range(6):
            all_go = step < 3 or between == "passes"
            for parameter in model.parameters() if all_go else ends:
                parameter.grad = None
            total = 0.0
            for _ in range(2 if step >= 3 and between == "passes" else 1):
                for parameter in ends:
                    parameter.grad = None
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                total += loss.item()
            losses.append(total)
            expected.append([layer.weight.grad.norm().item() for layer in model[::2]])
            optimizer.step()
        np.testing.assert_allclose(probe.history.weight_grad_norm, expected)
        np.testing.assert_allclose(probe.history.loss, losses)


@pytest.mark.parametrize("to_none", [True, False])
def test_evaluation_passes_in_between_do_not_count(to_none):
    model = small()
    inputs, targets = batch()
    expected = take_reading(model, F.mse_loss, inputs, targets)
    optimizer = sgd(model, 0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        for _ in range(2):
            optimizer.zero_grad(set_to_none=to_none)
            model(1000 * inputs)  # somebody forgot no_grad
            loss = F.mse_loss(model(inputs), targets)
            with torch.no_grad():
                model(1000 * inputs)
            model(1000 * inputs)
            loss.backward()
            model(1000 * inputs)
            optimizer.step()
            reading = probe.history.latest
            assert reading.loss == pytest.approx(expected.loss)
            for name in ("signal_grad_norm", "activation_rms", "dead_fraction"):
                np.testing.assert_allclose(getattr(reading, name), getattr(expected, name))


def test_two_forward_passes_before_one_backward_both_count():
    model = small()
    inputs, _ = batch()
    reading = one_reading(
        model, lambda: model(inputs[:4]).square().sum() + model(inputs[4:]).square().sum()
    )
    whole = one_reading(small(), lambda: small()(inputs).square().sum())
    assert np.isfinite(reading.signal_grad_norm).all()
    model = small()
    whole = one_reading(model, lambda: model(inputs).square().sum())
    np.testing.assert_allclose(reading.signal_grad_norm, whole.signal_grad_norm)
    np.testing.assert_allclose(reading.activation_rms, whole.activation_rms)


def test_a_gradient_penalty_does_not_count_as_a_pass_of_its_own():
    model = small()
    inputs, _ = batch()

    def loss() -> torch.Tensor:
        x = inputs.clone().requires_grad_()
        out = model(x).sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        return out + 0 * slope.square().sum()

    plainly = take_reading(model, lambda o, _: o.sum(), inputs, None)
    reading = one_reading(model, loss)
    np.testing.assert_allclose(reading.signal_grad_norm, plainly.signal_grad_norm)


def test_gradients_set_by_hand_are_read():
    model = small()
    inputs, targets = batch()
    expected = take_reading(model, F.mse_loss, inputs, targets)
    optimizer = sgd(model)
    with GradientProbe(model, optimizer, full=True) as probe:
        loss = F.mse_loss(model(inputs), targets)
        values = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.grad = value
        optimizer.step()
        reading = probe.history.latest
    np.testing.assert_allclose(reading.weight_grad_norm, expected.weight_grad_norm)
    np.testing.assert_allclose(reading.signal_grad_norm, expected.signal_grad_norm)
    assert math.isnan(reading.loss)
    assert not reading.loss_seen
    assert reading.is_finite


def test_gradients_of_several_losses_taken_one_by_one_have_no_signal_to_tell():
    model = small()
    inputs, _ = batch()
    optimizer, parameters = sgd(model), list(model.parameters())
    with GradientProbe(model, optimizer, full=True) as probe:
        output = model(inputs)
        first = torch.autograd.grad(output.sum(), parameters, retain_graph=True)
        second = torch.autograd.grad(output.square().sum(), parameters)
        for parameter, one, other in zip(parameters, first, second, strict=True):
            parameter.grad = one + other
        norms = [p.grad.norm().item() for p in parameters if p.dim() == 2]
        optimizer.step()
        reading = probe.history.latest
    assert np.isnan(reading.signal_grad_norm).all()
    np.testing.assert_allclose(reading.weight_grad_norm, norms)
    assert reading.is_finite
    assert judge([reading]).problem != "non-finite"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_of_a_watched_model_is_that_of_the_model():
    model = small()
    inputs, _ = batch()

    def operations() -> list[str]:
        return [node.kind() for node in torch.jit.trace(model, inputs).inlined_graph.nodes()]

    expected = operations()
    with GradientProbe(model, sgd(model), full=True):
        assert operations() == expected
    flow = GradientFlow(model, sgd(model))
    try:
        assert operations() == expected
    finally:
        flow.close()


def test_the_loss_is_what_was_differentiated():
    model = small()
    inputs, _ = batch()
    optimizer = sgd(model, 0.0)
    with GradientProbe(model, optimizer) as probe:

        def step() -> float:
            optimizer.step()
            optimizer.zero_grad()
            return probe.history.latest.loss

        first, second = model(inputs)[:, 0].sum(), model(inputs)[:, 1].sum()
        torch.autograd.backward([first, second])
        assert step() == pytest.approx((first + second).item())
        loss = model(inputs).sum()
        loss.backward(gradient=torch.tensor(0.25, dtype=torch.float64))
        assert step() == pytest.approx(loss.item() / 4)
        loss = model(inputs).sum()
        value = loss.item()
        loss.backward()
        loss.detach().zero_()  # the loop changes its own tensor in place
        assert step() == pytest.approx(value)
        model(inputs).backward(gradient=torch.ones(8, 3, dtype=torch.float64))
        assert math.isnan(step())


@pytest.mark.parametrize("to_none", [True, False])
def test_an_lbfgs_closure_reads_its_last_evaluation(to_none):
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    losses, norms, readings = [], [], []
    before = model[0].weight.detach().clone()
    with GradientProbe(model, optimizer, full=True) as probe:

        def closure() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.mse_loss(model(inputs), targets)
            loss.backward()
            losses.append(loss.item())
            norms.append(model[0].weight.grad.norm().item())
            return loss

        for _ in range(3):
            optimizer.step(closure)
            readings.append(probe.history.latest)
            assert readings[-1].loss == pytest.approx(losses[-1])
            assert readings[-1].weight_grad_norm[0] == pytest.approx(norms[-1])
            assert np.isfinite(readings[-1].signal_grad_norm).all()
    assert len(losses) > 3
    assert [reading.step for reading in readings] == [1, 2, 3]
    assert readings[0].update_ratio[0] > 0
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_under_a_grad_scaler_loss_and_gradients_are_unscaled(fused, unscale):
    model = small(dtype=torch.float32)
    inputs, targets = batch(dtype=torch.float32)
    expected = take_reading(model, F.mse_loss, inputs, targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(F.mse_loss(model(inputs), targets)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            reading = probe.history.latest
            assert reading.loss == pytest.approx(expected.loss)
            assert reading.total_norm == pytest.approx(expected.total_norm)
            assert reading.clip_scale == 1.0
            for name in ("weight_grad_norm", "weight_grad_max", "signal_grad_norm"):
                np.testing.assert_allclose(
                    getattr(reading, name), getattr(expected, name), rtol=1e-5
                )


def test_under_a_grad_scaler_a_clip_shows():
    model = small(dtype=torch.float32)
    inputs, targets = batch(dtype=torch.float32)
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected = take_reading(model, F.mse_loss, inputs, targets)
    with GradientProbe(model, optimizer) as probe:
        scaler.scale(F.mse_loss(model(inputs), targets)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        scaler.step(optimizer)
        reading = probe.history.latest
    assert reading.total_norm == pytest.approx(expected.total_norm)
    assert reading.clip_scale == pytest.approx(1e-2 / expected.total_norm, rel=1e-3)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_grad_scaler_skips_leaves_no_reading(fused, to_none):
    model = small(dtype=torch.float32)
    inputs, targets = batch(dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=0.5)
    seen = []
    with GradientProbe(model, optimizer, full=True) as probe:
        probe.on_reading = seen.append
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.mse_loss(model(inputs), targets) * factor
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        history = probe.history
    expected = take_reading(model, F.mse_loss, inputs, targets)
    assert [reading.step for reading in seen] == history.step.tolist() == [1, 2]
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(history.total_norm, expected.total_norm, rtol=1e-5)
    np.testing.assert_allclose(history.signal_grad_norm[1], expected.signal_grad_norm, rtol=1e-5)


def test_a_gan_keeps_the_losses_of_its_two_networks_apart():
    for to_none in (True, False):
        torch.manual_seed(0)
        maker = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
        critic = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
        makes, criticises = sgd(maker, 0.01), sgd(critic, 0.01)
        expected_maker, expected_critic = [], []
        with (
            GradientProbe(maker, makes, full=True) as of_maker,
            GradientProbe(critic, criticises, full=True) as of_critic,
        ):
            for _ in range(3):
                fake = maker(torch.randn(4, 3))
                criticises.zero_grad(set_to_none=to_none)
                real = critic(torch.randn(4, 5)).sum()
                loss = critic(fake.detach()).sum() - real
                loss.backward()
                criticises.step()
                expected_critic.append(loss.item())
                makes.zero_grad(set_to_none=to_none)
                loss = -critic(fake).sum()
                loss.backward()
                makes.step()
                expected_maker.append(loss.item())
                for probe in (of_maker, of_critic):
                    assert np.isfinite(probe.history.latest.signal_grad_norm).all()
            np.testing.assert_allclose(of_maker.history.loss, expected_maker, rtol=1e-5)
            np.testing.assert_allclose(of_critic.history.loss, expected_critic, rtol=1e-5)


def test_a_gan_within_one_module_keeps_its_losses_apart_too():
    """Each optimizer clears the gradients of its own network only."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.makes = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
            self.judges = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

        def forward(self, noise):
            return self.judges(self.makes(noise))

    torch.manual_seed(0)
    model = Both()
    optimizers = [sgd(model.makes), sgd(model.judges)]
    probes = [GradientProbe(model, optimizer, full=True) for optimizer in optimizers]
    real, losses = torch.randn(8, 4), ([], [])
    for _ in range(4):
        noise = torch.randn(8, 4)
        objectives = (
            lambda noise=noise: F.softplus(-model(noise)).mean(),
            lambda noise=noise: (
                F.softplus(model.judges(model.makes(noise).detach())).mean()
                + F.softplus(-model.judges(real)).mean()
            ),
        )
        for optimizer, objective, told in zip(optimizers, objectives, losses, strict=True):
            optimizer.zero_grad()
            loss = objective()
            loss.backward()
            told.append(loss.item())
            optimizer.step()
    for probe, told in zip(probes, losses, strict=True):
        assert probe.history.loss == pytest.approx(told)
        probe.close()


def test_layers_called_by_themselves_without_end_take_no_memory_without_end(monkeypatch):
    """As a policy and a value do that are asked at every move."""
    monkeypatch.setattr("gradflow_widget.measurement.capture._MOST_LOOSE_CALLS", 40)
    model = nn.ModuleDict({"policy": nn.Linear(4, 2), "value": nn.Linear(4, 1)})
    with GradientProbe(model, sgd(model), full=True) as probe:
        for _ in range(500):
            model["policy"](torch.randn(1, 4)), model["value"](torch.randn(1, 4))
        kept = sum(len(each.calls) for each in probe._capture._passes)
    assert kept <= 80


def test_two_models_in_two_threads_see_each_its_own():
    results: dict[int, tuple[list[float], list[float]]] = {}
    start = threading.Barrier(2)

    def train(seed: int) -> None:
        model = small(seed, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        optimizer = sgd(model, 0.01)
        losses = []
        with GradientProbe(model, optimizer, full=True) as probe:
            start.wait(PATIENCE)
            for _ in range(150):
                inputs = torch.randn(4, 5, generator=generator)
                optimizer.zero_grad()
                loss = model(inputs).square().sum() * (1 + seed * 1000)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            results[seed] = (losses, probe.history.loss.tolist())

    join(*[started(partial(train, seed)) for seed in (0, 1)])
    assert results.keys() == {0, 1}
    for losses, recorded in results.values():
        np.testing.assert_allclose(recorded, losses)


def test_a_look_from_another_thread_does_not_hide_the_loss():
    model = small()
    inputs, targets = batch()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer) as probe:
        for _ in range(2):
            loss = F.mse_loss(model(inputs), targets)
            join(started(lambda: model(inputs)))
            loss.backward()
            optimizer.step()
            assert probe.history.latest.loss == pytest.approx(loss.item())
            optimizer.zero_grad()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    class Saved(nn.Module):
        def __init__(self, model: nn.Sequential) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for start in (0, 2):
                block = self.model[start : start + 2]
                x = checkpoint(block, x, use_reentrant=reentrant)
            out: torch.Tensor = self.model[4](x)
            return out

    inputs, targets = batch()
    inputs.requires_grad_()
    model = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plainly = one_reading(model, lambda: F.mse_loss(model(inputs), targets))
        model = small()
        saved = Saved(model)
        reading = one_reading(saved, lambda: F.mse_loss(saved(inputs), targets))
    for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms"):
        np.testing.assert_allclose(getattr(reading, name), getattr(plainly, name))
    if not reentrant:
        np.testing.assert_allclose(reading.dead_fraction, plainly.dead_fraction)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compiled_model_trains_and_reads_its_gradients(when):
    torch._dynamo.reset()
    model = small(dtype=torch.float32)
    inputs, targets = batch(dtype=torch.float32)
    expected = take_reading(model, F.mse_loss, inputs, targets)
    optimizer = sgd(model, 0.0)

    def steps(call: nn.Module, probe: GradientProbe) -> None:
        for full in (True, False, True):
            probe.full = full
            optimizer.zero_grad()
            F.mse_loss(call(inputs), targets).backward()
            optimizer.step()
            reading = probe.history.latest
            np.testing.assert_allclose(
                reading.weight_grad_norm, expected.weight_grad_norm, rtol=1e-5
            )
            assert reading.loss == pytest.approx(expected.loss)
            assert reading.layers == ("0", "2", "4")
            assert reading.is_full == full

    if when == "before":
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        compiled(inputs)
        with GradientProbe(compiled, optimizer) as probe:
            steps(compiled, probe)
    else:
        with GradientProbe(model, optimizer, full=True) as probe:
            steps(torch.compile(model, backend="eager", fullgraph=True), probe)
    torch._dynamo.reset()


def test_a_model_moved_to_another_type_after_the_probe_came():
    model = small(dtype=torch.float32)
    optimizer = sgd(model, 0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        model.double()
        inputs, targets = batch()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        reading = probe.history.latest
    expected = take_reading(model, F.mse_loss, inputs, targets)
    np.testing.assert_allclose(reading.weight_grad_norm, expected.weight_grad_norm, rtol=1e-12)


def test_a_step_without_any_gradient_says_so():
    model = small()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer, full=True) as probe:
        optimizer.step()
        reading = probe.history.latest
    assert reading.gradient_states == ("none", "none", "none")
    assert reading.total_norm == 0
    assert (reading.update_ratio == 0).all()


def test_full_can_change_from_step_to_step():
    model = small()
    inputs, targets = batch()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer) as probe:
        for full in (False, True, True, False, True):
            probe.full = full
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            reading = probe.history.latest
            assert reading.is_full == full
            if full:
                assert np.isfinite(reading.signal_grad_norm).all()
    recorded = np.isfinite(probe.history.slope)
    np.testing.assert_array_equal(recorded, [False, True, True, False, True])


def test_a_model_cast_in_the_middle_of_a_run_is_measured_in_its_new_precision():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8)
    inputs, targets = batch()
    with GradientProbe(model, optimizer, full=True) as probe:
        for cast in (False, True):
            if cast:
                model.double()
                inputs, targets = inputs.double(), targets.double()
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        weights = [p for p in model.parameters() if p.dim() > 1]
        expected = [(1e-8 * p.grad.norm() / p.norm()).item() for p in weights]
        np.testing.assert_allclose(probe.history.latest.update_ratio, expected, rtol=1e-5)

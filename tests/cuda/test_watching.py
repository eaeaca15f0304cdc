"""A probe on a GPU: the right numbers, the same training, and nobody waits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientProbe, take_reading

from .networks import DEVICE, InDoublePrecision, inputs, loss_of, network

COLUMNS = (
    "weight_grad_norm",
    "weight_grad_max",
    "weight_norm",
    "signal_grad_norm",
    "activation_rms",
)


def sgd(model: nn.Module, **arguments: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, **arguments)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, inputs(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def test_every_number_is_that_of_the_cpu_in_double_precision() -> None:
    model = network()
    optimizer = sgd(model)
    expected, before, after = [], [], []
    with GradientProbe(model, optimizer, full=True) as probe:
        for step in range(5):
            batch = inputs(step)
            expected.append(InDoublePrecision(model, batch))
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            before.append([layer.weight.detach().double() for layer in model[::2]])
            optimizer.step()
            after.append([layer.weight.detach().double() for layer in model[::2]])
        history = probe.history
    assert len(history) == 5
    np.testing.assert_allclose(history.loss, [e.loss for e in expected], rtol=1e-5)
    np.testing.assert_allclose(history.total_norm, [e.total_norm for e in expected], rtol=1e-4)
    for column in COLUMNS:
        found, right = getattr(history, column), [getattr(e, column) for e in expected]
        np.testing.assert_allclose(found, right, rtol=1e-4, err_msg=column)
    ratios = [
        [float((b - a).norm() / b.norm()) for b, a in zip(*both, strict=True)]
        for both in zip(before, after, strict=True)
    ]
    np.testing.assert_allclose(history.update_ratio, ratios, rtol=1e-3)


@pytest.mark.usefixtures("waiting_may_be_forbidden")
@pytest.mark.parametrize("full", [False, True], ids=["every step", "in full"])
@pytest.mark.parametrize("kind", ["SGD", "fused AdamW", "capturable Adam", "clipped"])
def test_no_step_waits_for_the_device(full: bool, kind: str) -> None:
    model = network()
    optimizer = {
        "SGD": lambda: sgd(model, momentum=0.9),
        "fused AdamW": lambda: torch.optim.AdamW(model.parameters(), fused=True),
        "capturable Adam": lambda: torch.optim.Adam(
            model.parameters(), lr=torch.tensor(1e-3, device=DEVICE), capturable=True
        ),
        "clipped": lambda: sgd(model),
    }[kind]()
    batches = [inputs(step) for step in range(6)]
    with GradientProbe(model, optimizer, full=full) as probe:
        for step, batch in enumerate(batches):
            if step == 2:  # what comes only once has come
                torch.cuda.set_sync_debug_mode("error")
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            if kind == "clipped":
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
        assert len(probe.history) == 6
        if kind == "clipped":
            assert (probe.history.clip_scale < 1).all()


def test_readings_are_told_in_their_order_and_none_is_lost() -> None:
    model = network()
    optimizer = sgd(model)
    told: list[int] = []
    with GradientProbe(model, optimizer) as probe:
        probe.on_reading = lambda reading: told.append(reading.step)
        train(model, optimizer, 200)
    assert told == list(range(1, 201))


@pytest.mark.parametrize("full", [False, True], ids=["every step", "in full"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16 autocast"])
def test_training_is_bit_identical_with_and_without_the_probe(full: bool, autocast: bool) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        losses = []
        for watched in (False, True):
            model = network()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
                if watched:
                    with GradientProbe(model, optimizer, full=full):
                        losses.append(torch.stack(train(model, optimizer, 20)))
                else:
                    losses.append(torch.stack(train(model, optimizer, 20)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*losses)


@pytest.mark.parametrize("full", [False, True], ids=["every step", "in full"])
def test_a_scaled_loss_in_half_precision_is_read_unscaled(full: bool) -> None:
    """GradScaler's unscaling, its clip, and a step that it skips for inf."""
    model = network()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, growth_interval=1000)
    plain, clipped = [], []
    with GradientProbe(model, optimizer, full=full) as probe:
        for step in range(6):
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.float16):
                loss = loss_of(model, inputs(step))
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            plain.append([float(layer.weight.grad.norm()) for layer in model[::2]])
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            clipped.append([float(layer.weight.grad.norm()) for layer in model[::2]])
            scaler.step(optimizer)
            scaler.update()
        history = probe.history
    assert len(history) == 6
    np.testing.assert_allclose(history.weight_grad_norm, clipped, rtol=1e-4)
    before = np.asarray(history.weight_grad_norm) / np.asarray(history.clip_scale)[:, None]
    np.testing.assert_allclose(before, plain, rtol=1e-3)


def test_parameters_in_bfloat16_have_their_norms() -> None:
    model = network().bfloat16()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer, full=True) as probe:
        loss_of(model, inputs().bfloat16()).backward()
        expected = [float(layer.weight.grad.double().norm()) for layer in model[::2]]
        optimizer.step()
        np.testing.assert_allclose(probe.history.weight_grad_norm[0], expected, rtol=1e-2)


def test_a_gradient_that_is_not_finite_is_told() -> None:
    model = network()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer) as probe:
        train(model, optimizer, 2)
        with torch.no_grad():
            model[4].weight[0, 0] = float("nan")
        train(model, optimizer, 1)
        last = probe.history.latest
    assert last is not None
    assert not np.isfinite(last.weight_grad_norm).all()
    assert not np.isfinite(last.loss)


def test_take_reading_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)).to(
        DEVICE
    )
    batch = inputs()
    before = copy.deepcopy(model.state_dict())
    random_before = torch.cuda.get_rng_state()
    first = take_reading(model, lambda out, _: out.square().mean(), batch, batch)
    second = take_reading(model, lambda out, _: out.square().mean(), batch, batch)
    assert torch.equal(torch.cuda.get_rng_state(), random_before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert first.loss == second.loss
    np.testing.assert_array_equal(first.weight_grad_norm, second.weight_grad_norm)


def test_a_model_spread_over_two_devices_is_read() -> None:
    torch.manual_seed(0)
    here, there = nn.Linear(32, 32), nn.Linear(32, 32).to(DEVICE)

    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.here, self.there = here, there

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.there(torch.tanh(self.here(x)).to(DEVICE))
            return out

    model = Spread()
    optimizer = sgd(model)
    with GradientProbe(model, optimizer, full=True) as probe:
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, inputs(step).cpu()).backward()
            expected = [float(here.weight.grad.norm()), float(there.weight.grad.norm())]
            optimizer.step()
            np.testing.assert_allclose(probe.history.weight_grad_norm[-1], expected, rtol=1e-5)
    assert len(probe.history) == 3


@pytest.mark.parametrize("first_is_here", [True, False])
def test_recurrent_and_normalized_layers_on_two_devices_are_read(first_is_here: bool) -> None:
    """What is read over time and of batch statistics comes from both devices too."""
    devices = ("cpu", DEVICE) if first_is_here else (DEVICE, "cpu")

    class Spread(nn.Module):
        def __init__(self, *devices: str) -> None:
            super().__init__()
            self.rnns, self.norms = nn.ModuleList(), nn.ModuleList()
            for device in devices:
                self.rnns.append(nn.RNN(32, 32, batch_first=True).to(device))
                self.norms.append(nn.BatchNorm1d(32).to(device))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for rnn, norm in zip(self.rnns, self.norms, strict=True):
                x = x.to(next(norm.parameters()).device)
                x = norm(rnn(x)[0].transpose(1, 2)).transpose(1, 2)
            return x

    torch.manual_seed(0)
    model, batches = Spread(*devices), torch.randn(5, 8, 4, 32)
    on_cpu = Spread("cpu", "cpu")
    on_cpu.load_state_dict(model.state_dict())
    read = []
    for spread in (on_cpu, model):
        optimizer = sgd(spread)
        with GradientProbe(spread, optimizer, full=True) as probe:
            for batch in batches:
                optimizer.zero_grad()
                spread(batch).square().mean().sqrt().sub(0.5).square().backward()
                optimizer.step()
                read.append(probe.history.latest)
    for right, found in zip(read[:5], read[5:], strict=True):
        assert found.loss == pytest.approx(right.loss, rel=1e-3)
        for column in COLUMNS:
            pair = getattr(found, column), getattr(right, column)
            np.testing.assert_allclose(*pair, rtol=2e-2, atol=1e-6, err_msg=column)
        for name, norms in right.signal_grad_through_time.items():
            there = found.signal_grad_through_time[name]
            np.testing.assert_allclose(there, norms, rtol=2e-2, atol=1e-6)
        for ours, theirs in zip(found.layer_notes, right.layer_notes, strict=True):
            assert (ours is None) == (theirs is None)
            for (_, values), (_, expected) in zip(ours or (), theirs or (), strict=True):
                np.testing.assert_allclose(values, expected, rtol=2e-2, atol=1e-4)

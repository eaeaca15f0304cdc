"""Norms taken beside the backward pass are those of the gradients that it has left."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget.measurement import ahead
from gradflow_widget.measurement.ahead import Ahead, _Job
from gradflow_widget.measurement.probe import GradientProbe
from tests.waiting import PATIENCE, join

WIDTH, LAYERS = 256, 18


@pytest.fixture(autouse=True)
def one_core_of_several(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ahead, "_cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many norms were taken ahead in each backward pass, however late the thread came."""
    counts: list[int] = []
    end = Ahead.end

    def counting(self: Ahead, gradients: list[torch.Tensor | None]) -> dict[int, float]:
        known = end(self, gradients)
        counts.append(len(known))
        return known

    def wait(job: _Job) -> bool:
        assert job._done.acquire(timeout=PATIENCE), "the norms never came"
        return bool(job.norms)

    monkeypatch.setattr(_Job, "wait", wait)
    monkeypatch.setattr(Ahead, "end", counting)
    return counts


def network() -> nn.Sequential:
    torch.manual_seed(0)
    modules = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*modules)


def loss_of(model: nn.Module, seed: int = 1) -> torch.Tensor:
    inputs = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(seed))
    return model(inputs).square().mean()


def norms_of(model: nn.Module) -> list[float]:
    return [
        float(p.grad.double().norm())
        for p in model.parameters()
        if p.dim() == 2 and p.grad is not None
    ]


def assert_norms_are_right(model: nn.Module, steps: int) -> None:
    """Train under a probe, and compare every norm with one taken in float64."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with GradientProbe(model, optimizer) as probe:
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            expected.append(norms_of(model))
            optimizer.step()
        np.testing.assert_allclose(probe.history.weight_grad_norm, expected, rtol=1e-5)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gradflow-norms"]


def test_every_norm_is_right_and_most_are_taken_ahead(taken: list[int]) -> None:
    assert_norms_are_right(network(), steps=12)
    assert max(taken) >= LAYERS // 2


def test_a_clip_right_behind_the_backward_pass_is_seen_with_the_norm_before(
    taken: list[int],
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    totals, after = [], []
    with GradientProbe(model, optimizer) as probe:
        for step in range(10):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            totals.append(
                sum(float(p.grad.double().norm()) ** 2 for p in model.parameters()) ** 0.5
            )
            if step >= 5:
                for parameter in model.parameters():
                    parameter.grad.mul_(0.25)
            after.append(norms_of(model))
            optimizer.step()
        history = probe.history
    np.testing.assert_allclose(history.total_norm, totals, rtol=1e-5)
    np.testing.assert_allclose(history.weight_grad_norm, after, rtol=1e-5)
    np.testing.assert_allclose(history.clip_scale, [1.0] * 5 + [0.25] * 5, rtol=1e-5)
    assert max(taken) > 0


def test_gradients_that_add_up_over_several_passes_are_measured_when_they_have() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with GradientProbe(model, optimizer) as probe:
        for step in range(6):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            for part in range(3):
                loss_of(model, 3 * step + part).backward()
            expected.append(norms_of(model))
            optimizer.step()
        np.testing.assert_allclose(probe.history.weight_grad_norm, expected, rtol=1e-5)


def test_a_gradient_changed_by_a_later_hook_of_the_same_pass_is_measured_again(
    taken: list[int],
) -> None:
    """The first layer's hook doubles the last layer's gradient, which was handed over before."""
    model = network()
    last = model[2 * LAYERS - 2].weight

    def double(_: torch.Tensor) -> None:
        last.grad.mul_(2.0)

    model[0].weight.register_post_accumulate_grad_hook(double)
    assert_norms_are_right(model, steps=6)
    assert max(taken) > 0


@pytest.mark.parametrize("scale", [1e-30, 1e25, float("nan"), float("inf")])
def test_norms_that_float32_can_not_sum_are_right(scale: float) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            for parameter in model.parameters():
                parameter.grad = None
            (scale * loss_of(model)).backward()
            expected = norms_of(model)
            optimizer.step()
        np.testing.assert_allclose(probe.history.weight_grad_norm[-1], expected, rtol=1e-5)


def test_a_layer_cast_to_bf16_is_not_rounded_to_it() -> None:
    job = _Job([torch.ones(100, 101), torch.ones(100, 101, dtype=torch.bfloat16)])
    job.run()
    assert job.norms == pytest.approx([10100**0.5] * 2, rel=1e-6)


def test_frozen_and_unused_layers_leave_the_others_right() -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        for step in range(4):
            optimizer.zero_grad()
            shorter = model[: 2 * LAYERS - 2 * (step % 2)]
            loss_of(shorter, step).backward()
            expected = [
                np.nan if p.grad is None else float(p.grad.double().norm())
                for p in model.parameters()
                if p.dim() == 2
            ]
            optimizer.step()
            np.testing.assert_allclose(
                probe.history.weight_grad_norm[-1], expected, rtol=1e-5, equal_nan=True
            )


def test_losses_are_the_same_with_and_without(taken: list[int]) -> None:
    losses: list[list[float]] = []
    for watch in (True, False):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        probe = GradientProbe(model, optimizer) if watch else None
        losses.append([])
        for step in range(8):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        if probe is not None:
            probe.close()
    assert losses[0] == losses[1]
    assert max(taken) > 0


def test_closing_leaves_no_thread_and_no_hook() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer):
        for _ in range(3):
            loss_of(model).backward()
            optimizer.step()
        assert len(threads()) == 1
        assert any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert not threads()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_probe_that_nobody_closes_ends_its_thread() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = GradientProbe(model, optimizer)
    for _ in range(3):
        loss_of(model).backward()
        optimizer.step()
    (thread,) = threads()
    del probe, model, optimizer
    gc.collect()
    join(thread)


def test_a_watched_model_is_copied_and_pickled_without_the_hook() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer):
        for _ in range(3):
            loss_of(model).backward()
            optimizer.step()
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert not any(p._post_accumulate_grad_hooks for p in other.parameters())
            loss_of(other).backward()


def test_torch_on_several_cores_is_left_to_itself(taken: list[int]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.set_num_threads(2)
    with GradientProbe(model, optimizer) as probe:
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            expected = norms_of(model)
            optimizer.step()
        assert not threads()
        np.testing.assert_allclose(probe.history.weight_grad_norm[-1], expected, rtol=1e-5)
    assert not any(taken)


def test_small_networks_have_nothing_taken_ahead() -> None:
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)])

    assert Ahead(list(model.parameters()))._places == []

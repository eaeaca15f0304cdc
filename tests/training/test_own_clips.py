"""Whoever clips between the backward pass and the optimizer's own step is seen doing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradflow_widget import GradientFlow, GradientProbe

from .parts import CROSS_ENTROPY, samples, small_network

Make = Callable[..., GradientFlow]
HALF = 0.5


def halve(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad.mul_(HALF)


class Halving(torch.optim.SGD):
    """Clips in its own step, as home-made optimizers do."""

    def step(self, closure: Any = None) -> Any:
        halve(self)
        return super().step(closure)


def hooked(parameters: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    optimizer.register_step_pre_hook(lambda optimizer, *_: halve(optimizer))
    return optimizer


def replaced(parameters: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    original = optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        halve(optimizer)
        return original(*args, **kwargs)

    optimizer.step = step  # type: ignore[method-assign]
    return optimizer


def plain(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def total_norms(make_flow: Make, optimizer: Any) -> tuple[np.ndarray, np.ndarray]:
    model = small_network()
    flow = make_flow(model, optimizer(model.parameters()), CROSS_ENTROPY, samples())
    flow.speed = 20  # most steps are not read in full
    flow.step(5)
    return flow.history.total_norm[:1], flow.history.clip_scale


@pytest.mark.parametrize("optimizer", [hooked, replaced], ids=["a hook", "another step"])
def test_the_norm_before_and_what_is_left_of_it_are_told(make_flow: Make, optimizer: Any) -> None:
    unclipped, nothing_left_out = total_norms(make_flow, plain)
    before, scale = total_norms(make_flow, optimizer)

    np.testing.assert_allclose(nothing_left_out, 1.0)
    np.testing.assert_allclose(before, unclipped, rtol=1e-6)
    np.testing.assert_allclose(scale, HALF, rtol=1e-5)


def test_a_hook_on_every_optimizer_is_seen_too(make_flow: Make) -> None:
    unclipped, _ = total_norms(make_flow, plain)
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: halve(optimizer))
    try:
        before, scale = total_norms(make_flow, plain)
    finally:
        handle.remove()

    np.testing.assert_allclose(before, unclipped, rtol=1e-6)
    np.testing.assert_allclose(scale, HALF, rtol=1e-5)


def test_an_optimizer_that_clips_in_its_step_is_seen_doing_it(make_flow: Make) -> None:
    unclipped, _ = total_norms(make_flow, plain)
    before, scale = total_norms(make_flow, lambda parameters: Halving(parameters, lr=0.1))

    np.testing.assert_allclose(before, unclipped, rtol=1e-6)
    np.testing.assert_allclose(scale, HALF, rtol=1e-5)


def test_a_scheduler_in_the_place_of_the_step_changes_no_number(make_flow: Make) -> None:
    model = small_network()
    optimizer = plain(model.parameters())
    torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.step(3)
    expected, _ = total_norms(make_flow, plain)

    np.testing.assert_allclose(flow.history.total_norm[:1], expected, rtol=1e-6)


@pytest.mark.parametrize("by", ["clip_norm", "clip_value"])
def test_sparse_gradients_are_clipped_as_dense_ones(make_flow: Any, by: str) -> None:
    readings = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 3))
        data = torch.randint(10, (40, 2)), torch.randint(3, (40,))
        flow = make_flow(model, torch.optim.SGD(model.parameters(), 0.1), CROSS_ENTROPY, data)
        setattr(flow, by, 1e-3)
        readings.append(next(flow.steps(1)))
    dense, sparse_one = readings
    assert sparse_one.clip_scale < 1
    assert sparse_one.clip_scale == pytest.approx(dense.clip_scale)
    assert sparse_one.weight_grad_norm == pytest.approx(dense.weight_grad_norm)


def test_complex_gradients_are_clipped_by_value_in_both_their_parts(make_flow: Any) -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.to(torch.complex64) @ self.weight).abs()

    model = Complex()
    flow = make_flow(model, torch.optim.SGD(model.parameters(), 0.1), CROSS_ENTROPY, samples())
    flow.clip_value = 1e-3
    flow.step(1)
    parts = torch.view_as_real(model.weight.grad)
    assert parts.abs().max().item() == pytest.approx(1e-3)


@pytest.mark.parametrize("by", ["clip_norm", "clip_value"])
def test_clipping_within_a_closure_is_told_as_before_any_other_step(
    make_flow: Make, by: str
) -> None:
    first = []
    for kind in (torch.optim.SGD, torch.optim.LBFGS):
        model = small_network()
        options = {"max_iter": 1} if kind is torch.optim.LBFGS else {}
        optimizer = kind(model.parameters(), lr=0.1, **options)
        flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
        setattr(flow, by, 1e-3)
        first.append(next(flow.steps(1)))
    plain, closed = first
    assert plain.clip_scale < 0.5
    assert closed.clip_scale == pytest.approx(plain.clip_scale)
    assert closed.total_norm == pytest.approx(plain.total_norm)
    np.testing.assert_allclose(closed.unclipped_grad_norm, plain.unclipped_grad_norm, rtol=1e-6)
    np.testing.assert_allclose(closed.weight_grad_norm, plain.weight_grad_norm, rtol=1e-6)


def weight_gradients(model: nn.Module) -> list[Any]:
    return [layer.weight.grad for layer in model.modules() if hasattr(layer, "weight")]


def used_norms(model: nn.Module) -> list[float]:
    return [float(torch.linalg.vector_norm(one)) for one in weight_gradients(model)]


@pytest.mark.parametrize("clip_norm", [None, 1e-3], ids=["alone", "and the widget's clip"])
def test_a_hook_that_comes_late_is_seen_from_its_first_step_on(
    make_flow: Make, clip_norm: float | None
) -> None:
    model = small_network()
    optimizer = plain(model.parameters())
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.clip_norm = clip_norm
    flow.step()
    optimizer.register_step_pre_hook(lambda optimizer, *_: halve(optimizer))
    for speed in (1, 20, 20):
        flow.speed = speed
        flow.step()
        reading = flow.history.latest
        np.testing.assert_allclose(reading.weight_grad_norm, used_norms(model), rtol=1e-5)
        before = reading.unclipped_grad_norm * reading.clip_scale
        np.testing.assert_allclose(before, reading.weight_grad_norm, rtol=1e-5)
        assert reading.clip_scale <= HALF * 1.001
        if reading.is_full:
            largest = [float(one.abs().max()) for one in weight_gradients(model)]
            np.testing.assert_allclose(reading.weight_grad_max, largest, rtol=1e-5)
    if clip_norm is not None:  # from the second step on ours acts behind the late one
        gradients = [one.grad for one in model.parameters()]
        assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(clip_norm, rel=1e-3)


def test_two_probes_of_one_optimizer_see_a_late_hook_and_leave_each_other_alone() -> None:
    model = small_network()
    optimizer = plain(model.parameters())
    with GradientProbe(model, optimizer) as one, GradientProbe(model, optimizer) as other:
        optimizer.register_step_pre_hook(lambda optimizer, *_: halve(optimizer))
        places = []
        for _ in range(3):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(samples()[0]), samples()[1]).backward()
            optimizer.step()
            places.append(list(optimizer._optimizer_step_pre_hooks))
            for probe in (one, other):
                reading = probe.history.latest
                assert reading.clip_scale == pytest.approx(HALF)
                np.testing.assert_allclose(reading.weight_grad_norm, used_norms(model), rtol=1e-5)
    assert places[0] == places[1] == places[2]

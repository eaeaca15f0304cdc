"""Who is told of steps may act on them, and who asked for them may give up."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow
from gradflow_widget.training.pace import Pace
from tests.waiting import join, wait_for

from .parts import CROSS_ENTROPY, plain_network, samples


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture
def flow(make_flow: Any) -> Any:
    model = plain_network()
    return make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, samples())


def at_step(flow: Any, number: int, act: Any) -> None:
    """Let ``act`` be called once, by whoever tells of that step."""
    done: list[int] = []

    def told(change: Any) -> None:
        if change["new"] == number and not done:
            done.append(number)
            act()

    flow.observe(told, "step_number")


def all_steps(flow: Any) -> None:
    list(flow.steps(2))


MORE = pytest.mark.parametrize(
    ("what", "more"),
    [("step", GradientFlow.step), ("wait", GradientFlow.wait), ("steps", all_steps)],
)


@MORE
def test_more_steps_by_who_is_told_of_one_are_refused(flow: Any, what: str, more: Any) -> None:
    at_step(flow, 2, lambda: more(flow))
    with pytest.raises(RuntimeError, match=rf"{what}\(\) can't be called within a step"):
        list(flow.steps(4))
    assert [reading.step for reading in flow.steps(2)] == [3, 4]


@MORE
def test_more_steps_by_the_objective_are_refused(make_flow: Any, what: str, more: Any) -> None:
    model = plain_network()
    calls: list[int] = []

    def objective(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if flow is not None and is_within:
            more(flow)
        return CROSS_ENTROPY(outputs, targets)

    flow, is_within = None, False
    flow = make_flow(model, sgd(model.parameters()), objective, samples())
    is_within = True
    with pytest.raises(RuntimeError, match=rf"{what}\(\) can't be called within a step"):
        list(flow.steps(1))
    with pytest.raises(RuntimeError, match=rf"{what}\(\) was called on the training thread"):
        flow.step()
    is_within = False
    flow.step(2)
    assert flow.step_number == len(flow.history) == 2


def test_waiting_for_more_steps_gives_so_many_beyond_those_that_were_seen() -> None:
    pace = Pace()

    def step() -> None:
        assert pace.begin()
        pace.announce()
        pace.count(asked=True)
        pace.end()

    pace.play()
    step()
    assert pace.begin()
    pace.announce()  # whoever waits from now on may have seen this one
    reached: list[bool] = []
    waiting = threading.Thread(target=lambda: reached.append(pace.wait(1, timeout=30)))
    waiting.start()
    wait_for(lambda: bool(pace._hopes))
    pace.count(asked=True)
    pace.end()
    assert [met() for met in pace._hopes] == [False]
    step()
    join(waiting)
    assert reached == [True]


@pytest.mark.parametrize("change", ["reset", "knob"])
def test_a_new_run_within_steps_goes_on_from_its_beginning(flow: Any, change: str) -> None:
    def act() -> None:
        if change == "reset":
            flow.reset(4)
        else:
            flow.activation = "relu"

    at_step(flow, 3, act)
    assert [reading.step for reading in flow.steps(5)] == [1, 2, 3, 1, 2]


def test_steps_in_a_cell_are_not_told_as_a_pause(flow: Any) -> None:
    for reading in flow.steps(3):
        assert "paused" not in flow.status, reading.step
    assert "paused" in flow.status
    assert repr(flow) == f"<GradientFlow: {flow.status}>"


def test_a_loop_of_ones_own_beside_one_that_plays_is_told_to_pause_it(flow: Any) -> None:
    flow.play()
    wait_for(lambda: flow.step_number > 2)
    for parameter in flow.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(RuntimeError, match=r"pause\(\) it before a loop of your own steps"):
        flow.optimizer.step()
    flow.pause()
    flow.wait()
    done = flow.step_number
    inputs, targets = samples()
    flow.optimizer.zero_grad()
    CROSS_ENTROPY(flow.model(inputs), targets).backward()
    flow.optimizer.step()
    assert flow.step_number == done + 1


@pytest.mark.parametrize("where", ["in a loop", "at rest"])
def test_a_rate_that_is_shown_but_not_in_force_is_a_turn(make_flow: Any, where: str) -> None:
    inputs, targets = samples()
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = make_flow(
        model, optimizer, *([] if where == "in a loop" else [CROSS_ENTROPY, samples()])
    )

    def step() -> None:
        if where == "at rest":
            flow.step()
            return
        optimizer.zero_grad()
        CROSS_ENTROPY(model(inputs), targets).backward()
        optimizer.step()

    step()
    optimizer.param_groups[0]["lr"] = 0.01
    if where == "in a loop":
        step()
    flow.learning_rate = 0.1
    step()
    rates = [0.1, 0.01, 0.1] if where == "in a loop" else [0.1, 0.1]
    np.testing.assert_allclose(flow.history.learning_rate, rates)


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        loss = closure()
        super().step()
        return loss


class SharpnessAware(torch.optim.Optimizer):
    """As most write it: gradients are there before the step, and come again within it."""

    def __init__(self, parameters: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(parameters, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)

    @torch.no_grad()
    def first_step(self) -> None:
        self.moved = [(p, 0.05 * p.grad) for group in self.param_groups for p in group["params"]]
        for parameter, by in self.moved:
            parameter.add_(by)

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter, by in self.moved:
            parameter.sub_(by)
        self.base.step()

    def step(self, closure: Any = None) -> None:
        assert closure is not None, "a closure is needed"
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


@pytest.mark.parametrize("kind", ["closure", "sharpness-aware"])
def test_an_optimizer_that_needs_a_closure_gets_one(make_flow: Any, kind: str) -> None:
    model = plain_network()
    optimizer = (
        NeedsClosure(model.parameters(), lr=0.1)
        if kind == "closure"
        else SharpnessAware(model.parameters(), torch.optim.SGD, lr=0.1)
    )
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    losses = [reading.loss for reading in flow.steps(40)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("default", [False, True])
def test_arrays_in_double_precision_follow_the_model(make_flow: Any, default: bool) -> None:
    inputs, targets = (part.numpy() for part in samples())
    if default:
        torch.set_default_dtype(torch.float64)
    try:
        model: nn.Module = plain_network().double()
        data = (inputs.astype(np.float64), targets)
        flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, data, validation=data)
        assert np.isfinite([reading.loss for reading in flow.steps(3)]).all()
        assert np.isfinite(flow.accuracy)
    finally:
        torch.set_default_dtype(torch.float32)

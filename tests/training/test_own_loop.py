"""The user's own loop: plain in a cell, or handed to run(loop) on the session's thread."""

from __future__ import annotations

import math
import random
import threading
import time
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gradflow_widget import GradientFlow
from gradflow_widget.display import publisher
from gradflow_widget.measurement.gradients import Gradients
from gradflow_widget.training.own_loop import OwnLoop
from tests.fake_shell import FakeShell
from tests.waiting import PATIENCE, join, started, wait_for

from .parts import (
    CROSS_ENTROPY,
    plain_network,
    same_bits,
    samples,
    small_network,
)

INPUTS, TARGETS = samples()


class Loop:
    """A training function as a user writes it: shuffled epochs, dropout, a loss to keep."""

    def __init__(self, epochs: int = 1000, *, optimize: Any = None) -> None:
        self.model = small_network()
        make = optimize or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
        self.optimizer = make(self.model.parameters())
        self.epochs = epochs
        self.losses: list[float] = []
        self.ended = False

    def __call__(self) -> None:
        loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=32, shuffle=True)
        for _ in range(self.epochs):
            for inputs, targets in loader:
                self.optimizer.zero_grad()
                loss = CROSS_ENTROPY(self.model(inputs), targets)
                loss.backward()
                self.optimizer.step()
                self.losses.append(loss.item())
        self.ended = True


def watched(loop: Loop) -> GradientFlow:
    return GradientFlow(loop.model, loop.optimizer)


def bare_losses(epochs: int, seed: int = 0) -> list[float]:
    loop = Loop(epochs)
    torch.manual_seed(seed)
    loop()
    return loop.losses


class DynamicNet(nn.Module):
    """Of PyTorch's "Learning PyTorch with Examples": its depth is drawn in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.middle, self.output = nn.Linear(6, 20), nn.Linear(20, 20), nn.Linear(20, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = self.input(inputs).relu()
        for _ in range(random.randint(0, 3)):
            inputs = self.middle(inputs).relu()
        return self.output(inputs) * (0.9 + 0.1 * np.random.rand())


@pytest.mark.parametrize("watched", ["plainly", "by run", "with data"])
def test_a_model_that_draws_from_python_and_numpy_trains_as_it_does_bare(
    make_flow: Any, watched: str
) -> None:
    def seed() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model = DynamicNet()
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(6):
            loss = CROSS_ENTROPY(model(INPUTS), TARGETS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    losses: list[float] = []
    train(*seed())
    bare, losses = losses, []
    model, optimizer = seed()
    if watched == "with data":
        flow = make_flow(model, optimizer, CROSS_ENTROPY, [(INPUTS, TARGETS)], seed=0)
        losses = [reading.loss for reading in flow.steps(6)]
    else:
        flow = make_flow(model, optimizer)
        if watched == "by run":
            flow.run(lambda: train(model, optimizer))
            flow.wait()
        else:
            train(model, optimizer)
    assert same_bits(losses, bare)


# -- plain, in a cell ------------------------------------------------------------------


def test_a_plain_loop_is_recorded_and_not_changed(nothing_is_left: None) -> None:
    loop = Loop(4)
    flow = watched(loop)
    torch.manual_seed(0)
    loop()
    assert same_bits(loop.losses, bare_losses(4))
    assert same_bits(flow.history.loss, loop.losses)
    assert flow.step_number == 12
    assert "controls apply" not in flow.status  # a script has no cell that could end
    flow.close()


def test_the_knobs_act_on_a_plain_loop_through_the_optimizer_s_hooks() -> None:
    loop = Loop(1)
    flow = watched(loop)
    flow.learning_rate = 0.02
    flow.clip_norm = 1e-3
    loop()
    assert loop.optimizer.param_groups[0]["lr"] == 0.02
    assert (flow.history.learning_rate == 0.02).all()
    assert (flow.history.clip_scale < 1).all()
    assert (flow.history.total_norm > 1e-3).all()  # before clipping
    assert flow.history.latest.settings.clip_norm == 1e-3
    flow.close()


def test_clipping_acts_after_the_user_s_own_and_both_show() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer, clip_norm=0.01)
    CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
    total = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()
    reading = flow.history.latest
    assert reading.total_norm == pytest.approx(float(total), rel=1e-5)
    assert reading.clip_scale == pytest.approx(0.01 / float(total), rel=1e-3)
    flow.close()


def test_a_scheduler_in_the_user_s_loop_is_not_fought() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    flow = GradientFlow(model, optimizer)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
            optimizer.step()
            scheduler.step()

    train(3)
    flow.learning_rate = 0.8  # the scheduler goes on from here
    train(3)
    assert flow.history.learning_rate == pytest.approx([0.1, 0.05, 0.025, 0.8, 0.4, 0.2])
    flow.close()


@pytest.mark.parametrize("how", ["run", "plain"])
def test_the_knob_shows_what_a_scheduler_has_set_and_can_set_its_own_value_again(how: str) -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    flow = GradientFlow(model, optimizer)

    def train() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
            optimizer.step()
            scheduler.step()
        if how == "plain":
            flow._cell_ended()

    def trained() -> None:
        if how == "run":
            flow.run(train)
            flow.wait()
        else:
            train()

    trained()
    assert flow.learning_rate == pytest.approx(0.025)
    assert not flow._training.settings.learning_rate  # nobody has turned it
    flow.learning_rate = 0.1
    trained()
    assert flow.learning_rate == pytest.approx(0.025)
    flow.learning_rate = 0.1  # what was turned last, once more
    trained()
    rates = [0.1, 0.05, 0.1, 0.05, 0.1, 0.05]
    assert flow.history.learning_rate == pytest.approx(rates)
    flow.close()


@pytest.mark.parametrize(("rate", "shown"), [(0.0, 0.0), (math.inf, 0.1), (math.nan, 0.1)])
def test_a_rate_that_no_knob_can_show_is_not_shown_and_stops_nothing(
    rate: float, shown: float
) -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer)

    def train() -> None:
        optimizer.zero_grad()
        CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate

    flow.run(train)
    flow.wait()
    assert flow.learning_rate == shown
    assert flow.step_number == 1
    flow.close()


def test_after_a_reset_the_knob_shows_the_first_rate_again() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, samples())
    flow.step()
    optimizer.param_groups[0]["lr"] = 0.02
    flow.step()
    assert flow.learning_rate == 0.02
    flow.reset()
    assert flow.learning_rate == 0.1
    flow.step()
    assert flow.history.learning_rate.tolist() == [0.1]
    flow.close()


def test_a_warm_up_from_zero_keeps_the_groups_ratio() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.3}]
    )
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    flow = GradientFlow(model, optimizer)
    assert flow.learning_rate == 0.0
    flow.learning_rate = 0.2
    CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.6])
    flow.close()


def test_before_the_first_step_of_a_loop_it_is_said_what_to_do(nothing_is_left: None) -> None:
    loop = Loop(1)
    flow = watched(loop)
    words = "No step yet: run your own loop in a cell, or hand it to run(loop)."
    assert flow.status.endswith(words)
    step(loop)
    flow.history  # noqa: B018
    assert words not in flow.status
    flow.reset()
    assert flow.status.endswith(words)
    flow.run(loop)
    flow.wait()
    assert words not in flow.status
    flow.close()


def test_gradients_without_a_step_of_the_optimizer_are_told_of(
    shell: FakeShell, make_flow: Any
) -> None:
    model = plain_network()
    flow = shell.run("a", lambda: make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1)))

    def by_hand() -> None:
        CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad

    words = "gradients have come, but step() of the optimizer"
    told: list[str] = []
    flow.observe(lambda change: told.append(change.new), "status")
    shell.run("b", by_hand)
    assert words in told[-1]  # though nobody has asked
    assert words in flow.status
    shell.run("c", flow.optimizer.step)
    assert "gradients have come" not in flow.status


def test_cells_with_plain_loops_repeat_themselves_after_a_reset(
    shell: FakeShell, make_flow: Any
) -> None:
    loop = Loop(2)
    flow = make_flow(loop.model, loop.optimizer)

    def losses() -> list[float]:
        """Run a loop in two cells, between which another draws."""
        loop.losses = []
        shell.run("b", loop)
        shell.run("c", loop)
        shell.run("b", loop)
        return loop.losses

    first = losses()
    flow.reset()
    shell.run("d", lambda: torch.rand(3))
    assert same_bits(losses(), first)
    flow.reset(seed=5)
    other = losses()
    assert not same_bits(other[:6], first[:6])
    flow.reset()
    assert same_bits(losses()[:6], other[:6])
    flow.reset(seed=0)
    assert same_bits(losses(), first)


def test_a_cell_that_resets_before_its_loop_repeats_itself(
    shell: FakeShell, make_flow: Any
) -> None:
    loop = Loop(2)
    flow = make_flow(loop.model, loop.optimizer)

    def cell() -> list[float]:
        torch.rand(3)
        flow.reset()
        loop.losses = []
        loop()
        return loop.losses

    first = shell.run("b", cell)
    for _ in range(3):
        assert same_bits(shell.run("b", cell), first)


@pytest.mark.parametrize("in_cells", [True, False])
def test_a_reset_moves_no_generator_that_others_draw_from(
    shell: FakeShell, make_flow: Any, in_cells: bool
) -> None:
    run = shell.run if in_cells else lambda _, cell: cell()
    loop = Loop(2)
    flow = make_flow(loop.model, loop.optimizer)
    drawn = []

    def cell() -> None:
        drawn.append(torch.rand(3))
        loop()

    run("b", cell)
    before = torch.get_rng_state()
    flow.reset()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(run("c", lambda: torch.rand(3)), drawn[0])
    run("b", cell)
    assert torch.equal(drawn[0], drawn[1]) == in_cells


def test_a_cell_does_not_wait_for_the_step_of_another_widget(
    shell: FakeShell, make_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who waits for the step now waits until it gives up waiting for the cell.
    monkeypatch.setattr("gradflow_widget.random_generators.PATIENCE", 2 * PATIENCE)
    stepping, goes_on = threading.Event(), threading.Event()
    heard: list[bool] = []

    def slow(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            stepping.set()
            heard.append(goes_on.wait(PATIENCE))
        return CROSS_ENTROPY(outputs, targets)

    loop = Loop(1)
    make_flow(loop.model, loop.optimizer)  # at rest
    busy = make_flow(plain_network, lambda p: torch.optim.SGD(p, lr=0.1), slow, samples())
    busy.play()
    assert stepping.wait(PATIENCE)
    shell.run("b", goes_on.set)
    busy.pause()
    busy.wait()
    assert heard[0]


def test_a_plain_loop_clears_the_failure_of_one_before(nothing_is_left: None) -> None:
    loop = Loop(1)
    flow = watched(loop)

    def failing() -> None:
        raise LookupError("no such file")

    flow.run(failing)
    with pytest.raises(LookupError):
        flow.wait()
    assert "Training stopped: LookupError" in flow.status
    loop()
    assert "LookupError" not in flow.status
    assert flow.wait()
    flow.close()


def test_there_is_nothing_to_play_without_data(nothing_is_left: None) -> None:
    flow = watched(Loop())
    for use in (flow.play, flow.step, lambda: flow.steps(1), lambda: setattr(flow, "playing", 1)):
        with pytest.raises(RuntimeError, match=r"give loss_fn and data, or .* run\(loop\)\.$"):
            use()
    assert not flow.playing
    flow.close()


def half_way_elsewhere(loop: Loop) -> tuple[threading.Thread, threading.Event]:
    """Let another thread make two plain steps, the second when the event is set."""
    gate, at_gate = threading.Event(), threading.Event()

    def two_steps() -> None:
        step(loop)
        at_gate.set()
        assert gate.wait(PATIENCE)
        step(loop)

    thread = started(two_steps)
    assert at_gate.wait(PATIENCE)
    return thread, gate


def test_a_reset_from_elsewhere_does_not_tear_at_a_plain_loop_under_way() -> None:
    loop = Loop()
    flow = watched(loop)
    thread, gate = half_way_elsewhere(loop)
    with pytest.raises(RuntimeError, match=r"your own loop .* run\(loop\)\.$"):
        flow.reset()
    gate.set()
    join(thread)
    assert flow.step_number == 2
    flow.reset()
    assert flow.step_number == 0
    flow.close()


@pytest.mark.parametrize("call", ["play", "step", "steps", "run", "press", "key"])
def test_steps_from_elsewhere_do_not_stop_a_plain_loop_under_way(
    call: str, nothing_is_left: None
) -> None:
    loop = Loop()
    flow = GradientFlow(loop.model, loop.optimizer, CROSS_ENTROPY, samples())
    thread, gate = half_way_elsewhere(loop)
    if call in ("press", "key"):
        flow._press({"press": "toggle", "key": "step"}[call])
        assert "your own loop is training this model in a cell" in flow.status
    else:
        calls = {"play": (), "step": (), "steps": (1,), "run": (lambda: None,)}
        with pytest.raises(RuntimeError, match=r"your own loop .* run\(loop\)\.$"):
            getattr(flow, call)(*calls[call])
    assert not flow.playing
    gate.set()
    join(thread)
    assert flow.step_number == 2
    flow.step()
    assert flow.step_number == 3
    flow.close()


def step(loop: Loop) -> None:
    loop.optimizer.zero_grad()
    CROSS_ENTROPY(loop.model(INPUTS), TARGETS).backward()
    loop.optimizer.step()


# -- run(loop) -------------------------------------------------------------------------


@pytest.fixture
def running(nothing_is_left: None) -> Any:
    made: list[GradientFlow] = []

    def run(loop: Loop, **kwargs: Any) -> GradientFlow:
        flow = GradientFlow(loop.model, loop.optimizer, **kwargs)
        made.append(flow)
        flow.run(loop)
        return flow

    yield run
    for flow in made:
        flow.close()


def test_run_trains_on_the_session_s_thread_and_wait_returns_at_its_end(running: Any) -> None:
    loop = Loop(5)
    torch.manual_seed(0)
    flow = running(loop)
    assert flow.wait()
    assert loop.ended
    assert not flow.playing
    assert same_bits(loop.losses, bare_losses(5))
    assert same_bits(flow.history.loss, loop.losses)
    flow.run(loop)  # and once more
    flow.wait()
    assert len(loop.losses) == 30


def test_play_pause_and_step_act_on_the_loop(running: Any) -> None:
    loop = Loop()
    flow = running(loop)
    flow.wait(4)
    flow.pause()
    flow.wait()
    done = flow.step_number
    for more in (1, 2, 5):
        flow.step(more)
        done += more
        assert flow.step_number == len(flow.history) == done
    assert "paused" in flow.status
    flow.play()
    assert flow.playing
    flow.wait(10)
    assert flow.step_number >= done + 10


def test_step_right_after_run_does_exactly_one_step(nothing_is_left: None) -> None:
    loop = Loop()
    flow = watched(loop)
    enter = threading.Event()

    def held_back() -> None:
        assert enter.wait(PATIENCE)
        loop()

    flow.run(held_back)
    threading.Timer(0.05, enter.set).start()
    flow.step(1)
    assert flow.step_number == len(loop.losses) + 1 == 1  # it stands in its optimizer's step
    flow.close()


def test_learning_rate_and_clipping_act_on_the_next_step_of_the_loop(running: Any) -> None:
    flow = running(Loop())
    flow.pause()
    flow.wait()
    before = flow.step_number
    flow.learning_rate, flow.clip_value = 0.03, 1e-4
    flow.step(2)
    assert (flow.history.learning_rate[before:] == 0.03).all()
    # A matrix of 36 elements, each clipped to 1e-4.
    assert flow.history.weight_grad_norm[before:].max() <= 1.001 * 6e-4


def test_an_exception_in_the_loop_is_raised_by_wait_and_shown(running: Any) -> None:
    class Broken(Loop):
        def __call__(self) -> None:
            step(self)
            step(self)
            raise KeyError("a batch\nis missing")

    loop = Broken()
    flow = running(loop)
    with pytest.raises(KeyError, match="is missing") as caught:
        flow.wait()
    assert caught.traceback[-1].name == "__call__"
    assert "Training stopped: KeyError" in flow.status
    assert "\n" not in flow.status
    assert flow.step_number == 2
    assert not flow.playing
    flow.run(lambda: step(loop))
    assert flow.wait()
    assert "stopped" not in flow.status


def test_reset_restarts_the_loop_with_the_first_weights_and_the_same_random_numbers(
    running: Any,
) -> None:
    loop = Loop()
    flow = running(loop)
    flow.wait(7)
    flow.pause()
    flow.wait()
    first = loop.losses[:]
    flow.reset()
    loop.losses.clear()
    assert flow.step_number == 0
    flow.step(len(first) + 1)  # it rests within its optimizer's step
    assert same_bits(loop.losses, first)
    flow.reset(seed=5)
    loop.losses.clear()
    flow.step(len(first) + 1)
    assert not same_bits(loop.losses, first)
    for _ in range(2):
        flow.reset(seed=0)
        loop.losses.clear()
        flow.step(len(first) + 1)
        assert same_bits(loop.losses, first)


def test_reset_restarts_a_loop_that_holds_an_optimizer_of_another_kind(
    nothing_is_left: None,
) -> None:
    loop = Loop()
    flow = GradientFlow(loop.model, loop.optimizer, CROSS_ENTROPY, (INPUTS, TARGETS))
    flow.optimizer_kind = "Adam"
    held = loop.optimizer = flow.optimizer
    flow.run(loop)
    flow.step(7)
    first = loop.losses[:]
    held.param_groups[0].update(lr=0.5, since=1)
    held.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    flow.reset()
    assert flow.optimizer is held
    assert not held.state
    assert len(held.param_groups) == 1
    # What a scheduler keeps there stays.
    assert (held.param_groups[0]["lr"], held.param_groups[0]["since"]) == (0.1, 1)
    loop.losses.clear()
    flow.step(len(first) + 1)  # it rests within its optimizer's step
    assert same_bits(loop.losses, first)
    flow.close()


@pytest.mark.parametrize("how", ["factory", "activation"])
def test_a_seed_that_makes_another_model_ends_the_loop(how: str, nothing_is_left: None) -> None:
    """It may hold the one before, which it would train unseen."""

    def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    model: Any = small_network if how == "factory" else small_network()
    flow = GradientFlow(model, optimizer_of, CROSS_ENTROPY, (INPUTS, TARGETS))
    if how == "activation":
        flow.activation = "relu"
    loop = Loop()
    loop.model, loop.optimizer = flow.model, flow.optimizer
    flow.run(loop)
    flow.step(3)
    flow.reset(seed=0)  # the present one: it starts again
    flow.step(3)
    assert flow.model is loop.model
    flow.reset(seed=5)
    assert flow.model is not loop.model
    loop.losses.clear()  # the step in which it rested was finished
    flow.step(3)  # by the widget itself
    assert flow.step_number == 3
    assert not loop.losses
    flow.close()


def test_play_and_step_can_be_pressed_while_there_is_a_loop(nothing_is_left: None) -> None:
    loop = Loop(1)
    flow = watched(loop)

    def can_be_pressed() -> list[bool]:
        return [
            not one.disabled for one in (flow._controls.play_button, flow._controls.step_button)
        ]

    assert can_be_pressed() == [False, False]
    flow.run(loop)
    assert can_be_pressed() == [True, True]
    flow.wait()
    assert can_be_pressed() == [False, False]

    def fails() -> None:
        raise KeyError("no such batch")

    flow.run(fails)
    with pytest.raises(KeyError):
        flow.wait()
    assert can_be_pressed() == [False, False]
    flow._press("step")  # by its key
    assert "KeyError: 'no such batch'. there is nothing to train with" in flow.status
    flow.close()


def test_a_loop_that_has_gone_over_to_another_optimizer_ends_with_its_session(
    nothing_is_left: None,
) -> None:
    """As one does that trains by a notebook's names, when a cell has given them to others."""
    names: dict[str, Any] = {"model": plain_network()}
    names["optimizer"] = torch.optim.SGD(names["model"].parameters(), lr=0.1)
    flow = GradientFlow(names["model"], names["optimizer"])
    standing, goes_on = threading.Event(), threading.Event()

    def loop() -> None:
        while True:
            names["optimizer"].zero_grad()
            CROSS_ENTROPY(names["model"](INPUTS), TARGETS).backward()
            if "new" in names:
                standing.set()
                assert goes_on.wait(PATIENCE)
            names["optimizer"].step()

    flow.run(loop)
    flow.wait(3)
    model = plain_network()
    names.update(new=True, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert standing.wait(PATIENCE)
    thread = flow._training._worker._thread
    ending = started(flow.close)
    wait_for(lambda: flow._training.closed)
    new = GradientFlow(model, names["optimizer"], CROSS_ENTROPY, samples())
    with closing(new):
        weight = model[0].weight.detach().clone()
        goes_on.set()
        join(thread, ending)
        assert torch.equal(model[0].weight, weight)
        new.step(2)
        assert new.step_number == 2


def test_a_loop_that_has_ended_repeats_itself_after_a_reset(nothing_is_left: None) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            picked = torch.randperm(len(INPUTS))[:8]
            CROSS_ENTROPY(model(INPUTS[picked]), TARGETS[picked]).backward()
            optimizer.step()

    def losses() -> Any:
        flow.run(loop)
        flow.wait()
        return flow.history.loss

    first = losses()
    flow.reset()
    assert same_bits(losses(), first)
    flow.reset(seed=5)
    other = losses()
    assert not same_bits(other, first)
    flow.reset()
    assert same_bits(losses(), other)
    flow.reset(seed=5)
    assert same_bits(losses(), other)
    flow.reset(seed=0)  # the first, though it began wherever the random state was
    assert same_bits(losses(), first)
    flow.reset(seed=0)
    assert same_bits(losses(), first)
    losses()  # begins where that one has ended
    flow.reset(seed=0)
    later = losses()
    flow.reset()
    assert same_bits(losses(), later)
    assert not same_bits(later, first)
    flow.reset()
    torch.manual_seed(0)  # who seeds by himself has his own numbers
    seeded = losses()
    flow.reset()
    torch.manual_seed(0)
    assert same_bits(losses(), seeded)
    flow.close()


def test_a_loop_that_a_cold_change_has_ended_repeats_itself_when_it_is_run_again(
    running: Any,
) -> None:
    loop = Loop()
    torch.manual_seed(1)
    flow = running(loop, loss_fn=CROSS_ENTROPY, data=(INPUTS, TARGETS))
    flow.wait(7)
    flow.pause()
    flow.wait()
    first = loop.losses[:]
    activation = flow.activation
    flow.activation = "relu"  # the loop's own model is not what is trained now
    flow.activation = activation
    loop.losses.clear()
    flow.run(loop)
    flow.wait(len(first) + 1)
    flow.pause()
    flow.wait()
    assert same_bits(loop.losses[: len(first)], first)


def test_reset_while_the_loop_plays_goes_on_playing(running: Any) -> None:
    flow = running(Loop())
    flow.wait(5)
    for _ in range(5):
        flow.reset()
        assert flow.playing
        flow.wait(3)
    assert flow.step_number < 10_000


def test_close_in_the_middle_unwinds_the_loop(nothing_is_left: None) -> None:
    loop = Loop()
    cleaned_up = []

    def tidy() -> None:
        try:
            loop()
        except Exception:
            cleaned_up.append("an except Exception must not see it")
        finally:
            cleaned_up.append("finally")

    flow = watched(loop)
    flow.run(tidy)
    flow.wait(3)
    flow.close()
    assert cleaned_up == ["finally"]
    assert not loop.ended
    with pytest.raises(RuntimeError, match=r"closed: make a new one\.$"):
        flow.run(loop)
    step(loop)  # no hook is left that would stop it


class Scaled(Loop):
    """A loop with a GradScaler that outlives it, and some work of its own after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        self.after = 0

    def __call__(self) -> None:
        while True:
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = CROSS_ENTROPY(self.model(INPUTS), TARGETS)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.losses.append(loss.item())
        self.after += 1


@pytest.mark.parametrize("rests", [False, True], ids=["playing", "paused"])
def test_whoever_wraps_the_optimizer_can_finish_the_last_step(
    nothing_is_left: None, rests: bool
) -> None:
    torch.manual_seed(0)
    flow = watched(loop := Scaled())
    flow.run(loop)
    if rests:
        flow.step(3)
    else:
        flow.wait(3)
    flow.close()
    steps = flow.step_number
    assert loop.after == steps
    for _ in range(3):  # of the user's own, without the widget
        loop.step()

    torch.manual_seed(0)
    alone = Scaled()
    for _ in range(steps + 3):
        alone.step()
    assert same_bits(loop.losses, alone.losses)


def test_a_reset_loop_begins_with_its_scaler_between_two_steps(running: Any) -> None:
    torch.manual_seed(0)
    loop = Scaled()
    flow = running(loop)
    flow.step(4)
    flow.reset()
    first = loop.losses[:]
    loop.losses.clear()
    flow.step(5)
    assert same_bits(loop.losses, first)


def test_a_loop_that_calls_no_module_ends_at_its_next_step(nothing_is_left: None) -> None:
    loop = Loop()
    weight = loop.model[0].weight

    def without_modules() -> None:
        while True:
            loop.optimizer.zero_grad()
            weight.square().sum().backward()
            loop.optimizer.step()

    flow = watched(loop)
    flow.run(without_modules)
    flow.step(2)
    before = weight.detach().clone()
    flow.close()
    assert torch.equal(weight, before)


def test_close_unwinds_a_paused_loop(nothing_is_left: None) -> None:
    flow = watched(loop := Loop())
    flow.run(loop)
    flow.wait(2)
    flow.pause()
    flow.wait()
    flow.close()
    assert not loop.ended


def test_an_observer_may_close_from_within_the_loop(nothing_is_left: None) -> None:
    flow = watched(loop := Loop())
    flow.observe(lambda change: flow.close() if change["new"] == 4 else None, "step_number")
    flow.run(loop)
    wait_for(lambda: not any(t.name == "gradflow-training" for t in threading.enumerate()))
    assert len(loop.losses) == 4
    step(loop)


def test_a_loop_can_t_reset_or_wait_for_itself(running: Any) -> None:
    loop = Loop()
    for act in ("reset", "wait", "step"):
        flow = GradientFlow(loop.model, loop.optimizer)

        def impossible(flow: GradientFlow = flow, act: str = act) -> None:
            step(loop)
            getattr(flow, act)()

        flow.run(impossible)
        with pytest.raises(RuntimeError, match=r"from a cell\.$"):
            flow.wait()
        flow.close()


class Watchful(nn.Module):
    """Sees whether the loop around it is between a step and the next whenever it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.network = plain_network()
        self.copying = Copying()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(inputs)
        return out


class Copying:
    def __init__(self) -> None:
        self.is_busy = False
        self.was_busy: list[bool] = []
        self.refuses = False

    def __deepcopy__(self, _: dict[int, Any]) -> Copying:
        for _ in range(50):
            self.was_busy.append(self.is_busy)
            threading.Event().wait(0.001)
        if self.refuses:
            raise TypeError("no copies of it are to be had")
        return self


@pytest.mark.parametrize("refused", [False, True])
def test_a_loop_stands_between_two_steps_while_its_model_is_copied(
    nothing_is_left: None, refused: bool
) -> None:
    """In a backward pass gradients that another thread reads make the process crash."""
    model = Watchful()
    copying = model.copying
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, (INPUTS, TARGETS))

    def loop() -> None:
        while True:
            copying.is_busy = True
            optimizer.zero_grad()
            CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
            copying.is_busy = False
            optimizer.step()

    try:
        flow.run(loop)
        flow.wait(3)
        copying.refuses = refused
        if refused:
            with pytest.raises(ValueError, match="no copies of it"):
                flow.activation = "relu"
            flow.wait(3)
            assert flow.playing
        else:
            flow.activation = "relu"
            assert not flow.playing
        assert copying.was_busy
        assert not any(copying.was_busy)
    finally:
        flow.close()


@pytest.mark.parametrize("how", ["reset", "activation"])
def test_a_loop_that_does_not_step_is_waited_for_boundedly(
    nothing_is_left: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("gradflow_widget.training.own_loop.PATIENCE", 0.1)
    loop, begun, release = Loop(), threading.Event(), threading.Event()
    flow = GradientFlow(loop.model, loop.optimizer, CROSS_ENTROPY, (INPUTS, TARGETS))

    def idle() -> None:
        begun.set()
        release.wait(PATIENCE)
        loop.optimizer.step()

    try:
        flow.run(idle)
        assert begun.wait(PATIENCE)
        with pytest.raises((RuntimeError, ValueError), match="not come to an optimizer step"):
            flow.reset() if how == "reset" else flow.set_trait("activation", "relu")
        release.set()
        assert flow.wait()
        assert flow.step_number == 1
    finally:
        release.set()
        flow.close()


def test_a_reset_that_is_refused_lets_the_loop_go_on(
    nothing_is_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.training.own_loop.PATIENCE", 0.1)
    loop, stepped, release = Loop(), threading.Event(), threading.Event()

    def saves_for_long() -> None:
        for _ in range(5):
            step(loop)
            stepped.set()
            release.wait(PATIENCE)

    flow = watched(loop)
    try:
        flow.run(saves_for_long)
        assert stepped.wait(PATIENCE)
        flow.pause()
        with pytest.raises(RuntimeError, match="not come to an optimizer step"):
            flow.reset()
        release.set()
        flow.step()  # it stands behind its second one
        release.clear()
        with pytest.raises(RuntimeError, match="called no module since its optimizer step"):
            flow.reset()
        release.set()
        flow.play()
        assert flow.wait()
        assert flow.step_number == 5
    finally:
        release.set()
        flow.close()


def test_a_loop_that_is_ended_may_call_modules_to_tidy_up(nothing_is_left: None) -> None:
    loop, done = Loop(), []

    def tidy() -> None:
        try:
            loop()
        finally:
            with torch.no_grad():
                loop.model(INPUTS)
            done.append("tidied up")

    flow = watched(loop)
    flow.run(tidy)
    flow.step(2)
    flow.close()
    assert done == ["tidied up"]


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Transformed(Dataset[Any]):
    """Samples that go through a module, as torchvision's transforms do."""

    def __init__(self) -> None:
        self.transform = Doubled()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.transform(INPUTS[index]), TARGETS[index]


def test_workers_of_a_loop_that_ends_are_not_ended(nothing_is_left: None) -> None:
    loop, passes = Loop(), []

    def over_workers() -> None:
        while True:
            loader = DataLoader(Transformed(), batch_size=4, num_workers=1)
            for inputs, targets in loader:
                passes.append(len(inputs))
                loop.optimizer.zero_grad()
                CROSS_ENTROPY(loop.model(inputs), targets).backward()
                loop.optimizer.step()

    flow = watched(loop)
    flow.run(over_workers)
    flow.step(2)
    flow.close()
    # Behind the second step it began a pass, whose batch its workers have made.
    assert passes == [4, 4, 4]


def test_a_loop_that_has_not_ended_after_close_is_named_to_who_comes_next(
    nothing_is_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.training.session.PATIENCE", 0.1)
    loop, begun, release = Loop(), threading.Event(), threading.Event()
    flow = GradientFlow(loop.model, loop.optimizer)

    def evaluates() -> None:
        begun.set()
        release.wait(PATIENCE)
        step(loop)

    try:
        flow.run(evaluates)
        assert begun.wait(PATIENCE)
        flow.close()
        with pytest.raises(ValueError, match="that was closed, whose loop or step has not ended"):
            GradientFlow(loop.model, loop.optimizer)
    finally:
        release.set()
    join(flow._training._worker._thread)
    GradientFlow(loop.model, loop.optimizer).close()


def test_steps_left_half_way_do_not_go_on_beside_a_loop(nothing_is_left: None) -> None:
    loop, release = Loop(), threading.Event()
    flow = GradientFlow(loop.model, loop.optimizer, CROSS_ENTROPY, (INPUTS, TARGETS))
    try:
        steps = flow.steps(50)
        next(steps)
        flow.run(lambda: step(loop) if release.wait(PATIENCE) else None)
        with pytest.raises(RuntimeError, match="your own loop is under way: wait"):
            next(steps)
        release.set()
        assert flow.wait()
        assert flow.step_number == 2
    finally:
        release.set()
        flow.close()


@pytest.mark.parametrize("trains", ["loop", "widget"])
def test_a_plain_loop_beside_another_is_refused_before_its_gradients_are_read(
    running: Any, monkeypatch: pytest.MonkeyPatch, trains: str
) -> None:
    """Two threads that look at the gradients of one model make the process crash."""
    read_by: set[int] = set()

    def seen(name: str) -> None:
        original = getattr(Gradients, name)

        def method(self: Gradients, *args: Any, **kwargs: Any) -> Any:
            read_by.add(threading.get_ident())
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Gradients, name, method)

    for name in ("before_backward", "after_backward", "read"):
        seen(name)
    loop = Loop(1000 if trains == "loop" else 1)
    flow = running(loop, loss_fn=CROSS_ENTROPY, data=(INPUTS, TARGETS))
    message = r"handed to run\(\) is training this model: pause"
    if trains == "widget":
        flow.wait()
        flow.play()
        message = r"widget is training this model itself: pause\(\)"
    flow.wait(2)
    loss_of_another = loop.model(INPUTS).detach() @ torch.ones(3, requires_grad=True)
    loss_of_another.sum().backward()
    with pytest.raises(RuntimeError, match=message):
        loop.optimizer.step()
    flow.wait(2)
    flow.pause()
    flow.wait()
    assert len(read_by) == 1
    assert threading.get_ident() not in read_by


class Pair:
    """A loop that steps two watched optimizers, each before a page of its own."""

    def __init__(
        self, steps: int, *, second_confirms: bool = True, page_takes: float = 0.0
    ) -> None:
        self.page_takes = page_takes  # seconds for each frame
        self.models = [nn.Linear(2, 1), nn.Linear(2, 1)]
        self.optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in self.models]
        self.flows = [
            GradientFlow(*both) for both in zip(self.models, self.optimizers, strict=True)
        ]
        self.steps = steps
        for flow, confirms in zip(self.flows, (True, second_confirms), strict=True):
            self._show(flow, confirms=confirms)

    def _show(self, flow: GradientFlow, *, confirms: bool) -> None:
        publisher = flow._stage.publisher

        def send(message: dict[str, Any], _: object) -> None:
            if confirms and message["type"] == "frame":
                answer = {"type": "confirm", "page": "page", "frame": message["number"]}
                if self.page_takes:
                    threading.Timer(self.page_takes, publisher.receive, [answer]).start()
                else:
                    publisher.receive(answer)

        publisher._send = send
        publisher.receive({"type": "view", "page": "page", "visible": True})

    def __call__(self) -> None:
        for _ in range(self.steps):
            for model, optimizer in zip(self.models, self.optimizers, strict=True):
                optimizer.zero_grad()
                model(torch.randn(4, 2)).square().mean().backward()
                optimizer.step()

    def close(self) -> None:
        for flow in self.flows:
            flow.close()


@pytest.mark.parametrize("page_takes", [0.0, 0.05])
def test_each_step_of_two_watched_optimizers_is_drawn(
    nothing_is_left: None, monkeypatch: pytest.MonkeyPatch, page_takes: float
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", PATIENCE)
    with closing(Pair(10, page_takes=page_takes)) as pair:
        first, second = pair.flows
        first.run(pair)
        first.wait()
        for flow in (first, second):
            wait_for(lambda drawn=flow._stage.publisher: drawn.steps_drawn == 10)


@pytest.mark.parametrize("ends", ["pause", "reset", "close", "close the second", "hide"])
def test_a_second_page_that_says_nothing_keeps_nobody_for_long(
    nothing_is_left: None, ends: str
) -> None:
    with closing(Pair(1000, second_confirms=False)) as pair:
        first, second = pair.flows
        first.run(pair)
        wait_for(lambda: not second._stage.publisher.has_room())
        began = time.monotonic()
        if ends == "close the second":
            second.close()
        elif ends == "hide":
            second._stage.publisher.receive({"type": "view", "page": "page", "visible": False})
        else:
            getattr(first, ends)()
        if ends in ("close the second", "hide"):
            first.wait(5)
        assert time.monotonic() - began < PATIENCE / 3


def test_a_loop_that_steps_two_watched_optimizers_is_told_to_both(running: Any) -> None:
    generator, discriminator = nn.Linear(2, 2), nn.Linear(2, 1)
    of_generator = torch.optim.SGD(generator.parameters(), lr=0.01)
    of_discriminator = torch.optim.SGD(discriminator.parameters(), lr=0.01)

    def adversaries() -> None:
        while not ended.is_set():
            of_discriminator.zero_grad()
            discriminator(generator(torch.randn(8, 2)).detach()).mean().backward()
            of_discriminator.step()
            of_generator.zero_grad()
            (-discriminator(generator(torch.randn(8, 2))).mean()).backward()
            of_generator.step()

    ended = threading.Event()
    second = GradientFlow(discriminator, of_discriminator)
    first = GradientFlow(generator, of_generator)
    try:
        first.run(adversaries)
        first.wait(3)
        wait_for(lambda: "runs under another widget: play and pause it there" in second.status)
        assert "cell" not in second.status
        with pytest.raises(RuntimeError, match="under another widget: pause it there"):
            second.reset()
        with pytest.raises(RuntimeError, match="under another widget: pause it there"):
            second.load_preset("vanishing sigmoid")
        second.learning_rate = 0.5  # acts at once: no cell runs
        first.wait(3)
        assert second.history.latest.learning_rate == 0.5
        first.pause()
        first.wait()
        wait_for(lambda: "paused" in second.status and "another" not in second.status)
        assert f"step {second.step_number}" in second.status
        first.step(2)
        wait_for(lambda: f"step {second.step_number}" in second.status)
        assert second.step_number == len(second.history) == first.step_number
        first.play()
        first.wait(2)
        wait_for(lambda: "another widget" in second.status)
        ended.set()
        first.wait()
        wait_for(lambda: "another" not in second.status)
        second.reset()
        assert second.step_number == 0
    finally:
        ended.set()
        first.close()
        second.close()


def test_a_loop_that_never_steps_the_watched_optimizer_says_so(nothing_is_left: None) -> None:
    loop = Loop()
    elsewhere = torch.optim.SGD(loop.model.parameters(), lr=0.1)

    def steps_another() -> None:
        CROSS_ENTROPY(loop.model(INPUTS), TARGETS).backward()
        elsewhere.step()

    flow = GradientFlow(loop.model, loop.optimizer)
    try:
        flow.run(steps_another)
        with pytest.raises(RuntimeError, match=r"without a step\(\) of the optimizer that"):
            flow.wait()
        assert "without a step() of the optimizer" in flow.status
        loop.epochs = 1
        flow.run(loop)  # one that does makes good
        flow.wait()
        assert flow.step_number == 3
        assert "without" not in flow.status
    finally:
        flow.close()


def test_parameters_that_come_later_are_missed_in_words(nothing_is_left: None) -> None:
    model = small_network()
    head = list(model[-1].parameters())
    optimizer = torch.optim.SGD(head, lr=0.1)
    flow = GradientFlow(model, optimizer)

    def one_step() -> float:
        optimizer.zero_grad()
        CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
        optimizer.step()
        squares = [float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return sum(squares) ** 0.5

    try:
        one_step()
        rest = [p for p in model.parameters() if all(p is not one for one in head)]
        optimizer.add_param_group({"params": rest})  # an unfrozen backbone has its bars
        total = one_step()
        flow.history  # noqa: B018
        assert "no bar" not in flow.status
        assert flow.history.latest.total_norm == pytest.approx(total, rel=1e-6)
        model.append(nn.Linear(3, 3))
        optimizer.add_param_group({"params": model[-1].parameters()})
        one_step()
        assert "parameters since that have no bar and count in no norm" in flow.status
    finally:
        flow.close()


def test_steps_are_refused_while_a_loop_is_under_way(running: Any) -> None:
    flow = running(Loop())
    with pytest.raises(RuntimeError, match="under way"):
        flow.steps(2)
    with pytest.raises(TypeError, match="loop must be a function"):
        flow.run(None)
    flow.wait(2)  # which goes on


@pytest.mark.parametrize("how", ["playing", "paused", "reset", "just begun"])
def test_another_loop_takes_the_place_of_the_one_under_way(running: Any, how: str) -> None:
    before = Loop()
    flow = running(before)
    if how != "just begun":
        flow.wait(3)
    if how != "playing":
        flow.pause()
    if how == "reset":
        flow.reset()
        assert flow.step_number == 0
    edited = Loop(2)
    edited.model, edited.optimizer = before.model, before.optimizer
    flow.run(edited)
    ended_with = len(before.losses)
    flow.wait()
    assert edited.ended
    assert not before.ended
    assert len(before.losses) == ended_with
    recorded = edited.losses if how == "reset" else before.losses + edited.losses
    assert same_bits(flow.history.loss, recorded)  # it goes on from where the model was
    flow.run(edited)  # and once more
    flow.wait()
    assert len(edited.losses) == 12


def test_another_loop_takes_the_place_of_one_that_is_just_ending(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_ended, goes_on = threading.Event(), threading.Event()
    run = OwnLoop.run

    def run_slowly(self: OwnLoop) -> BaseException | None:
        failure = run(self)
        has_ended.set()
        goes_on.wait(PATIENCE)
        return failure

    monkeypatch.setattr(OwnLoop, "run", run_slowly)
    flow = running(first := Loop(1))
    assert has_ended.wait(PATIENCE)
    last = Loop(2)
    last.model, last.optimizer = first.model, first.optimizer
    flow.run(last)
    goes_on.set()
    flow.wait()
    assert first.ended
    assert last.ended
    assert flow.step_number == 9


def test_another_loop_waits_in_vain_for_one_that_comes_to_no_step(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.training.own_loop.PATIENCE", 0.05)
    loop, goes_on = Loop(2), threading.Event()

    def stuck() -> None:
        goes_on.wait(PATIENCE)
        loop()

    flow = GradientFlow(loop.model, loop.optimizer)
    try:
        flow.run(stuck)
        with pytest.raises(RuntimeError, match=r"has not come to an optimizer step for .* again"):
            flow.run(loop)
        goes_on.set()
        flow.wait()
        assert len(loop.losses) == flow.step_number == 6
    finally:
        goes_on.set()
        flow.close()


def test_a_loop_can_t_start_another(running: Any) -> None:
    loop = Loop(1)
    refusals: list[str] = []

    def restless() -> None:
        with pytest.raises(RuntimeError) as caught:
            flow.run(loop)
        refusals.append(str(caught.value))
        loop()

    flow = GradientFlow(loop.model, loop.optimizer)
    try:
        flow.run(restless)
        flow.wait()
    finally:
        flow.close()
    assert refusals == ["your own loop can't start another: call run() from a cell."]
    assert loop.ended


def test_with_data_the_widget_trains_again_when_the_loop_has_ended(running: Any) -> None:
    flow = running(Loop(1), loss_fn=CROSS_ENTROPY, data=(INPUTS, TARGETS))
    flow.wait()
    flow.step(2)
    assert flow.step_number == 5
    assert [reading.step for reading in flow.steps(2)] == [6, 7]


def test_control_of_a_loop_from_many_threads(running: Any) -> None:
    flow = running(Loop())
    until = time.monotonic() + 1.5
    failures: list[BaseException] = []

    def body(seed: int) -> None:
        draw = random.Random(seed)
        acts = [
            flow.play,
            flow.pause,
            flow.step,
            flow.reset,
            lambda: flow.wait(timeout=0.01),
            lambda: setattr(flow, "learning_rate", draw.choice([0.1, 0.2])),
            lambda: setattr(flow, "clip_norm", draw.choice([None, 1.0])),
        ]
        try:
            while time.monotonic() < until:
                draw.choice(acts)()
        except BaseException as error:
            failures.append(error)

    join(*[started(partial(body, seed)) for seed in range(4)])
    assert failures == []
    flow.pause()
    flow.wait()
    assert flow.step_number == len(flow.history)


def markers(flow: GradientFlow) -> list[str]:
    return [text for _, text in flow._stage.loss._turns]


def test_the_batch_size_of_a_loop_is_changed_in_the_loop(running: Any) -> None:
    flow = running(Loop(), data=samples(), loss_fn=CROSS_ENTROPY)
    flow.wait(3)
    with pytest.raises(ValueError, match=r"^batch_size can't be changed: .* own loop, so change"):
        flow.batch_size = 7
    assert flow.batch_size == 64
    flow.wait(3)
    assert markers(flow) == []


def test_a_batch_size_set_within_a_plain_loop_holds_from_our_next_step_on(
    nothing_is_left: None,
) -> None:
    loop = Loop()
    flow = GradientFlow(loop.model, loop.optimizer, CROSS_ENTROPY, samples())
    step(loop)
    flow.batch_size = 7
    step(loop)
    assert markers(flow) == []
    flow.step(2)
    assert markers(flow) == ["batch 7"]
    flow.close()

"""A reading of a model that is being trained: training makes way, and goes on as it would have."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget import take_reading, with_depth
from gradflow_widget.source_code.workbench import as_in_a_fresh_interpreter
from tests.waiting import PATIENCE, join, started

from .parts import CROSS_ENTROPY, losses_of, samples, small_network

LOOKS = 20


@pytest.mark.parametrize("owner", ["widget", "own loop"])
def test_looks_at_a_model_that_plays_change_nothing_of_its_training(
    make_flow: Any, owner: str
) -> None:
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs, targets = samples()
    if owner == "widget":
        flow = make_flow(model, optimizer, CROSS_ENTROPY, (inputs, targets))
        play = flow.play
    else:
        flow = make_flow(model, optimizer)

        def loop() -> None:
            while True:
                optimizer.zero_grad()
                CROSS_ENTROPY(model(inputs), targets).backward()
                optimizer.step()

        def play() -> None:
            flow.run(loop)

    flow.speed = "max"
    for look in range(LOOKS):
        if look == 0:
            play()
        flow.wait(steps=3)
        reading = take_reading(flow.model, CROSS_ENTROPY, inputs, targets)
        assert reading.loss < 5
    flow.pause()
    if owner == "widget":
        flow.wait()
    seen = flow.history.loss.tolist()
    assert len(seen) >= LOOKS
    if owner == "widget":
        flow.reset()
        assert losses_of(flow, len(seen)) == seen


def test_a_look_from_within_a_step_is_taken_at_once(make_flow: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    inputs, targets = samples()
    looks: list[float] = []

    def objective(network: nn.Module, batch: Any) -> torch.Tensor:
        looks.append(take_reading(network, CROSS_ENTROPY, inputs, targets).loss)
        return CROSS_ENTROPY(network(batch[0]), batch[1])

    flow = make_flow(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        objective=objective,
        data=(inputs, targets),
    )
    flow.step(2)
    assert len(looks) >= 2
    flow.close()
    assert take_reading(model, CROSS_ENTROPY, inputs, targets).loss > 0


class Meeting:
    """Somebody draws in the middle of a step while somebody else holds the random state back."""

    def __init__(self) -> None:
        self.looks, self.has_drawn = threading.Event(), threading.Event()

    def look(self) -> None:
        self.looks.set()
        assert self.has_drawn.wait(PATIENCE)


class Block(nn.Module):
    """One that is drawn when a model is deepened."""

    meeting: Meeting | None = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if Block.meeting is not None:
            Block.meeting.look()
        nn.init.normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


DATA = samples()
OTHER, BLOCKS = nn.Linear(6, 3), nn.Sequential(Block(), Block())


def read(meeting: Meeting) -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        meeting.look()
        return CROSS_ENTROPY(outputs, targets)

    take_reading(OTHER, loss, *DATA)


def deepen(meeting: Meeting) -> None:
    Block.meeting = meeting
    try:
        with_depth(BLOCKS, 3)
    finally:
        Block.meeting = None


def run_a_recipe(meeting: Meeting) -> None:
    with as_in_a_fresh_interpreter():
        meeting.look()


def losses_beside(make_flow: Any, work: Callable[[Meeting], object] | None) -> list[float]:
    """Train a step whose loss draws twice, with ``work`` begun by another thread before it."""
    # Long enough for who is not kept out; who is kept out comes when the step is over.
    patience = 0.3
    threads: list[threading.Thread] = []

    def objective(network: nn.Module, batch: Any) -> torch.Tensor:
        meeting = Meeting()
        if work is not None:
            threads.append(started(lambda: work(meeting)))
            meeting.looks.wait(patience)
        first = torch.rand(())
        meeting.has_drawn.set()
        if work is not None:
            threads[-1].join(patience)
        return (first + torch.rand(())) * CROSS_ENTROPY(network(batch[0]), batch[1])

    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = make_flow(model, optimizer, objective=objective, data=DATA)
    flow.step()
    join(*threads)
    return flow.history.loss.tolist()


@pytest.mark.parametrize("work", [read, deepen, run_a_recipe])
def test_what_puts_the_random_state_back_keeps_out_of_a_step(
    make_flow: Any, work: Callable[[Meeting], None]
) -> None:
    assert losses_beside(make_flow, work) == losses_beside(make_flow, None)


def test_a_loop_that_is_reset_puts_its_random_state_back_between_two_steps(make_flow: Any) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ended = make_flow(model, optimizer)

    def loop() -> None:
        optimizer.zero_grad()
        CROSS_ENTROPY(model(DATA[0]), DATA[1]).backward()
        optimizer.step()

    ended.run(loop)
    ended.wait()

    def reset(meeting: Meeting) -> None:
        meeting.looks.set()
        meeting.has_drawn.wait(PATIENCE)
        ended.reset()

    assert losses_beside(make_flow, reset) == losses_beside(make_flow, None)


def test_a_look_waits_boundedly_for_a_step_that_waits_for_its_data(
    make_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.random_generators.PATIENCE", 0.1)
    asked, batches = threading.Event(), queue.SimpleQueue[Any]()

    class Fed:
        def __iter__(self) -> Iterator[Any]:
            yield DATA
            while True:
                asked.set()
                yield batches.get(timeout=PATIENCE)

    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, Fed())
    flow.play()
    for _ in range(2):
        assert asked.wait(PATIENCE)
        asked.clear()
        assert take_reading(OTHER, CROSS_ENTROPY, *DATA).loss > 0
        batches.put(DATA)
    assert asked.wait(PATIENCE)
    flow.pause()
    batches.put(DATA)
    flow.wait()
    assert flow.step_number >= 3

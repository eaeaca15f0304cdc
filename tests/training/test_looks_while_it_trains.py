"""A reading of a model that is being trained: training makes way, and goes on as it would have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget import take_reading

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

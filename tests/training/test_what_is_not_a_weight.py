"""What a run changes besides the model's weights: counters, hidden states, a loss's parameters."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow, take_reading
from gradflow_widget.measurement.attributes import PlainAttributes

from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples


class Counting(nn.Module):
    """Warms up over its first calls, and keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.calls = 0
        self.hidden: torch.Tensor | None = None
        self.seen: list[torch.Tensor] = []
        self.scale = torch.ones(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.hidden = torch.tanh(self.first(x) * min(1.0, self.calls / 10)) * self.scale.clone()
        self.seen.append(self.hidden)
        self.scale.mul_(0.99)
        out: torch.Tensor = self.last(self.hidden)
        return out


class Centres(nn.Module):
    """A loss with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3, 3))

    def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = CROSS_ENTROPY(output, targets)
        return loss + (output - self.centres[targets]).square().mean()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def counting() -> Counting:
    torch.manual_seed(0)
    return Counting()


def test_a_loop_by_hand_has_the_same_losses(make_flow: Any) -> None:
    inputs, targets = samples()
    flow = make_flow(model := counting(), sgd(model.parameters()), CROSS_ENTROPY, samples())
    flow.batch_size = len(inputs)
    assert (model.calls, model.hidden, model.seen) == (0, None, [])
    found = losses_of(flow, 6)
    assert model.calls == 6

    by_hand, expected = counting(), []
    optimizer = sgd(by_hand.parameters())
    for _ in range(6):
        optimizer.zero_grad()
        loss = CROSS_ENTROPY(by_hand(inputs), targets)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    # The rows come in another order.
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_reset_begins_with_them_as_they_were(make_flow: Any) -> None:
    flow = make_flow(
        model := counting(), sgd(model.parameters()), CROSS_ENTROPY, samples(), validation=samples()
    )
    first = losses_of(flow, 6)
    flow.reset()
    assert (model.calls, model.hidden, model.seen) == (0, None, [])
    assert torch.equal(model.scale, torch.ones(8))
    assert same_bits(losses_of(flow, 6), first)


def test_a_changed_copy_begins_with_them_as_they_were(make_flow: Any) -> None:
    flow = make_flow(model := counting(), sgd(model.parameters()), CROSS_ENTROPY, samples())
    first = losses_of(flow, 4)
    flow.initialization = "he"
    assert (flow.model.calls, flow.model.hidden) == (0, None)
    assert torch.equal(flow.model.scale, torch.ones(8))
    losses_of(flow, 4)
    flow.initialization = "as given"
    assert same_bits(losses_of(flow, 4), first)


def test_a_model_that_keeps_some_of_its_graph_can_be_changed(make_flow: Any) -> None:
    """As those do that keep their features or attention maps for later."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = {"features": [self.act(self.first(x))]}
            out: torch.Tensor = self.last(self.kept["features"][0])
            return out

    model = Keeping()
    flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, samples())
    losses_of(flow, 3)
    flow.activation = "relu"
    assert isinstance(flow.model.act, nn.ReLU)
    losses_of(flow, 3)


def test_a_single_reading_leaves_them_as_they_were() -> None:
    model = counting()
    inputs, targets = samples()
    readings = [take_reading(model, CROSS_ENTROPY, inputs, targets) for _ in range(2)]
    assert (model.calls, model.hidden, model.seen) == (0, None, [])
    assert readings[0].loss == readings[1].loss


def test_containers_come_back_as_the_same_objects() -> None:
    model = nn.Linear(2, 2)
    model.some = some = {"list": [1], "deque": deque([2], maxlen=3), "set": {3}}
    model.items, model.queue, model.names = some["list"], some["deque"], some["set"]
    before = PlainAttributes(model)
    model.items.append(2)
    model.queue.append(3)
    model.names.clear()
    model.some["new"] = 1
    model.other = 5
    before.restore()
    assert model.some is some
    assert some == {"list": [1], "deque": deque([2]), "set": {3}}
    assert not hasattr(model, "other")


@pytest.mark.parametrize("source", ["given", "factories"])
def test_what_a_loss_learns_begins_anew_with_every_run(make_flow: Any, source: str) -> None:
    loss = Centres()
    if source == "given":
        model = plain_network()
        flow: GradientFlow = make_flow(
            model, sgd([*model.parameters(), *loss.parameters()]), loss, samples()
        )
    else:
        flow = make_flow(
            lambda activation="tanh": plain_network(),
            lambda parameters: sgd([*parameters, *loss.parameters()]),
            loss,
            samples(),
        )
    first = losses_of(flow, 5)
    assert loss.centres.abs().sum() > 0

    flow.reset()
    assert not loss.centres.any()
    assert same_bits(losses_of(flow, 5), first)

    flow.initialization = "orthogonal"
    assert not loss.centres.any()
    bars = flow._stage._shown
    losses_of(flow, 5)
    flow.reset()
    assert flow._stage._shown.loss == bars.loss

    losses_of(flow, 5)
    flow.initialization = "as given"
    assert same_bits(losses_of(flow, 5), first)

"""What a run changes besides the model's weights: counters, hidden states, a loss's parameters."""

from __future__ import annotations

import itertools
import random
from array import array
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow, take_reading
from gradflow_widget.iterators import at_the_same_place
from gradflow_widget.measurement.attributes import PlainAttributes
from gradflow_widget.training.optimizer_attributes import OptimizerAttributes

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


GENERATORS: dict[str, Any] = {
    "torch": (lambda: torch.Generator().manual_seed(1), lambda g: torch.rand(6, generator=g)),
    "numpy": (lambda: np.random.default_rng(1), lambda g: torch.from_numpy(g.random(6)).float()),
    "numpy of old": (
        lambda: np.random.RandomState(1),
        lambda g: torch.from_numpy(g.rand(6)).float(),
    ),
    "python": (lambda: random.Random(1), lambda g: torch.tensor([g.random() for _ in range(6)])),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_of_the_model_s_own_draws_the_same(make_flow: Any, kind: str) -> None:
    make, draw = GENERATORS[kind]

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = plain_network()
            self.generator = make()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.network(x + draw(self.generator))
            return out

    model, (inputs, targets) = Noisy(), samples()
    optimizer, losses = sgd(model.parameters()), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = CROSS_ENTROPY(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    flow = make_flow(Noisy(), sgd, CROSS_ENTROPY, [(inputs, targets)])
    assert losses_of(flow, 3) == losses
    flow.reset()
    assert losses_of(flow, 3) == losses
    flow.activation = "relu"
    flow.activation = "as given"
    assert losses_of(flow, 3) == losses


class Warming(torch.optim.SGD):
    """Counts its steps, and what they are made with, outside its state."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.steps, self.sum = 0, torch.zeros(())
        self.generator = torch.Generator().manual_seed(1)
        self.seen: dict[str, list[int]] = {"steps": []}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        self.sum += self.steps
        self.seen["steps"].append(self.steps)
        noise = torch.rand((), generator=self.generator)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(min(1.0, self.steps / 10) + 0.1 * noise)
        return super().step(closure)

    def as_it_is(self) -> Any:
        return self.steps, self.sum.item(), self.seen, self.generator.get_state().tolist()


class WithoutOptions(Warming):
    """Can't be made anew from its options alone."""

    def __init__(self, parameters: Any, name: str) -> None:
        super().__init__(parameters, lr=0.1)
        self.name = name


def test_what_an_optimizer_counts_outside_its_state_begins_anew_with_a_reset(
    make_flow: Any,
) -> None:
    model = plain_network()
    optimizer = Warming(model.parameters(), lr=0.1)
    beginning = repr(optimizer.as_it_is())
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    first = losses_of(flow, 5)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    flow.reset()
    assert repr(optimizer.as_it_is()) == beginning
    assert same_bits(losses_of(flow, 5), first)
    flow.activation = "relu"
    flow.activation = "tanh"
    assert repr(optimizer.as_it_is()) == beginning
    assert same_bits(losses_of(flow, 5), first)
    scheduler.step()


def test_a_changed_copy_has_an_optimizer_that_counts_from_the_beginning(make_flow: Any) -> None:
    model = plain_network()
    optimizer = WithoutOptions(model.parameters(), "mine")
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.step(5)
    flow.activation = "relu"
    assert (flow.optimizer.name, flow.optimizer.steps) == ("mine", 0)
    assert optimizer.steps == 5


def test_layers_that_a_loop_lets_learn_are_frozen_again_after_a_reset(make_flow: Any) -> None:
    model, (inputs, targets) = plain_network(), samples()
    model[0].requires_grad_(False)
    optimizer, runs = sgd(model.parameters()), []
    flow = make_flow(model, optimizer)

    def loop() -> None:
        runs.append([])
        for step in range(6):
            if step == 3:
                model[0].requires_grad_(True)
            optimizer.zero_grad()
            loss = CROSS_ENTROPY(model(inputs), targets)
            loss.backward()
            optimizer.step()
            runs[-1].append(loss.item())

    for _ in range(2):
        flow.run(loop)
        flow.wait()
        flow.reset()
        assert not model[0].weight.requires_grad
    assert runs[0] == runs[1]


def test_a_scheduler_that_keeps_numbers_in_the_groups_goes_on_after_a_reset(
    make_flow: Any,
) -> None:
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=50)
    for _ in flow.steps(2):
        scheduler.step()
    flow.reset()
    for _ in flow.steps(2):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0]


def test_a_look_leaves_weights_that_the_forward_pass_edits_and_what_asks_for_gradients() -> None:
    class Clamping(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.data.clamp_(-0.1, 0.1)
            self.bias.requires_grad_(False)
            return super().forward(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = Clamping(6, 8), nn.Linear(8, 3)
            self.averages = {"norm": torch.zeros(1)}
            self.table = np.zeros(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.averages["norm"].add_(1.0)
            self.table += 1
            out: torch.Tensor = self.last(self.first(x))
            return out

    model = Model()
    before = model.first.weight.detach().clone()
    take_reading(model, CROSS_ENTROPY, *samples())
    assert same_bits(model.first.weight.detach(), before)
    assert model.first.bias.requires_grad
    assert model.averages["norm"].item() == 0
    assert model.table.tolist() == [0, 0, 0]


class Slotted:
    __slots__ = ("calls", "last")

    def __init__(self) -> None:
        self.calls = 0


class Tallying(nn.Module):
    """Counts its calls in whatever Python and NumPy have for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.table = np.zeros(2)
        self.bytes, self.array = bytearray(2), array("d", [0.0])
        self.counter: Counter[str] = Counter(there=2)
        self.lists: dict[str, list[int]] = defaultdict(list)
        self.ordered = OrderedDict(first=1, second=2)
        self.slotted = Slotted()
        self.deep: Any = {"a": {"b": {"c": {"d": [0]}}}, "pair": ([0], 1)}
        self.numbers, self.circle = itertools.count(), itertools.cycle([1, 2, 3])
        self.within = {"numbers": itertools.count(5)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.table += 1
        self.bytes[0] += 1
        self.array[0] += 1
        self.counter["there"] += 1
        self.counter["new"] += 1
        self.lists["new"].append(1)
        self.ordered.move_to_end("first")
        self.slotted.calls += 1
        self.slotted.last = 1
        self.deep["a"]["b"]["c"]["d"][0] += 1
        self.deep["pair"][0][0] += 1
        next(self.numbers), next(self.circle), next(self.within["numbers"])
        out: torch.Tensor = self.last(torch.tanh(self.first(x)))
        return out

    def state(self) -> Any:
        return (
            self.table.tolist(),
            list(self.bytes),
            list(self.array),
            dict(self.counter),
            dict(self.lists),
            list(self.ordered),
            (self.slotted.calls, hasattr(self.slotted, "last")),
            repr(self.deep),
            repr(self.numbers),
            next(at_the_same_place(self.circle)),
            repr(self.within),
        )


def stepped_after_looks(make_flow: Any, model: Any) -> GradientFlow:
    """Make a widget and take a reading, which leave ``model.state()`` as it is; then step twice."""
    before = model.state()
    flow: GradientFlow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, samples())
    assert model.state() == before
    take_reading(model, CROSS_ENTROPY, *samples())
    assert model.state() == before
    flow.step(2)
    assert model.state() != before
    return flow


def test_what_a_model_counts_in_is_as_at_the_beginning_after_making_a_widget_and_a_reset(
    make_flow: Any,
) -> None:
    model = Tallying()
    before = model.state()
    flow = stepped_after_looks(make_flow, model)
    flow.activation = "relu"
    changed = flow.model
    assert changed.state() == before
    flow.reset()
    assert changed.state() == before
    flow.activation = "tanh"
    assert flow.model is model
    assert model.state() == before


@dataclass(frozen=True)
class Frozen:
    calls: list[int]


class Labelled(dict[str, int]):
    """A dictionary with an attribute beside its members."""

    calls = 0


class Namespace(dict[Any, Any]):
    """A dictionary whose attributes are its members."""

    def __init__(self, **members: Any) -> None:
        super().__init__(**members)
        self.__dict__ = self


class Nested(nn.Module):
    """Counts its calls in what lies around numbers, lists and dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.namespace = SimpleNamespace(calls=0, lists=[[0]])
        self.mixed = SimpleNamespace(calls=0, model=[self])
        self.frozen = Frozen([])
        self.user: Any = (UserDict(there=0), UserList([0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.namespace.calls += 1
        self.namespace.lists[0].append(1)
        self.namespace.new = True
        self.mixed.calls += 1
        self.frozen.calls.append(1)
        self.user[0]["there"] += 1
        self.user[1].append(1)
        out: torch.Tensor = self.last(torch.tanh(self.first(x)))
        return out

    def state(self) -> str:
        return repr((self.namespace, self.mixed.calls, self.frozen, self.user))


class Hiding(nn.Module):
    """Keeps a teacher, and a number that it learns, where ``parameters()`` does not see them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        inner = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), Counting())
        self.teacher = [inner]
        self.others = {"norm": (nn.BatchNorm1d(8),), "self": self, "first": [self.first]}
        self.scale = [nn.Parameter(torch.ones(1))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        teacher = self.teacher[0]
        hidden = torch.tanh(self.first(x)) + teacher[:2](x).detach()
        hidden = self.others["norm"][0](hidden) * self.scale[0].detach()
        teacher[0].eval()
        teacher[1].weight.data.mul_(0.9).add_(self.first.weight.data, alpha=0.1)
        teacher[2].calls += 1
        self.scale[0].data.mul_(0.9)
        out: torch.Tensor = self.last(hidden)
        return out

    def state(self) -> Any:
        teacher, norm = self.teacher[0], self.others["norm"][0]
        values = {**teacher.state_dict(), **norm.state_dict(prefix="norm."), "s": self.scale[0]}
        modes = [module.training for module in teacher.modules()]
        calls = teacher[2].calls
        return {name: value.tolist() for name, value in values.items()}, modes, calls


def test_what_lies_deeper_is_as_at_the_beginning_after_making_a_widget_and_a_reset(
    make_flow: Any,
) -> None:
    model = Nested()
    before, namespace = model.state(), model.namespace
    flow = stepped_after_looks(make_flow, model)
    flow.initialization = "he"
    assert flow.model.state() == before
    flow.step(2)
    flow.initialization = "as given"
    assert flow.model is model
    assert model.state() == before
    assert model.namespace is namespace


def test_a_single_reading_leaves_hidden_modules_as_they_were() -> None:
    model = Hiding()
    before = model.state()
    take_reading(model, CROSS_ENTROPY, *samples())
    assert model.state() == before


def test_every_run_begins_with_hidden_modules_as_they_were(make_flow: Any) -> None:
    model = Hiding()
    before, teacher, scale = model.state(), model.teacher[0], model.scale[0]
    flow: GradientFlow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, samples())
    assert model.state() == before
    first = losses_of(flow, 3)
    assert model.state() != before
    flow.reset()
    assert model.state() == before
    assert same_bits(losses_of(flow, 3), first)
    flow.initialization = "he"
    assert flow.model.state() == before
    flow.step(2)
    flow.initialization = "as given"
    assert model.state() == before
    assert same_bits(losses_of(flow, 3), first)
    assert (model.teacher[0], model.scale[0]) == (teacher, scale)


def test_a_single_reading_leaves_attributes_of_dictionaries_as_they_were() -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.labelled.calls += 1
            self.labelled["there"] += 1
            self.labelled.new = True
            self.own.calls += 1
            self.own[1] = 1
            return super().forward(x)

    model = Model(6, 3)
    model.labelled, model.own = Labelled(there=0), Namespace(calls=0)
    take_reading(model, CROSS_ENTROPY, *samples())
    assert (model.labelled, model.labelled.calls) == ({"there": 0}, 0)
    assert not hasattr(model.labelled, "new")
    assert model.own == {"calls": 0}


def test_a_copy_s_hidden_modules_are_its_own(make_flow: Any) -> None:
    flow = make_flow(model := Hiding(), sgd(model.parameters()), CROSS_ENTROPY, samples())
    flow.initialization = "he"
    changed, before = flow.model, model.state()
    assert type(changed.scale[0]) is nn.Parameter
    assert changed.teacher[0] is not model.teacher[0]
    flow.step(2)
    assert model.state() == before


def test_modules_that_an_optimizer_holds_are_not_kept_once_more() -> None:
    model = plain_network()
    optimizer = Warming(model.parameters(), lr=0.1)
    optimizer.model, optimizer.weights = model, list(model.parameters())
    kept = OptimizerAttributes(optimizer)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    kept.restore()
    assert (model[0].weight == 1.0).all()


def test_containers_come_back_as_the_same_objects() -> None:
    model = nn.Linear(2, 2)
    model.some = some = {"list": [1], "deque": deque([2], maxlen=3), "set": {3}}
    model.items, model.queue, model.names = some["list"], some["deque"], some["set"]
    before = PlainAttributes(model.modules())
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


class Centred(nn.Module):
    """A loss that keeps a running centre of the outputs, and learns how much it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        with torch.no_grad():
            self.centre = 0.9 * self.centre + 0.1 * output.mean(dim=0)
        return CROSS_ENTROPY(output - self.weight * self.centre, targets)

    def of_batch(self, model: nn.Module, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = self(model(batch[0]), batch[1])
        return loss

    def as_it_is(self) -> tuple[list[float], float, int]:
        return self.centre.tolist(), self.weight.item(), self.calls


class CentredObjective(Centred):
    """The same, called with the model."""

    def forward(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().forward(model(batch[0]), batch[1])


NEW = ([0.0, 0.0, 0.0], 1.0, 0)


def flow_with_loss(make_flow: Any, kind: str, loss: Any, model: nn.Module, **kwargs: Any) -> Any:
    optimizer = sgd([*model.parameters(), loss.weight])
    if kind == "loss_fn":
        return make_flow(model, optimizer, loss, samples(), **kwargs)
    objective = loss if kind == "objective" else loss.of_batch
    return make_flow(model, optimizer, data=samples(), objective=objective, **kwargs)


@pytest.mark.parametrize("kind", ["loss_fn", "objective", "method"])
def test_what_a_loss_holds_moves_with_the_steps_alone(kind: str, make_flow: Any) -> None:
    inputs, targets = samples()
    loss = CentredObjective() if kind == "objective" else Centred()
    model = plain_network()
    flow = flow_with_loss(make_flow, kind, loss, model, validation=samples())
    flow.batch_size = len(inputs)
    assert loss.as_it_is() == NEW
    found = losses_of(flow, 6)
    assert flow.accuracy > 0
    assert loss.calls == 6
    if kind == "loss_fn":
        take_reading(model, loss, inputs, targets)
        assert loss.calls == 6

    by_hand, by_hand_loss, expected = plain_network(), Centred(), []
    optimizer = sgd([*by_hand.parameters(), by_hand_loss.weight])
    for _ in range(6):
        optimizer.zero_grad()
        step_loss = by_hand_loss(by_hand(inputs), targets)
        step_loss.backward()
        optimizer.step()
        expected.append(step_loss.item())
    # The rows come in another order.
    assert found == pytest.approx(expected, rel=1e-5)

    flow.reset()
    assert loss.as_it_is() == NEW
    assert same_bits(losses_of(flow, 6), found)
    flow.initialization = "he"
    assert loss.as_it_is() == NEW
    flow.initialization = "as given"
    assert same_bits(losses_of(flow, 6), found)


def test_validation_moves_no_loss(make_flow: Any) -> None:
    runs = []
    for validation in (None, samples()):
        loss, model = Centred(), plain_network()
        flow = flow_with_loss(make_flow, "loss_fn", loss, model, validation=validation)
        losses = []
        for _ in range(3):
            losses += losses_of(flow, 2)
            flow.validations  # noqa: B018 - validates the latest step
        runs.append((losses, loss.as_it_is()))
    assert runs[0] == runs[1]


def test_an_attack_moves_no_loss(make_flow: Any) -> None:
    loss, model = Centred(), plain_network()
    flow = flow_with_loss(make_flow, "loss_fn", loss, model)
    flow.regime = {"adversarial": {"method": "pgd", "epsilon": 0.1, "steps": 2}}
    assert loss.as_it_is() == NEW
    losses_of(flow, 3)
    assert loss.calls == 3


def test_a_loss_that_holds_the_model_is_looked_at_without_it(make_flow: Any) -> None:
    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = plain_network(), 0

        def training_step(self, model: nn.Module, batch: Any) -> torch.Tensor:
            self.seen += 1
            return CROSS_ENTROPY(model(batch[0]), batch[1])

    learner = Learner()
    optimizer = sgd(learner.net.parameters())
    flow = make_flow(learner.net, optimizer, data=samples(), objective=learner.training_step)
    first = losses_of(flow, 4)
    assert learner.seen == 4
    flow.reset()
    assert learner.seen == 0
    assert same_bits(losses_of(flow, 4), first)


def test_a_look_leaves_gradients_as_they_were_whatever_the_objective_does(make_flow: Any) -> None:
    """One that seeks an adversarial input goes back through the model by itself."""

    def worst_case(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, targets = batch
        moved = inputs.clone().requires_grad_(True)
        CROSS_ENTROPY(model(moved), targets).backward()
        slope = moved.grad
        assert slope is not None
        return CROSS_ENTROPY(model(inputs + 0.1 * slope.sign()), targets)

    model = plain_network()
    make_flow(model, sgd(model.parameters()), data=samples(), objective=worst_case)
    assert all(parameter.grad is None for parameter in model.parameters())

    CROSS_ENTROPY(model(samples()[0]), samples()[1]).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    values = [gradient.clone() for gradient in gradients if gradient is not None]

    def loss_fn(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        CROSS_ENTROPY(output, targets).backward(retain_graph=True)
        return CROSS_ENTROPY(output, targets)

    take_reading(model, loss_fn, *samples())
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(p.grad, v) for p, v in zip(model.parameters(), values, strict=True))


def test_a_loss_may_make_its_weights_at_the_first_batch(make_flow: Any) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.LazyLinear(3)

        def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return CROSS_ENTROPY(self.head(output), targets)

    model = plain_network()
    flow = make_flow(model, sgd(model.parameters()), Projected(), samples(), validation=samples())
    first = losses_of(flow, 4)
    flow.reset()
    assert same_bits(losses_of(flow, 4), first)

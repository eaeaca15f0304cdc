"""Finding out what a model computes leaves the model as it was, whatever its forward writes."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import take_reading, with_activation
from gradflow_widget.plain_objects import is_plain_object
from gradflow_widget.tweaks.tracing import is_torch_layer, traced
from gradflow_widget.tweaks.write_guard import WriteGuard
from tests.waiting import join, started


class Schedule:
    """What many models anneal with: a plain object that counts."""

    def __init__(self) -> None:
        self.calls, self.temperature, self.past = 0, 1.0, [0]

    def step(self) -> float:
        self.calls += 1
        self.temperature *= 0.9
        self.past[0] += 1
        return self.temperature


def by_data(teacher: Tensor, student: Tensor) -> None:
    teacher.data = 0.9 * teacher.data + 0.1 * student.data


def in_place(teacher: Tensor, student: Tensor) -> None:
    teacher.mul_(0.9).add_(student, alpha=0.1)


def in_place_by_data(teacher: Tensor, student: Tensor) -> None:
    teacher.data.mul_(0.9).add_(student.data, alpha=0.1)


def copied_into(teacher: Tensor, student: Tensor) -> None:
    teacher.copy_(torch.lerp(teacher, student, 0.1))


def out_of_place(teacher: Tensor, student: Tensor) -> None:
    torch.lerp(teacher, student, 0.1, out=teacher)


def all_at_once(teacher: Tensor, student: Tensor) -> None:
    torch._foreach_mul_([teacher], 0.9)


FOLLOWS = [by_data, in_place, in_place_by_data, copied_into, out_of_place, all_at_once]


class Teacher(nn.Module):
    """A student, and a teacher that follows it within forward, as MoCo, BYOL and DINO do it."""

    def __init__(self, follow: Any) -> None:
        super().__init__()
        self.follow = follow
        self.student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.teacher = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.teacher.requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.schedule, self.memory = Schedule(), [torch.ones(4)]
        self.queue = deque([torch.zeros(2)], maxlen=3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for mine, theirs in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                self.follow(mine, theirs)
        self.norm.running_mean.mul_(0.5).add_(1.0)
        self.memory[0].mul_(0.5)
        self.queue.append(torch.ones(2))
        self.queue[0].add_(1.0)
        self.schedule.past[0] += 1
        out: Tensor = self.norm(self.student(x) - self.teacher(x)) * self.schedule.step()
        return out * self.memory[0]


def everything_of(model: Teacher) -> list[Any]:
    tensors = [*model.state_dict().values(), *model.memory, *model.queue]
    schedule = model.schedule
    return [t.clone() for t in tensors] + [schedule.calls, schedule.temperature, schedule.past[:]]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("follow", FOLLOWS)
def test_tracing_changes_nothing_of_a_model_that_writes_in_its_forward(follow: Any) -> None:
    torch.manual_seed(0)
    model = Teacher(follow)
    before, storages = everything_of(model), [p.data_ptr() for p in model.parameters()]
    graph, why = traced(model, is_torch_layer)
    assert graph is not None, why
    assert {node.target for node in graph.nodes if node.op == "call_module"} >= {
        "student.0",
        "student.1",
        "teacher.2",
        "norm",
    }
    assert same(everything_of(model), before)
    assert [p.data_ptr() for p in model.parameters()] == storages
    with_activation(model, "gelu")
    assert same(everything_of(model), before)


@pytest.mark.parametrize("with_data", [True, False], ids=["own data", "own loop"])
@pytest.mark.parametrize("follow", FOLLOWS)
def test_the_widget_takes_such_a_model_as_it_is(
    make_flow: Any, follow: Any, with_data: bool
) -> None:
    torch.manual_seed(0)
    model = Teacher(follow)
    before, twin = everything_of(model), copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 6), torch.randint(0, 4, (64,))
    loss_fn = nn.CrossEntropyLoss()
    if not with_data:
        make_flow(model, optimizer)
        assert same(everything_of(model), before)
        return
    flow = make_flow(model, optimizer, loss_fn, (inputs, targets))
    assert same(everything_of(model), before)
    flow.batch_size = 64
    losses = [reading.loss for reading in flow.steps(3)]
    flow.reset()
    assert same(everything_of(model), before)
    assert [reading.loss for reading in flow.steps(3)] == losses
    bare = torch.optim.SGD(twin.student.parameters(), lr=0.1)
    for expected in losses:
        bare.zero_grad()
        loss = loss_fn(twin(inputs), targets)
        loss.backward()
        bare.step()
        assert loss.item() == pytest.approx(expected, rel=1e-5)  # the rows are in another order


def test_a_reading_changes_nothing_of_such_a_model() -> None:
    model = Teacher(in_place)
    before = everything_of(model)
    take_reading(model, nn.CrossEntropyLoss(), torch.randn(9, 6), torch.randint(0, 4, (9,)))
    assert same(everything_of(model), before)


def test_a_tensor_changed_through_data_is_put_back_by_a_reading() -> None:
    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.seen.data.add_(1.0)
            return super().forward(x)

    model = Counted(3, 2)
    model.seen = torch.zeros(2)
    take_reading(model, nn.MSELoss(), torch.randn(5, 3), torch.randn(5, 2))
    assert model.seen.tolist() == [0.0, 0.0]


def test_what_is_made_within_the_guard_is_written_into() -> None:
    old = torch.zeros(3)
    with WriteGuard():
        new = torch.zeros(3)
        new[1:].add_(1.0)
        view = old[1:]
        view.add_(1.0)
        old.detach().numpy()  # read only by us; nothing is written
        torch.add(new, 1.0, out=new)
    assert new.tolist() == [1.0, 2.0, 2.0]
    assert old.tolist() == [0.0, 0.0, 0.0]


def test_the_guard_is_for_its_own_thread() -> None:
    old = torch.zeros(1)
    with WriteGuard():
        join(started(lambda: old.add_(1.0)))
    assert old.item() == 1.0


def test_objects_that_hold_more_than_values_are_left_alone() -> None:
    class Holder:
        def __init__(self, held: Any) -> None:
            self.held = held

    assert is_plain_object(Schedule())
    assert is_plain_object(Holder(Holder(np.zeros(3))))
    assert is_plain_object(Holder(iter([])))
    with open(__file__) as file:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        for held in (nn.Linear(1, 1), file, optimizer, (_ for _ in [])):
            assert not is_plain_object(Holder(held))
    for value in (3, "text", None, [], {}, torch.zeros(1), np.zeros(1), Schedule, len, torch):
        assert not is_plain_object(value)

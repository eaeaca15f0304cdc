"""Batches reach the objective as the user's iterable gives them."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget.training.batches import as_batches, on_device

CPU, META = torch.device("cpu"), torch.device("meta")


class Attributes(dict[str, Any]):
    """A dictionary whose members are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Pair(tuple[Any, ...]):
    """A tuple that is made in a way of its own."""

    def __new__(cls, first: Any, second: Any) -> Pair:
        return super().__new__(cls, (first, second))


class Bag(list[Any]):
    """A list that knows more."""

    def __init__(self, members: Any, name: str) -> None:
        super().__init__(members)
        self.name = name


def batches() -> list[Any]:
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    return [(x, y), [x, y], {"x": x}, Attributes(x=x, y=y), Pair(x, y), Bag([x, y], "train"), "x"]


@pytest.mark.parametrize("batch", batches(), ids=lambda b: type(b).__name__)
def test_what_is_there_already_is_handed_on_as_it_is(batch: Any) -> None:
    assert on_device(batch, CPU) is batch


def test_what_moves_keeps_its_kind() -> None:
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    moved = on_device(Attributes(x=x, more={"y": y}, name="a"), META)
    assert type(moved) is Attributes
    assert (moved.x.device, moved.more["y"].device, moved.name) == (META, META, "a")
    assert x.device == CPU
    bag = on_device(Bag([x, y], "train"), META)
    assert (type(bag), bag.name, bag[1].device) == (Bag, "train", META)
    assert on_device(Pair(x, y), META)[0].device == META
    mapping = on_device(UserDict(x=x), META)
    assert type(mapping) is UserDict
    assert mapping["x"].device == META


def test_arrays_of_names_go_along() -> None:
    names = np.array(["one", "two"])
    batch = on_device({"x": np.zeros((2, 3)), "names": names}, CPU)
    assert isinstance(batch["x"], torch.Tensor)
    assert batch["names"] is names


def test_an_objective_sees_its_own_kind_of_batch(make_flow: Any) -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch.x), batch.y)

    data = [Attributes(x=torch.randn(8, 3), y=torch.randint(0, 2, (8,))) for _ in range(3)]
    model = nn.Linear(3, 2)
    flow = make_flow(
        model, torch.optim.SGD(model.parameters(), lr=0.1), objective=objective, data=data
    )
    flow.step(4)
    assert flow.step_number == 4


class Restarting:
    """A loader that is its own iterator, and begins anew whenever it is asked for one."""

    def __init__(self, *, shuffles: bool = False) -> None:
        self.place, self.shuffles = 0, shuffles
        self.order = list(range(3))

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Restarting:
        self.place = 0
        if self.shuffles:
            self.order = torch.randperm(3).tolist()
        return self

    def __next__(self) -> torch.Tensor:
        if self.place == 3:
            raise StopIteration
        self.place += 1
        return torch.full((2, 1), float(self.order[self.place - 1]))


class GoneThrough(Restarting):
    """One that does not begin anew."""

    def __iter__(self) -> GoneThrough:
        return self


@pytest.mark.parametrize("shuffles", [False, True])
def test_a_loader_that_begins_anew_when_asked_for_itself_is_gone_through_again(
    shuffles: bool,
) -> None:
    state = torch.get_rng_state()
    batches = as_batches(Restarting(shuffles=shuffles))
    assert torch.equal(torch.get_rng_state(), state)
    seen = [int(batches.next(None)[0]) for _ in range(6)]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]


def test_a_look_at_its_first_batch_leaves_its_place() -> None:
    batches = as_batches(Restarting())
    assert int(batches.next(None)[0]) == 0
    assert int(batches.first(0, None)[0]) == 0
    assert [int(batches.next(None)[0]) for _ in range(3)] == [1, 2, 0]


def test_a_loader_that_does_not_begin_anew_is_refused() -> None:
    with pytest.raises(ValueError, match="data can be gone through only once"):
        as_batches(GoneThrough())

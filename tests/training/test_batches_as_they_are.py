"""Batches reach the objective as the user's iterable gives them."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget.training.batches import on_device

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

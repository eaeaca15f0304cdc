"""Batches out of a stream that does not know its length."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from gradflow_widget import GradientFlow

INPUTS, TARGETS = torch.randn(40, 5), torch.randint(3, (40,))


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(INPUTS, TARGETS, strict=True)


def test_a_loader_over_a_stream_trains_pass_after_pass_and_validates() -> None:
    def flow_over(data: object) -> GradientFlow:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return GradientFlow(model, optimizer, nn.CrossEntropyLoss(), data, validation=data)

    batches = list(zip(INPUTS.split(8), TARGETS.split(8), strict=True))
    flow, plain = flow_over(DataLoader(Stream(), batch_size=8)), flow_over(batches)
    flow.step(12)
    plain.step(12)
    assert flow.history.loss.tolist() == plain.history.loss.tolist()
    assert flow.validations.latest.samples == plain.validations.latest.samples == 40
    assert flow.validations.latest.accuracy == plain.validations.latest.accuracy
    flow.close()
    plain.close()


class StreamOfBatches(Stream):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(INPUTS.split(8), TARGETS.split(8), strict=True)


def test_a_stream_without_a_loader_is_asked_for_one() -> None:
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for stream in (Stream(), StreamOfBatches()):
        with pytest.raises(TypeError, match="data is an IterableDataset, whose items may be"):
            GradientFlow(model, optimizer, nn.CrossEntropyLoss(), stream)
    loader = DataLoader(StreamOfBatches(), batch_size=None)
    flow = GradientFlow(model, optimizer, nn.CrossEntropyLoss(), loader)
    flow.step(6)
    assert flow.step_number == 6
    flow.close()


class Kept(Stream):
    """Gives out what it was given: an iterator, or whatever makes one."""

    def __init__(self, iterator: Callable[[], Iterator[Any]]) -> None:
        self.iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self.iterator()


class Rewinding(Stream):
    """Its own iterator, which begins anew whenever it is asked for."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.place = 0
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.place == len(INPUTS):
            raise StopIteration
        self.place += 1
        return INPUTS[self.place - 1], TARGETS[self.place - 1]


ONE_ITERATOR: dict[str, Callable[[], Iterator[Any]]] = {
    "of a list": lambda: iter(list(zip(INPUTS, TARGETS, strict=True))),
    "zip": lambda: zip(INPUTS, TARGETS, strict=True),
    "generator": lambda: (pair for pair in zip(INPUTS, TARGETS, strict=True)),
    "islice": lambda: itertools.islice(zip(INPUTS, TARGETS, strict=True), 40),
}


@pytest.mark.parametrize("kind", ONE_ITERATOR)
@pytest.mark.parametrize("argument", ["data", "validation"])
def test_a_loader_over_one_iterator_is_refused_before_anything_is_lost(
    kind: str, argument: str
) -> None:
    iterator = ONE_ITERATOR[kind]()
    loader = DataLoader(Kept(lambda: iterator), batch_size=8)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"data": [(INPUTS, TARGETS)], argument: loader}
    sentence = (
        rf"^{argument} is a DataLoader that can be gone through only once: let __iter__ of its "
        r"Kept return a new iterator each time, or pass a list of batches\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        GradientFlow(model, optimizer, nn.CrossEntropyLoss(), **given)
    assert len(list(iterator)) == 40


ANEW: dict[str, Callable[[], DataLoader[Any]]] = {
    "its own iterator": lambda: DataLoader(Rewinding(), 8),
    "another's": lambda: DataLoader(Kept(partial(iter, Rewinding())), 8),
    "a new one": lambda: DataLoader(Kept(lambda: zip(INPUTS, TARGETS, strict=True)), 8),
    "a copy in each worker": lambda: DataLoader(
        Kept(partial(iter, iter(list(zip(INPUTS, TARGETS, strict=True))))), 8, num_workers=1
    ),
}


@pytest.mark.parametrize("kind", ANEW)
def test_a_loader_over_what_begins_anew_trains_pass_after_pass(kind: str) -> None:
    def flow_over(data: object) -> GradientFlow:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return GradientFlow(model, optimizer, nn.CrossEntropyLoss(), data)

    batches = list(zip(INPUTS.split(8), TARGETS.split(8), strict=True))
    with closing(flow_over(ANEW[kind]())) as flow, closing(flow_over(batches)) as plain:
        flow.step(7)
        plain.step(7)
        assert flow.history.loss.tolist() == plain.history.loss.tolist()


class Counting(Stream):
    """Counts how often it was begun, by which it might seed its order."""

    passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(list(zip(INPUTS, TARGETS, strict=True)))


@pytest.mark.parametrize("kind", ["endless", "counting"])
def test_what_a_loader_is_over_is_asked_without_being_changed(kind: str) -> None:
    endless = itertools.cycle(list(zip(INPUTS, TARGETS, strict=True)))
    dataset = Counting() if kind == "counting" else Kept(lambda: endless)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(dataset, batch_size=8)
    with closing(GradientFlow(model, optimizer, nn.CrossEntropyLoss(), loader)) as flow:
        if isinstance(dataset, Counting):
            assert dataset.passes == 1  # for the first bars
        flow.step(12)

"""Batches out of a stream that does not know its length."""

from __future__ import annotations

from collections.abc import Iterator

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

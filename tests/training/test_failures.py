"""Exceptions in the user's code stop training, lose nothing, and are raised as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from .parts import CROSS_ENTROPY, plain_network, samples


class Trouble:
    """Raises at the k-th call from when it is armed."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.error: BaseException = LookupError("first line\nsecond line")

    def __call__(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise self.error


def flow_with_trouble(make_flow: Any, where: str) -> tuple[Any, Trouble]:
    trouble = Trouble()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain_network()

        def forward(self, x: torch.Tensor) -> Any:
            hidden = self.net[:3](x)
            if where == "model":
                trouble()
            return self.net[3:](hidden)

    class Data(Dataset[Any]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Any:
            if where == "data" and index == 0:
                trouble()
            return samples()[0][index], samples()[1][index]

    def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if where == "loss":
            trouble()
        return CROSS_ENTROPY(output, target)

    class Optimizer(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if where == "optimizer":
                trouble()
            return super().step(closure)

    flow = make_flow(Model, lambda p: Optimizer(p, lr=0.1), loss_fn, Data())
    return flow, trouble


@pytest.mark.parametrize("where", ["model", "data", "loss", "optimizer"])
@pytest.mark.parametrize("way", ["step", "play", "steps"])
def test_an_exception_stops_training_and_is_raised(make_flow: Any, where: str, way: str) -> None:
    flow, trouble = flow_with_trouble(make_flow, where)
    flow.step(2)
    trouble.left = 3

    def train() -> None:
        if way == "step":
            flow.step(10)
        elif way == "play":
            flow.play()
            flow.wait()
        else:
            list(flow.steps(10))

    with pytest.raises(LookupError) as caught:
        train()
    assert caught.value is trouble.error
    assert caught.traceback[-1].name == "__call__"
    assert not flow.playing
    assert len(flow.history) == flow.step_number == 5
    assert "Training stopped: LookupError: first line." in flow.status
    assert "\n" not in flow.status

    # wait() goes on saying so, and the traceback does not grow.
    for _ in range(2):
        with pytest.raises(LookupError) as again:
            flow.wait()
        assert len(again.traceback) < 25

    flow.step(2)  # and training can go on
    assert flow.step_number == len(flow.history) == 7
    assert "stopped" not in flow.status
    flow.play()
    flow.wait(2)
    flow.pause()
    assert flow.wait()


def test_a_reset_clears_the_failure(make_flow: Any) -> None:
    flow, trouble = flow_with_trouble(make_flow, "model")
    trouble.left = 1
    with pytest.raises(LookupError):
        flow.step(5)
    flow.reset()
    assert "stopped" not in flow.status
    assert flow.wait()


def test_a_page_s_step_that_fails_is_told_in_the_status_line(make_flow: Any) -> None:
    flow, trouble = flow_with_trouble(make_flow, "data")
    trouble.left = 0
    flow._press("step")
    with pytest.raises(LookupError):
        flow.wait()
    assert "Training stopped" in flow.status


def test_an_exhausted_iterable_is_told_when_it_runs_out(make_flow: Any) -> None:
    class OnePass:
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return iter([samples(8)] * 3 if self.passes <= 4 else [])

    data = OnePass()
    flow = make_flow(plain_network, lambda p: torch.optim.SGD(p, lr=0.1), CROSS_ENTROPY, data)
    data.passes = 3
    with pytest.raises(ValueError, match=r"data gave no batch: .*DataLoader\.$"):
        flow.step(10)
    assert len(flow.history) == 3


def test_exceptions_that_are_no_errors_are_raised_too(make_flow: Any) -> None:
    flow, trouble = flow_with_trouble(make_flow, "model")
    trouble.error = SystemExit("the model wants to leave")
    trouble.left = 0
    with pytest.raises(SystemExit):
        flow.step()
    flow.step()

"""Exceptions in the user's code stop training, lose nothing, and are raised as they were."""

from __future__ import annotations

import multiprocessing
import traceback
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gradflow_widget import GradientFlow
from gradflow_widget.training.failure import FirstBatchError
from tests.waiting import wait_for

from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples


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


@pytest.mark.parametrize("way", ["step", "steps"])
def test_a_failure_that_nobody_has_heard_of_is_raised_by_the_next_steps(
    make_flow: Any, way: str
) -> None:
    flow, trouble = flow_with_trouble(make_flow, "model")
    trouble.left = 2
    flow.play()
    wait_for(lambda: not flow.playing)

    def go_on() -> None:
        if way == "step":
            flow.step(2)
        else:
            list(flow.steps(2))

    with pytest.raises(LookupError) as caught:
        go_on()
    assert caught.value is trouble.error
    assert flow.step_number == 2
    go_on()  # it has been heard
    assert flow.step_number == 4


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


@pytest.mark.parametrize("change", ["another layer", "another shape"])
def test_a_model_that_was_restructured_is_not_rewound_and_stays_watched(
    make_flow: Any, change: str
) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = make_flow(model, optimizer, nn.CrossEntropyLoss(), samples())
    flow.step(3)
    if change == "another layer":
        flow.model.append(nn.Linear(3, 3))
    else:
        flow.model[2] = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"other modules or parameters.*make a new GradientFlow"):
        flow.reset()
    flow.step(2)
    assert flow.step_number == 5
    assert len(flow.history) == 5


def test_an_optimizer_with_a_negative_rate_is_refused() -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = -0.1
    with pytest.raises(ValueError, match=r"learning rate of -0\.1: give it one"):
        GradientFlow(model, optimizer, nn.CrossEntropyLoss(), samples())
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_that_took_another_s_place_is_watched_too(make_flow: Any) -> None:
    model = nn.Linear(6, 3)
    flow = make_flow(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), samples()
    )
    given = flow.optimizer
    flow.optimizer_kind = "Adam"
    for optimizer in (given, flow.optimizer):
        with pytest.raises(ValueError, match="watched by another GradientFlow"):
            GradientFlow(model, optimizer, nn.CrossEntropyLoss(), samples())
    kept = flow.optimizer
    flow.optimizer_kind = "as given"
    flow.close()
    for optimizer in (given, kept):
        make_flow(model, optimizer, nn.CrossEntropyLoss(), samples()).close()


def test_a_reset_that_fails_leaves_the_run_as_it_is(make_flow: Any) -> None:
    """Of one sample BatchNorm makes nothing, as the look before the first step finds out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.batch_size = 8
    first = losses_of(flow, 5)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    flow.batch_size, status = 1, flow.status
    with pytest.raises(FirstBatchError, match="more than 1 value per channel"):
        flow.reset()
    assert flow.status == status
    assert (flow.step_number, flow.history.loss.tolist()) == (5, first)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all("momentum_buffer" in state for state in optimizer.state.values())
    flow.batch_size = 8
    since = losses_of(flow, 3)
    flow.reset()
    assert same_bits(losses_of(flow, 8), first + since)


class BadSamples(Dataset[Any]):
    """Data of which one sample can't be had, once ``trouble`` says so."""

    def __init__(self, trouble: Any) -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        if self.trouble.is_set() and index == 5:
            raise LookupError("no such sample")
        return samples()[0][index], samples()[1][index]


def processes() -> set[Any]:
    return set(multiprocessing.active_children())


def loader_with_trouble(**options: Any) -> tuple[DataLoader[Any], Any]:
    context = multiprocessing.get_context("fork")
    trouble = context.Event()
    data = BadSamples(trouble)
    loader: DataLoader[Any] = DataLoader(
        data, batch_size=16, num_workers=1, multiprocessing_context=context, **options
    )
    return loader, trouble


@pytest.mark.parametrize("call", ["step", "steps", "play"])
def test_close_ends_the_processes_of_a_loader_that_has_failed(make_flow: Any, call: str) -> None:
    before, (loader, trouble) = processes(), loader_with_trouble()
    model = plain_network()
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, loader)
    trouble.set()
    calls = {
        "step": lambda: flow.step(9),
        "steps": lambda: list(flow.steps(9)),
        "play": lambda: (flow.play(), flow.wait()),
    }
    with pytest.raises(LookupError) as caught:
        calls[call]()
    flow.close()
    wait_for(lambda: processes() <= before)
    assert "no such sample" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(LookupError):
        flow.wait()
    with pytest.raises(RuntimeError, match="closed"):
        flow.step()


def test_close_ends_the_processes_of_a_loader_that_has_failed_more_than_once(
    make_flow: Any,
) -> None:
    before, (loader, trouble) = processes(), loader_with_trouble(persistent_workers=True)
    model = plain_network()
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, loader)
    trouble.set()
    with pytest.raises(LookupError) as first:
        flow.step(9)
    with pytest.raises(LookupError) as second:
        flow.step(9)
    flow.close()
    assert processes() <= before
    assert first.value is not second.value


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("argument", ["data", "validation"])
def test_a_loader_that_fails_at_once_leaves_no_processes(argument: str, persistent: bool) -> None:
    before, (loader, trouble) = processes(), loader_with_trouble(persistent_workers=persistent)
    trouble.set()
    model = plain_network()
    data = {"data": samples(), argument: loader}
    with pytest.raises((LookupError, RuntimeError)) as caught:
        GradientFlow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, **data)
    assert processes() <= before
    assert "LookupError" in repr(caught.value)


def test_validation_data_are_gone_through_once_and_leave_no_processes(make_flow: Any) -> None:
    before, (loader, _) = processes(), loader_with_trouble(persistent_workers=True)
    model = plain_network()
    make_flow(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        CROSS_ENTROPY,
        samples(),
        validation=loader,
    )
    assert processes() <= before

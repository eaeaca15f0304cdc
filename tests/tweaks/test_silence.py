"""What a model prints while it is only looked into is not shown; what others print is."""

from __future__ import annotations

import io
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import (
    GradientFlow,
    depth_of,
    with_activation,
    with_depth,
    with_initialization,
    with_normalization,
    with_skips,
)
from gradflow_widget.tweaks.silence import nothing_printed

WARNS = """
import warnings
import torch
from torch import nn
from gradflow_widget import GradientFlow, with_initialization

class Warns(nn.Linear):
    def forward(self, x):
        warnings.warn("an odd thing")
        return super().forward(x)

model = nn.Sequential(Warns(5, 5), nn.ReLU(), nn.Linear(5, 2))
with_initialization(model, "he", seed=0)
print("looked")
data = torch.ones(4, 5), torch.zeros(4, dtype=torch.long)
flow = GradientFlow(model, torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), data)
print("made")
flow.close()
"""

LOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "activation": lambda model: with_activation(model, "tanh"),
    "depth": lambda model: with_depth(model, 5),
    "depth of": depth_of,
    "initialization": lambda model: with_initialization(model, "he", seed=0),
    "normalization": lambda model: with_normalization(model, "layer"),
    "skips": lambda model: with_skips(model, 1.0),
}


class Loud(nn.Module):
    """Prints the sizes it meets, as PyTorch's tutorial on data parallelism does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LoudBlock() for _ in range(3))
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        output = self.fc(x)
        print("\tIn Model: input size", x.size(), "output size", output.size())
        return output


class LoudBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(5, 5), LoudReLU()

    def forward(self, x: Tensor) -> Tensor:
        sys.stdout.writelines([f"block {x.shape}\n"])
        return self.relu(self.fc(x))


class LoudReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        print("relu", x.shape, flush=True)
        return super().forward(x)


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_into_a_model_shows_nothing_that_it_prints(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, stream = Loud(), sys.stdout
    LOOKS[name](model)
    assert capsys.readouterr().out == ""
    assert sys.stdout is stream
    model(torch.ones(1, 5))
    assert "In Model: input size torch.Size([1, 5])" in capsys.readouterr().out


def test_making_a_widget_shows_at_most_what_its_first_look_prints(
    capsys: pytest.CaptureFixture[str], make_flow: Callable[..., GradientFlow]
) -> None:
    model = Loud()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make_flow(model, optimizer)
    assert capsys.readouterr().out == ""
    model = Loud()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.ones(4, 5), torch.zeros(4, dtype=torch.long)
    make_flow(model, optimizer, nn.CrossEntropyLoss(), data)
    out = capsys.readouterr().out
    assert out.count("In Model") == 1
    assert "Proxy" not in out


def test_a_warning_is_shown_by_the_first_look_and_not_by_those_into_the_model() -> None:
    # Outside pytest, which shows warnings in its own way.
    done = subprocess.run(
        [sys.executable, "-c", WARNS], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr.count("UserWarning: an odd thing") == 1
    assert done.stdout.split() == ["looked", "made"]


def test_other_threads_go_on_printing(capsys: pytest.CaptureFixture[str]) -> None:
    with nothing_printed():
        print("mine")
        other = threading.Thread(target=print, args=("another's",))
        other.start()
        other.join()
    print("mine again")
    assert capsys.readouterr().out == "another's\nmine again\n"


def test_the_stream_is_put_back_whoever_leaves_last(capsys: pytest.CaptureFixture[str]) -> None:
    stream, first, second = sys.stdout, nothing_printed(), nothing_printed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    print("still silent")
    second.__exit__(None, None, None)
    assert sys.stdout is stream
    print("heard")
    assert capsys.readouterr().out == "heard\n"


def test_another_stream_that_was_put_meanwhile_stays() -> None:
    before, other = sys.stdout, io.StringIO()
    try:
        with nothing_printed():
            sys.stdout = other
            print("into another")
        assert sys.stdout is other
        assert other.getvalue() == "into another\n"
    finally:
        sys.stdout = before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts are heard, though a shell that has put us in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_at_any_call_leaves_nobody_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for number in itertools.count(1):
        left = number

        def at_call(*_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)

        tracing = sys.gettrace()
        sys.settrace(at_call)
        try:
            with nothing_printed():
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracing)
        print("heard")
        assert capsys.readouterr().out == "heard\n", number
        if left > 0:
            break
    assert number > 10

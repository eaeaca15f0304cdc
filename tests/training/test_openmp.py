"""OpenMP's threads of one thread do not stay while another trains."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow
from gradflow_widget.training import openmp
from gradflow_widget.training.openmp import end_idle_threads

TASKS, MAPS = Path("/proc/self/task"), Path("/proc/self/maps")


def count() -> int:
    """Return how many threads the process has, those that the operating system knows."""
    return len(os.listdir(TASKS))


def share_an_operation() -> None:
    """Do what torch shares among cores."""
    torch.ones(1_000_000).add_(1.0).sum()


def becomes(value: int) -> bool:
    """Wait until the process has so many threads."""
    end = time.monotonic() + 10
    while count() != value and time.monotonic() < end:
        time.sleep(0.01)
    return count() == value


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    if not TASKS.is_dir() or "libgomp" not in MAPS.read_text():
        pytest.skip(f"counts the threads of GNU's OpenMP on Linux, and this is {sys.platform}")
    if openmp._pause is None:
        pytest.skip("this torch's OpenMP is older than 5.0 and can't end its threads")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    end_idle_threads()
    yield
    torch.set_num_threads(before)


def speak_to(flow: GradientFlow) -> None:
    """Say something to the widget as its page does."""
    flow._stage.panel._handle_custom_msg({"type": "none"}, [])


@pytest.fixture
def flow() -> Iterator[GradientFlow]:
    # Large enough for its operations to be shared.
    model = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(512, 512), torch.randint(10, (512,))
    made = GradientFlow(model, optimizer, nn.CrossEntropyLoss(), data)
    made.batch_size = 256
    end_idle_threads()
    yield made
    made.close()


def test_they_end_and_come_back() -> None:
    before = count()
    share_an_operation()
    assert count() == before + 1
    end_idle_threads()
    assert becomes(before)
    share_an_operation()
    assert count() == before + 1


def test_a_session_at_rest_keeps_none(flow: GradientFlow) -> None:
    before = count()
    flow.step(3)
    assert becomes(before + 1), "the training thread alone"


@pytest.mark.parametrize(
    "hand_over",
    [
        lambda flow: flow.play(),
        lambda flow: flow.step(),
        lambda flow: (flow.play(), share_an_operation(), flow.wait(steps=2)),
        lambda flow: (flow.play(), setattr(flow, "activation", "relu")),
        lambda flow: (flow.play(), share_an_operation(), speak_to(flow)),
    ],
    ids=["play", "step", "wait", "a cold knob", "a word from the page"],
)
def test_the_thread_that_lets_another_train_keeps_none(
    flow: GradientFlow, hand_over: Callable[[GradientFlow], object]
) -> None:
    before = count()
    share_an_operation()
    hand_over(flow)
    flow.pause()
    assert becomes(before + 1), "the training thread alone"


def test_a_loop_of_one_s_own_that_waits_keeps_none(flow: GradientFlow) -> None:
    before = count()

    def loop() -> None:
        while True:
            share_an_operation()
            flow.model(torch.ones(1, 512)).sum().backward()
            flow.optimizer.step()

    flow.run(loop)
    flow.wait(steps=2)
    flow.pause()
    flow.wait()
    assert becomes(before + 1), "the training thread alone"

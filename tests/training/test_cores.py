"""Small networks of the playground step on one core; everybody else as the process has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_steps(flow: GradientFlow) -> set[int]:
    seen: set[int] = set()
    hook = flow.model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    flow.step(2)
    list(flow.steps(2))
    hook.remove()
    flow.close()
    return seen


def test_a_small_network_of_the_playground_steps_on_one_core() -> None:
    assert threads_of_steps(GradientFlow.playground(depth=3)) == {1}
    assert torch.get_num_threads() == 2


def test_a_preset_does_too() -> None:
    flow = GradientFlow.playground(depth=3)
    flow.load_preset("vanishing sigmoid")
    assert threads_of_steps(flow) == {1}


def test_a_large_network_of_the_playground_has_all_threads() -> None:
    assert threads_of_steps(GradientFlow.playground(depth=3, width=1024)) == {2}


def test_one_s_own_network_has_all_threads() -> None:
    model = nn.Linear(64, 10)
    flow = GradientFlow(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        (torch.randn(64, 64), torch.randint(10, (64,))),
    )
    assert threads_of_steps(flow) == {2}


def test_threads_are_given_back_when_a_step_fails() -> None:
    flow = GradientFlow.playground(depth=3)

    def fail(*_: object) -> None:
        raise ArithmeticError("no")

    flow.model.register_forward_hook(fail)
    with pytest.raises(ArithmeticError):
        list(flow.steps(1))
    assert torch.get_num_threads() == 2
    flow.close()

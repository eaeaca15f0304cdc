"""An interrupt that comes at a bad moment leaves nothing half done."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gradflow_widget.training.randomness import RandomState, RandomStream
from gradflow_widget.training.run import Run
from gradflow_widget.uninterrupted import uninterrupted
from tests.waiting import join

from .parts import CROSS_ENTROPY, plain_network, samples


@pytest.fixture
def flow(make_flow: Any) -> Any:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return make_flow(model, optimizer, CROSS_ENTROPY, samples())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts are heard, though a shell that has put us in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_calls_off_the_steps_that_were_asked_for(flow: Any) -> None:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        flow.step(10**7)
    join(timer)
    flow.wait()
    done = flow.step_number
    flow.step(2)
    assert flow.step_number == done + 2


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


CHANGES: dict[str, Callable[[Any], None]] = {
    "reset": lambda flow: flow.reset(),
    "optimizer_kind": lambda flow: setattr(flow, "optimizer_kind", "Adam"),
    "activation": lambda flow: setattr(flow, "activation", "relu"),
}


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("moment", ["_watch", "_unwatch"])
@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_of_the_run_is_whole_when_an_interrupt_comes(
    flow: Any, change: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow.step(3)
    first_losses = list(flow.history.loss)
    original = getattr(Run, moment)

    def interrupted(run: Run, *args: Any) -> None:
        interrupt()
        original(run, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Run, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            CHANGES[change](flow)
    assert flow.optimizer_kind == ("Adam" if change == "optimizer_kind" else "as given")
    assert isinstance(flow.optimizer, torch.optim.Adam) == (change == "optimizer_kind")
    done = 3 if change == "optimizer_kind" else 0
    assert flow.step_number == done
    flow.step(2)
    assert flow.history.step.tolist() == list(range(1, done + 3))
    flow.reset()
    flow.step(3)
    assert (list(flow.history.loss) == first_losses) == (change == "reset")
    optimizer = flow.optimizer
    flow.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_random_states_are_exchanged_leaves_that_of_the_process() -> None:
    stream = RandomStream(3, every_source=True)
    before = RandomState()
    for number in itertools.count(1):
        left = number

        def at_line(_: Any, event: str, __: Any) -> Any:
            nonlocal left
            left -= event == "line"
            if event == "line" and left == 0:
                interrupt()
            return at_line

        def at_call(frame: Any, *_: Any) -> Any:
            code = frame.f_code
            is_exchange = code in (RandomState._put.__code__, RandomState.__init__.__code__)
            return at_line if is_exchange else None

        tracing = sys.gettrace()
        sys.settrace(at_call)
        try:
            with stream():
                torch.rand(1)
                random.random()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracing)
        assert same_state(RandomState(), before), number
        if left > 0:
            break
    assert number > 10


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_seed_is_tried_leaves_the_random_state_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = RandomState()
    with monkeypatch.context() as patched:
        patched.setattr(random, "seed", lambda _: interrupt())
        with pytest.raises(KeyboardInterrupt):
            RandomStream(3, every_source=True)
    assert same_state(RandomState(), before)


def same_state(one: RandomState, other: RandomState) -> bool:
    (python, numpy), (python_then, numpy_then) = one._others, other._others  # type: ignore[misc]
    return (
        torch.equal(one.of_torch, other.of_torch)
        and python == python_then
        and all(map(np.array_equal, numpy, numpy_then))
    )


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_wait() -> None:
    reached: list[int] = []

    @uninterrupted()
    def interrupted_twice() -> None:
        interrupt()
        reached.append(1)
        interrupt()
        reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_an_error_within_is_raised_and_interrupts_are_heard_again() -> None:
    with pytest.raises(ValueError, match="as it is"), uninterrupted():
        raise ValueError("as it is")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

"""An interrupt that comes at a bad moment leaves nothing half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

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

"""Fixtures for tests of whole widgets."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets.widgets.widget as ipywidgets_registry
import pytest
import torch
from hypothesis import settings

from gradflow_widget import GradientFlow, jupyter
from gradflow_widget.training.pace import Pace
from tests.fake_shell import FakeShell

# Tensors of a few numbers gain nothing from threads, and lose a lot on a busy machine.
torch.set_num_threads(1)

# A busy machine is no defect.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")


# In s. Longer than any test trains in one go.
_LONGEST_WAIT = 120.0


@pytest.fixture(autouse=True)
def no_wait_for_steps_is_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail whose steps never come, where ``step`` and ``wait`` would wait for ever."""
    wait_for = Pace._wait_for

    def wait_boundedly(pace: Pace, met: Callable[[], bool], timeout: float | None = None) -> bool:
        reached = wait_for(pace, met, _LONGEST_WAIT if timeout is None else timeout)
        if not reached and timeout is None:
            pytest.fail(f"The steps waited for have not come after {_LONGEST_WAIT:.0f} s.")
        return reached

    monkeypatch.setattr(Pace, "_wait_for", wait_boundedly)


@pytest.fixture
def make_flow() -> Iterator[Callable[..., GradientFlow]]:
    """Make widgets that are closed when the test is over."""
    made: list[GradientFlow] = []

    def make(*args: Any, **kwargs: Any) -> GradientFlow:
        made.append(GradientFlow(*args, **kwargs))
        return made[-1]

    yield make
    for flow in made:
        flow.close()


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Check that a test leaves no thread, widget or patched function behind."""
    if hasattr(torch.autograd.backward, "__wrapped__"):
        gc.collect()  # a probe that an earlier test never closed goes now, not in the middle
    widgets, backward = set(ipywidgets_registry._instances), torch.autograd.backward
    yield
    threads = [t.name for t in threading.enumerate() if t.name.startswith("gradflow")]
    assert threads == []
    assert set(ipywidgets_registry._instances) == widgets
    assert torch.autograd.backward is backward


@pytest.fixture(params=[True, False], ids=["cell ids", "by source"])
def shell(request: Any, monkeypatch: Any) -> FakeShell:
    fake = FakeShell(has_kernel=request.param)
    monkeypatch.setattr(jupyter, "shell", lambda: fake)
    return fake

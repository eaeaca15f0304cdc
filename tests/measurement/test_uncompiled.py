"""Single readings of compiled models run them as they are written."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradflow_widget.measurement.eager import uncompiled
from gradflow_widget.measurement.single import take_reading
from tests.waiting import join, started

from .networks import batch, small


class Compilations:
    """A backend that counts how often it is asked to compile."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]):
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled() -> tuple[nn.Module, nn.Module, Compilations]:
    model, backend = small(dtype=torch.float32), Compilations()
    return model, torch.compile(model, backend=backend), backend


def test_a_reading_compiles_nothing_and_has_the_same_numbers():
    model, wrapped, backend = compiled()
    inputs, targets = batch(dtype=torch.float32)
    plain = take_reading(model, F.mse_loss, inputs, targets)
    reading = take_reading(wrapped, F.mse_loss, inputs, targets)
    assert backend.count == 0
    for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms"):
        np.testing.assert_array_equal(getattr(reading, name), getattr(plain, name))


def test_the_model_is_compiled_again_after_a_reading():
    _, wrapped, backend = compiled()
    inputs, targets = batch(dtype=torch.float32)
    take_reading(wrapped, F.mse_loss, inputs, targets)
    wrapped(inputs)
    assert backend.count == 1


def test_the_model_is_compiled_again_after_a_reading_that_failed():
    _, wrapped, backend = compiled()
    inputs, targets = batch(dtype=torch.float32)
    with pytest.raises(ZeroDivisionError):
        take_reading(wrapped, lambda *_: 1 / 0, inputs, targets)
    wrapped(inputs)
    assert backend.count == 1


def test_the_last_of_two_threads_puts_the_compiler_back():
    _, wrapped, backend = compiled()
    inputs, _ = batch(dtype=torch.float32)
    entered, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with uncompiled():
            entered.set()
            may_leave.wait(10)

    with uncompiled():
        thread = started(other)
        assert entered.wait(10)
    wrapped(inputs)
    assert backend.count == 0
    may_leave.set()
    join(thread)
    wrapped(inputs)
    assert backend.count == 1

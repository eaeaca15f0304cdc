"""The numbers of a run, against runs whose numbers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gradflow_widget import GradientFlow
from gradflow_widget.playground.assembly import assemble
from gradflow_widget.playground.presets import NUMBERS, numbers_of

NAN = math.nan


def written(**changes: Any) -> Any:
    """Return a run of twelve steps, two of them read in full, with columns that are known."""
    columns = {
        "loss": np.array([5.0, 6.0, *np.arange(10.0, 0.0, -1.0)]),
        "total_norm": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 90.0]),
        "clip_scale": np.array([1.0] * 9 + [0.5, 0.9, 0.1]),
        "decades": np.array([-3.0, *[NAN] * 10, -1.0]),
        "slope": np.array([-0.5, *[NAN] * 10, -0.1]),
    }
    latest = {
        "step": 12,
        "is_full": True,
        "decades": -1.0,
        "slope": -0.1,
        "update_ratio": np.array([1e-3, NAN, 3e-3, 8e-3]),
        "dead_fraction": np.array([0.25, 0.75, NAN]),
        "saturated_fraction": None,
        "frozen": np.array([True, True, False]),
        "signal_grad_through_time": {"layers.0": np.array([1.0, 10.0, 1000.0])},
    }
    columns.update({name: value for name, value in changes.items() if name in columns})
    latest.update({name: value for name, value in changes.items() if name in latest})
    return SimpleNamespace(
        history=SimpleNamespace(**columns, latest=SimpleNamespace(**latest)),
        validations=SimpleNamespace(
            latest=changes.get("validation", SimpleNamespace(accuracy=0.5, loss=1.5))
        ),
    )


KNOWN = {
    "steps": 12,
    "finite": 1,
    "first_loss": 5,
    "loss": 5.5,
    "lowest_loss": 1,
    "highest_loss": 10,
    "rises": 2 / 11,
    "accuracy": 0.5,
    "validation_loss": 1.5,
    "first_decades": -3,
    "first_slope": -0.5,
    "decades": -1,
    "slope": -0.1,
    "time_decades": -3,
    "gradient_norm": 6.5,
    "highest_gradient_norm": 90,
    "clipped": 0.25,
    "update_ratio": 3e-3,
    "dead": 0.5,
    "saturated": NAN,
    "frozen": 2,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_what_is_said_of_it(name):
    assert numbers_of(written())[name] == pytest.approx(KNOWN[name], nan_ok=True)


@pytest.mark.parametrize("column", ["loss", "total_norm"])
@pytest.mark.parametrize("value", [math.inf, NAN])
def test_one_step_that_is_not_finite_shows(column, value):
    values = np.array([*[2.0] * 11, value])
    numbers = numbers_of(written(**{column: values}))
    assert numbers["finite"] == 0
    highest = {"loss": "highest_loss", "total_norm": "highest_gradient_norm"}[column]
    assert numbers[highest] == 2.0


def test_what_is_not_there_is_no_number():
    numbers = numbers_of(written(validation=None, signal_grad_through_time=None))
    assert all(
        math.isnan(numbers[name]) for name in ("accuracy", "validation_loss", "time_decades")
    )


def test_a_signal_that_does_not_arrive_is_minus_infinity_through_time():
    series = {"layers.0": np.array([0.0, 1.0])}
    assert numbers_of(written(signal_grad_through_time=series))["time_decades"] == -math.inf


def test_a_last_step_that_was_not_read_in_full_is_asked_for():
    with pytest.raises(RuntimeError, match="call step"):
        numbers_of(written(is_full=False))


def test_the_accuracy_is_that_of_the_network_as_it_stands_on_what_no_training_saw():
    flow = GradientFlow.playground(depth=2, learning_rate=0.2)
    try:
        flow.step(40)
        numbers = numbers_of(flow)
        inputs, targets = assemble("mlp", "digits", {}).loaded.validation
        with torch.no_grad():
            outputs = flow.model(inputs)
        right = (outputs.argmax(dim=1) == targets).double().mean()
        assert numbers["accuracy"] == pytest.approx(float(right))
        loss = torch.nn.functional.cross_entropy(outputs.double(), targets)
        assert numbers["validation_loss"] == pytest.approx(float(loss), rel=1e-5)
        assert numbers["first_loss"] == flow.history.loss[0]
    finally:
        flow.close()

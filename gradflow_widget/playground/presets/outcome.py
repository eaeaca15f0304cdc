"""The numbers of a recorded run that promises speak of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        "steps": "steps done",
        "finite": "true where the loss and the gradients of every step are finite",
        "first_loss": "loss of the first step, on the network as it was initialised",
        "loss": "mean loss of the last ten steps",
        "lowest_loss": "lowest loss of a step",
        "highest_loss": "highest loss of a step, of those that are finite",
        "rises": "share of the steps whose loss is higher than that of the step before",
        "accuracy": "share of the held-out samples that are classified rightly after the last "
        "step; NaN where the targets are no classes",
        "validation_loss": "loss on the held-out samples after the last step",
        "first_decades": "D of the first step that was read in full, which at speed 1 is step 1: "
        "log10 of the signal gradient of the first layer over that of the last",
        "first_slope": "g of that step: growth of the logarithm of the signal gradient a layer, "
        "toward the input",
        "decades": "D of the last step",
        "slope": "g of the last step",
        "time_decades": "log10 of the signal gradient at the first time step over that at the "
        "last, in the first recurrent layer, at the last step; NaN without one",
        "gradient_norm": "median over the steps of the gradient's L2 norm before clipping",
        "highest_gradient_norm": "its highest value, of those that are finite",
        "clipped": "share of the steps at which the clipping bound",
        "update_ratio": "‖ΔW‖/‖W‖ of the last step, the median over the layers",
        "dead": "share of the units on the flat zero of a ReLU for the whole batch at the last "
        "step, the mean over the layers that have such units",
        "saturated": "share of outputs on the flat part of what follows at the last step, the "
        "mean over the layers",
        "frozen": "how many layers are frozen",
    }
)
"""Every number by name, and what it is. The losses are those that training saw: of a batch."""

FLAGS = ("finite",)
"""Those that are true or false."""

_LAST = 10


class Run(Protocol):
    """A run that has been recorded; a GradientFlow is one."""

    @property
    def history(self) -> Any:
        """The readings as columns, and ``latest``."""

    @property
    def validations(self) -> Any:
        """What it achieves on held-out samples: ``latest``, after the last step, or None."""


@dataclass(frozen=True)
class _Recorded:
    """What a run has recorded: the columns over its steps, and the last reading."""

    history: Any
    latest: Any

    def column(self, name: str) -> FloatArray:
        column: FloatArray = getattr(self.history, name)
        return column


def numbers_of(run: Run) -> dict[str, float]:
    """Return the numbers of a run by name; NaN where there is none to give.

    The run must be at rest.

    Raises:
        RuntimeError: no step has been done, or the last one was not read in full.
    """
    recorded = _Recorded(run.history, run.history.latest)
    if recorded.latest is None:
        raise RuntimeError("there is no recorded run: call step() first.")
    if not recorded.latest.is_full:
        raise RuntimeError("the last step was not read in full: call step() once more.")
    numbers = {name: measure(recorded) for name, measure in _MEASURES.items()}
    validation = run.validations.latest
    numbers["accuracy"] = math.nan if validation is None else validation.accuracy
    numbers["validation_loss"] = math.nan if validation is None else validation.loss
    return {name: float(numbers[name]) for name in NUMBERS}


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _extreme(values: FloatArray, of: Callable[[FloatArray], Any]) -> float:
    finite = _finite(values)
    return float(of(finite)) if len(finite) else math.nan


def _first(values: FloatArray) -> float:
    read = values[~np.isnan(values)]
    return float(read[0]) if len(read) else math.nan


def _share(marks: NDArray[np.bool_]) -> float:
    return float(marks.mean()) if len(marks) else math.nan


def _over_layers(values: FloatArray | None, of: Callable[[FloatArray], Any]) -> float:
    known = np.empty(0) if values is None else values[~np.isnan(values)]
    return float(of(known)) if len(known) else math.nan


def _time_decades(latest: Any) -> float:
    series = latest.signal_grad_through_time
    if not series:
        return math.nan
    norms = next(iter(series.values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(norms[0]) - np.log10(norms[-1]))


def _is_finite(recorded: _Recorded) -> float:
    columns = recorded.column("loss"), recorded.column("total_norm")
    return float(all(np.isfinite(column).all() for column in columns))


_MEASURES: dict[str, Callable[[_Recorded], float]] = {
    "steps": lambda run: run.latest.step,
    "finite": _is_finite,
    "first_loss": lambda run: run.column("loss")[0],
    "loss": lambda run: float(run.column("loss")[-_LAST:].mean()),
    "lowest_loss": lambda run: _extreme(run.column("loss"), np.min),
    "highest_loss": lambda run: _extreme(run.column("loss"), np.max),
    "rises": lambda run: _share(np.diff(run.column("loss")) > 0),
    "first_decades": lambda run: _first(run.column("decades")),
    "first_slope": lambda run: _first(run.column("slope")),
    "decades": lambda run: run.latest.decades,
    "slope": lambda run: run.latest.slope,
    "time_decades": lambda run: _time_decades(run.latest),
    "gradient_norm": lambda run: _extreme(run.column("total_norm"), np.median),
    "highest_gradient_norm": lambda run: _extreme(run.column("total_norm"), np.max),
    "clipped": lambda run: _share(run.column("clip_scale") < 1),
    "update_ratio": lambda run: _over_layers(run.latest.update_ratio, np.median),
    "dead": lambda run: _over_layers(run.latest.dead_fraction, np.mean),
    "saturated": lambda run: _over_layers(run.latest.saturated_fraction, np.mean),
    "frozen": lambda run: float(run.latest.frozen.sum()),
}

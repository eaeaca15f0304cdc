"""Severed: the verdict where exactly nothing arrives at layers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from ..measurement.flow import measured_groups
from ..measurement.reading import FloatArray, Reading
from ..measurement.stages import comes_before
from .verdict import Verdict
from .wording import named

# A signal this small next to an exact 0 has not been cut off but has faded below the
# smallest float32, 1e-45.
FADED = 1e-36
# A loss that is this small beside what it was has nothing to teach where no gradient is left.
_NOTHING_LEFT = 1e-6
# A layer that another batch reaches, as one expert of many, is no matter.
_OF_LATE = 5


def severed(readings: Sequence[Reading], signal: FloatArray) -> Verdict | None:
    """Say where the signal ends, if exactly nothing arrives at an early weight layer."""
    reading = readings[-1]
    layers = reading.described
    reached = np.flatnonzero(signal > 0).tolist()
    for group in measured_groups(signal, layers):
        values = signal[list(group)]
        if values[0] != 0:
            continue
        silent = group[int(np.flatnonzero(values == 0)[-1])]
        if not reached:
            if _is_satisfied(readings):
                return Verdict(
                    "",
                    "",
                    f"The loss is {_exactly(reading.loss)}, and every gradient is exactly 0: "
                    "nothing is left to learn from this batch.",
                )
            return Verdict(
                "severed",
                "fault",
                "Severed: no layer receives any signal; every gradient is exactly 0.",
            )
        behind = [index for index in reached if comes_before(layers, silent, index)]
        passes_by = any(
            comes_before(layers, index, silent) or not comes_before(layers, group[0], index)
            for index in reached
        )
        if passes_by or not behind:
            continue  # the signal comes past a layer that it does not reach
        last = behind[0]
        first = max(
            index
            for index in np.flatnonzero(signal == 0).tolist()
            if index == silent or comes_before(layers, index, last)
        )
        alive, dead = named(reading, last), named(reading, first)
        if signal[last] < FADED:
            return Verdict(
                "vanishing",
                "fault",
                f"Vanishing: the signal fades to exactly 0 on its way to {dead}: "
                f"it is {signal[last]:.0e} at {alive}.",
            )
        if _begins_at_zero(reading, last):
            return Verdict(
                "severed",
                "watch",
                f"Severed for now: the weights of {alive} are exactly 0, which lets no signal "
                f"through to {dead} until it has learned.",
            )
        return Verdict(
            "severed",
            "fault",
            f"Severed: the signal ends between {alive} and {dead}; below it is exactly 0.",
        )
    return None


def _is_satisfied(readings: Sequence[Reading]) -> bool:
    """Whether the loss is nothing any more, of outputs that are not.

    As a margin that all samples keep, whose loss is exactly 0, or as probabilities that are 1 to
    float32's last digit.
    """
    reading = readings[-1]
    if reading.activation_rms is None or not reading.loss_seen:
        return False
    # Of the median: beside one that has exploded, what a dead network leaves is small, too.
    losses = [one.loss for one in readings if math.isfinite(one.loss)]
    if not 0 <= reading.loss <= _NOTHING_LEFT * (statistics.median(losses) if losses else 0.0):
        return False
    outputs = [
        rms
        for rms, layer in zip(reading.activation_rms.tolist(), reading.described, strict=True)
        if layer.is_weight_layer and not math.isnan(rms)
    ]
    return bool(outputs) and outputs[-1] > 0


def _exactly(loss: float) -> str:
    return f"{loss:.1e}" if loss else "exactly 0"


def _begins_at_zero(reading: Reading, index: int) -> bool:
    """Whether a layer's weights are all 0 and about to learn, as an output layer's by design."""
    if reading.weight_norm is None:
        return False
    return bool(reading.weight_norm[index] == 0 and reading.weight_grad_norm[index] > 0)


def passed_by(readings: Sequence[Reading], signal: FloatArray) -> Verdict | None:
    """Say which layers the signal has passed by of late, though others receive it.

    A branch that begins multiplied by exactly 0 is so by design, and open after a step.
    """
    reading = readings[-1]
    weight_layers = [i for i, layer in enumerate(reading.described) if layer.is_weight_layer]
    silent = signal == 0
    for earlier in readings[-_OF_LATE:]:
        if earlier.step > 1 and earlier.signal_grad_norm is not None:
            silent = silent & (earlier.signal_grad_norm == 0)
    found = [index for index in weight_layers if silent[index]]
    if not found:
        return None
    sentence = (
        f"No signal comes to {len(found)} of {len(weight_layers)} weight layers, such as "
        f"{named(reading, found[0])}: it passes by them, as by a branch that is multiplied by 0 or "
        "ends in dead units."
    )
    if reading.step <= 1:
        return Verdict("", "", sentence)
    return Verdict("severed", "watch", sentence)


def left_out(readings: Sequence[Reading]) -> Verdict | None:
    """Say which layers have run of late and ask for a gradient, but have had none.

    No graph leads to them. One that another loss reaches, as one head of several, is no matter.
    """
    reading = readings[-1]
    if reading.activation_rms is None:
        return None
    weight_layers = [i for i, layer in enumerate(reading.described) if layer.is_weight_layer]
    has_none = reading.missing & ~reading.frozen & np.isfinite(reading.activation_rms)
    for earlier in readings[-_OF_LATE:]:
        if earlier.is_full:
            has_none = has_none & earlier.missing
    found = [index for index in weight_layers if has_none[index]]
    if not found or len(found) == len(weight_layers):
        return None
    which = named(reading, found[0])
    some = (
        f"{len(found)} of {len(weight_layers)} weight layers, such as {which}"
        if len(found) > 1
        else which
    )
    return Verdict(
        "severed",
        "watch",
        f"No gradient comes to {some}: the loss's graph does not lead there, as behind detach() or "
        "where an output is not used.",
    )

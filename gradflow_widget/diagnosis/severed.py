"""Severed: the verdict where exactly nothing arrives at layers."""

from __future__ import annotations

import numpy as np

from ..measurement.flow import measured_groups
from ..measurement.reading import FloatArray, Reading
from .verdict import Verdict
from .wording import named

# A signal this small next to an exact 0 has not been cut off but has faded below the
# smallest float32, 1e-45.
_FADED = 1e-36


def severed(reading: Reading, signal: FloatArray) -> Verdict | None:
    """Say where the signal ends, if exactly nothing arrives at an early weight layer."""
    for group in measured_groups(signal, reading.described):
        values = signal[list(group)]
        if values[0] != 0:
            continue
        silent = group[int(np.flatnonzero(values == 0)[-1])]
        if (signal[:silent] > 0).any():
            continue  # to get there, the signal comes past a layer that it does not reach
        reached = np.flatnonzero(signal > 0)
        if not len(reached):
            if _is_satisfied(reading):
                return Verdict(
                    "",
                    "",
                    "The loss is exactly 0, and so is every gradient: "
                    "nothing is left to learn from this batch.",
                )
            return Verdict(
                "severed",
                "fault",
                "Severed: no layer receives any signal; every gradient is exactly 0.",
            )
        within = np.flatnonzero(values > 0)
        if len(within):
            last, first = group[within[0]], group[within[0] - 1]
        else:  # the layers of this role are all below the cut
            last = int(reached[0])
            first = max(index for index in range(last) if signal[index] == 0)
        alive, dead = named(reading, last), named(reading, first)
        if signal[last] < _FADED:
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


def _is_satisfied(reading: Reading) -> bool:
    """Whether the loss is exactly 0 of outputs that are not, as a margin that all samples keep."""
    if reading.activation_rms is None or not reading.loss_seen or reading.loss != 0:
        return False
    output = max(i for i, layer in enumerate(reading.described) if layer.is_weight_layer)
    return bool(reading.activation_rms[output] > 0)


def _begins_at_zero(reading: Reading, index: int) -> bool:
    """Whether a layer's weights are all 0 and about to learn, as an output layer's by design."""
    if reading.weight_norm is None:
        return False
    return bool(reading.weight_norm[index] == 0 and reading.weight_grad_norm[index] > 0)


def passed_by(reading: Reading, signal: FloatArray) -> Verdict | None:
    """Say which layers the signal passes by, where that leaves nothing to compare.

    A branch that begins multiplied by exactly 0 is so by design, and open after a step.
    """
    weight_layers = [i for i, layer in enumerate(reading.described) if layer.is_weight_layer]
    silent = [index for index in weight_layers if signal[index] == 0]
    if not silent:
        return None
    sentence = (
        f"No signal comes to {len(silent)} of {len(weight_layers)} weight layers, such as "
        f"{named(reading, silent[0])}: it passes by them, as by a branch that is multiplied by 0."
    )
    if reading.step <= 1:
        return Verdict("", "", sentence)
    return Verdict("severed", "watch", sentence)

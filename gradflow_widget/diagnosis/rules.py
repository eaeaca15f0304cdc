"""The verdict on the flow: thresholds of theory.md, "Criteria that do not cry wolf".

All are ratios, so multiplying the loss by a constant changes no verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..measurement.flow import (
    comparable_groups,
    decades_behind,
    is_of_one_kind,
    measured_groups,
    paths,
)
from ..measurement.nonfinite import NonFinite, first_nonfinite
from ..measurement.reading import FloatArray, Reading

Problem = Literal["", "healthy", "vanishing", "exploding", "severed", "non-finite"]
Severity = Literal["", "watch", "fault"]

WATCH_DECADES, FAULT_DECADES = 1.3, 2.2
# During training a network explodes only if it stays beyond the fault line; healthy ones
# have been seen at 2.01 for a while.
PERSISTENT_READINGS = 10
# Between layers of several kinds the signal may lose so much for reasons that harm nobody:
# the mean over 400 places divides its norm by their root.
BETWEEN_KINDS = 1.3
# A signal this small next to an exact 0 has not been cut off but has faded below the
# smallest float32, 1e-45.
_FADED = 1e-36


@dataclass(frozen=True)
class Verdict:
    """A plain verdict on the flow of the signal gradient.

    Attributes:
        problem: "" while nothing can be said yet.
        severity: "watch" or "fault" where there is a problem.
        sentence: what to tell the user.
    """

    problem: Problem
    severity: Severity
    sentence: str


UNDECIDED = Verdict("", "", "No full reading yet.")


def judge(readings: Sequence[Reading], nonfinite: NonFinite | None = None) -> Verdict:
    """Judge the flow by the latest full readings of one run, the newest last.

    A network at its first weights is judged by one reading; "exploding" during training
    needs every one of the last ``PERSISTENT_READINGS``, or all since the beginning.
    Vanishing counts only where g is beyond what chance gives in a network of this width:
    |g| > 2√(5/(N·L)).
    """
    if nonfinite is None and readings:
        nonfinite = first_nonfinite(readings[-1])  # such as the look before the first step
    if nonfinite is not None:
        return Verdict("non-finite", "fault", _nonfinite_sentence(nonfinite))
    if not readings:
        return UNDECIDED
    latest = readings[-1]
    signal, decades, slope = latest.signal_grad_norm, latest.decades, latest.slope
    if signal is None or decades is None or slope is None:
        return UNDECIDED
    severed = _severed(latest, signal)
    if severed is not None:
        return severed
    if not math.isfinite(decades):
        return _passed_by(latest, signal) or Verdict("", "", _why_no_number(latest, signal))
    path = _path(latest, signal, decades)
    numbers = f"slope {slope:+.3f}, ×{math.exp(slope):.3g} a layer"
    if _is_vanishing(latest, decades, slope):
        faulty = decades < -FAULT_DECADES - _allowance(latest)
        severity: Severity = "fault" if faulty else "watch"
        return Verdict(
            "vanishing",
            severity,
            f"Vanishing: the signal falls by {-decades:.1f} decades {path} ({numbers}).",
        )
    exploding = _exploding(readings)
    if exploding:
        return Verdict(
            "exploding",
            exploding,
            f"Exploding: the signal grows by {decades:.1f} decades {path} ({numbers}).",
        )
    if decades > FAULT_DECADES:
        # A spike that passes is no fault, and "healthy" would not be true either.
        return Verdict(
            "", "", f"For now the signal grows by {decades:.1f} decades {path} ({numbers})."
        )
    return Verdict("healthy", "", f"Healthy: {decades:+.1f} decades {path} ({numbers}).")


def layer_problems(reading: Reading) -> tuple[Problem, ...]:
    """Judge each layer by its signal against the last layer that it may be compared with.

    "" where there is nothing to compare with. A healthy network in training reaches two
    decades of growth, so that what is much at the first weights is not yet much later. What
    chance may take from a signal on its way through this many layers is no problem of theirs, nor
    is anything that the verdict puts down to chance.
    """
    signal = reading.signal_grad_norm
    much = WATCH_DECADES if reading.step <= 1 else FAULT_DECADES
    problems: list[Problem] = [""] * len(reading.described)
    if signal is None:
        return tuple(problems)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log10(signal).tolist()
    decades, slope = reading.decades, reading.slope
    by_chance = (
        decades is not None
        and slope is not None
        and decades < -WATCH_DECADES - _allowance(reading)
        and not _is_vanishing(reading, decades, slope)
    )
    groups = measured_groups(signal, reading.described)
    behind = decades_behind(signal, reading.described)
    width = _width(reading) if groups else 1.0
    little = WATCH_DECADES + _allowance(reading)
    for group in groups:
        if len(group) < 2:
            continue
        reference = logarithms[group[-1]] - behind[group]
        for place, index in enumerate(group):
            below = logarithms[index] - reference
            if math.isnan(below):  # nothing comes to either
                continue
            distance = max(len(group) - 1 - place, 1)
            least = _slope_by_chance(width, distance) * distance / math.log(10)
            if signal[index] == 0:
                problems[index] = "severed"
            elif below < -max(little, least) and not by_chance:
                problems[index] = "vanishing"
            else:
                problems[index] = "exploding" if below > much else "healthy"
    return tuple(problems)


def _exploding(readings: Sequence[Reading]) -> Severity:
    latest = readings[-1]
    decades = latest.decades
    if decades is None:
        return ""
    if latest.step <= 1:  # the first step's gradients are those of the first weights
        if decades > FAULT_DECADES:
            return "fault"
        return "watch" if decades > WATCH_DECADES else ""
    recent = readings[-PERSISTENT_READINGS:]
    lasting = len(recent) == PERSISTENT_READINGS or recent[0].step <= 1
    if lasting and all(r.decades is not None and r.decades > FAULT_DECADES for r in recent):
        return "fault"
    return ""


def _slope_by_chance(width: float, layers: int) -> float:
    """Return 2√(5/(N·L)), Hanin & Nica 2018: a slope that finite width gives by chance."""
    return 2 * math.sqrt(5 / (width * layers))


def _width(reading: Reading) -> float:
    """Return N, the median width of the layers that are compared."""
    groups = comparable_groups(reading.described)
    return statistics.median(reading.described[i].width for group in groups for i in group)


def _is_vanishing(reading: Reading, decades: float, slope: float) -> bool:
    """Whether the signal falls by more than a little, and more than chance lets it."""
    signal = reading.signal_grad_norm
    if signal is None or not decades < -WATCH_DECADES - _allowance(reading):
        return False
    depth = max(path.length for path in paths(signal, reading.described))
    return abs(slope) > _slope_by_chance(_width(reading), depth)


def _allowance(reading: Reading) -> float:
    return 0.0 if is_of_one_kind(reading.described) else BETWEEN_KINDS


def _severed(reading: Reading, signal: FloatArray) -> Verdict | None:
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
        alive, dead = _named(reading, last), _named(reading, first)
        if signal[last] < _FADED:
            return Verdict(
                "vanishing",
                "fault",
                f"Vanishing: the signal fades to exactly 0 on its way to {dead}: "
                f"it is {signal[last]:.0e} at {alive}.",
            )
        return Verdict(
            "severed",
            "fault",
            f"Severed: the signal ends between {alive} and {dead}; below it is exactly 0.",
        )
    return None


def _passed_by(reading: Reading, signal: FloatArray) -> Verdict | None:
    """Say which layers the signal passes by, where that leaves nothing to compare.

    A branch that begins multiplied by exactly 0 is so by design, and open after a step.
    """
    weight_layers = [i for i, layer in enumerate(reading.described) if layer.is_weight_layer]
    silent = [index for index in weight_layers if signal[index] == 0]
    if not silent:
        return None
    sentence = (
        f"No signal comes to {len(silent)} of {len(weight_layers)} weight layers, such as "
        f"{_named(reading, silent[0])}: it passes by them, as by a branch that is multiplied by 0."
    )
    if reading.step <= 1:
        return Verdict("", "", sentence)
    return Verdict("severed", "watch", sentence)


def _why_no_number(reading: Reading, signal: FloatArray) -> str:
    frozen = [
        f
        for layer, f in zip(reading.described, reading.frozen, strict=True)
        if layer.is_weight_layer
    ]
    if len(frozen) == 1:
        return "There is only one weight layer: nothing to compare it with."
    if not frozen:
        return "There is no weight layer to judge the flow by."
    if sum(frozen) == len(frozen) - 1:
        return "Only one weight layer learns, the others are frozen: nothing to compare it with."
    if sum(map(len, comparable_groups(reading.described))) == 1:
        return "Only one weight layer can be compared: the others lie around it."
    infinite = np.flatnonzero(np.isinf(signal))
    if len(infinite):
        last = _named(reading, int(infinite[-1]))
        return f"The signal gradient is infinite at {last}: nothing can be compared with that."
    return "The signal gradient could not be read at these layers."


def _path(reading: Reading, signal: FloatArray, decades: float) -> str:
    """Say from where to where: of the path whose own decades come nearest to ``decades``."""
    found = paths(signal, reading.described)
    chosen = min(found, key=lambda path: abs(path.decades - decades))
    first, last = chosen.groups[0][0], chosen.groups[-1][-1]
    text = f"from {_named(reading, last)} back to {_named(reading, first)}"
    if len(chosen.groups) > 1:
        text += f", over {len(chosen.groups)} stretches of like layers"
    if chosen.kinds > 1:
        text += f", in the median of {chosen.kinds} kinds of layers"
    if len(found) > 1:
        text += f", in the median of {len(found)} ways through the network"
    return text


def _named(reading: Reading, index: int) -> str:
    return f"layer {index + 1} ({reading.layers[index] or 'the model itself'})"


def _nonfinite_sentence(found: NonFinite) -> str:
    what = f"the {found.where}"
    if found.where != "loss":
        what += f" of layer {found.layer!r}" if found.layer else " of the model itself"
    when = f"at step {found.step}" if found.step else "before the first step"
    return f"Not finite: {what} was first, {when}."

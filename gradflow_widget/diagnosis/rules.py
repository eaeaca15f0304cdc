"""The verdict on the flow: thresholds of theory.md, "Criteria that do not cry wolf".

All are ratios, so multiplying the loss by a constant changes no verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

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
from . import wording
from .severed import passed_by, severed
from .through_time import judge_through_time
from .verdict import (
    FAULT_DECADES,
    PERSISTENT_READINGS,
    UNDECIDED,
    WATCH_DECADES,
    Problem,
    Severity,
    Verdict,
)

# Between layers of several kinds the signal may lose so much for reasons that harm nobody:
# the mean over 400 places divides its norm by their root.
BETWEEN_KINDS = 1.3


def judge(readings: Sequence[Reading], nonfinite: NonFinite | None = None) -> Verdict:
    """Judge the flow by the latest full readings of one run, the newest last.

    A network at its first weights is judged by one reading; "exploding" during training
    needs every one of the last ``PERSISTENT_READINGS``, or all since the beginning.
    Vanishing counts only where g is beyond what chance gives in a network of this width:
    |g| > 2√(5/(N·L)).
    """
    if not readings:
        return UNDECIDED if nonfinite is None else _of_nonfinite(nonfinite)
    latest = readings[-1]
    now = first_nonfinite(latest)
    first = nonfinite or now  # now, such as in the look before the first step
    if first is None:
        return _of_flow(readings)
    if now is not None or latest.step <= first.step:
        return _of_nonfinite(first, latest)
    verdict = _of_flow(readings)
    was = f"{wording.nonfinite(first, latest)} was not finite {wording.when(first)}"
    return replace(verdict, sentence=f"{verdict.sentence} But {was}.")


def _of_nonfinite(found: NonFinite, reading: Reading | None = None) -> Verdict:
    first = f"{wording.nonfinite(found, reading)} was first, {wording.when(found)}"
    return Verdict("non-finite", "fault", f"Not finite: {first}.")


def _of_flow(readings: Sequence[Reading]) -> Verdict:
    """Judge the flow from layer to layer, and within recurrent layers through time."""
    verdict = _from_layer_to_layer(readings)
    if verdict.problem not in ("", "healthy") or not readings[-1].is_full:
        return verdict
    through_time = judge_through_time(readings)
    if through_time is None:
        return verdict
    if verdict.problem:
        layers = f"From layer to layer: {verdict.sentence[0].lower()}{verdict.sentence[1:]}"
    else:
        layers = verdict.sentence
    return replace(through_time, sentence=f"{through_time.sentence} {layers}")


def _from_layer_to_layer(readings: Sequence[Reading]) -> Verdict:
    latest = readings[-1]
    signal, decades, slope = latest.signal_grad_norm, latest.decades, latest.slope
    if signal is None or decades is None or slope is None:
        return UNDECIDED
    is_severed = severed(latest, signal)
    if is_severed is not None:
        return is_severed
    if not math.isfinite(decades):
        passed = passed_by(latest, signal)
        return passed or Verdict("", "", wording.why_no_number(latest, signal))
    path = wording.between(latest, signal, decades)
    numbers = f"slope {wording.signed(slope, 3)}, ×{math.exp(slope):.3g} a layer"
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
    on_one_way = _on_one_way(latest, signal)
    if on_one_way is not None:
        return on_one_way
    flow = f"{wording.signed(decades)} decades {path} ({numbers})"
    unlike = _unlike_the_ends(latest)
    return Verdict("healthy", "", f"Healthy{' from end to end' if unlike else ''}: {flow}{unlike}.")


def _on_one_way(reading: Reading, signal: FloatArray) -> Verdict | None:
    """Say of several ways through the network which one is sick though their median is healthy."""
    found = paths(signal, reading.described)
    most = FAULT_DECADES + _allowance(reading)
    sick = [path for path in found if abs(path.decades) > most]
    if reading.step > 1:  # as all that explodes, which may pass
        sick = [path for path in sick if path.decades < 0]
    if len(found) < 2 or not sick:
        return None
    worst = max(sick, key=lambda path: abs(path.decades))
    problem: Problem = "vanishing" if worst.decades < 0 else "exploding"
    changes = "falls" if worst.decades < 0 else "grows"
    return Verdict(
        problem,
        "watch",
        f"{problem.capitalize()} on {len(sick)} of {len(found)} ways through the network: "
        f"the signal {changes} by {abs(worst.decades):.1f} decades {wording.ends(reading, worst)}.",
    )


def _unlike_the_ends(reading: Reading) -> str:
    """Say which layers between two ends that are alike receive far less or more than these."""
    problems = layer_problems(reading)
    parts = []
    for problem, what in (("vanishing", "less"), ("exploding", "more")):
        found = [index for index, one in enumerate(problems) if one == problem]
        if found:
            some = f"{len(found)} layers" if len(found) > 1 else "one layer"
            parts.append(f"{some} far {what}, such as {wording.named(reading, found[0])}")
    return f", but in between {', and '.join(parts)}" if parts else ""


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

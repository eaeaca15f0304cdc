"""The verdict on the flow: thresholds of theory.md, "Criteria that do not cry wolf".

All are ratios, so multiplying the loss by a constant changes no verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..measurement.flow import BETWEEN_KINDS, Path, decades_behind, measured_groups
from ..measurement.nonfinite import NonFinite, first_nonfinite
from ..measurement.reading import Reading
from ..measurement.stages import comparable_groups, is_of_one_kind
from . import wording
from .severed import left_out, passed_by, severed
from .stacked import judge_stacked
from .through_time import judge_through_time
from .verdict import (
    FAULT_DECADES,
    PERSISTENT_READINGS,
    UNDECIDED,
    WATCH_DECADES,
    Problem,
    Severity,
    Verdict,
    late,
    typical,
)


def judge(readings: Sequence[Reading], nonfinite: NonFinite | None = None) -> Verdict:
    """Judge the flow by the latest full readings of one run, the newest last.

    A network at its first weights is judged by one reading, during training by the one in the
    middle of the last ``MEDIAN_OF``, which gives the sentence its numbers, too; "exploding" needs
    every one of the last ``PERSISTENT_READINGS``, or all since the beginning.
    Vanishing counts only where g, or what the ends alone give for it, is beyond what chance gives
    in a network of this width: |g| > 2√(5/(N·L)).
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
    found = [judge_stacked(readings), judge_through_time(readings)]
    within = [one for one in found if one is not None]
    if not within:
        return verdict
    within.sort(key=lambda one: one.severity != "fault")  # the worse of the two first
    if verdict.problem:
        layers = f"From layer to layer: {verdict.sentence[0].lower()}{verdict.sentence[1:]}"
    else:
        layers = verdict.sentence
    return replace(within[0], sentence=" ".join([*(one.sentence for one in within), layers]))


def _from_layer_to_layer(readings: Sequence[Reading]) -> Verdict:
    recent = late(readings)
    reading = _typical(recent)
    now, signal = readings[-1].signal_grad_norm, reading.signal_grad_norm
    decades, slope = reading.decades, reading.slope
    if now is None or signal is None or decades is None or slope is None:
        return UNDECIDED
    is_severed = severed(readings, now)
    if is_severed is not None:
        return is_severed
    asides = [one for one in (left_out(readings), passed_by(readings, now)) if one is not None]
    aside = next((one for one in asides if one.problem), None)
    told = [one.sentence for one in asides]
    if not math.isfinite(decades):
        if asides:
            return replace(aside or asides[0], sentence=" ".join(told))
        return Verdict("", "", wording.why_no_number(reading, signal))
    on_some_ways = _on_some_ways(readings, recent)
    if on_some_ways is not None:
        return on_some_ways
    path = wording.between(reading, signal, decades)
    numbers = f"slope {wording.signed(slope, 3)}, ×{math.exp(slope):.3g} a layer"
    if _is_vanishing(reading, decades, slope):
        faulty = decades < -FAULT_DECADES - _allowance(reading)
        severity: Severity = "fault" if faulty else "watch"
        return Verdict(
            "vanishing",
            severity,
            f"Vanishing: the signal falls by {-decades:.1f} decades {path} ({numbers}).",
        )
    exploding = _exploding(readings, decades)
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
    flow = f"{wording.signed(decades)} decades {path} ({numbers})"
    if aside is not None:
        return replace(aside, sentence=" ".join([*told, f"Elsewhere: {flow}."]))
    unlike = _unlike_the_ends(reading)
    verdict = f"Healthy{' from end to end' if unlike else ''}: {flow}{unlike}."
    return Verdict("healthy", "", " ".join([verdict, *told]))


def _typical(recent: Sequence[Reading]) -> Reading:
    """Return the reading that is judged: the one in the middle, if the latest has a number."""
    latest = recent[-1]
    if latest.decades is None or not math.isfinite(latest.decades):
        return latest
    found = [
        (one.decades, one)
        for one in recent
        if one.decades is not None and math.isfinite(one.decades)
    ]
    return typical(found)[1]


def _on_some_ways(readings: Sequence[Reading], recent: Sequence[Reading]) -> Verdict | None:
    """Say of several ways through the network which are sick, where not all are in like manner.

    Each is judged by a reading of its own: what is typical of one is not so of another.
    """
    latest = readings[-1]
    known: dict[int, list[tuple[float, Path]]] = {}
    for reading in recent:
        for path in reading.paths:
            known.setdefault(path.end, []).append((path.decades, path))
    if len(known) < 2:
        return None
    # Where a way ends is told of as such.
    found = [path for d, path in map(typical, known.values()) if math.isfinite(d)]
    falling = [path for path in found if _falls(latest, path)]
    growing = [path for path in found if _grows(latest, path)]
    if not _lasts(readings, lambda one: any(_grows(one, path) for path in one.paths)):
        growing = []
    if not (falling or growing) or len(found) in (len(falling), len(growing)):
        return None
    worst = max((*falling, *growing), key=lambda path: abs(path.decades))
    problem: Problem = "vanishing" if worst.decades < 0 else "exploding"
    changes, sick = ("falls", falling) if worst.decades < 0 else ("grows", growing)
    return Verdict(
        problem,
        "fault" if len(sick) > len(found) / 2 else "watch",
        f"{problem.capitalize()} on {len(sick)} of {len(found)} ways through the network: "
        f"the signal {changes} by {abs(worst.decades):.1f} decades {wording.ends(latest, worst)}.",
    )


def _falls(reading: Reading, path: Path) -> bool:
    if not path.decades < -FAULT_DECADES - _allowance(reading):
        return False
    return path.decades < -_decades_by_chance(_width(reading), path.length - 1)


def _grows(reading: Reading, path: Path) -> bool:
    return path.decades > FAULT_DECADES + _allowance(reading)


def _unlike_the_ends(reading: Reading) -> str:
    """Say which layers receive far less or more than what they may be compared with."""
    problems = layer_problems(reading)
    parts = []
    for problem, what in (("vanishing", "far less"), ("exploding", "far more")):
        found = [index for index, one in enumerate(problems) if one == problem]
        if len(found) == 1:
            parts.append(f"{wording.named(reading, found[0])} receives {what}")
        elif found:
            such = wording.named(reading, found[0])
            parts.append(f"{len(found)} layers receive {what}, such as {such}")
    return f", but {', and '.join(parts)}" if parts else ""


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
    is_any_reached = bool((signal > 0).any())
    for group in groups:
        if len(group) < 2:
            continue
        reached = [place for place, index in enumerate(group) if signal[index] > 0]
        last = reached[-1] if reached else 0
        reference = logarithms[group[last]] - behind[group]
        for place, index in enumerate(group):
            if signal[index] == 0:
                problems[index] = "severed" if is_any_reached else ""
                continue
            below = logarithms[index] - reference
            if math.isnan(below):  # both are infinite
                continue
            least = _decades_by_chance(width, max(last - place, 1))
            if below < -max(little, least) and not by_chance:
                problems[index] = "vanishing"
            else:
                problems[index] = "exploding" if below > much else "healthy"
    return tuple(problems)


def _exploding(readings: Sequence[Reading], decades: float) -> Severity:
    if decades > FAULT_DECADES:
        lasts = _lasts(readings, lambda one: (one.decades or 0.0) > FAULT_DECADES)
        return "fault" if lasts else ""
    # The first step's gradients are those of the first weights.
    return "watch" if decades > WATCH_DECADES and readings[-1].step <= 1 else ""


def _lasts(readings: Sequence[Reading], holds: Callable[[Reading], bool]) -> bool:
    """Whether something holds of the first weights, or has held for long."""
    if readings[-1].step <= 1:
        return holds(readings[-1])
    recent = readings[-PERSISTENT_READINGS:]
    lasting = len(recent) == PERSISTENT_READINGS or recent[0].step <= 1
    return lasting and all(map(holds, recent))


def _slope_by_chance(width: float, layers: int) -> float:
    """Return 2√(5/(N·L)), Hanin & Nica 2018: a slope that finite width gives by chance."""
    return 2 * math.sqrt(5 / (width * layers))


def _decades_by_chance(width: float, layers: int) -> float:
    """Return the decades that such a slope makes over so many layers."""
    return _slope_by_chance(width, layers) * layers / math.log(10)


def _width(reading: Reading) -> float:
    """Return N, the median width of the layers that are compared."""
    groups = comparable_groups(reading.described)
    return statistics.median(reading.described[i].width for group in groups for i in group)


def _is_vanishing(reading: Reading, decades: float, slope: float) -> bool:
    """Whether the signal falls by more than a little, and more than chance lets it."""
    if not reading.is_full or not decades < -WATCH_DECADES - _allowance(reading):
        return False
    depth = max(path.length for path in reading.paths)
    # One great step near an end hardly turns the line through all layers.
    of_ends = abs(decades) * math.log(10) / max(depth - 1, 1)
    return max(abs(slope), of_ends) > _slope_by_chance(_width(reading), depth)


def _allowance(reading: Reading) -> float:
    return 0.0 if is_of_one_kind(reading.described) else BETWEEN_KINDS

"""The verdict on the flow through time, within recurrent layers (theory.md, Recurrent nets)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..measurement.flow import decades_through_time
from ..measurement.reading import FloatArray, Reading
from .severed import FADED
from .verdict import (
    FAULT_DECADES,
    PERSISTENT_READINGS,
    Problem,
    Severity,
    Verdict,
    late,
    typical,
)


def judge_through_time(readings: Sequence[Reading]) -> Verdict | None:
    """Judge the latest full readings of one run, the newest last; None where nothing is wrong.

    What vanishes through time is no fault by itself: a task may not need so long a memory, and
    gates learn to keep more. Exploding has to persist as it does from layer to layer. It is a fault
    at the first weights only: of a network that has learned the later steps of its sequences, the
    loss itself is far larger at the early ones.
    """
    known: dict[str, list[tuple[float, FloatArray]]] = {}
    for reading in late(readings):
        for name, signal in _series(reading):
            decades = decades_through_time(signal)
            if not math.isnan(decades):
                known.setdefault(name, []).append((decades, signal))
    found = {name: typical(of_layer) for name, of_layer in known.items()}
    if grows := _exploding(readings):
        name = max(grows, key=lambda one: found[one][0])
        severity: Severity = "fault" if readings[-1].step <= 1 else "watch"
        sentence = _sentence(name, *found[name])
        if severity == "watch":
            sentence += " Or the loss is far larger at the early steps."
        return Verdict("exploding", severity, sentence)
    if not found:
        return None
    name = min(found, key=lambda one: found[one][0])
    decades, signal = found[name]
    if not decades < -FAULT_DECADES:
        return None
    is_cut = decades == -math.inf and not _fades(signal)
    problem: Problem = "severed" if is_cut else "vanishing"
    return Verdict(problem, "watch", _sentence(name, decades, signal))


def step_problems(reading: Reading, name: str) -> tuple[Problem, ...]:
    """Judge each time step of a recurrent layer by its signal against the last one's."""
    signal = (reading.signal_grad_through_time or {})[name]
    reached = signal[signal > 0]
    last = reached[0 if _is_reverse(name) else -1] if len(reached) else math.nan
    if not math.isfinite(last):
        unjudged: Problem = ""
        return (unjudged,) * len(signal)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.log10(signal) - math.log10(last)
    return tuple(_problem(one) for one in below.tolist())


def _problem(below: float) -> Problem:
    if math.isnan(below):
        return ""
    if below == -math.inf:
        return "severed"
    if below < -FAULT_DECADES:
        return "vanishing"
    return "exploding" if below > FAULT_DECADES else "healthy"


def _exploding(readings: Sequence[Reading]) -> set[str]:
    """Return the layers whose signal grows by too much, and has done so for long."""
    recent = readings[-PERSISTENT_READINGS:]
    if readings[-1].step <= 1:  # the first step's gradients are those of the first weights
        recent = readings[-1:]
    elif len(recent) < PERSISTENT_READINGS and recent[0].step > 1:
        return set()
    growing = [{name for name, signal in _series(one) if _grows(signal)} for one in recent]
    return set.intersection(*growing)


def _grows(signal: FloatArray) -> bool:
    """Whether the signal explodes: in the earlier half of the steps as in the later one.

    Where a loss looks at every step, the signals of all of them add up on the way back: that
    gives many decades over the last steps, but hardly more before.
    """
    reached = int(np.flatnonzero(signal > 0)[-1]) + 1 if (signal > 0).any() else 0
    earlier = signal[: (reached + 1) // 2]  # of those that the loss looks at, not of padding
    return (
        decades_through_time(signal) > FAULT_DECADES
        and decades_through_time(earlier) > FAULT_DECADES / 2
    )


def _series(reading: Reading) -> Iterator[tuple[str, FloatArray]]:
    """Yield the signals of each recurrent layer in the order in which it goes through time.

    Those that are not finite at every step are left out: by how much they change has no number.
    """
    for name, signal in (reading.signal_grad_through_time or {}).items():
        if len(signal) > 2 and np.isfinite(signal).all():
            yield name, signal[::-1] if _is_reverse(name) else signal


def _fades(signal: FloatArray) -> bool:
    """Whether a signal is so small beside an exact 0 that it was not cut off there."""
    return bool(signal[signal > 0].min() < FADED)


def _is_reverse(name: str) -> bool:
    return name.endswith("_reverse")


def _sentence(name: str, decades: float, signal: FloatArray) -> str:
    what = f"through time: in {name or 'the model itself'} the signal"
    last = int(np.flatnonzero(signal > 0)[-1])
    whence = "the last" if last == len(signal) - 1 else f"step {last + 1}"
    way = f"from {whence} of {len(signal)} time steps back to the first"
    if decades == -math.inf:
        if _fades(signal):
            return f"Vanishing {what} fades to exactly 0 on its way {way}."
        cut = f"step {int(np.flatnonzero(signal[:last] == 0)[-1]) + 1} of {len(signal)}"
        return f"Cut {what} is exactly 0 at {cut} and before, as behind detach()."
    each = f"(×{10 ** (decades / last):.3g} a step)"
    if decades < 0:
        return f"Vanishing {what} falls by {-decades:.1f} decades {way} {each}."
    return f"Exploding {what} grows by {decades:.1f} decades {way} {each}."

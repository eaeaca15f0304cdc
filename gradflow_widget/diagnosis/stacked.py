"""The verdict on recurrent layers stacked within one module, such as an LSTM of eight layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ..measurement.reading import Reading
from .verdict import (
    FAULT_DECADES,
    MEDIAN_OF,
    PERSISTENT_READINGS,
    WATCH_DECADES,
    Severity,
    Verdict,
    falls_beyond,
)

_NUMBERED = re.compile(r"(?:(?P<module>.*)\.)?l(?P<number>\d+)(?:_reverse)?")


def judge_stacked(readings: Sequence[Reading]) -> Verdict | None:
    """Judge by the latest full readings of one run what becomes of the signal from layer to layer.

    To the rest of the network such a module is one layer. None where nothing is wrong.
    """
    latest = readings[-1]
    recent = [latest] if latest.step <= 1 else list(readings[-PERSISTENT_READINGS:])
    worst: Verdict | None = None
    # The one that changes most is told of, a fault before what is but to be watched.
    found = sorted(_decades(latest).items(), key=lambda one: -abs(one[1][0]))
    for module, (decades, layers) in found:
        severity: Severity = ""
        if _vanishes(recent, module):
            severity = "fault" if decades < -FAULT_DECADES else "watch"
        elif _explodes(recent, module):
            severity = "fault" if decades > FAULT_DECADES else "watch"
        if not severity or (worst is not None and severity != "fault"):
            continue
        problem, does = ("Vanishing", "falls") if decades < 0 else ("Exploding", "grows")
        within = module or "the model itself"
        verdict = Verdict(
            "vanishing" if decades < 0 else "exploding",
            severity,
            f"{problem} within {within}: the signal {does} by {abs(decades):.1f} decades from its "
            f"layer {layers} down to its layer 1 (×{10 ** (decades / (layers - 1)):.3g} a layer).",
        )
        if severity == "fault":
            return verdict
        worst = verdict
    return worst


def _vanishes(recent: Sequence[Reading], module: str) -> bool:
    """Whether the signal falls by too much from the module's last layer to its first."""
    decades = [_decades(one).get(module, (math.nan, 0))[0] for one in recent[-MEDIAN_OF:]]
    at_first = recent[-1].step <= 1
    return falls_beyond(WATCH_DECADES, decades, at_first=at_first, at_once=FAULT_DECADES)


def _explodes(recent: Sequence[Reading], module: str) -> bool:
    """Whether the signal grows by too much: at the first weights, or for long."""
    lasting = len(recent) == PERSISTENT_READINGS or recent[0].step <= 1
    much = WATCH_DECADES if recent[-1].step <= 1 else FAULT_DECADES
    return lasting and all(_decades(one).get(module, (0.0, 0))[0] > much for one in recent)


def _decades(reading: Reading) -> dict[str, tuple[float, int]]:
    """Return for each module of several layers its decades from last to first, and how many.

    A layer's signal is the norm over all time steps and both directions.
    """
    norms: dict[str, dict[int, float]] = {}
    for name, signal in (reading.signal_grad_through_time or {}).items():
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            of_module = norms.setdefault(match["module"] or "", {})
            number = int(match["number"])
            of_module[number] = math.hypot(
                of_module.get(number, 0.0), float(np.linalg.norm(signal))
            )
    return {
        module: (math.log10(known[0]) - math.log10(known[len(known) - 1]), len(known))
        for module, known in norms.items()
        if len(known) > 1
        and set(known) == set(range(len(known)))
        and all(norm > 0 and math.isfinite(norm) for norm in known.values())
    }

"""The verdict on recurrent layers stacked within one module, such as an LSTM of eight layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ..measurement.reading import Reading
from .verdict import (
    FAULT_DECADES,
    PERSISTENT_READINGS,
    WATCH_DECADES,
    Severity,
    Verdict,
    late,
    typical,
)

_NUMBERED = re.compile(r"(?:(?P<module>.*)\.)?l(?P<number>\d+)(?:_reverse)?")


def judge_stacked(readings: Sequence[Reading]) -> Verdict | None:
    """Judge by the latest full readings of one run what becomes of the signal from layer to layer.

    To the rest of the network such a module is one layer. None where nothing is wrong.
    """
    known: dict[str, list[tuple[float, int]]] = {}
    for reading in late(readings):
        for module, of_module in _decades(reading).items():
            known.setdefault(module, []).append(of_module)
    found = [(module, *typical(of_module)) for module, of_module in known.items()]
    worst: Verdict | None = None
    # The one that changes most is told of, a fault before what is but to be watched.
    for module, decades, layers in sorted(found, key=lambda one: -abs(one[1])):
        severity: Severity = ""
        if decades < -WATCH_DECADES:
            severity = "fault" if decades < -FAULT_DECADES else "watch"
        elif _explodes(readings, module):
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


def _explodes(readings: Sequence[Reading], module: str) -> bool:
    """Whether the signal grows by too much: at the first weights, or for long."""
    at_first = readings[-1].step <= 1
    recent = readings[-1 if at_first else -PERSISTENT_READINGS :]
    lasting = len(recent) == PERSISTENT_READINGS or recent[0].step <= 1
    much = WATCH_DECADES if at_first else FAULT_DECADES
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

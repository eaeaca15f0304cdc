"""Labels of the loss chart's markers: what they say, and where they stand upright."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# A share of the axis: labels of markers that stand closer would lie on each other, on a chart of
# the least width.
LABEL_ROOM = 0.055
_LONGEST = 38
# Shares of the height: between a label and what stands above or below it, and one of its letters.
_GAP, _LETTER = 0.03, 0.025
# So many heights are looked at, from the bottom to the top.
_HEIGHTS = 21


def labels(markers: list[tuple[int, str]], room: float) -> list[tuple[int, str]]:
    """Return one label for markers that stand close together: the last turn of each knob."""
    groups: list[tuple[int, dict[str, str]]] = []
    for step, text in markers:
        if not groups or label_step(step, room) - label_step(groups[-1][0], room) > room:
            groups.append((step, {}))
        turns = groups[-1][1]
        for turn in text.split(", "):
            knob = turn.split(" ", 1)[0]
            turns.pop(knob, None)
            turns[knob] = turn
    return [(step, _joined(list(turns.values()))) for step, turns in groups]


def label_step(step: int, room: float) -> float:
    """Return where a label stands: left of its rule, but right of one that is next to the axis."""
    return float(step) if step >= room else step + room


def label_place(length: int, spans: Iterable[tuple[float, float]]) -> float:
    """Return where on the axis, from 0 to 1, a label of so many letters begins.

    ``spans`` are the lowest and the highest place of each curve beside it. It stands at the
    bottom, at the top or as near to the middle as can be: the first of these where the curves
    run over the fewest of its letters.
    """
    height = _LETTER * length
    top = max(_GAP, 1 - _GAP - height)
    middle = (_GAP + top) / 2
    between = sorted(np.linspace(_GAP, top, _HEIGHTS), key=lambda place: abs(place - middle))
    curves = list(spans)

    def covered(begin: float) -> float:
        end = begin + height
        return sum(max(0.0, min(end, high) - max(begin, low) + 2 * _GAP) for low, high in curves)

    return float(min((_GAP, top, *between), key=covered))


def span_between(
    first: float, last: float, steps: NDArray[np.float64], places: NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Return a curve's lowest and highest place between two steps; nothing where it has none."""
    if not len(steps):
        return []
    first, last = max(first, float(steps[0])), min(last, float(steps[-1]))
    if first > last:
        return []
    inside = places[np.searchsorted(steps, first) : np.searchsorted(steps, last, side="right")]
    here = np.concatenate([inside, np.interp([first, last], steps, places)])
    return [(float(here.min()), float(here.max()))]


def _joined(turns: list[str]) -> str:
    while len(turns) > 1 and len(", ".join(turns)) > _LONGEST:
        turns = ["…", *turns[2 if turns[0] == "…" else 1 :]]
    return ", ".join(turns)

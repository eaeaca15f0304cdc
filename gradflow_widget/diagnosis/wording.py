"""How a verdict names layers, ways and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..measurement.flow import Path
from ..measurement.nonfinite import NonFinite
from ..measurement.reading import FloatArray, Reading
from ..measurement.stages import comparable_groups

# A path is named for a number that is its own, to the decimal that is shown.
_ITS_OWN = 0.05
# One place that makes more than this share of the whole change is named.
_NEARLY_ALL = 0.8
_FEW = 3


def named(reading: Reading, index: int) -> str:
    """Name a layer by its place and its name in the model."""
    return f"layer {index + 1} ({reading.layers[index] or 'the model itself'})"


def signed(value: float, decimals: int = 1) -> str:
    """Write a number with its sign; what rounds to 0 has none."""
    text = "∞" if math.isinf(value) else f"{abs(value):.{decimals}f}"
    if text != "∞" and not float(text):
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def between(reading: Reading, signal: FloatArray, decades: float) -> str:
    """Say from where to where, on the path whose own decades come nearest to ``decades``.

    Where the median is not that of any one path, say between which ones it lies.
    """
    found = reading.paths
    chosen = min(found, key=lambda path: abs(path.own - decades))
    is_its_own = abs(chosen.own - decades) <= _ITS_OWN
    if len(found) > 1:
        of = (
            f", in the median of {len(found)} ways through the network"
            if len(found) > 2
            else ", on the better of 2 ways through the network"
        )
        if not is_its_own:
            return of[2:] + _from_to([path.decades for path in found])
    elif len(chosen.kinds) > 1:
        of = f", in the median of {len(chosen.kinds)} kinds of layers"
        if not is_its_own and len(chosen.groups) == 1:
            of += _from_to(chosen.kinds)
    else:
        of = ""
    stretches = len(chosen.groups)
    over = f", over {stretches} stretches of like layers" if stretches > 1 else ""
    over += _between_stretches(reading, chosen)
    most = _mostly_at(reading, signal, chosen) if is_its_own else ""
    return f"{ends(reading, chosen)}{over}{of}{most}"


def ends(reading: Reading, path: Path) -> str:
    """Name the layers between which a path lies, in the direction of the signal."""
    first, last = path.groups[0][0], path.groups[-1][-1]
    return f"from {named(reading, last)} back to {named(reading, first)}"


def _between_stretches(reading: Reading, path: Path) -> str:
    """Say where the signal changes between two stretches by more than pooling explains."""
    told = [
        f", {signed(beyond)} of them between {named(reading, upper[0])} and "
        f"{named(reading, lower[-1])}, beyond what pooling may take"
        for beyond, (lower, upper) in zip(path.between, pairwise(path.groups), strict=True)
        if abs(beyond) >= _ITS_OWN
    ]
    return "".join(told)


def _from_to(decades: Sequence[float]) -> str:
    return f", which lie between {signed(min(decades))} and {signed(max(decades))}"


def _mostly_at(reading: Reading, signal: FloatArray, path: Path) -> str:
    """Name the two layers between which nearly all of a great change happens, if there are such."""
    if len(path.groups) > 1 or len(path.groups[0]) < _FEW or abs(path.own) < 1.0:
        return ""
    group = path.groups[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log10(signal[list(group)])
        changes = logarithms[:-1] - logarithms[1:]
    place = int(np.argmax(np.abs(changes)))
    change = float(changes[place])
    if not np.isfinite(changes).all() or not _NEARLY_ALL <= change / path.own <= 2 - _NEARLY_ALL:
        return ""
    upper, lower = named(reading, group[place + 1]), named(reading, group[place])
    return f", {abs(change):.1f} of them between {upper} and {lower}"


def why_no_number(reading: Reading, signal: FloatArray) -> str:
    """Say why no decades can be told."""
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
    if all(len(group) == 1 for group in comparable_groups(reading.described)):
        return "The weight layers lie side by side: nothing to compare them with."
    infinite = np.flatnonzero(np.isinf(signal))
    if len(infinite):
        last = named(reading, int(infinite[-1]))
        return f"The signal gradient is infinite at {last}: nothing can be compared with that."
    return (
        "The signal gradient could not be read at these layers: their outputs take no part in the "
        "loss, or their forward() is called by itself, past every hook."
    )


def nonfinite(found: NonFinite, reading: Reading | None = None) -> str:
    """Name the first tensor that was not finite; ``reading``: one of the same run."""
    if found.where == "input":
        return "the model's input (the data of that batch)"
    if found.where == "target":
        return "a target of that batch"
    if found.where == "loss":
        return "the loss"
    if not found.layer:
        of = "the model itself"
    elif reading is not None and found.layer in reading.layers:
        of = named(reading, reading.layers.index(found.layer))
    else:
        of = f"layer {found.layer!r}"
    return f"the {found.where} of {of}"


def when(found: NonFinite) -> str:
    """Say at which step that was."""
    return f"at step {found.step}" if found.step else "before the first step"

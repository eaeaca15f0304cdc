"""Slope and decades: how the signal gradient changes from the output to the input.

Within a stage (stages.py) the groups of layers are measured side by side: their median counts.
Stages through which the signal comes one after the other, such as convolutions and then a
classifier, are measured one after the other: their decades add up. What lies between two stages
counts only where it is more than pooling, say, takes from a whole signal, for there unlike are
compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .layers import Layer
from .stages import Group, stages, ways_back

FloatArray = NDArray[np.float64]

# Between layers of several kinds the signal may lose so many decades for reasons that harm nobody:
# the mean over 400 places divides its norm by their root.
BETWEEN_KINDS = 1.3
# Between two stages: over more than 20,000 places nobody takes a mean.
_BETWEEN_STAGES = 2.2


def measured_groups(signal: FloatArray, layers: Sequence[Layer]) -> list[Group]:
    """Return the comparable groups without the layers that have no number, such as frozen ones."""
    return [group for groups in _measured(signal, layers) for group in groups]


def _measured(signal: FloatArray, layers: Sequence[Layer]) -> list[list[Group]]:
    """Return the groups of each stage without the layers that have no number."""
    every = stages(tuple(layers))
    if not np.isnan(signal).any():
        return [list(stage.groups) for stage in every]
    known = (~np.isnan(signal)).tolist()
    measured = []
    for stage in every:
        groups = [tuple(i for i in group if known[i]) for group in stage.groups]
        measured.append([group for group in groups if group])
    return measured


def _long_enough(signal: FloatArray, layers: Sequence[Layer]) -> list[list[Group]]:
    """Return each stage's measured groups of at least three layers; if there is none, of two."""
    measured = _measured(signal, layers)
    for least in (3, 2):
        enough = [[group for group in groups if len(group) >= least] for groups in measured]
        if any(enough):
            return enough
    return [[] for _ in measured]


# In Python's own numbers: for a handful of them NumPy takes ten times as long.
def _decades_of(signal: FloatArray, group: Group) -> float:
    return _logarithm(signal[group[0]]) - _logarithm(signal[group[-1]])


def _logarithm(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _median(values: Sequence[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def _beyond_pooling(signal: FloatArray, joint: tuple[int, int] | None) -> float:
    """Return what of the step between two stages' neighbouring ends pooling does not explain."""
    if joint is None:
        return 0.0
    step = _decades_of(signal, joint)
    if not abs(step) > _BETWEEN_STAGES or math.isinf(step):  # an exact 0 is told of as such
        return 0.0
    return step - math.copysign(_BETWEEN_STAGES, step)


@dataclass(frozen=True)
class Path:
    """A way of the signal through stages, from the input on: one group of each stage.

    Attributes:
        groups: of each stage the group whose decades are nearest to the stage's; and an outlet
            where it counts.
        decades: what the stages' decades add up to, with what between them is beyond pooling.
        own: what those of these groups alone add up to.
        between: what is beyond pooling behind each group but the last.
        kinds: the decades of each of the groups, in the stage where most of them take turns.
        length: how many layers are compared.
        end: the place of the last stage.
    """

    groups: tuple[Group, ...]
    decades: float
    own: float
    between: tuple[float, ...]
    kinds: tuple[float, ...]
    length: int
    end: int


def paths(signal: FloatArray, layers: Sequence[Layer]) -> tuple[Path, ...]:
    """Return the ways of the signal from each stage that ends one, those without a number left out.

    ``signal`` holds ‖∂L/∂h_l‖ of each layer, shape (layers,), in forward order.
    """
    layers = tuple(layers)
    every, enough = stages(layers), _long_enough(signal, layers)
    found = []
    for way in ways_back(every):
        groups: list[Group] = []
        between: list[float] = []
        joint = every[way[0]].out
        total, total_of_groups = 0.0, 0.0
        kinds: tuple[float, ...] = ()
        for place in way:
            own = [(group, _decades_of(signal, group)) for group in enough[place]]
            own = [(group, value) for group, value in own if not math.isnan(value)]
            if own:
                middle = _median([value for _, value in own])
                nearest, value = min(own, key=lambda one: _distance(one[1], middle))
                beyond = _beyond_pooling(signal, joint)
                if joint is not None and beyond and not groups:
                    groups = [(joint[1],)]
                if groups:
                    between.insert(0, beyond)
                    total, total_of_groups = total + beyond, total_of_groups + beyond
                groups.insert(0, nearest)
                total, total_of_groups = total + middle, total_of_groups + value
                joint = every[place].joint
                kinds = max(kinds, tuple(value for _, value in own), key=len)
        if groups and not math.isnan(total):
            length = sum(map(len, groups))
            found.append(
                Path(tuple(groups), total, total_of_groups, tuple(between), kinds, length, way[0])
            )
    return tuple(found)


def _median_path(found: Sequence[Path]) -> Path | None:
    """Return the median of several ways; of the two in the middle the one nearer to 0.

    Their mean would be that of a well one and a sick one.
    """
    if not found:
        return None
    in_line = sorted(found, key=lambda path: path.decades)
    middle = in_line[(len(found) - 1) // 2 : len(found) // 2 + 1]
    return min(middle, key=lambda path: abs(path.decades))


def _distance(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other)


def decades(found: Sequence[Path]) -> float:
    """Return D = log10(‖∂L/∂h_1‖ / ‖∂L/∂h_L‖), from the first layer compared to the last.

    Within a stage the median over its groups, added up over stages that follow one another, with
    what the signal loses or gains between them beyond 2.2, which pooling may take; of several
    ways through the network, the median. ``found``: what :func:`paths` returns. −inf where
    nothing at all arrives at the first layer. A group whose last layer has no signal either, or
    of which fewer than two layers have a number, has no part in it; NaN where that leaves none.
    """
    path = _median_path(found)
    return math.nan if path is None else path.decades


def decades_behind(signal: FloatArray, layers: Sequence[Layer]) -> dict[Group, float]:
    """Return for each measured group what the stages behind it add to its layers' decades."""
    layers = tuple(layers)
    every, enough = stages(layers), _long_enough(signal, layers)
    own = [_median([_decades_of(signal, group) for group in groups]) for groups in enough]
    behind = [0.0] * len(every)
    for place in reversed(range(len(every))):
        further = [
            behind[later]
            + (0.0 if math.isnan(own[later]) else own[later])
            + _beyond_pooling(signal, stage.joint)
            for later, stage in enumerate(every)
            if stage.after == place
        ]
        if further:
            behind[place] = statistics.median(further)
        else:
            behind[place] = _beyond_pooling(signal, every[place].out)
    return {
        group: behind[place]
        for place, groups in enumerate(_measured(signal, layers))
        for group in groups
    }


def decades_through_time(signal: FloatArray) -> float:
    """Return log10(‖∂L/∂h_1‖ / ‖∂L/∂h_T‖) of a recurrent layer.

    ``signal`` holds ‖∂L/∂h_t‖ at each time step, shape (T,), in the order in which the layer goes
    through them. −inf where nothing at all arrives at the first. Steps behind the last one that
    has a signal, such as those behind the output that the loss is of, are left out; NaN where
    that leaves fewer than two.
    """
    reached = np.flatnonzero(signal > 0)
    if not len(reached) or reached[-1] == 0:
        return math.nan
    return _decades_of(signal, (0, int(reached[-1])))


def slope(signal: FloatArray, layers: Sequence[Layer], found: Sequence[Path]) -> float:
    """Return g, the growth of ln‖∂L/∂h‖ per layer toward the input (g < 0 vanishes).

    The least-squares line through ln‖∂L/∂h_l‖ of each comparable group. Within a stage the median
    of their slopes, over stages that follow one another the mean by their numbers of layers; of
    several ways through the network, that of the way whose decades count. Layers with a zero or
    non-finite signal have no logarithm and are left out; NaN where fewer than two remain.
    ``signal`` and ``layers`` as in :func:`paths`, ``found``: what that returns of them.
    """
    layers = tuple(layers)
    every, enough = stages(layers), _long_enough(signal, layers)
    own = [_median([_slope_of(signal, group) for group in groups]) for groups in enough]
    slopes: dict[int, float] = {}
    for way in ways_back(every):
        rise, run = 0.0, 0
        for place in way:
            if not math.isnan(own[place]):
                steps = max(map(len, enough[place])) - 1
                rise, run = rise + own[place] * steps, run + steps
        if run:
            slopes[way[0]] = rise / run
    path = _median_path(found) if len(slopes) > 1 else None
    if path is not None and path.end in slopes:
        return slopes[path.end]
    return _median(list(slopes.values()))


def _slope_of(signal: FloatArray, members: Group) -> float:
    group = signal[list(members)]
    depth = np.arange(len(group), dtype=np.float64)
    usable = np.isfinite(group) & (group > 0)
    if usable.sum() < 2:
        return math.nan
    x = depth[usable] - depth[usable].mean()
    y = np.log(group[usable])
    return -float(x @ (y - y.mean())) / float(x @ x)

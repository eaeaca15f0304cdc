"""Stages: which layers may be compared, and which parts of a network follow one another.

Like is compared with like. Weight layers of one role form a group, where the signal comes through
one after the other: heads, experts and members of an ensemble that lie side by side, whatever their
numbers, are none. Groups whose layers take turns, as the projections of a transformer's blocks do,
are one stage of the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .layers import Layer

Group = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Groups of layers, as indices in forward order, that take turns in one part of a network.

    Attributes:
        groups: those that may be compared, each within itself.
        after: the place of the stage that this one goes on from; None where there is none, or
            none is known.
        joint: the last layer of the stage before and the first of this one, where all of the signal
            comes through both; None where there are ways around them, as in a residual network.
        out: likewise the last layer of this stage and the only one behind it that is in no group,
            as an output layer of a class of its own.
    """

    groups: tuple[Group, ...]
    after: int | None = None
    joint: tuple[int, int] | None = None
    out: tuple[int, int] | None = None


class _Known(NamedTuple):
    """What is known of some layers."""

    layers: tuple[Layer, ...]
    stages: tuple[Stage, ...]
    before: _Before
    is_of_one_kind: bool


# The latest first. A run's readings share their layers; hashing these takes longer than grouping
# them. Several, for models that train in turns.
_latest: list[_Known] = []
_MOST_KNOWN = 4


def stages(layers: tuple[Layer, ...]) -> tuple[Stage, ...]:
    """Return the stages of a network in forward order.

    Groups of fewer than three are left out, and where that leaves none, all weight layers form
    one group, or one for each of the longest ways through them; but for those that enclose others,
    such as a whole network with an embedding of its own: their output is no place before those.
    """
    return _known(layers).stages


def _known(layers: tuple[Layer, ...]) -> _Known:
    global _latest
    # Another thread may look, too: each puts a list of its own.
    latest = _latest
    for place, known in enumerate(latest):
        if known.layers is layers:
            if place:
                _latest = [known, *latest[:place], *latest[place + 1 :]]
            return known
    before = _Before(layers)
    found = _stages(layers, before)
    is_of_one_kind = all(
        len({layers[index].kind for index in group}) == 1
        for stage in found
        for group in stage.groups
    )
    known = _Known(layers, found, before, is_of_one_kind)
    _latest = [known, *latest[: _MOST_KNOWN - 1]]
    return known


def comes_before(layers: tuple[Layer, ...], start: int, end: int) -> bool:
    """Whether the signal comes through the layer ``end`` to ``start``, as indices in forward order.

    Where no graph tells, what is earlier in forward order is taken to come before.
    """
    before = _known(layers).before
    if before.knows(start) and before.knows(end):
        return start != end and before.leads(start, end)
    return start < end


def comparable_groups(layers: tuple[Layer, ...]) -> tuple[Group, ...]:
    """Return the groups of all stages."""
    return tuple(group for stage in stages(layers) for group in stage.groups)


def is_of_one_kind(layers: Sequence[Layer]) -> bool:
    """Whether no group holds layers of several classes, as where too few are alike."""
    return _known(tuple(layers)).is_of_one_kind


def _stages(layers: tuple[Layer, ...], before: _Before) -> tuple[Stage, ...]:
    for role in (_role, _loose_role):
        found = _stages_of(layers, before, role)
        if found:
            return found
    together = [i for i, layer in enumerate(layers) if layer.is_weight_layer and not layer.encloses]
    ways = sorted(_ways_through(together, before), key=len, reverse=True)
    return tuple(Stage((way,)) for way in ways if len(way) == len(ways[0]))


def _role(layer: Layer) -> str:
    return layer.role


def _loose_role(layer: Layer) -> str:
    """Return class and name without any number, for networks too short to repeat a place thrice."""
    words = (re.sub(r"\d+$", "", part) for part in layer.name.split("."))
    return f"{layer.kind}:{'.'.join(word for word in words if word)}"


def _stages_of(
    layers: tuple[Layer, ...], before: _Before, role: Callable[[Layer], str]
) -> tuple[Stage, ...]:
    by_role: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.is_weight_layer:
            by_role.setdefault(role(layer), []).append(index)
    ways = [way for members in by_role.values() for way in _ways_through(members, before)]
    parts = _joined(_taking_turns([way for way in ways if len(way) >= 2]), layers, before)
    found: list[Stage] = []
    for part in parts:
        groups = tuple(group for group in part if len(group) >= 3)
        if not groups:
            continue
        after = None
        for place in reversed(range(len(found))):
            if before.leads(_last(found[place].groups), _first(groups)):
                after = place
                break
        joint = None if after is None else before.joint(found[after].groups, groups)
        found.append(Stage(groups, after, joint))
    goes_on = {stage.after for stage in found}
    grouped = {index for stage in found for group in stage.groups for index in group}
    apart = [
        index
        for index, layer in enumerate(layers)
        if layer.is_weight_layer and not layer.encloses and index not in grouped
    ]
    for place, stage in enumerate(found):
        last = _last(stage.groups)
        behind = [index for index in apart if index > last and before.leads(last, index)]
        outlets = [
            index
            for index in behind
            if not any(before.leads(index, later) for later in behind if later != index)
        ]
        if place not in goes_on and len(outlets) == 1:
            found[place] = replace(stage, out=before.joint(stage.groups, [(outlets[0],)]))
    return tuple(found)


def _ways_through(members: Sequence[int], before: _Before) -> list[Group]:
    """Part layers into those through which the signal comes one after the other.

    One of which no graph tells where it lies, as in a block that is run again within the backward
    pass, is taken to lie behind the one before it.
    """
    ways: list[list[int]] = []
    for member in members:
        for way in ways:
            if before.leads(way[-1], member):
                way.append(member)
                break
        else:
            behind = next(
                (w for w in reversed(ways) if not (before.knows(member) and before.knows(w[-1]))),
                None,
            )
            if behind is None:
                ways.append([member])
            else:
                behind.append(member)
    return [tuple(way) for way in ways]


def _first(groups: Sequence[Group]) -> int:
    return min(group[0] for group in groups)


def _last(groups: Sequence[Group]) -> int:
    return max(group[-1] for group in groups)


def _taking_turns(groups: Sequence[Group]) -> list[list[Group]]:
    """Put groups together of which one begins before another ends."""
    parts: list[list[Group]] = []
    for group in sorted(groups):
        if parts and group[0] < _last(parts[-1]):
            parts[-1].append(group)
        else:
            parts.append([group])
    return parts


def _joined(
    parts: Sequence[list[Group]], layers: tuple[Layer, ...], before: _Before
) -> list[list[Group]]:
    """Make one group of each chain of layers of one class that only their names keep apart.

    A chain that parts, as a trunk does before its heads, is one with each of what follows.
    """
    behind: dict[int, int] = {}
    leads_to_others: set[int] = set()
    for place, part in enumerate(parts):
        for earlier in reversed(range(place)):
            if not before.leads(_last(parts[earlier]), _first(part)):
                continue
            single = len(part) == len(parts[earlier]) == 1
            if single and layers[part[0][0]].kind == layers[parts[earlier][0][0]].kind:
                behind[place] = earlier
            else:
                leads_to_others.add(earlier)
            break
    behind = {place: one for place, one in behind.items() if one not in leads_to_others}
    goes_on = set(behind.values())
    joined: list[list[Group]] = []
    for place, part in enumerate(parts):
        if place in goes_on:
            continue
        chain, groups = place, list(part)
        while chain in behind:
            chain = behind[chain]
            groups = [parts[chain][0] + groups[0]]
        joined.append(groups)
    return joined


class _Before:
    """Which layers come before which, on the way of the signal."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        place = {layer.name: index for index, layer in enumerate(layers)}
        self._follows = [
            [place[name] for name in layer.follows or () if name in place] for layer in layers
        ]
        # Those before each, as the bits of a number: a model may have thousands of layers.
        self._before = [0] * len(layers)
        changes = True
        while changes:  # more than twice only in loops over time
            changes = False
            for index, follows in enumerate(self._follows):
                known = self._before[index]
                for earlier in follows:
                    known |= self._before[earlier] | 1 << earlier
                changes = changes or known != self._before[index]
                self._before[index] = known
        self._known = {i for i, layer in enumerate(layers) if layer.follows is not None}

    def leads(self, start: int, end: int) -> bool:
        """Whether the output of ``end`` is computed from that of ``start``."""
        return start == end or bool(self._before[end] >> start & 1)

    def joint(self, lower: Sequence[Group], upper: Sequence[Group]) -> tuple[int, int] | None:
        """Return the two neighbouring ends of two stages, if there is no way around them."""
        end, start = _last(lower), _first(upper)
        others_above = {index for group in upper for index in group} - {start}
        others_below = {index for group in lower for index in group} - {end}
        is_narrow = others_below.isdisjoint(self._ways_back([start], around=end)) and not (
            others_below | {end}
        ).intersection(self._ways_back(others_above, around=start))
        return (end, start) if is_narrow else None

    def _ways_back(self, starts: Iterable[int], around: int) -> set[int]:
        """Return what lies before some layers, by ways that do not come through ``around``."""
        found: set[int] = set()
        queue = list(starts)
        for layer in queue:
            further = {one for one in self._follows[layer] if one != around} - found
            found |= further
            queue += further
        return found

    def knows(self, layer: int) -> bool:
        """Whether a graph has told which layers a layer lies behind, be it behind none."""
        return layer in self._known


def ways_back(every: Sequence[Stage]) -> list[list[int]]:
    """Return the ways through stages: of each their places, from the one that ends it back."""
    goes_on = {stage.after for stage in every}
    ways = []
    for end in range(len(every)):
        place: int | None = None if end in goes_on else end
        way: list[int] = []
        while place is not None:
            way.append(place)
            place = every[place].after
        if way:
            ways.append(way)
    return ways

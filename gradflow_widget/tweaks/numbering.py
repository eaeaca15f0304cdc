"""Attributes that count a model's blocks or number them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_COUNTS = re.compile(r"(^|_)n?(layers?|blocks?|depth)$")
_SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class Counter:
    """An attribute that counts blocks.

    Attributes:
        level: which of the modules around the blocks has it, from the outermost.
        in_config: whether it belongs to that module's ``config`` instead.
        name: the attribute.
        index: its place in the attribute, where that is a list with one depth for each stage.
        extra: by how much it is greater than the number of blocks.
        each: how many it counts for each block.
        kinds: the value at first, where the attribute is a list with an entry for each block.
    """

    level: int
    in_config: bool
    name: str
    index: int | None = None
    extra: int = 0
    each: int = 1
    kinds: tuple[Any, ...] = ()


def find_counters(
    ancestors: list[nn.Module], at: str, count: int, period: int, length: int
) -> list[Counter]:
    """Return the attributes that count the blocks.

    Args:
        ancestors: the modules around the blocks, outermost first, the container last.
        at: the name of the blocks' container.
        count: how many blocks there are.
        period: how many modules a block has.
        length: how many modules the container has.
    """
    found: list[Counter] = []
    meanings = {
        length: (length - count * period, period),
        count * period: (0, period),
        count: (0, 1),
    }
    for level, attributes, in_config in _attributes(ancestors):
        for name, value in attributes.items():
            if type(value) is int and value in meanings and _counts_this_side(name, at):
                extra, each = meanings[value]
                found.append(Counter(level, in_config, name, extra=extra, each=each))
        if not in_config:
            continue
        depths, stage = attributes.get("depths"), _stage(at)
        if isinstance(depths, list) and stage is not None and stage < len(depths):
            extra, each = meanings.get(depths[stage], (0, 0))
            if each:
                found.append(Counter(level, True, "depths", stage, extra, each))
        kinds = attributes.get("layer_types")
        if isinstance(kinds, list) and len(kinds) == count:
            found.append(Counter(level, True, "layer_types", kinds=tuple(kinds)))
    return found


def set_counters(ancestors: list[nn.Module], counters: list[Counter], count: int) -> None:
    """Make the attributes that ``find_counters`` found say ``count``."""
    for counter in counters:
        owner = ancestors[counter.level].__dict__
        attributes = _as_dict(owner["config"]) if counter.in_config else owner
        if counter.kinds:
            kinds = list(counter.kinds)
            attributes[counter.name] = (kinds + kinds[-1:] * count)[:count]
        elif counter.index is not None:
            depths = list(attributes[counter.name])
            depths[counter.index] = count * counter.each + counter.extra
            attributes[counter.name] = depths
        else:
            attributes[counter.name] = count * counter.each + counter.extra


def renumber(before: list[nn.Module], last: list[nn.Module], new: list[nn.Module]) -> None:
    """Number the block ``new``, a copy of ``last``, which follows ``before``.

    An integer attribute that is one greater in ``last`` than in ``before``, wherever it is in
    the block and whatever its name (``layer_idx``, ``index``), is one greater still in ``new``.
    """
    for earlier_root, root, new_root in zip(before, last, new, strict=True):
        for earlier, module, fresh in zip(
            earlier_root.modules(), root.modules(), new_root.modules(), strict=False
        ):
            if module is fresh:
                continue
            for name, value in module.__dict__.items():
                previous = earlier.__dict__.get(name)
                if type(value) is int and type(previous) is int and value == previous + 1:
                    fresh.__dict__[name] = value + 1


def _attributes(ancestors: list[nn.Module]) -> Iterator[tuple[int, dict[str, Any], bool]]:
    for level, ancestor in enumerate(ancestors):
        yield level, ancestor.__dict__, False
    for level, ancestor in reversed([*enumerate(ancestors)]):
        # Of an encoder and decoder each may have a config of its own: the nearest is meant.
        if "config" in ancestor.__dict__:
            yield level, _as_dict(ancestor.__dict__["config"]), True
            return


def _as_dict(config: Any) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    attributes: dict[str, Any] = getattr(config, "__dict__", {})
    return attributes


def _counts_this_side(name: str, at: str) -> bool:
    other = [side for side in _SIDES if side in name and side not in at]
    return bool(_COUNTS.search(name)) and not (other and any(side in at for side in _SIDES))


def _stage(at: str) -> int | None:
    numbers = [int(part) for part in at.split(".") if part.isdigit()]
    return numbers[-1] if numbers else None

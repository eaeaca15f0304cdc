"""Depth: how often a model repeats its block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checked import checked_seed, checked_whole
from .activation import put_on_activation, take_off_activation
from .blocks import (
    AsideBlock,
    KeptRun,
    Run,
    find_runs,
    keep_run,
    kept_run,
    names_in_order,
    shift_runs,
    shown_path,
    structure,
)
from .copying import copied, refuse_lazy, refusing_without_room
from .errors import CannotTweak
from .fresh import fresh_copy, why_none_is_drawn
from .lineage import lineage_of
from .numbering import find_counters, renumber, set_counters
from .record import forget, record
from .recurrent import original_layers, set_layers
from .sequence import walked_with
from .shapes import change_of_shape
from .skips import rescale_skips

SHALLOWEST, DEEPEST = 1, 64


def checked_depth(depth: Any) -> int:
    """Return ``depth`` if it is a whole number in range.

    Raises:
        ValueError: it is not.
    """
    return checked_whole("depth", depth, SHALLOWEST, DEEPEST)


@dataclass(frozen=True)
class Depth:
    """What the depth knob does to a model.

    Attributes:
        blocks: how many blocks, or recurrent layers, there are now.
        at: where: the name of their container, or of the recurrent layer.
        what: a sentence on what the knob would do.
        others: the other places that ``with_depth`` would take as ``at``.
    """

    blocks: int
    at: str
    what: str
    others: tuple[str, ...]


def depth_of(model: nn.Module, *, at: str | None = None) -> Depth:
    """Tell what ``with_depth(model, n, at=at)`` would do; ``model`` is untouched.

    Raises:
        TypeError: ``model`` is no module.
        CannotTweak: nothing is repeated (at ``at``), another block would not fit, or there are
            lazy layers.
    """
    refuse_lazy(model)
    candidates = _candidates(model)
    chosen = _chosen(candidates, at)
    others = tuple(other.at for other in candidates if other is not chosen and not other.misfit)
    return Depth(chosen.count, chosen.at, chosen.sentence, others)


def with_depth(model: nn.Module, n: int, *, at: str | None = None, seed: int = 0) -> nn.Module:
    """Return a copy of ``model`` with ``n`` of its repeated blocks.

    Blocks are added or removed at the end of the run of most blocks of one structure (see
    ``find_runs``), or of the layers of an nn.RNN, nn.LSTM or nn.GRU where those are more, or of
    what stands at ``at``, one of ``depth_of(model).others``. Each counts as it was before its
    depth was changed, so that no tweak changes the choice; of equally long ones it is the last
    in the model. New blocks are initialised as their classes do
    it, from ``seed``; the global random state is untouched. Blocks that were removed are kept
    aside, outside ``state_dict``, and come back with their weights, unless the others have been
    rebuilt since (norms put in, say): take that back first. Attributes that count or
    number the blocks are kept right, and so is a skip's scale of 1/√(2L). A scheme that
    ``with_initialization`` drew by does not reach new blocks: to have it on all, use it last.

    Raises:
        ValueError: ``n`` is no whole number from 1 to 64, or ``seed`` none from 0 to 2**63 - 1.
        TypeError: ``model`` is no module.
        CannotTweak: nothing is repeated (at ``at``), another block would not fit, a class
            does not say how to initialise it, there are lazy layers, or no room in memory.
    """
    n, seed = checked_depth(n), checked_seed(seed)
    refuse_lazy(model)
    twin = copied(model)
    # Which activation is the last one, and so the output's, may change with the depth.
    activation = take_off_activation(twin)
    chosen = _chosen(_candidates(twin), at)
    with refusing_without_room():
        if isinstance(chosen.target, Run):
            _resize(twin, chosen.target, n, seed)
        elif n != chosen.count:
            set_layers(chosen.target, n, seed, chosen.at)
    rescale_skips(twin)
    if activation is not None:
        put_on_activation(twin, activation)
    if n == chosen.original:
        return forget(twin, "depth")
    return record(
        twin, "depth", f"{chosen.place} has {n} {chosen.noun}, {chosen.original} at first."
    )


@dataclass(frozen=True)
class _Candidate:
    at: str
    target: Run | nn.RNNBase
    count: int
    original: int
    misfit: str = ""
    no_more: str = ""

    @property
    def place(self) -> str:
        return shown_path(self.at) or "The model"

    @property
    def noun(self) -> str:
        return "blocks" if isinstance(self.target, Run) else "layers"

    @property
    def sentence(self) -> str:
        if isinstance(self.target, Run):
            block = ", ".join(type(module).__name__ for module in self.target.blocks[0])
            verb = "Removes" if self.no_more else "Repeats or removes"
            sentence = (
                f"{verb} the last of the {self.count} blocks ({block}) of "
                f"{shown_path(self.at) or 'the model'}."
            )
            return f"{sentence} {self.no_more}".rstrip()
        return (
            f"Sets the number of layers of {shown_path(self.at) or 'the model'}, {self.count} now."
        )


def _candidates(model: nn.Module) -> list[_Candidate]:
    found: list[_Candidate] = []
    within: list[str] = []
    for run in find_runs(model):
        kept = kept_run(run)
        original = run.count if kept is None else kept.original
        named = {candidate.at for candidate in found}
        names = list(run.container._modules)
        within += [f"{run.at}.{name}".lstrip(".") for name in names[run.start : run.stop]]
        # A container's greatest run goes by the container's name, the others by their first module.
        at = run.at if run.at not in named else f"{run.at}.{names[run.start]}".lstrip(".")
        misfit = change_of_shape(run.blocks[0]) if kept is None else ""
        # A block that was taken off comes back as it was.
        draws = kept is None or not kept.aside
        no_more = why_none_is_drawn(run.blocks[-1], _ancestors(model, run.at)) if draws else ""
        found.append(_Candidate(at, run, run.count, original, misfit, no_more))
    for name, module in model.named_modules():
        if not isinstance(module, nn.RNNBase):
            continue
        if not any(name == path or name.startswith(f"{path}.") for path in within):
            found.append(_Candidate(name, module, module.num_layers, original_layers(module)))
    order = {name: index for index, name in enumerate(names_in_order(model))}

    def rank(one: _Candidate) -> tuple[int, int, int]:
        if isinstance(one.target, Run):
            return one.original, order[one.target.at], one.target.start
        return one.original, order[one.at], 0

    return sorted(found, key=rank, reverse=True)


def _chosen(candidates: list[_Candidate], at: str | None) -> _Candidate:
    fitting = [candidate for candidate in candidates if not candidate.misfit]
    if at is not None:
        named = [candidate for candidate in candidates if candidate.at == at]
        if not named:
            known = ", ".join(repr(candidate.at) for candidate in fitting) or "there is none"
            raise CannotTweak(f"No block is repeated at {at!r}: choose one of {known}.")
        candidates, fitting = named, [one for one in named if not one.misfit]
    if fitting:
        return fitting[0]
    if candidates:
        raise CannotTweak(
            f"The blocks of {shown_path(candidates[0].at) or 'the model'} change their input's "
            f"shape ({candidates[0].misfit}), so one more or fewer would not fit."
        )
    raise CannotTweak(
        "The model repeats no block: its depth can be changed where a Sequential or ModuleList has "
        "two or more blocks of one structure one after another, or a recurrent layer num_layers."
    )


def _resize(model: nn.Module, run: Run, n: int, seed: int) -> None:
    ancestors = _ancestors(model, run.at)
    together = [run, *_companions(run, ancestors)]
    for one in together:
        kept = kept_run(one)
        if kept is None:
            length = len(one.container._modules)
            kept = KeptRun(
                one.start,
                one.period,
                one.count,
                length,
                one.count,
                f"{lineage_of(one.container, one.at)}[{one.start}]",
                find_counters(ancestors, one.at, one.count, one.period, length)
                if one is run
                else [],
            )
            keep_run(one.container, kept)
        set_counters(ancestors, kept.counters, n)
        while kept.count > n:
            _remove_last(one.container, kept)
        while kept.count < n:
            _add_last(model, one.container, kept, ancestors, seed)


def _ancestors(model: nn.Module, path: str) -> list[nn.Module]:
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:length])) for length in range(len(parts) + 1)]


def _companions(run: Run, ancestors: list[nn.Module]) -> Iterator[Run]:
    """Yield the lists that a loop walks along with the run's: zip(self.layers, self.norms)."""
    container = run.container
    if not isinstance(container, nn.ModuleList) or run.period * run.count != len(container):
        return
    owner, name = ancestors[-2], run.at.rpartition(".")[2]
    siblings = {
        other: child
        for other, child in owner.named_children()
        if isinstance(child, nn.ModuleList | nn.ParameterList) and child is not container
    }
    for other in walked_with(type(owner), name) & set(siblings):
        sibling = siblings[other]
        if len(sibling) != len(container):
            continue
        kinds = {structure(module) for module in sibling.children()}
        if len(kinds) != 1 or run.period != 1:
            raise CannotTweak(
                f"{type(owner).__name__} walks {name} and {other} together, and {other} does not "
                "repeat one block, so its depth can't be changed."
            )
        at = f"{run.at.rpartition('.')[0]}.{other}".lstrip(".")
        yield Run(0, 1, len(sibling), at, sibling)


def _remove_last(container: nn.Module, kept: KeptRun) -> None:
    items = list(container._modules.items())
    stop = kept.start + kept.period * kept.count
    taken = {
        name: module for name, module in items[stop - kept.period : stop] if module is not None
    }
    for module in taken.values():
        for parameter in module.parameters():
            parameter.grad = None
    kept.aside.insert(0, AsideBlock(taken, container.training))
    _set_items(container, items[: stop - kept.period] + items[stop:])
    shift_runs(container, kept, -1)


def _add_last(
    model: nn.Module, container: nn.Module, kept: KeptRun, ancestors: list[nn.Module], seed: int
) -> None:
    items = list(container._modules.items())
    stop = kept.start + kept.period * kept.count
    names = [name for name, _ in items]
    last = [module for _, module in items[stop - kept.period : stop] if module is not None]
    new = _brought_back(container, kept, last)
    if new is None:
        place = f"{kept.place} block {kept.count}"
        fresh = fresh_copy(model, last, ancestors, seed, place)
        if kept.count > 1:
            before = [
                module
                for _, module in items[stop - 2 * kept.period : stop - kept.period]
                if module is not None
            ]
            renumber(before, last, fresh)
        new = {}
        for name, module in zip(names[stop - kept.period : stop], fresh, strict=True):
            new[_next_name(name, [*names, *new])] = module
    _set_items(container, [*items[:stop], *new.items(), *items[stop:]])
    shift_runs(container, kept, 1)


def _brought_back(
    container: nn.Module, kept: KeptRun, last: list[nn.Module]
) -> dict[str, nn.Module] | None:
    if not kept.aside:
        return None
    if [structure(module) for module in kept.aside[0].modules.values()] != [
        structure(module) for module in last
    ]:
        # The blocks have been rebuilt in the meantime: these no longer fit in.
        kept.aside.clear()
        return None
    block = kept.aside.pop(0)
    like = next(
        (tensor for module in last for tensor in module.parameters()), torch.empty((), device="cpu")
    )
    for module in block.modules.values():
        tensor = next(module.parameters(), like)
        if (tensor.device, tensor.dtype) != (like.device, like.dtype):
            module.to(device=like.device, dtype=like.dtype)
        if container.training != block.training:
            module.train(container.training)
    return block.modules


def _set_items(container: nn.Module, items: list[tuple[str, nn.Module | None]]) -> None:
    numbered = all(name.isdigit() for name, _ in items)
    container._modules.clear()
    for index, (name, module) in enumerate(items):
        container._modules[str(index) if numbered else name] = module


def _next_name(name: str, names: list[str]) -> str:
    digits = list(re.finditer(r"\d+", name))
    for number in range(1, len(names) + 2):
        if digits:
            last = digits[-1]
            new = f"{name[: last.start()]}{int(last[0]) + number}{name[last.end() :]}"
        else:
            new = f"{name}_{number}"
        if new not in names:
            return new
    raise AssertionError("more names are taken than there are")

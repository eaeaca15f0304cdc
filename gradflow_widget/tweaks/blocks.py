"""Finds the blocks that a model repeats."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import is_lazy

from .numbering import Counter
from .repeats import Repeat, find_repeats
from .sequence import runs_in_sequence

_KEPT = "_gradflow_kept_runs"


@dataclass(frozen=True)
class Run(Repeat):
    """Blocks of one structure, one after another in a Sequential or ModuleList.

    ``at`` is the container's name in ``named_modules``; its modules are the members.
    """

    at: str
    container: nn.Module

    @property
    def blocks(self) -> list[list[nn.Module]]:
        """The blocks, each with its ``period`` modules."""
        members = list(self.container._modules.values())
        return [
            [module for module in members[first : first + self.period] if module is not None]
            for first in range(self.start, self.stop, self.period)
        ]


@dataclass
class AsideBlock:
    """A block that was taken off: its modules by name, and whether their container trained."""

    modules: dict[str, nn.Module]
    training: bool


@dataclass
class KeptRun:
    """What is remembered of a run whose depth was changed.

    By it a single block that is left is still found. It is forgotten when ``length``, the
    container's number of modules, has changed since.

    Attributes:
        original: how many blocks there were at first.
        place: a name for the run that no tweak changes.
        counters: the attributes that count its blocks.
        aside: the blocks that were taken off its end, the next one to bring back first.
    """

    start: int
    period: int
    count: int
    length: int
    original: int
    place: str
    counters: list[Counter] = field(default_factory=list)
    aside: list[AsideBlock] = field(default_factory=list)


def shown_path(path: str) -> str:
    """Return a module's name as the user knows it; "" for the model itself."""
    # torch.compile puts the user's model one step down.
    return path.removeprefix("_orig_mod").lstrip(".")


def find_runs(model: nn.Module) -> list[Run]:
    """Return the runs of repeated blocks in ``model``, the one with most blocks first.

    A run counts with the blocks that it had before its depth was changed. Of equally long ones
    the last in the model comes first: the later stages are the wide ones. Parameters don't
    decide, for other tweaks bring some.

    Runs within a block of another run are left out, and so is what runs side by side: the
    experts, heads and branches of a ModuleList (see ``runs_in_sequence``).
    """
    found: list[Run] = []
    _search(model, "", [], found)
    order = {name: index for index, name in enumerate(names_in_order(model))}
    return sorted(found, key=lambda run: (_original(run), order[run.at], run.start), reverse=True)


def names_in_order(model: nn.Module) -> list[str]:
    """Return the names of the modules in the model's order, each time one stands somewhere."""
    return [name for name, _ in model.named_modules(remove_duplicate=False)]


def kept_run(run: Run) -> KeptRun | None:
    """Return what is remembered of ``run``, if its depth was changed before."""
    return next(
        (
            kept
            for kept in kept_runs(run.container)
            if (kept.start, kept.period, kept.count) == (run.start, run.period, run.count)
        ),
        None,
    )


def kept_runs(container: nn.Module) -> list[KeptRun]:
    """Return what is remembered of the runs in ``container`` whose depth was changed before."""
    kept: list[KeptRun] = container.__dict__.get(_KEPT, [])
    return [one for one in kept if one.length == len(container._modules)]


def keep_run(container: nn.Module, kept: KeptRun) -> None:
    """Remember ``kept``."""
    container.__dict__[_KEPT] = [*kept_runs(container), kept]


def shift_runs(container: nn.Module, changed: KeptRun, blocks: int) -> None:
    """Note that ``changed`` has just got ``blocks`` more at its end."""
    # The container's length is new already, so that kept_runs would find none.
    everyone: list[KeptRun] = container.__dict__[_KEPT]
    changed.count += blocks
    for kept in everyone:
        kept.length = len(container._modules)
        if kept.start > changed.start:
            kept.start += blocks * changed.period


def structure(module: nn.Module) -> Hashable:
    """Return what two modules have in common exactly if they are built alike.

    Their classes, settings and shapes count; their weights don't, and neither do rates of
    dropout or stochastic depth, which often grow along a run.
    """
    kind: Hashable = (type(module).__module__, type(module).__qualname__, _settings(module))
    if not module._modules and re.search("drop|identity", type(module).__name__.lower()):
        kind = "passes through"
    tensors = tuple(
        (name, None if tensor is None or is_lazy(tensor) else tuple(tensor.shape))
        for named in (module._parameters, module._buffers)
        for name, tensor in named.items()
    )
    children = tuple(
        (name, None if child is None else structure(child))
        for name, child in module._modules.items()
    )
    return kind, tensors, children


def _settings(module: nn.Module) -> str:
    if type(module)._get_name is not nn.Module._get_name or not type(module).__module__.startswith(
        "torch."
    ):
        # Foreign classes may print a block's own index.
        return ""
    return module.extra_repr()


def _original(run: Run) -> int:
    kept = kept_run(run)
    return run.count if kept is None else kept.original


def _search(
    module: nn.Module, path: str, owners: list[tuple[str, nn.Module]], found: list[Run]
) -> None:
    inside: set[int] = set()
    if isinstance(module, nn.Sequential | nn.ModuleList):
        runs = list(_runs_in(module, path))
        if runs and isinstance(module, nn.ModuleList) and not kept_runs(module):
            owner_path, owner = owners[-1] if owners else ("", module)
            relative = path[len(owner_path) :].lstrip(".")
            if owner is not module and not runs_in_sequence(owner, relative):
                return
        found += runs
        inside = {index for run in runs for index in range(run.start, run.stop)}
    if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        owners = [*owners, (path, module)]
    for index, (name, child) in enumerate(module._modules.items()):
        if child is not None and index not in inside:
            _search(child, f"{path}.{name}".lstrip("."), owners, found)


def _runs_in(container: nn.Module, path: str) -> Iterator[Run]:
    members = list(container._modules.values())
    # Numbers are compared much faster than what they stand for.
    numbers: dict[Hashable, int] = {}
    kinds = [
        numbers.setdefault(None if module is None else structure(module), len(numbers))
        for module in members
    ]
    weighty = [module is not None and _has_weight(module) for module in members]
    taken = [False] * len(members)
    for kept in kept_runs(container):
        run = Run(kept.start, kept.period, kept.count, path, container)
        taken[run.start : run.stop] = [True] * (run.stop - run.start)
        yield run
    sizes = [0 if module is None else _size(module) for module in members]
    for one in find_repeats(kinds, sizes, weighty, taken):
        yield Run(one.start, one.period, one.count, path, container)


def _has_weight(module: nn.Module) -> bool:
    return any(is_lazy(parameter) or parameter.dim() >= 2 for parameter in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(0 if is_lazy(parameter) else parameter.numel() for parameter in module.parameters())

"""Freezing: the first layers, from the input on, keep their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...checked import checked_whole
from ...measurement.layers import LayerParts, find_layers, in_forward_order
from ...measurement.loss_modules import modules_of
from ...measurement.single import everything_kept
from ..objective import Objective

_WITH_STATISTICS = nn.modules.batchnorm._NormBase


def freeze(model: nn.Module, count: int, called: Sequence[nn.Module]) -> None:
    """Freeze the first layers of a model in place.

    Their parameters ask for no gradient, so an optimizer skips them and the bars show them as
    frozen. A parameter that a later layer shares is frozen there too. Norms with running
    statistics in the frozen part go to eval mode, as is usual, because a layer whose statistics
    moved would not be the one that was saved; ``model.train()`` would undo that. Dropout in the
    frozen part goes on.

    Args:
        model: to be frozen.
        count: how many layers, in forward order.
        called: the model's modules in the order of a forward pass; see :func:`forward_order`.

    Raises:
        ValueError: ``count`` is no whole number of at least 1, or leaves nothing to learn.
    """
    count = checked_whole("freeze", count, least=1)
    parts = in_forward_order(find_layers(model), called)
    frozen = {id(p): p for part in parts[:count] for p in part.parameters}
    if not any(p.requires_grad and id(p) not in frozen for p in model.parameters()):
        raise ValueError(
            f"freeze is {count} but the model has {len(parts)} layers: "
            "leave at least one that learns."
        )
    for parameter in frozen.values():
        if parameter.requires_grad:
            parameter.requires_grad_(False)
            parameter.grad = None
    for module in _norms_before(parts, count, called):
        module.training = False


def _norms_before(
    parts: Sequence[LayerParts], count: int, called: Sequence[nn.Module]
) -> Iterator[nn.Module]:
    """Yield the norms with running statistics that are frozen, or run before what learns.

    One without parameters of its own is no layer.
    """
    frozen = {id(part.module) for part in parts[:count]}
    learning = {id(part.module) for part in parts[count:]}
    before = True
    for module in called:
        before = before and id(module) not in learning
        if isinstance(module, _WITH_STATISTICS) and module.track_running_stats:
            has_parameters = next(module.parameters(recurse=False), None) is not None
            if id(module) in frozen or (before and not has_parameters):
                yield module


def forward_order(model: nn.Module, objective: Objective, batch: Any) -> tuple[nn.Module, ...]:
    """Return the model's modules in the order of their first call; nothing else changes."""
    called: dict[nn.Module, None] = {}
    kept = everything_kept(model, *modules_of(objective))
    with _noting_calls(model, called), kept, torch.no_grad():
        objective(model, batch)
    return tuple(called)


@contextmanager
def _noting_calls(model: nn.Module, called: dict[nn.Module, None]) -> Iterator[None]:
    def note(module: nn.Module, _: Any) -> None:
        called.setdefault(module)

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

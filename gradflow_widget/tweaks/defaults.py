"""Initialisation of a whole model as its own classes do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .resetting import drawn_as_plain, drawn_on_the_cpu, initializer_of, reset


def reset_as_built(model: nn.Module, seed: int) -> list[str]:
    """Initialise ``model`` in place as its classes do; return the parameters they left out.

    Each layer's ``reset_parameters`` runs in the order in which layers are built, children
    first, then the ``_init_weights`` of the nearest module around that has one, as Hugging
    Face models and nanoGPT do it. A tied weight is drawn by the first layer that has it.
    ``seed`` fixes the weights on every device; the global random state is untouched.
    """
    drawn: set[int] = set()
    with (
        drawn_on_the_cpu([*model.parameters(), *model.buffers()], seed),
        drawn_as_plain(model.modules()) as behind,
    ):
        for layer, initializer in _built(model, None, set()):
            own = {id(parameter) for parameter in layer.parameters(recurse=False)}
            before = [
                (p, p._version, p.detach().clone())
                if id(p) in own & drawn
                else (p, p._version, None)
                for p in layer.parameters()
            ]
            reset(layer)
            if initializer is not None:
                with torch.no_grad():
                    initializer(layer)
            for parameter, version, value in before:
                if value is not None:
                    with torch.no_grad():
                        parameter.copy_(value)
                elif parameter._version != version:
                    drawn.add(id(parameter))
    drawn |= {id(parameter) for parameter in behind}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in drawn]


def _built(
    module: nn.Module, around: Callable[[nn.Module], Any] | None, seen: set[int]
) -> Iterator[tuple[nn.Module, Callable[[nn.Module], Any] | None]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    initializer = initializer_of(module) or around
    for child in module.children():
        yield from _built(child, initializer, seen)
    yield module, initializer

"""Initialisation as a model's own classes do it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def reset_as_built(model: nn.Module) -> list[str]:
    """Initialise ``model`` in place as its classes do; return the parameters they left out.

    Each layer's ``reset_parameters`` runs in the order in which layers are built, children
    first, then the ``_init_weights`` of the nearest module around that has one, as Hugging
    Face models and nanoGPT do it. The random numbers are the global ones.
    """
    touched: set[int] = set()
    for layer, initializer in _built(model, None, set()):
        versions = {id(p): p._version for p in layer.parameters()}
        _reset(layer)
        if initializer is not None:
            with torch.no_grad():
                initializer(layer)
        touched |= {id(p) for p in layer.parameters() if p._version != versions[id(p)]}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in touched]


def _built(
    module: nn.Module, around: Callable[[nn.Module], Any] | None, seen: set[int]
) -> Iterator[tuple[nn.Module, Callable[[nn.Module], Any] | None]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    initializer = _initializer(module) or around
    if not parametrize.is_parametrized(module):
        for child in module.children():
            yield from _built(child, initializer, seen)
    yield module, initializer


def _initializer(module: nn.Module) -> Callable[[nn.Module], Any] | None:
    method = getattr(module, "_init_weights", None)
    if not callable(method):
        return None
    required = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return method if len(required) == 1 else None


def _reset(layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer):
        _reset_parametrized(layer)
        return
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(layer, name, None)
        if callable(method):
            method()
            return


def _reset_parametrized(layer: nn.Module) -> None:
    # reset_parameters would write into the computed weight, which is thrown away.
    plain = copy.deepcopy(layer)
    names = list(plain.get_submodule("parametrizations")._modules)
    for name in names:
        parametrize.remove_parametrizations(plain, name)
    _reset(plain)
    with torch.no_grad():
        for name, tensor in plain.named_parameters(recurse=False):
            if name in names:
                setattr(layer, name, tensor.detach())
            else:
                layer.get_parameter(name).copy_(tensor)

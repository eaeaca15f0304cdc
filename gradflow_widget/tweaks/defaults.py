"""Initialisation as a model's own classes do it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .computed import give_own_class, put_computed
from .norms import is_norm


def reset_as_built(model: nn.Module, seed: int) -> list[str]:
    """Initialise ``model`` in place as its classes do; return the parameters they left out.

    Each layer's ``reset_parameters`` runs in the order in which layers are built, children
    first, then the ``_init_weights`` of the nearest module around that has one, as Hugging
    Face models and nanoGPT do it. A tied weight is drawn by the first layer that has it.
    ``seed`` fixes the weights on every device; the global random state is untouched.
    """
    drawn: set[int] = set()
    with _drawn_on_the_cpu(model, seed):
        for layer, initializer in _built(model, None, set()):
            own = {id(parameter) for parameter in layer.parameters(recurse=False)}
            before = [
                (p, p._version, p.detach().clone())
                if id(p) in own & drawn
                else (p, p._version, None)
                for p in layer.parameters()
            ]
            _reset(layer)
            if initializer is not None:
                with torch.no_grad():
                    initializer(layer)
            for parameter, version, value in before:
                if value is not None:
                    with torch.no_grad():
                        parameter.copy_(value)
                elif parameter._version != version:
                    drawn.add(id(parameter))
    return [name for name, parameter in model.named_parameters() if id(parameter) not in drawn]


@contextmanager
def _drawn_on_the_cpu(model: nn.Module, seed: int) -> Iterator[None]:
    # An accelerator's generator gives other numbers for the same seed, and half precision
    # lacks what some initialisations need.
    homes = [(t, t.device, t.dtype) for t in (*model.parameters(), *model.buffers())]
    for tensor, _, dtype in homes:
        half = dtype in (torch.bfloat16, torch.float16)
        tensor.data = tensor.data.to("cpu", torch.float32 if half else dtype)
    state = torch.get_rng_state()
    # torch.manual_seed would seed the accelerators too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for tensor, device, dtype in homes:
            tensor.data = tensor.data.to(device, dtype)


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
    if is_norm(layer):
        with torch.no_grad():
            for name, parameter in layer.named_parameters(recurse=False):
                parameter.fill_(1.0 if name == "weight" else 0.0)


def _reset_parametrized(layer: nn.Module) -> None:
    # reset_parameters would write into the computed weight, which is thrown away.
    plain = copy.deepcopy(layer)
    give_own_class(plain)
    names = list(plain.get_submodule("parametrizations")._modules)
    for name in names:
        parametrize.remove_parametrizations(plain, name)
    _reset(plain)
    with torch.no_grad():
        for name, tensor in plain.named_parameters(recurse=False):
            if name in names:
                put_computed(layer, name, tensor.detach())
            else:
                layer.get_parameter(name).copy_(tensor)

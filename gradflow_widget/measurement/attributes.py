"""What modules keep in plain attributes: counters, hidden states, lists of outputs."""

from __future__ import annotations

import numbers
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..plain_objects import GENERATORS, GeneratorState, is_plain_object
from .tensor_values import differ

# What every module has: parameters, buffers and submodules are others' concern.
_EVERY_MODULE_HAS = frozenset(nn.Module().__dict__)
# A container is looked into so deep, where it has no more members than this, and an array copied
# where it has no more bytes: what is larger is data, which no pass changes.
_DEEPEST, _MOST_MEMBERS, _MOST_BYTES = 2, 100, 64_000_000
_WRITTEN_AS_THEY_ARE = (type(None), str, bytes, numbers.Number, torch.Size)


class PlainAttributes:
    """The plain attributes of modules as they are now, to be put back.

    A forward pass may count its calls, keep a hidden state for the next one or append to a
    list. Each attribute comes back as the same object; of tensors outside a graph, arrays, random
    generators, lists, dictionaries, sets and plain objects, such as a schedule, the content comes
    back too, and of what lies in them down to a few levels.

    Args:
        modules: whose.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (module, {name: (value, _content(value)) for name, value in _plain(module).items()})
            for module in modules
        ]

    def restore(self) -> None:
        """Put them back, and take away those that have come since."""
        for module, kept in self._kept:
            for name in _plain(module).keys() - kept.keys():
                del module.__dict__[name]
            for name, (value, restore) in kept.items():
                module.__dict__[name] = value
                if restore is not None:
                    restore()

    def write_into(self, twin: nn.Module) -> None:
        """Give a copy of the model, made since, its numbers, texts, tensors and generators."""
        for module, (_, kept) in zip(twin.modules(), self._kept, strict=True):
            for name in _plain(module).keys() - kept.keys():
                del module.__dict__[name]
            for name, (value, restore) in kept.items():
                if isinstance(value, _WRITTEN_AS_THEY_ARE):
                    module.__dict__[name] = value
                elif isinstance(restore, _Tensor):
                    module.__dict__[name] = restore.values.clone()
                elif isinstance(restore, _Generator):
                    restore.write_into(module.__dict__[name])


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in _EVERY_MODULE_HAS and not name.startswith("_gradflow")
    }


class _Tensor:
    """A tensor's values."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.values = tensor.detach().clone()

    def __call__(self) -> None:
        if differ(self._tensor, self.values):
            with torch.no_grad():
                if self._tensor.shape != self.values.shape:
                    self._tensor.resize_(self.values.shape)
                self._tensor.copy_(self.values)


def _content(value: Any, depth: int = 0) -> Callable[[], None] | None:
    """Return what puts the content of ``value`` back; None where it has none of its own."""
    if type(value) is torch.Tensor:
        is_apart = value.grad_fn is None and value.layout is torch.strided
        return _Tensor(value) if is_apart and not value.is_inference() else None
    if isinstance(value, np.ndarray) and value.nbytes <= _MOST_BYTES:
        values = value.copy()
        return lambda: np.copyto(value, values) if value.flags.writeable else None
    if isinstance(value, GENERATORS):
        return _Generator(value)
    if isinstance(value, list | dict | set | deque):
        return _container(value, depth)
    if is_plain_object(value):
        return _container(vars(value), depth)
    return None


class _Generator(GeneratorState):
    """The state of a random generator."""

    def __call__(self) -> None:
        self.put()


def _container(
    value: list[Any] | dict[Any, Any] | set[Any] | deque[Any], depth: int
) -> Callable[[], None]:
    pairs = dict(value) if isinstance(value, dict) else {}
    members = list(pairs.values()) if isinstance(value, dict) else list(value)
    inside: list[Callable[[], None]] = []
    if depth < _DEEPEST and len(members) <= _MOST_MEMBERS:
        contents = (_content(member, depth + 1) for member in members)
        inside = [restore for restore in contents if restore is not None]

    def put_back() -> None:
        if isinstance(value, list):
            value[:] = members
        elif isinstance(value, dict):
            for since in value.keys() - pairs.keys():
                del value[since]
            if list(value) != list(pairs):  # their order too
                value.clear()
            value.update(pairs)
        elif isinstance(value, set):
            value.clear()
            value.update(members)
        else:
            value.clear()
            value.extend(members)
        for restore in inside:
            restore()

    return put_back

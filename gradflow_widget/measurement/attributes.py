"""What modules keep in plain attributes: counters, hidden states, lists of outputs."""

from __future__ import annotations

import numbers
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# What every module has: parameters, buffers and submodules are others' concern.
_EVERY_MODULE_HAS = frozenset(nn.Module().__dict__)
_WRITTEN_AS_THEY_ARE = (type(None), str, bytes, numbers.Number, torch.Size)


class PlainAttributes:
    """A model's plain attributes as they are now, to be put back.

    A forward pass may count its calls, keep a hidden state for the next one or append to a
    list. Each attribute comes back as the same object; of tensors outside a graph and of lists,
    dictionaries and sets the content comes back too. What lies deeper in them is left alone.

    Args:
        model: the model whose modules they are of.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (module, {name: (value, _content(value)) for name, value in _plain(module).items()})
            for module in model.modules()
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
        """Give a copy of the model, made since, those that are numbers, text, tensors or None."""
        for module, (_, kept) in zip(twin.modules(), self._kept, strict=True):
            for name in _plain(module).keys() - kept.keys():
                del module.__dict__[name]
            for name, (value, restore) in kept.items():
                if isinstance(value, _WRITTEN_AS_THEY_ARE):
                    module.__dict__[name] = value
                elif isinstance(restore, _Tensor):
                    module.__dict__[name] = restore.values.clone()


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in _EVERY_MODULE_HAS and not name.startswith("_gradflow")
    }


class _Tensor:
    """A tensor's values."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._version = tensor, tensor._version
        self.values = tensor.detach().clone()

    def __call__(self) -> None:
        if self._tensor._version != self._version:
            with torch.no_grad():
                self._tensor.copy_(self.values)


def _content(value: Any) -> Callable[[], None] | None:
    """Return what puts the content of ``value`` back; None where it has none of its own."""
    if type(value) is torch.Tensor:
        is_apart = value.grad_fn is None and value.layout is torch.strided
        return _Tensor(value) if is_apart and not value.is_inference() else None
    if isinstance(value, list):
        items = list(value)
        return lambda: value.__setitem__(slice(None), items)
    if isinstance(value, dict):
        pairs = dict(value)

        def put_back() -> None:
            value.clear()
            value.update(pairs)

        return put_back
    if isinstance(value, set | deque):
        members = list(value)

        def put_members_back() -> None:
            value.clear()
            value.update(members) if isinstance(value, set) else value.extend(members)

        return put_members_back
    return None

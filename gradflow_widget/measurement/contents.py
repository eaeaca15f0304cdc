"""What modules hold, and which modules a loss is made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import MethodType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .attributes import PlainAttributes
from .tensor_values import differ


class Contents:
    """Buffers, weights, modes and plain attributes of modules as they are now, to be put back.

    Each comes back as the same object, with the same values.

    Args:
        modules: whose; each is looked at without its children.
        every_weight: whether all weights are kept, or only those of embeddings that renormalise
            them.
    """

    def __init__(self, modules: Sequence[nn.Module], *, every_weight: bool = True) -> None:
        self._attributes = PlainAttributes(modules)
        self._modes = [(module, module.training) for module in modules]
        self._buffers = [(module, dict(module._buffers)) for module in modules]
        own = [list(module.parameters(recurse=False)) for module in modules]
        self._asked = [(one, one.requires_grad) for parameters in own for one in parameters]
        values = [b for _, named in self._buffers for b in named.values() if b is not None]
        values += [
            parameter
            for module, parameters in zip(modules, own, strict=True)
            if every_weight or getattr(module, "max_norm", None) is not None
            for parameter in parameters
        ]
        self._values = [(one, one.detach().clone()) for one in values if not is_lazy(one)]

    def put_back(self) -> None:
        """Put it back."""
        for module, mode in self._modes:
            module.training = mode
        for module, named in self._buffers:
            if not isinstance(module, torch.jit.ScriptModule):  # which replaces none of its own
                module._buffers.clear()
                module._buffers.update(named)
        self._attributes.restore()
        for parameter, asks in self._asked:
            if parameter.requires_grad != asks:
                parameter.requires_grad_(asks)
        with torch.no_grad():
            for value, before in self._values:
                if differ(value, before):
                    if value.shape != before.shape:
                        value.resize_(before.shape)
                    value.copy_(before)


def modules_of(function: object) -> tuple[nn.Module, ...]:
    """Return the modules that a loss is, whose method it is, or that are bound to it."""
    if isinstance(function, functools.partial):
        parts = (function.func, *function.args, *function.keywords.values())
        return tuple(module for part in parts for module in modules_of(part))
    owner = function.__self__ if isinstance(function, MethodType) else function
    # A module may be none that can be hashed, such as a dataclass, and then torch can't list it.
    if isinstance(owner, nn.Module) and type(owner).__hash__ is not None:
        return (owner,)
    return ()

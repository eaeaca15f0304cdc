"""Which modules a loss is made of."""

from __future__ import annotations

import functools
from types import MethodType

from torch import nn


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

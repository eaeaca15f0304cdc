"""Hook: one that stays with the module it was registered on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch


class Hook:
    """Calls a function for the watched module alone: a copy carries a hook that does nothing.

    A loop that keeps its best model with copy.deepcopy, or saves it whole, copies and pickles
    the module's hooks too. What watches can't be copied, and must not hear of the copy's passes;
    and who loads the copy need not have this package.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return getattr(*_NOTHING)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, str]]:
        return getattr, _NOTHING


# Python's own method that takes anything and returns None.
_NOTHING = (contextlib.nullcontext(), "__exit__")


def is_being_traced() -> bool:
    """Whether torch.compile or torch.jit.trace is tracing the forward pass that runs."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()

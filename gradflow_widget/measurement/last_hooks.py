"""LastHooks: what is called just before an optimizer's step, behind everybody else's hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class LastHooks:
    """Hooks before an optimizer's steps that stay behind those which others register later.

    Torch calls them in the order of their registration, and who reads the gradients that a step
    uses must come after whoever clips them.

    Attributes:
        moves: how often others had come behind them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._places: list[int] = []
        self.moves = 0

    @staticmethod
    def of(optimizer: Optimizer) -> LastHooks:
        """Return those of this optimizer, of whomever they are: among them the latest is last."""
        known = _known.get(optimizer)
        if known is None:
            known = _known[optimizer] = LastHooks(optimizer)
        return known

    def register(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Put on a hook, behind all that are there."""
        optimizer = self._optimizer()
        assert optimizer is not None
        handle = optimizer.register_step_pre_hook(hook)
        self._places.append(handle.id)
        return handle

    def go_last(self) -> None:
        """Go behind hooks that have come behind these; not while hooks are being called."""
        optimizer = self._optimizer()
        assert optimizer is not None
        hooks: Any = optimizer._optimizer_step_pre_hooks
        if next(reversed(hooks), None) == self._places[-1]:
            return
        self._places = [place for place in self._places if place in hooks]
        if next(reversed(hooks)) == self._places[-1]:
            return
        self.moves += 1
        for place in self._places:
            hooks.move_to_end(place)


_known: weakref.WeakKeyDictionary[Optimizer, LastHooks] = weakref.WeakKeyDictionary()

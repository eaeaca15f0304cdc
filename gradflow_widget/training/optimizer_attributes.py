"""What optimizers of the user's own keep beside their groups and state, such as a counter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ..measurement.attributes import VALUES, Known, content_of

# Groups and state are others' concern, and hooks are for whoever put them there to take off.
_EVERY_OPTIMIZER_HAS = frozenset(vars(SGD([nn.Parameter(torch.empty(0))])))


class OptimizerAttributes:
    """The plain attributes of an optimizer as they are now, to be put back.

    A step may count itself, or keep a moving average, without a word of it in the optimizer's
    state. Attributes that come later stay: a scheduler leaves some there.

    Args:
        optimizer: whose.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        known = Known(keeps_modules=False)  # those that it steps over are others' concern
        kept = {
            name: (value, content_of(value, known))
            for name, value in vars(optimizer).items()
            if name not in _EVERY_OPTIMIZER_HAS
        }
        self._kept = {
            name: (value, content)
            for name, (value, content) in kept.items()
            if content is not None or isinstance(value, VALUES)
        }

    def restore(self) -> None:
        """Put them back."""
        own = vars(self._optimizer)
        for name, (value, content) in self._kept.items():
            own[name] = value if content is None else content.put_back()

    def values(self) -> dict[str, Any]:
        """Return those that are numbers, texts and the like, by name."""
        return {name: value for name, (value, content) in self._kept.items() if content is None}

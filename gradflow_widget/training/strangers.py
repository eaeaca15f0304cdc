"""What is trained or kept besides the model, such as the centres of a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from .loss_state import LossState


class Strangers:
    """Parameters in an optimizer that are none of the model's, and the loss: as at first.

    Every run of a session trains the same ones, and each begins with the first values.

    Args:
        model: the model.
        optimizer: who holds its parameters, and perhaps others.
        first_values: those that earlier runs have begun with; more are added.
        loss: what the loss held at first.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        first_values: WeakTensorKeyDictionary,
        loss: LossState,
    ) -> None:
        self._loss = loss
        own = {id(parameter) for parameter in model.parameters()}
        self._values: list[tuple[torch.Tensor, torch.Tensor]] = []
        for group in optimizer.param_groups:
            for one in group["params"]:
                if id(one) not in own:
                    if one not in first_values:
                        first_values[one] = one.detach().clone()
                    self._values.append((one, first_values[one]))

    def put(self) -> None:
        """Let them have their first values, and no gradient."""
        self._loss.put()
        with torch.no_grad():
            for one, first in self._values:
                one.copy_(first)
                one.grad = None

    @contextmanager
    def as_at_first(self) -> Iterator[None]:
        """Let them have their first values within the ``with``, and then those of now again."""
        now = [(one, one.detach().clone()) for one, _ in self._values]
        try:
            with torch.no_grad():
                for one, first in self._values:
                    one.copy_(first)
            with self._loss.as_at_first():
                yield
        finally:
            with torch.no_grad():
                for one, value in now:
                    one.copy_(value)

"""Snapshot: weights and optimizer state, to come back to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class Snapshot:
    """A copy of a model's parameters and buffers and of its optimizer's state.

    Restoring writes into the same tensors, so that every reference to the model and the
    optimizer stays valid, and drops the gradients.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._tensors = [tensor.detach().clone() for tensor in _tensors(model)]
        self._modes = [module.training for module in model.modules()]
        self._optimizer: dict[str, Any] = copy.deepcopy(optimizer.state_dict())

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put everything back."""
        with torch.no_grad():
            for tensor, saved in zip(_tensors(model), self._tensors, strict=True):
                tensor.copy_(saved)
        for module, mode in zip(model.modules(), self._modes, strict=True):
            module.training = mode
        for parameter in model.parameters():
            parameter.grad = None
        optimizer.load_state_dict(copy.deepcopy(self._optimizer))


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]

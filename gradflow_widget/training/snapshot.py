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
        self._parameters = [p.detach().clone() for p in model.parameters()]
        self._buffers = [
            {name: None if b is None else (b, b.detach().clone()) for name, b in named.items()}
            for named in (module._buffers for module in model.modules())
        ]
        self._modes = [module.training for module in model.modules()]
        self._optimizer: dict[str, Any] = copy.deepcopy(optimizer.state_dict())

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put everything back."""
        with torch.no_grad():
            for parameter, saved in zip(model.parameters(), self._parameters, strict=True):
                parameter.copy_(saved)
                parameter.grad = None
            for module, mode, buffers in zip(
                model.modules(), self._modes, self._buffers, strict=True
            ):
                module.training = mode
                # A forward pass may have put other tensors, or none, in their places.
                module._buffers.clear()
                for name, kept in buffers.items():
                    if kept is None:
                        module._buffers[name] = None
                        continue
                    buffer, values = kept
                    module._buffers[name] = buffer.copy_(values)
        optimizer.load_state_dict(copy.deepcopy(self._optimizer))

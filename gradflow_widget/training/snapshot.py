"""Snapshot: weights, what else a model holds, and optimizer state, to come back to."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..measurement.attributes import PlainAttributes
from .strangers import Strangers


class Snapshot:
    """A copy of a model's parameters, buffers and plain attributes and of its optimizer's state.

    Restoring writes into the same tensors, so that every reference to the model and the
    optimizer stays valid, and drops the gradients.

    Args:
        model: the model.
        optimizer: its optimizer.
        strangers: what the optimizer trains besides the model.

    Attributes:
        strangers: as above.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, strangers: Strangers) -> None:
        self.strangers = strangers
        self._attributes = PlainAttributes(model)
        self._parameters = [p.detach().clone() for p in model.parameters()]
        self._asks = [p.requires_grad for p in model.parameters()]
        self._buffers = [
            {name: None if b is None else (b, b.detach().clone()) for name, b in named.items()}
            for named in (module._buffers for module in model.modules())
        ]
        self._modes = [module.training for module in model.modules()]
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._optimizer: dict[str, Any] = copy.deepcopy(optimizer.state_dict())

    def check_fits(self, model: nn.Module) -> None:
        """Raise ValueError where the model has other modules or parameters than it had."""
        shapes = [saved.shape for saved in self._parameters]
        if len(list(model.modules())) != len(self._modes) or shapes != [
            parameter.shape for parameter in model.parameters()
        ]:
            raise ValueError(
                "the model has got other modules or parameters since it was given, so that it "
                "can't go back to its first step: make a new GradientFlow."
            )

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put everything back."""
        self.strangers.put()
        self._attributes.restore()
        with torch.no_grad():
            for parameter, saved in zip(model.parameters(), self._parameters, strict=True):
                parameter.copy_(saved)
                parameter.grad = None
            for parameter, asks in zip(model.parameters(), self._asks, strict=True):
                parameter.requires_grad_(asks)
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
        # Groups may have been added, or taken away, since.
        groups = optimizer.param_groups
        del groups[len(self._groups) :]
        groups.extend({} for _ in self._groups[len(groups) :])
        for group, members in zip(groups, self._groups, strict=True):
            group["params"] = list(members)
        # A scheduler made since keeps numbers of its own there, without which it could not go on.
        since = [
            {name: value for name, value in group.items() if name not in saved}
            for group, saved in zip(groups, self._optimizer["param_groups"], strict=True)
        ]
        optimizer.load_state_dict(copy.deepcopy(self._optimizer))
        for group, others in zip(optimizer.param_groups, since, strict=True):
            group.update(others)

    def write_into(self, twin: nn.Module) -> None:
        """Give a copy of the model, made since, what the model began with."""
        self._attributes.write_into(twin)
        with torch.no_grad():
            for parameter, saved in zip(twin.parameters(), self._parameters, strict=True):
                parameter.copy_(saved)
            for parameter, asks in zip(twin.parameters(), self._asks, strict=True):
                parameter.requires_grad_(asks)
            for module, mode, buffers in zip(
                twin.modules(), self._modes, self._buffers, strict=True
            ):
                module.training = mode
                present = dict(module._buffers)
                module._buffers.clear()
                for name, kept in buffers.items():
                    module._buffers[name] = (
                        None if kept is None else _set_to(present.get(name), kept[1])
                    )

    def optimizer_as_it_was(self, optimizer: Optimizer) -> Optimizer:
        """Return a stand-in for ``optimizer`` with the options and state that it began with.

        It is there to be read, and holds the same parameters.
        """
        stand_in: Optimizer = type(optimizer).__new__(type(optimizer))
        stand_in.__dict__.update(optimizer.__dict__)
        saved = self._optimizer
        stand_in.param_groups = [
            {**then, "params": list(members)}
            for then, members in zip(saved["param_groups"], self._groups, strict=True)
        ]
        parameters = [one for group in stand_in.param_groups for one in group["params"]]
        stand_in.state = defaultdict(
            dict, {parameters[place]: state for place, state in saved["state"].items()}
        )
        return stand_in


def _set_to(buffer: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    # In place where that is possible: a buffer may be one with another module's.
    if buffer is not None and (buffer.shape, buffer.dtype) == (values.shape, values.dtype):
        return buffer.copy_(values)
    return values.clone() if buffer is None else values.to(buffer.device, copy=True)

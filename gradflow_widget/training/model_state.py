"""ModelState: weights and what else a model holds, to come back to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ..measurement.attributes import PlainAttributes


class _KeptBuffer(NamedTuple):
    buffer: torch.Tensor
    values: torch.Tensor


class ModelState:
    """A copy of a model's parameters, buffers, modes and plain attributes.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes = PlainAttributes(model.modules())
        self._parameters = [p.detach().clone() for p in model.parameters()]
        self._asks = [p.requires_grad for p in model.parameters()]
        self._buffers = [
            {
                name: None if b is None else _KeptBuffer(b, b.detach().clone())
                for name, b in named.items()
            }
            for named in (module._buffers for module in model.modules())
        ]
        self._modes = [module.training for module in model.modules()]

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

    def put(self, model: nn.Module) -> None:
        """Put it back into the same tensors; gradients stay as they are."""
        self._attributes.restore()
        # A forward pass may have put other tensors, or none, in the places of buffers.
        self._put(model, lambda _, kept: kept.buffer.copy_(kept.values))

    def write_into(self, twin: nn.Module) -> None:
        """Give a copy of the model, made since, what the model began with."""
        self._attributes.write_into(twin.modules())
        self._put(twin, lambda present, kept: _set_to(present, kept.values))

    def _put(
        self,
        model: nn.Module,
        to_be: Callable[[torch.Tensor | None, _KeptBuffer], torch.Tensor],
    ) -> None:
        """Put all but attributes into ``model``.

        ``to_be`` returns what stands in a buffer's place, of what stands there and was kept.
        """
        with torch.no_grad():
            for parameter, saved in zip(model.parameters(), self._parameters, strict=True):
                parameter.copy_(saved)
            for parameter, asks in zip(model.parameters(), self._asks, strict=True):
                parameter.requires_grad_(asks)
            for module, mode, buffers in zip(
                model.modules(), self._modes, self._buffers, strict=True
            ):
                module.training = mode
                present = dict(module._buffers)
                named = {
                    name: None if kept is None else to_be(present.get(name), kept)
                    for name, kept in buffers.items()
                }
                if not isinstance(module, torch.jit.ScriptModule):  # which replaces none of its own
                    module._buffers.clear()
                    module._buffers.update(named)


def _set_to(buffer: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    # In place where that is possible: a buffer may be one with another module's.
    if buffer is not None and (buffer.shape, buffer.dtype) == (values.shape, values.dtype):
        return buffer.copy_(values)
    return values.clone() if buffer is None else values.to(buffer.device, copy=True)

"""What a step minimises, from ``loss_fn`` or ``objective``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..measurement.single import check_function, outputs_of

Objective = Callable[[nn.Module, Any], torch.Tensor]


class NoPairError(ValueError):
    """``loss_fn`` needs pairs and a model of one input, and was given something else."""


def as_objective(
    loss_fn: Callable[[Any, Any], Any] | None,
    objective: Objective | None,
    data: Any,
    data_name: str = "data",
) -> tuple[Objective | None, str]:
    """Return what a step minimises and the name of the argument that it came from.

    ``data_name`` is that of the argument that ``data`` came from.

    Raises:
        TypeError: a function can't be called.
        ValueError: ``loss_fn`` and ``objective`` are both given, or data without either.
    """
    if loss_fn is not None and objective is not None:
        raise ValueError("loss_fn and objective are both given: choose one.")
    for name, function in (("loss_fn", loss_fn), ("objective", objective)):
        if function is not None:
            check_function(name, function)
    if data is None:
        return None, "objective"
    if objective is not None:
        return objective, "objective"
    if loss_fn is None:
        raise ValueError(f"{data_name} was given without loss_fn: give loss_fn or objective too.")
    return functools.partial(_supervised, loss_fn), "loss_fn"


def _supervised(loss_fn: Callable[[Any, Any], Any], model: nn.Module, batch: Any) -> Any:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise NoPairError(
            "data gave a batch that is no pair (inputs, targets): "
            "use objective(model, batch) instead of loss_fn."
        )
    inputs, targets = batch
    instead = "use objective(model, batch) instead of loss_fn."
    return loss_fn(outputs_of(model, inputs, instead, NoPairError), targets)

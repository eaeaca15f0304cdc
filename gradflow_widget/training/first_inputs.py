"""What a model is called with in the first step, for those initialisations that need it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from ..tweaks.errors import CannotTweak
from .objective import Objective


class _Called(BaseException):
    """The model was called: the objective need not go on."""


def first_inputs(model: nn.Module, objective: Objective, batch: Any) -> Any:
    """Return what ``objective`` calls ``model`` with on ``batch``.

    Args:
        model: the model; its forward pass is not run.
        objective: ``objective(model, batch)``, called without gradients.
        batch: a batch of the data.

    Returns:
        A tuple of arguments, or a dict of named ones.

    Raises:
        CannotTweak: the model itself is not called.
        Exception: what the objective raised before it called the model.
    """
    seen: list[Any] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_together(model, args, kwargs))
        raise _Called

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            objective(model, batch)
    except _Called:
        pass
    finally:
        handle.remove()
    if not seen:
        raise CannotTweak(
            "This initialisation is driven by what the model is called with, but the objective "
            "calls only parts of it: choose another one."
        )
    return seen[0]


def _together(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not kwargs:
        return args
    if not args:
        return kwargs
    names = list(inspect.signature(model.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}

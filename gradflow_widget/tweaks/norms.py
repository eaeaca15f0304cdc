"""Normalisation layers: which modules are some, and how they start."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_TORCH_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Return whether ``module`` normalises: torch's norms, and classes that are called one.

    A foreign class counts if its name ends in Norm, BatchNorm2d or the like, it has no
    children, and what it learns is a scale and a shift.
    """
    if isinstance(module, _TORCH_NORMS):
        return True
    name = type(module).__name__.rstrip("123d").lower()
    return (
        name.endswith("norm")
        and next(module.children(), None) is None
        and isinstance(getattr(module, "weight", None), torch.Tensor)
        and all(parameter.dim() == 1 for parameter in module.parameters())
    )


def start_norm(module: nn.Module) -> None:
    """Set scale to 1, shift to 0 and running statistics to those of a standard normal."""
    reset: Any = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.fill_(1.0 if name == "weight" else 0.0)

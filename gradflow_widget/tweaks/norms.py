"""Normalisation layers: which modules are some, of which kind, and new ones for any place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TORCH_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_KIND = "_gradflow_norm_kind"
_LEAST_GROUP, _MOST_GROUPS = 16, 32


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
        and isinstance(getattr(module, "weight", None), Tensor)
        and all(parameter.dim() == 1 for parameter in module.parameters())
    )


def kind_of(norm: nn.Module) -> str:
    """Return ``"batch"``, ``"layer"``, ``"group"``, ``"rms"``, or ``""`` for others."""
    if _KIND in norm.__dict__:
        return str(norm.__dict__[_KIND])
    name = type(norm).__name__.lower()
    if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        return ""
    if isinstance(norm, nn.modules.batchnorm._NormBase) or "batch" in name:
        return "batch"
    if isinstance(norm, nn.GroupNorm) or "group" in name:
        return "group"
    if isinstance(norm, nn.RMSNorm) or "rms" in name:
        return "rms"
    return "layer" if isinstance(norm, nn.LayerNorm) or "layer" in name else ""


@dataclass(frozen=True)
class Place:
    """Where a norm stands.

    Attributes:
        features: how many.
        dim: the dimension of the features, −1 for the last, 1 behind the batch.
        spatial: how many dimensions follow the features; None if that is not known.
    """

    features: int
    dim: int
    spatial: int | None = None


def place_of_norm(norm: Any) -> Place:
    """Return where an existing norm stands."""
    if isinstance(norm, nn.modules.batchnorm._NormBase):
        spatial = {2: 2, 3: 3}.get(next((int(c) for c in type(norm).__name__ if c in "23"), 0))
        return Place(norm.num_features, getattr(norm, "dim", 1), spatial)
    if isinstance(norm, nn.GroupNorm):
        return Place(norm.num_channels, getattr(norm, "dim", 1))
    shape = getattr(norm, "normalized_shape", None)
    if isinstance(shape, tuple | list | torch.Size) and len(shape) > 1:
        return Place(int(shape[0]), -len(shape), len(shape) - 1)
    features = int(shape[0]) if isinstance(shape, tuple | list) else norm.weight.numel()
    first = getattr(norm, "data_format", "") == "channels_first" or getattr(norm, "dim", -1) == 1
    return Place(features, 1 if first else -1)


def new_norm(kind: str, place: Place) -> nn.Module:
    """Return a norm with scale 1 and shift 0.

    Behind the batch dimension it is the one that convolutions take: BatchNorm1d, 2d or 3d,
    GroupNorm, and for "layer" and "rms" all channels and positions of a sample together. On
    the last dimension, whatever stands before it, every position counts by itself for
    "layer", "group" and "rms" and as one more sample for "batch": so (batch, features) and
    (batch, time, features) are both served.
    """
    norm = _new_norm(kind, place)
    # GroupNorm(1, channels) is layer norm in one place and group norm in another.
    norm.__dict__[_KIND] = kind
    return norm


def _new_norm(kind: str, place: Place) -> nn.Module:
    if kind == "batch":
        if place.dim == 1 and place.spatial in _BATCH_NORMS:
            return _BATCH_NORMS[place.spatial](place.features)
        return BatchNormOver(place.features, place.dim)
    if kind == "layer":
        if place.dim == -1:
            return nn.LayerNorm(place.features)
        return nn.GroupNorm(1, place.features)
    if kind == "group":
        groups = _groups(place.features)
        if place.dim == -1:
            return GroupNormOver(groups, place.features)
        return nn.GroupNorm(groups, place.features)
    if place.dim == -1:
        return nn.RMSNorm(place.features, eps=1e-5)
    return ChannelRMSNorm(place.features)


def _groups(features: int) -> int:
    # Groups of fewer than 16 features lose what the features say; 32 is the paper's number
    # (Wu & He 2018).
    fitting = [
        groups
        for groups in range(1, min(_MOST_GROUPS, features) + 1)
        if features % groups == 0 and features // groups >= _LEAST_GROUP
    ]
    return max(fitting, default=1)


class BatchNormOver(nn.BatchNorm1d):
    """Batch norm of the features on dimension ``dim``, over all other dimensions.

    A single row, such as an expert may get that one sample has chosen, has no spread: in
    train mode too it is normalised by the running statistics, which it leaves as they are.
    """

    layer_kind = "BatchNorm"

    def __init__(self, num_features: int, dim: int = -1) -> None:
        super().__init__(num_features)
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of the same shape."""
        last = input.movedim(self.dim, -1)
        rows = last.reshape(-1, self.num_features)
        if self.training and len(rows) < 2:
            normal = nn.functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        else:
            normal = super().forward(rows)
        return normal.reshape(last.shape).movedim(-1, self.dim)


class GroupNormOver(nn.GroupNorm):
    """Group norm of the features on the last dimension, position by position."""

    layer_kind = "GroupNorm"
    dim = -1

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of the same shape."""
        return super().forward(input.reshape(-1, self.num_channels)).reshape(input.shape)


class ChannelRMSNorm(nn.Module):
    """x/√(mean x²) over all but the batch dimension, times a scale for each channel.

    RMSNorm (Zhang & Sennrich 2019) as GroupNorm(1, channels) is layer norm for convolutions.
    """

    dim = 1

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def reset_parameters(self) -> None:
        """Set the scale to 1."""
        nn.init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of the same shape."""
        size = math.prod(input.shape[1:])
        mean_square = input.flatten(1).square().sum(1) / size
        scale = (mean_square + self.eps).rsqrt().to(input.dtype)
        ones = [1] * (input.dim() - 2)
        return input * scale.reshape(-1, 1, *ones) * self.weight.reshape(1, -1, *ones)

    def extra_repr(self) -> str:
        """Say how many channels."""
        return f"{self.weight.numel()}, eps={self.eps}"

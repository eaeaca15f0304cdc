"""Whether a block's output has the shape of its input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..deep_copies import deep_copy
from .random_state import random_state_kept
from .silence import nothing_printed

_RESIZING = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Flatten,
    nn.Unflatten,
)


def change_of_shape(block: list[nn.Module]) -> str:
    """Return what a block does to its input's shape, as "(2, 8) to (2, 4)"; "" if it keeps it.

    The modules run one after another on the meta device: no arithmetic, no hooks, and nothing
    of the block is touched. Where no input can be found that the block takes, pooling and
    strided layers within it give the answer.
    """
    twin = _on_meta(block)
    if twin is not None:
        for shape in _input_shapes(block):
            # TransformerEncoderLayer's checks and half of all kernels want float32 inputs.
            result = _run(twin, torch.empty(shape, device="meta"))
            if result is not None:
                return "" if result == shape else f"{shape} to {result}"
    return _resizing_part(block)


def _resizing_part(block: list[nn.Module]) -> str:
    for part in (part for module in block for part in module.modules()):
        strided = isinstance(part, nn.modules.conv._ConvNd) and any(s != 1 for s in part.stride)
        if strided or isinstance(part, _RESIZING):
            return f"resized by {part}"
    return ""


def _run(modules: list[nn.Module], value: Any) -> tuple[int, ...] | None:
    try:
        with random_state_kept(()), nothing_printed(), torch.no_grad():
            for module in modules:
                value = module(value)
                if isinstance(value, tuple):
                    value = value[0]
    except Exception:
        # Whatever a foreign block raises, it does not take this input.
        return None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _on_meta(block: list[nn.Module]) -> list[nn.Module] | None:
    memo: dict[int, Any] = {}
    for module in (part for root in block for part in root.modules()):
        for parameter in module._parameters.values():
            if parameter is not None:
                if is_lazy(parameter):
                    return None
                memo[id(parameter)] = nn.Parameter(_meta(parameter), requires_grad=False)
        for buffer in module._buffers.values():
            if buffer is not None:
                memo[id(buffer)] = _meta(buffer)
        for name, hooks in module.__dict__.items():
            # The user's hooks must not see this.
            if "hooks" in name:
                memo[id(hooks)] = type(hooks)()
    try:
        twin = deep_copy(block, memo)
    except Exception:
        return None
    for module in twin:
        module.eval()
    return twin


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


def _input_shapes(block: list[nn.Module]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of inputs that the first layer with weights may take."""
    for layer in (part for root in block for part in root.modules()):
        sizes = [
            parameter.shape for parameter in layer._parameters.values() if parameter is not None
        ]
        if not sizes:
            continue
        if isinstance(layer, nn.modules.conv._ConvNd):
            channels, dimensions = layer.in_channels, len(layer.kernel_size)
            yield (2, channels, *[64] * dimensions)
            return
        widths = {
            int(width)
            for name in ("in_features", "num_features", "num_channels", "embed_dim", "input_size")
            if isinstance(width := getattr(layer, name, None), int)
        } or {int(size[index]) for size in sizes[:1] for index in (-1, 0) if len(size)}
        for width in widths:
            if isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm):
                yield (2, width, 64, 64)
                yield (2, width, 64)
                yield (2, width)
                yield (2, width, 16, 16, 16)
            else:
                yield (2, 6, width)
                yield (2, width)
                yield (2, 8, 8, width)
        return

"""Which activation follows a layer, and how many of the layer's units it silences."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

# An output counts as saturated where the activation's slope is under this share of its
# steepest: |z| > 2.18 for tanh, |z| > 4.36 for the sigmoid.
FLAT = 0.05


@dataclass(frozen=True)
class Flatness:
    """Where an elementwise activation is exactly flat, and where it is nearly so.

    ``dead_below`` and ``dead_above``: beyond these z the slope is exactly 0.
    ``flat_below`` and ``flat_above``: beyond these z it saturates (``FLAT``).
    """

    dead_below: float = -math.inf
    dead_above: float = math.inf
    flat_below: float = -math.inf
    flat_above: float = math.inf


def _bounded(low: float, high: float) -> Flatness:
    return Flatness(dead_below=low, dead_above=high, flat_below=low, flat_above=high)


_TANH = math.atanh(math.sqrt(1 - FLAT))
_SIGMOID = 2 * _TANH


def _elu(node: Any) -> Flatness:
    alpha = float(node._saved_alpha)
    if alpha <= 0:
        return Flatness()
    steepest = max(1.0, alpha)
    return Flatness(flat_below=math.log(FLAT * steepest / alpha) / float(node._saved_input_scale))


def _celu(node: Any) -> Flatness:
    return Flatness(flat_below=math.log(FLAT) * float(node._saved_alpha))


def _threshold(node: Any) -> Flatness:
    return Flatness(dead_below=float(node._saved_threshold))


def _clamp(node: Any) -> Flatness:
    low, high = node._saved_min, node._saved_max
    return Flatness(
        dead_below=-math.inf if low is None else float(low),
        dead_above=math.inf if high is None else float(high),
    )


def _hardtanh(node: Any) -> Flatness:
    return _bounded(float(node._saved_min_val), float(node._saved_max_val))


def _softplus(node: Any) -> Flatness:
    return Flatness(flat_below=math.log(FLAT / (1 - FLAT)) / float(node._saved_beta))


# By the name of the autograd node that the activation leaves, so that modules and
# functions are found alike. SiLU, GELU and Mish cross a zero slope before they flatten;
# their bounds are where the slope stays small.
_BY_NODE: dict[str, Any] = {
    "ReluBackward0": Flatness(dead_below=0.0),
    "ThresholdBackward0": _threshold,
    "ClampBackward1": _clamp,
    "LeakyReluBackward0": Flatness(),
    "TanhBackward0": Flatness(flat_below=-_TANH, flat_above=_TANH),
    "SigmoidBackward0": Flatness(flat_below=-_SIGMOID, flat_above=_SIGMOID),
    "EluBackward0": _elu,
    "CeluBackward0": _celu,
    "GeluBackward0": Flatness(flat_below=-2.28),
    "SiluBackward0": Flatness(flat_below=-3.93),
    "MishBackward0": Flatness(flat_below=-3.98),
    "SoftplusBackward0": _softplus,
    "HardtanhBackward0": _hardtanh,
    "HardsigmoidBackward0": _bounded(-3.0, 3.0),
    "HardswishBackward0": Flatness(dead_below=-3.0, flat_below=-3.0),
}

# Between a layer's output and its activation only these may stand: they move no value.
_TRANSPARENT = frozenset(
    (
        "ViewBackward0",
        "UnsafeViewBackward0",
        "ReshapeAliasBackward0",
        "TransposeBackward0",
        "PermuteBackward0",
        "UnsqueezeBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "ToCopyBackward0",
        "CloneBackward0",
    )
)

_CHANNEL_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)


# More nodes than this between two layers are not looked through.
_FARTHEST = 256


def activations_between(
    consumer: Any, producers: Container[Any], seen: set[Any]
) -> list[tuple[Any, Flatness]]:
    """Find the activations that act right on a layer's output, by walking the graph back.

    Args:
        consumer: the autograd node of a later layer's output, or of the model's.
        producers: the autograd nodes of layers' outputs.
        seen: nodes already looked through in this pass, so that the branches of a
            residual stream are not walked again from every block; more are added.

    Returns:
        The producers whose output goes into an activation, with what it does.

    Only names and saved scalars of nodes are read, never saved tensors: unpacking those
    would run a checkpointed block again.
    """
    found: list[tuple[Any, Flatness]] = []
    queue = [consumer]
    for node in queue:
        if node in producers or len(queue) > _FARTHEST:
            continue
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        shape = _BY_NODE.get(type(node).__name__)
        if shape is not None and parents:
            source = _through_views(parents[0], producers)
            if source in producers:
                found.append((source, shape if isinstance(shape, Flatness) else shape(node)))
        for parent in parents:
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return found


def _through_views(node: Any, producers: Container[Any]) -> Any:
    """Go back over what moves no value."""
    while node is not None and node not in producers:
        if type(node).__name__ not in _TRANSPARENT or not node.next_functions:
            break
        node = node.next_functions[0][0]
    return node


def has_channels_first(module: nn.Module, output: torch.Tensor) -> bool:
    """Whether the units of a layer's output are its second dimension, and not its last."""
    return isinstance(module, _CHANNEL_FIRST) and output.dim() > 1


def dead_and_saturated(
    output: torch.Tensor, flatness: Flatness, module: nn.Module
) -> tuple[tuple[torch.Tensor | None, int], tuple[torch.Tensor | None, int]]:
    """Count dead units and saturated outputs: (count, of how many) of each.

    A unit is a channel of a convolution or batch norm, else a place in the last
    dimension; it is dead where the activation is exactly flat for the whole batch. Counts
    are 0-d integer tensors on the device; None stands for 0 where there can be none.
    """
    z = output.detach()
    if has_channels_first(module, z):
        z = z.movedim(1, -1)
    units = z.reshape(-1, z.shape[-1]) if z.dim() else z.reshape(1, 1)
    silent = _outside(units, flatness.dead_below, flatness.dead_above)
    flat = _outside(units, flatness.flat_below, flatness.flat_above)
    dead = None if silent is None else torch.count_nonzero(silent.all(dim=0))
    saturated = None if flat is None else torch.count_nonzero(flat)
    return (dead, units.shape[1]), (saturated, units.numel())


def dead_and_saturated_of_rows(
    rows: torch.Tensor, flatness: Flatness, *, channels_first: bool
) -> list[tuple[tuple[int | None, int], tuple[int | None, int]]]:
    """Do as :func:`dead_and_saturated` does for outputs on the CPU, shape (rows, ...).

    The counts are plain numbers.
    """
    z = rows.movedim(2, -1) if channels_first else rows
    units = z.reshape(len(rows), -1, z.shape[-1]) if z.dim() > 1 else z.reshape(-1, 1, 1)
    dead = _silent_units(units, flatness.dead_below, flatness.dead_above)
    flat = _outside(rows, flatness.flat_below, flatness.flat_above)
    # NumPy counts what is True ten times as fast.
    saturated = None if flat is None else [int(np.count_nonzero(row)) for row in flat.numpy()]
    unknown: list[int | None] = [None] * len(rows)
    number, width = rows[0].numel(), int(units.shape[2])
    counts = zip(dead or unknown, saturated or unknown, strict=True)
    return [((silent, width), (beyond, number)) for silent, beyond in counts]


def _silent_units(units: torch.Tensor, low: float, high: float) -> list[int] | None:
    """Count the units, shape (rows, samples, units), whose every z is <= low or >= high."""
    if math.isinf(low) and math.isinf(high):
        return None
    if math.isinf(high):
        silent = units.amax(1) <= low  # a NaN is no larger and no smaller than anything
    else:
        outside = _outside(units, low, high)
        assert outside is not None
        silent = outside.all(dim=1)
    counts: list[int] = torch.count_nonzero(silent, dim=1).tolist()
    return counts


def _outside(z: torch.Tensor, low: float, high: float) -> torch.Tensor | None:
    """Return where z <= low or z >= high; None where no z can be."""
    if math.isinf(low) and math.isinf(high):
        return None
    if math.isinf(high):
        return z <= low
    if low == -high:
        return z.abs() >= high
    return (z <= low) | (z >= high)

"""Which activation follows a layer, and how many of the layer's units it silences."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .pooling import sees_every_element

# An output counts as saturated where the activation's slope is under this share of its
# steepest, and stays so all the way out: |z| > 2.18 for tanh, |z| > 4.36 for the sigmoid.
FLAT = 0.05


@dataclass(frozen=True)
class Flatness:
    """Where an elementwise activation is exactly flat, and where it is nearly so.

    ``dead_below`` and ``dead_above``: beyond these z the slope is exactly 0.
    ``flat_below`` and ``flat_above``: beyond these z it saturates (``FLAT``). What is flat on
    one side and straight on the other, as a ReLU is, has none: its silence is told by the dead.
    """

    dead_below: float = -math.inf
    dead_above: float = math.inf
    flat_below: float = -math.inf
    flat_above: float = math.inf

    @property
    def bounds_below_only(self) -> bool:
        """Whether it is exactly flat below some z, or nowhere, and nearly so nowhere else."""
        return self.dead_above == self.flat_above == math.inf and self.flat_below == -math.inf


class Use(NamedTuple):
    """What a layer's output goes into.

    Attributes:
        source: the autograd node of the layer's output.
        flatness: what the activation there does; None where it is none that is known.
        node: the autograd node there.
        is_pooled: max-pooling stands between the two.
    """

    source: Any
    flatness: Flatness | None
    node: Any
    is_pooled: bool


class Counts(NamedTuple):
    """How many units of a layer are dead, and how many of its outputs saturated.

    Attributes:
        dead: how many units; None stands for 0 where there can be none.
        units: of how many.
        saturated: how many outputs, likewise.
        outputs: of how many.
        silent: which units are dead, shape (units,).
    """

    dead: torch.Tensor | int | None
    units: int
    saturated: torch.Tensor | int | None
    outputs: int
    silent: torch.Tensor | None = None


def _bounded(low: float, high: float) -> Flatness:
    return Flatness(dead_below=low, dead_above=high, flat_below=low, flat_above=high)


_TANH = math.atanh(math.sqrt(1 - FLAT))
_SIGMOID = 2 * _TANH


def _elu(node: Any) -> Flatness:
    alpha = abs(float(node._saved_alpha))
    if alpha == 0:
        return Flatness(dead_below=0.0)
    # Where alpha is under FLAT, all below 0 is flat; above, the slope is 1 whatever alpha is.
    flat = min(0.0, math.log(FLAT * max(1.0, alpha) / alpha))
    return Flatness(flat_below=flat / float(node._saved_input_scale))


def _celu(node: Any) -> Flatness:
    alpha = float(node._saved_alpha)
    # Of a negative alpha the slope grows without end below 0.
    return Flatness(flat_below=math.log(FLAT) * alpha if alpha > 0 else -math.inf)


def _leaky_relu(node: Any) -> Flatness:
    return Flatness(dead_below=0.0 if node._saved_negative_slope == 0 else -math.inf)


def _rrelu(node: Any) -> Flatness:
    is_relu = node._saved_lower == node._saved_upper == 0
    return Flatness(dead_below=0.0 if is_relu else -math.inf)


def _threshold(node: Any) -> Flatness:
    return Flatness(dead_below=float(node._saved_threshold))


def _clamp(node: Any) -> Flatness:
    low, high = node._saved_min, node._saved_max
    if low is None or high is None:  # half of it is a straight line, as of a ReLU
        return Flatness(
            dead_below=-math.inf if low is None else float(low),
            dead_above=math.inf if high is None else float(high),
        )
    return _bounded(float(low), float(high))


def _clamp_min(node: Any) -> Flatness:
    return Flatness(dead_below=float(node._saved_min))


def _clamp_max(node: Any) -> Flatness:
    return Flatness(dead_above=float(node._saved_max))


def _elu_of_output(node: Any) -> Flatness:
    of_input = _elu(node)
    if of_input.dead_below == 0:  # what lies below has become 0
        return of_input
    flat = of_input.flat_below * float(node._saved_input_scale)
    scale = float(node._saved_scale) * float(node._saved_alpha)
    return Flatness(flat_below=scale * math.expm1(flat))


def _celu_of_output(node: Any) -> Flatness:
    return Flatness(flat_below=float(node._saved_alpha) * (FLAT - 1))


def _hardtanh(node: Any) -> Flatness:
    return _bounded(float(node._saved_min_val), float(node._saved_max_val))


def _softplus(node: Any) -> Flatness:
    beta = float(node._saved_beta)
    # Beyond its threshold it is a straight line, whatever the sigmoid of beta z is there.
    flat = min(math.log(FLAT / (1 - FLAT)), float(node._saved_threshold)) / beta
    return Flatness(flat_below=flat) if beta > 0 else Flatness(flat_above=flat)


# By the name of the autograd node that the activation leaves, so that modules and
# functions are found alike. SiLU, GELU, Mish and hardswish cross a zero slope before they
# flatten; their bounds are where the slope stays small. Softsign and Tanhshrink leave no node
# of their own, Softshrink and Hardshrink are flat in the middle, and PReLU's slope is a tensor.
_BY_NODE: dict[str, Any] = {
    "ReluBackward0": Flatness(dead_below=0.0),
    "ThresholdBackward0": _threshold,
    "ThresholdBackward1": _threshold,
    "ClampBackward1": _clamp,
    "ClampMinBackward0": _clamp_min,
    "ClampMaxBackward0": _clamp_max,
    "LeakyReluBackward0": _leaky_relu,
    "LeakyReluBackward1": _leaky_relu,
    "RreluWithNoiseBackward0": _rrelu,
    "RreluWithNoiseBackward1": _rrelu,
    "LogSigmoidBackward0": Flatness(flat_above=math.log((1 - FLAT) / FLAT)),
    "TanhBackward0": Flatness(flat_below=-_TANH, flat_above=_TANH),
    "SigmoidBackward0": Flatness(flat_below=-_SIGMOID, flat_above=_SIGMOID),
    "EluBackward0": _elu,
    "EluBackward1": _elu,
    "CeluBackward0": _celu,
    "CeluBackward1": _celu,
    "GeluBackward0": Flatness(flat_below=-2.28),
    "SiluBackward0": Flatness(flat_below=-3.93),
    "MishBackward0": Flatness(flat_below=-3.98),
    "SoftplusBackward0": _softplus,
    "HardtanhBackward0": _hardtanh,
    "HardsigmoidBackward0": _bounded(-3.0, 3.0),
    "HardswishBackward0": Flatness(dead_below=-3.0, flat_below=-3.0),
}

# Of an activation that has overwritten z with its own output y, the bounds of y: where it rises,
# y lies beyond them just where z lay beyond its own. SiLU, Mish and hardswish fall before they
# rise; what a threshold writes may be anything.
_BY_NODE_OF_OUTPUT: dict[str, Any] = {
    "ReluBackward0": Flatness(dead_below=0.0),
    "ClampBackward1": _clamp,
    "LeakyReluBackward1": _leaky_relu,
    "RreluWithNoiseBackward1": _rrelu,
    "TanhBackward0": Flatness(flat_below=-math.sqrt(1 - FLAT), flat_above=math.sqrt(1 - FLAT)),
    "SigmoidBackward0": Flatness(
        flat_below=1 / (1 + math.exp(_SIGMOID)), flat_above=1 / (1 + math.exp(-_SIGMOID))
    ),
    "EluBackward1": _elu_of_output,
    "CeluBackward1": _celu_of_output,
    "HardtanhBackward0": _hardtanh,
    "HardsigmoidBackward0": _bounded(0.0, 1.0),
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
        "BackwardHookFunctionBackward",
    )
)

_CHANNEL_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)


_CONVOLUTION = "ConvolutionBackward0"

# More nodes than this between two layers are not looked through.
_FARTHEST = 256


def uses_between(consumer: Any, producers: Container[Any], seen: set[Any]) -> list[Use]:
    """Find what the outputs of layers go into, by walking the graph back.

    Args:
        consumer: the autograd node of a later layer's output, or of the model's.
        producers: the autograd nodes of layers' outputs.
        seen: nodes already looked through in this pass, so that the branches of a
            residual stream are not walked again from every block; more are added.

    Of what stands between the two, views move no value, and max-pooling picks some: behind it an
    activation that rises nowhere below a bound, and has no other, is flat just where all of
    the layer's output lies below.

    Only names and saved scalars of nodes are read, never saved tensors: unpacking those
    would run a checkpointed block again.
    """
    found: list[Use] = []
    queue = [] if consumer in seen else [consumer]
    seen.add(consumer)
    for node in queue:
        if node in producers or len(queue) > _FARTHEST:
            continue
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        # What only hands on is looked through from what it hands on to.
        if not (type(node).__name__ in _TRANSPARENT or sees_every_element(node)):
            shape = _flatness(_BY_NODE, node)
            may_pool = shape is not None and shape.bounds_below_only
            for parent in parents[: None if shape is None else 1]:
                source, is_pooled = _layer_below(parent, producers, may_pool=may_pool)
                if source in producers:
                    found.append(Use(source, shape, node, is_pooled))
        for parent in parents:
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return found


def producers_before(consumer: Any, producers: Container[Any]) -> list[Any]:
    """Find the nodes of layers' outputs that ``consumer`` is computed from, with none between.

    Of many, as along a residual stream, the nearest; but as far as it takes to find one.
    """
    found, queue, seen = [], [consumer], {consumer}
    for node in queue:
        if node in producers:
            found.append(node)
        elif len(queue) <= _FARTHEST or not found:
            parents = {parent: None for parent, _ in node.next_functions if parent is not None}
            queue += [parent for parent in parents if parent not in seen]
            seen.update(parents)
    return found


def flatness_of_output(node: Any) -> Flatness | None:
    """Return the bounds of what an activation has put in z's place; None where none will do."""
    return _flatness(_BY_NODE_OF_OUTPUT, node)


def _flatness(table: dict[str, Any], node: Any) -> Flatness | None:
    known = table.get(type(node).__name__)
    if known is None or isinstance(known, Flatness):
        return known
    flatness: Flatness = known(node)
    return flatness


def _layer_below(node: Any, producers: Container[Any], *, may_pool: bool) -> tuple[Any, bool]:
    """Go back over what moves no value, and maybe over max-pooling; tell whether that was met."""
    is_pooled = False
    while node is not None and node not in producers:
        if type(node).__name__ not in _TRANSPARENT:
            if not (may_pool and sees_every_element(node)):
                break
            is_pooled = True
        below = node.next_functions
        if len(below) != 1:
            break
        node = below[0][0]
    return node, is_pooled


def has_channels_first(module: nn.Module, output: torch.Tensor) -> bool:
    """Whether the units of a layer's output are its second dimension, and not its last."""
    if output.dim() < 2:
        return False
    # A convolution of the user's own shows in what it has left in the graph, and a norm in its
    # weights.
    return (
        isinstance(module, _CHANNEL_FIRST)
        or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 3)
        or type(output.grad_fn).__name__ == _CONVOLUTION
        or (output.dim() > 2 and _has_weights_for_channels(module, output.shape))
    )


def _has_weights_for_channels(module: nn.Module, shape: torch.Size) -> bool:
    """Whether a module has one number for each place in an output's second dimension."""
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    if not own or any(one.numel() != shape[1] or shape[1] not in one.shape for one in own):
        return False
    # Where the last dimension is as long, only a shape such as (channels, 1, 1) tells.
    return shape[1] != shape[-1] or all(one.dim() > 2 and one.shape[-1] == 1 for one in own)


def dead_and_saturated(output: torch.Tensor, flatness: Flatness, *, channels_first: bool) -> Counts:
    """Count dead units and saturated outputs.

    A unit is a channel of a convolution or batch norm, else a place in the last
    dimension; it is dead where the activation is exactly flat for the whole batch. Counts
    are 0-d integer tensors on the device.
    """
    z = output.detach()
    if channels_first:
        z = z.movedim(1, -1)
    units = z.reshape(-1, z.shape[-1]) if z.dim() else z.reshape(1, 1)
    silent = _outside(units, flatness.dead_below, flatness.dead_above)
    flat = _outside(units, flatness.flat_below, flatness.flat_above)
    dead = None if silent is None else silent.all(dim=0)
    return Counts(
        None if dead is None else torch.count_nonzero(dead),
        units.shape[1],
        None if flat is None else torch.count_nonzero(flat),
        units.numel(),
        dead,
    )


def dead_and_saturated_of_rows(
    rows: torch.Tensor, flatness: Flatness, *, channels_first: bool
) -> list[Counts]:
    """Do as :func:`dead_and_saturated` does for outputs on the CPU, shape (rows, ...).

    The counts are plain numbers.
    """
    z = rows.movedim(2, -1) if channels_first else rows
    units = z.reshape(len(rows), -1, z.shape[-1]) if z.dim() > 1 else z.reshape(-1, 1, 1)
    silent = _silent_units(units, flatness.dead_below, flatness.dead_above)
    flat = _outside(rows, flatness.flat_below, flatness.flat_above)
    # NumPy counts what is True ten times as fast.
    saturated = None if flat is None else [int(np.count_nonzero(row)) for row in flat.numpy()]
    dead: list[int] | None = None if silent is None else torch.count_nonzero(silent, dim=1).tolist()
    number, width = rows[0].numel(), int(units.shape[2])
    return [
        Counts(
            None if dead is None else dead[row],
            width,
            None if saturated is None else saturated[row],
            number,
            None if silent is None else silent[row],
        )
        for row in range(len(rows))
    ]


def dead_in_all(counts: Sequence[Counts]) -> list[Counts]:
    """Return the counts of one layer's calls, such as micro-batches, with the dead ones joined.

    A unit is dead where it is in every call. The first of those that have the same units holds
    how many are, the others hold none.
    """
    joined = list(counts)
    groups: dict[int, list[int]] = {}
    for place, one in enumerate(joined):
        if one.silent is not None:
            groups.setdefault(one.units, []).append(place)
    for places in groups.values():
        first, *others = places
        if not others:
            continue
        masks = [joined[place].silent for place in places]
        on_one_device = [mask.to(masks[0].device) for mask in masks]  # type: ignore[union-attr]
        silent = torch.stack(on_one_device).all(dim=0)
        joined[first] = joined[first]._replace(dead=torch.count_nonzero(silent))
        for place in others:
            joined[place] = joined[place]._replace(dead=None, units=0)
    return joined


def _silent_units(units: torch.Tensor, low: float, high: float) -> torch.Tensor | None:
    """Tell for units, shape (rows, samples, units), whether their every z is <= low or >= high."""
    if math.isinf(low) and math.isinf(high):
        return None
    if math.isinf(high):
        return units.amax(1) <= low  # a NaN is no larger and no smaller than anything
    outside = _outside(units, low, high)
    assert outside is not None
    return outside.all(dim=1)


def _outside(z: torch.Tensor, low: float, high: float) -> torch.Tensor | None:
    """Return where z <= low or z >= high; None where no z can be."""
    if math.isinf(low) and math.isinf(high):
        return None
    if math.isinf(high):
        return z <= low
    if low == -high:
        return z.abs() >= high
    return (z <= low) | (z >= high)

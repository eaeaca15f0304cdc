"""take_reading: one forward and backward pass on a model that stays as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from .capture import Capture, collect
from .layers import find_layers, in_forward_order
from .norms import exact_norms, largest_magnitudes, stacked
from .reading import FloatArray, Reading

LossFunction = Callable[[Any, Any], torch.Tensor]


@contextmanager
def everything_kept(model: nn.Module) -> Iterator[None]:
    """Put buffers and the random state back, bit for bit, on leaving.

    Buffers are restored in place, and as the same objects where the pass replaced them.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d.index for d in devices]):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, saved in buffers:
                    if not torch.equal(buffer, saved):
                        buffer.copy_(saved)
                    module._buffers[name] = buffer


def checked_loss(loss: object, origin: str) -> torch.Tensor:
    """Return ``loss`` as a scalar with a graph.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is no scalar, or has no graph to go back through.
    """
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"{origin} must return a scalar tensor, not {type(loss).__name__}: "
            "return the loss itself."
        )
    if loss.numel() != 1:
        raise ValueError(
            f"{origin} must return a scalar, not a tensor of shape {tuple(loss.shape)}: "
            "reduce it, for instance with .mean()."
        )
    if not loss.requires_grad:
        raise ValueError(
            f"{origin} returned a loss without a graph: compute it from the model's output "
            "without .detach(), .item() or torch.no_grad()."
        )
    return loss.reshape(())


def take_reading(
    model: nn.Module, loss_fn: LossFunction, inputs: Any, targets: Any
) -> Reading:
    """Do one forward and backward pass and return a full Reading (without update ratio).

    Nothing of the model changes: weights, ``.grad``, buffers such as BatchNorm's running
    statistics, train or eval mode and the random state are as before.

    Args:
        model: the module to read, in the mode that it is in.
        loss_fn: ``loss_fn(model(inputs), targets)`` is the scalar to differentiate.
        inputs: what the model takes.
        targets: what ``loss_fn`` takes.

    Raises:
        TypeError, ValueError: no usable model, or ``loss_fn`` returns no scalar with a graph.
    """
    return read_objective(
        model, lambda network, batch: loss_fn(network(batch[0]), batch[1]), (inputs, targets),
        origin="loss_fn",
    )


def read_objective(
    model: nn.Module,
    objective: Callable[[nn.Module, Any], torch.Tensor],
    batch: Any,
    *,
    origin: str = "objective",
) -> Reading:
    """Do as :func:`take_reading` does, for ``objective(model, batch)``."""
    parts = find_layers(model)
    called: list[nn.Module] = []
    order = [
        part.module.register_forward_pre_hook(lambda module, _: called.append(module))
        for part in parts
    ]
    capture = Capture(model, parts)
    try:
        with everything_kept(model), torch.enable_grad():
            loss = checked_loss(objective(model, batch), origin)
            asking = [p for p in model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, asking, allow_unused=True)
    finally:
        for handle in order:
            handle.remove()
        capture.close()

    gradient_of = {id(p): g for p, g in zip(asking, gradients, strict=True)}
    ordered = in_forward_order(parts, called)
    place = {id(part): index for index, part in enumerate(parts)}
    sums = [capture.sums[place[id(part)]] for part in ordered]

    count = len(ordered)
    norms, largest, weight_norms = np.full((3, count), np.nan)
    missing, frozen = np.zeros((2, count), dtype=np.bool_)
    for index, part in enumerate(ordered):
        here = [g for w in part.weights if (g := gradient_of.get(id(w))) is not None]
        weight_norms[index] = _joined(exact_norms([w.detach() for w in part.weights]))
        missing[index] = not here
        frozen[index] = not here and not any(w.requires_grad for w in part.weights)
        if here:
            norms[index] = _joined(exact_norms(here))
            largest[index] = max((float(m) for m in largest_magnitudes(here)), key=_nan_first)
    every = [g for g in gradients if g is not None]
    collected = collect(sums)
    columns = collected.columns(_on_cpu(collected.norms), _on_cpu(collected.counts))
    return Reading(
        step=0,
        loss=float(loss.detach()),
        learning_rate=math.nan,
        learning_rates=(),
        described=tuple(part.layer for part in ordered),
        weight_grad_norm=norms,
        total_norm=_joined(exact_norms(every)),
        clip_scale=1.0,
        unclipped_grad_norm=norms,
        missing=missing,
        frozen=frozen,
        weight_grad_max=largest,
        weight_norm=weight_norms,
        signal_grad_norm=columns[0],
        activation_rms=columns[1],
        dead_fraction=columns[2],
        saturated_fraction=columns[3],
    )


def _on_cpu(scalars: list[torch.Tensor]) -> FloatArray:
    return stacked(scalars).cpu().numpy().astype(np.float64) if scalars else np.zeros(0)


def _joined(norms: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(norm) ** 2 for norm in norms))


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value

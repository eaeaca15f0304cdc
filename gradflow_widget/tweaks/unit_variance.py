"""LSUV: each layer's output on a batch scaled to a given spread (Mishkin & Matas 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CannotTweak
from .random_state import random_state_kept
from .weights import Weight, is_parametrized, weights_of


def scale_to_unit_variance(model: nn.Module, batch: Any, target: float = 1.0) -> list[str]:
    """Scale the weights of ``model`` in place, from the input on, by one forward pass.

    Each layer's output then has the standard deviation ``target`` over the batch. Biases must
    be zero: an output is then proportional to its layer's weight, so that a single division
    does what the paper repeats, and the pass goes on with the output as it will be.

    Dropout is off; batch norms use the batch, and their running statistics stay. The random
    state is untouched.

    A weight tied to an embedding stays: the embedding stands before layers that are fitted
    already when its projection's turn comes.

    Returns:
        The names of the others that were not scaled: within attention and recurrent layers,
        with parametrizations, or not reached by the batch.

    Raises:
        CannotTweak: the model does not take the batch.
    """
    scaled: set[int] = set()
    handles = []
    names = {module: name for name, module in model.named_modules()}
    embedded = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    weights = [
        weight
        for module in model.modules()
        for weight in weights_of(module)
        if id(weight.tied_to) not in embedded
    ]
    for weight in weights:
        single = isinstance(weight.module, nn.Linear | nn.Bilinear | nn.modules.conv._ConvNd)
        if weight.tied_to is not None and (single or weight.inputs_first):
            handles.append(weight.module.register_forward_hook(_scaler(weight, target, scaled)))
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for module in model.modules():
            module.training = not isinstance(module, nn.modules.dropout._DropoutNd)
        with random_state_kept(model.parameters()), torch.no_grad():
            _call(model, batch)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise CannotTweak(
            f"The model does not take the batch that drives LSUV ({type(error).__name__}: {first})."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return [
        f"{names[weight.module]}.{weight.name}".lstrip(".")
        for weight in weights
        if not any(id(source) in scaled for source in weight.sources)
        or is_parametrized(weight.module, weight.name)
    ]


def _scaler(weight: Weight, target: float, scaled: set[int]) -> Any:
    def scale(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        parameter = weight.tied_to
        if parameter is None or id(parameter) in scaled or not isinstance(output, Tensor):
            return None
        spread = output.std(unbiased=False)
        if not (torch.isfinite(spread) and spread > 0):
            return None
        scaled.add(id(parameter))
        if not parameter.requires_grad:
            return None
        factor = target / spread
        parameter.mul_(factor.to(parameter.dtype))
        return output * factor

    return scale


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)

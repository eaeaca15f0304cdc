"""Where NaN or inf came up first: in forward order, then in backward order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from .eager import uncompiled
from .layers import find_layers, first_tensor, tensors_in
from .reading import Reading
from .single import everything_kept


class NonFinite(NamedTuple):
    """The first tensor that was not finite.

    ``where`` tells whether it is the output of ``layer``, the gradient of one of its parameters,
    or (then ``layer`` is empty) what the model was called with, a target, or the loss itself.
    """

    step: int
    layer: str
    where: Literal["input", "output", "gradient", "target", "loss"]


def first_nonfinite_of_pass(
    model: nn.Module, forward: Callable[[], Any], step: int
) -> NonFinite | None:
    """Run ``forward`` once more and find the first input or output that is not finite.

    Nothing of the model changes. None where all of them are finite.
    """
    found: list[NonFinite] = []

    def look_at_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not found and not _is_finite_input((args, kwargs)):
            found.append(NonFinite(step, "", "input"))

    handles = [model.register_forward_pre_hook(look_at_input, with_kwargs=True)]
    for part in find_layers(model):
        name = part.layer.name

        def look(_: nn.Module, __: Any, result: Any, name: str = name) -> None:
            output = first_tensor(result)
            if not found and output is not None and not all_finite(output):
                found.append(NonFinite(step, name, "output"))

        handles.append(part.module.register_forward_hook(look))
    try:
        with uncompiled(), everything_kept(model), torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _is_finite_input(value: object) -> bool:
    first = first_tensor(value, any_dtype=True)
    # A mask that comes beside the input, or beside tokens, may be minus infinity.
    return all(
        all_finite(one) if one is first else all_finite(one, infinite=True)
        for one in tensors_in(value)
    )


def all_finite(tensor: torch.Tensor, *, infinite: bool = False) -> bool:
    """Whether no element is NaN or, unless they may be ``infinite``, inf.

    Of a layout or dtype for which torch can't tell, none is taken to be.
    """
    values = tensor.detach()
    try:
        if values.layout is not torch.strided:
            values = (values.coalesce() if values.layout is torch.sparse_coo else values).values()
        spoilt = values.isnan() if infinite else ~torch.isfinite(values)
        return not bool(spoilt.any())
    except (NotImplementedError, RuntimeError):  # a search for a cause stops no training
        return True


def first_nonfinite(reading: Reading) -> NonFinite | None:
    """Find the first non-finite tensor that a reading shows; None where all is finite.

    Outputs come first, in forward order, where the reading is full; then gradients, in
    backward order.
    """
    if reading.is_finite:
        return None
    if (output := nonfinite_output(reading)) is not None:
        return output
    if reading.loss_seen and not np.isfinite(reading.loss):
        return NonFinite(reading.step, "", "loss")
    # One NaN makes all gradients NaN when they are clipped by their norm. Where the backward pass
    # left none, it is one that came to them afterwards.
    looked_at = [] if reading.spoilt is None else [reading.spoilt]
    for norms in (reading.unclipped_grad_norm, reading.weight_grad_norm):
        looked_at.append(~np.isfinite(norms) & ~reading.missing)
    for spoilt in looked_at:
        bad = np.flatnonzero(spoilt)
        if len(bad):
            return NonFinite(reading.step, reading.layers[int(bad[-1])], "gradient")
    return NonFinite(reading.step, "", "gradient")


def nonfinite_output(reading: Reading) -> NonFinite | None:
    """Find the first output, in forward order, that a full reading shows not finite.

    Loss and gradients may be finite all the same, as where a class that is no target has a logit
    of minus infinity.
    """
    if reading.activation_rms is None:
        return None
    bad = ~np.isfinite(reading.activation_rms)
    if not bad.any():
        return None
    places = np.flatnonzero(bad & ~reading.unseen)
    if not len(places):
        return None
    return NonFinite(reading.step, reading.layers[int(places[0])], "output")

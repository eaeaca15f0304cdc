"""The number of layers of nn.RNN, nn.LSTM and nn.GRU."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils import parametrize

from .fresh import seed_of
from .resetting import seeded

_KEPT = "_gradflow_kept_layers"
_LAYER = re.compile(r"_l(\d+)(_reverse)?$")


@dataclass
class _KeptLayers:
    original: int
    aside: dict[str, nn.Parameter] = field(default_factory=dict)


def original_layers(rnn: nn.RNNBase) -> int:
    """Return how many layers ``rnn`` had before its depth was ever changed."""
    kept: _KeptLayers | None = rnn.__dict__.get(_KEPT)
    return rnn.num_layers if kept is None else kept.original


def set_layers(rnn: nn.RNNBase, count: int, seed: int, place: str) -> None:
    """Give ``rnn`` ``count`` layers, in place.

    Layers that stay keep their weights; layers that were taken off come back with theirs; new
    ones are initialised as the class does it, from ``seed`` and ``place``, with the dtype and
    device of the others.
    """
    kept: _KeptLayers = rnn.__dict__.setdefault(_KEPT, _KeptLayers(rnn.num_layers))
    for name in list(rnn._parameters):
        layer = _LAYER.search(name)
        if layer and int(layer[1]) >= count:
            parameter = rnn._parameters.pop(name)
            if parameter is not None:
                parameter.grad = None
                kept.aside[name] = parameter
    template = next(iter(rnn.parameters()))
    for index in range(rnn.num_layers, count):
        for name, parameter in _new_layer(rnn, index, seed, place).items():
            parameter.requires_grad_(template.requires_grad)
            back = kept.aside.pop(name, parameter)
            back.data = back.data.to(template.device, template.dtype)
            rnn._parameters[name] = back
    rnn.num_layers = count
    plain = _plain(rnn, count)
    rnn._all_weights = plain._all_weights
    rnn._flat_weights_names = plain._flat_weights_names
    rnn._init_flat_weights()


def _new_layer(rnn: nn.RNNBase, index: int, seed: int, place: str) -> dict[str, nn.Parameter]:
    with seeded(seed_of(seed, f"{place} layer {index}")):
        fresh = _plain(rnn, 2, device="cpu")
    return {
        name.replace("_l1", f"_l{index}"): parameter
        for name, parameter in fresh.named_parameters()
        if "_l1" in name
    }


def _plain(rnn: nn.RNNBase, count: int, device: str = "meta") -> nn.RNNBase:
    return nn.RNNBase(
        rnn.mode,
        rnn.input_size,
        rnn.hidden_size,
        num_layers=count,
        bias=rnn.bias,
        bidirectional=rnn.bidirectional,
        proj_size=rnn.proj_size,
        device=device,
    )


def in_one_piece(model: nn.Module) -> nn.Module:
    """Let cuDNN find the weights of each recurrent layer in one piece of memory; return the model.

    Elsewhere nothing changes. Weights that are copied or drawn anew lie apart, and cuDNN would put
    them together again at every step, with a warning.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
            module.flatten_parameters()
    return model

"""Networks to explore, in plain torch.nn, by name in ``NETWORKS``."""

from __future__ import annotations

import torch

from ..data import Kind
from .convolutional import cnn, resnet, vgg
from .dense import linear, mlp, residual
from .network import Network, momentum
from .recurrent import gru, lstm, rnn
from .transformer import transformer

_SERIES: tuple[Kind, ...] = ("sequence", "tokens")

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("mlp", ("vector",), mlp, torch.optim.SGD, 0.1),
        Network("linear", ("vector",), linear, torch.optim.SGD, 0.03),
        Network("residual", ("vector",), residual, torch.optim.SGD, 0.05),
        Network("cnn", ("image",), cnn, momentum, 0.05),
        Network("vgg", ("image",), vgg, momentum, 0.02),
        Network("resnet", ("image",), resnet, momentum, 0.05),
        Network("rnn", _SERIES, rnn, torch.optim.Adam, 1e-3),
        Network("lstm", _SERIES, lstm, torch.optim.Adam, 1e-2),
        Network("gru", _SERIES, gru, torch.optim.Adam, 1e-2),
        Network("transformer", ("tokens", "sequence"), transformer, torch.optim.Adam, 5e-3),
    )
}

__all__ = [
    "NETWORKS",
    "Network",
    "cnn",
    "gru",
    "linear",
    "lstm",
    "mlp",
    "residual",
    "resnet",
    "rnn",
    "transformer",
    "vgg",
]

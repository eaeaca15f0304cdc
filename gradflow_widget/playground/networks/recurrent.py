"""Recurrent networks: vanilla RNN, LSTM and GRU.

All map sequences (batch, time, features) to (batch, outputs), read off the last time step, or
tokens (batch, time) to (batch, time, outputs), at every time step from what came so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...quoting import quoted
from ...tweaks.depth import checked_depth
from .widths import checked_width


class Recurrent(nn.Module):
    """Recurrent layers one on another, and a Linear layer.

    Args:
        layers: each called with a sequence, returns its states and the last of them.
        width: the size of a state.
        outputs: how many numbers to return.
        vocabulary: how many tokens there are; None where inputs are sequences of features.
    """

    def __init__(
        self, layers: list[nn.RNNBase], width: int, outputs: int, vocabulary: int | None
    ) -> None:
        super().__init__()
        self.embedding = None if vocabulary is None else nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs: at every time step for tokens, else at the last."""
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers:
            x, _ = layer(x)
        if self.embedding is None:
            x = x[:, -1]
        outputs: Tensor = self.head(x)
        return outputs


def _recurrent(
    kind: Callable[..., nn.RNNBase],
    depth: int,
    features: int | None,
    width: int,
    outputs: int,
    vocabulary: int | None,
    **options: Any,
) -> Recurrent:
    checked_depth(depth)
    checked_width(width)
    first = width if features is None else features
    # Layers of their own, so that each has its bar.
    layers = [
        kind(size, width, batch_first=True, **options) for size in [first, *[width] * (depth - 1)]
    ]
    return Recurrent(layers, width, outputs, vocabulary)


def rnn(
    depth: int = 1,
    activation: str = "tanh",
    *,
    features: int | None = 8,
    width: int = 64,
    outputs: int = 10,
    vocabulary: int | None = None,
) -> Recurrent:
    """Return a vanilla recurrent network, h_t = φ(W x_t + U h_{t−1} + b), of ``depth`` layers.

    Raises:
        ValueError: depth is out of range, or the activation neither "tanh" nor "relu".
    """
    if activation not in ("tanh", "relu"):
        raise ValueError(
            f"activation {quoted(activation)} is none that nn.RNN offers: choose tanh or relu."
        )
    return _recurrent(nn.RNN, depth, features, width, outputs, vocabulary, nonlinearity=activation)


def lstm(
    depth: int = 1,
    *,
    features: int | None = 8,
    width: int = 64,
    outputs: int = 10,
    vocabulary: int | None = None,
) -> Recurrent:
    """Return an LSTM (Hochreiter & Schmidhuber 1997) of ``depth`` layers.

    Raises:
        ValueError: depth is out of range.
    """
    return _recurrent(nn.LSTM, depth, features, width, outputs, vocabulary)


def gru(
    depth: int = 1,
    *,
    features: int | None = 8,
    width: int = 64,
    outputs: int = 10,
    vocabulary: int | None = None,
) -> Recurrent:
    """Return a GRU (Cho et al. 2014) of ``depth`` layers.

    Raises:
        ValueError: depth is out of range.
    """
    return _recurrent(nn.GRU, depth, features, width, outputs, vocabulary)

"""Fully connected networks: plain, linear and residual."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ...tweaks.activation import activation_module, checked_activation
from ...tweaks.depth import checked_depth
from .skips import joined, skip_scale
from .widths import checked_width


def mlp(
    depth: int = 8,
    activation: str = "tanh",
    *,
    inputs: int = 64,
    width: int = 64,
    outputs: int = 10,
) -> nn.Sequential:
    """Return a fully connected network with ``depth`` Linear layers, PyTorch's default init.

    Maps (batch, inputs) to (batch, outputs); the activation stands between the layers.

    Raises:
        ValueError: depth is out of range or the activation unknown.
    """
    checked_depth(depth)
    checked_activation(activation)
    checked_width(width)
    sizes = [inputs, *[width] * (depth - 1), outputs]
    modules: list[nn.Module] = []
    for before, after in pairwise(sizes):
        modules += [nn.Linear(before, after), activation_module(activation)]
    return nn.Sequential(*modules[:-1])


def linear(
    depth: int = 8, *, inputs: int = 64, width: int = 64, outputs: int = 10
) -> nn.Sequential:
    """Return a deep linear network: ``depth`` Linear layers, nothing between them.

    Maps (batch, inputs) to (batch, outputs). The weights are orthogonal, so that all singular
    values of its Jacobian are 1 where the width is at least ``inputs`` or ``outputs``, at any
    depth (Saxe et al. 2014); biases start at 0.

    Raises:
        ValueError: depth is out of range.
    """
    checked_depth(depth)
    checked_width(width)
    layers = [
        nn.Linear(before, after)
        for before, after in pairwise([inputs, *[width] * (depth - 1), outputs])
    ]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """x + scale·f(x), f two Linear layers with an activation before each.

    With the activations inside f the sum goes through no nonlinearity (He et al. 2016,
    "Identity mappings"). Keeps the shape (batch, width).
    """

    def __init__(self, width: int, activation: str, scale: float | nn.Parameter | None) -> None:
        super().__init__()
        self.act1 = activation_module(activation)
        self.fc1 = nn.Linear(width, width)
        self.act2 = activation_module(activation)
        self.fc2 = nn.Linear(width, width)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return joined(x, self.fc2(self.act2(self.fc1(self.act1(x)))), self.scale)


def residual(
    depth: int = 8,
    activation: str = "relu",
    skips: Any = 1.0,
    *,
    inputs: int = 64,
    width: int = 64,
    outputs: int = 10,
) -> nn.Sequential:
    """Return a fully connected residual network: Linear, ``depth`` blocks, Linear.

    Maps (batch, inputs) to (batch, outputs). ``skips`` is the scale as in ``skip_scale``.

    Raises:
        ValueError: depth is out of range, the activation or the scale unknown.
    """
    checked_depth(depth)
    checked_activation(activation)
    checked_width(width)
    return nn.Sequential(
        nn.Linear(inputs, width),
        *(ResidualBlock(width, activation, skip_scale(skips, depth)) for _ in range(depth)),
        activation_module(activation),
        nn.Linear(width, outputs),
    )

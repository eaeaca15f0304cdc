"""Networks that the tests of initialisation, normalisation, skips and orthogonality share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_widget import take_reading


def plain(
    depth: int, width: int, activation: Callable[[], nn.Module], seed: int = 0
) -> nn.Sequential:
    """``depth`` Linear layers of equal width, an activation between any two."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for _ in range(depth):
        modules += [nn.Linear(width, width), activation()]
    return nn.Sequential(*modules[:-1])


def measured_slope(model: nn.Module, width: int, batch: int = 64, seed: int = 1) -> float:
    """The slope at random inputs of variance 1 and a random gradient at the output."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch, width, generator=generator)
    outside = torch.randn(batch, width, generator=generator)
    return take_reading(model, lambda out, to: (out * to).mean(), inputs, outside).slope


class Functional(nn.Module):
    """A CNN of one's own, with activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.leaky_relu(self.conv2(x), 0.2).mean((2, 3))
        return self.fc2(self.fc1(x).tanh())


class Branching(Functional):
    """The same, with a branch on the data that no tracer follows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.abs().sum()) < 1e9 else x / 2)


class Listed(nn.Module):
    """Layers in a list, one activation for all, and a branch on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.activation = nn.Tanh()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            return x
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(x)

"""Tweaks leave every random generator of the process where it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import (
    depth_of,
    with_activation,
    with_depth,
    with_initialization,
    with_normalization,
    with_orthogonality,
    with_skips,
)
from gradflow_widget.tweaks.knobs import knobs_of_module

LOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "activation": lambda model: with_activation(model, "tanh"),
    "depth": lambda model: with_depth(model, 5),
    "depth of": depth_of,
    "initialization": lambda model: with_initialization(model, "he", seed=0),
    "knobs": knobs_of_module,
    "lsuv": lambda model: with_initialization(model, "lsuv", seed=0, batch=torch.ones(4, 10)),
    "normalization": lambda model: with_normalization(model, "layer"),
    "orthogonality": lambda model: with_orthogonality(model, "hard"),
    "skips": lambda model: with_skips(model, 1.0),
}


class Drawn(nn.Linear):
    """Draws its weights by NumPy."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            drawn = np.random.randn(*parameter.shape) * random.random()
            parameter.data = torch.tensor(drawn, dtype=torch.float32)


class Jittering(nn.Module):
    """A block and its nonlinearity, which draw from every generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Drawn(20, 20)
        self.relu = Noisy()

    def forward(self, x: Tensor) -> Tensor:
        random.shuffle(order := [0, 1])
        return self.relu(self.inner(x)) * (0.9 + 0.1 * np.random.rand()) * (1 + order[0] / 9)


class Noisy(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + random.random() + np.random.rand() + torch.rand(()))


class DynamicNet(nn.Module):
    """Of PyTorch's "Learning PyTorch with Examples": its depth is drawn in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(10, 20)
        self.middle = nn.ModuleList(Jittering() for _ in range(3))
        self.output = nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.input(x))
        for _ in range(random.randint(0, 3)):
            for block in self.middle:
                x = nn.functional.relu(block(x))
        return self.output(x)


def generators() -> tuple[Any, ...]:
    of_numpy = np.random.get_state()
    return random.getstate(), of_numpy[1].tolist(), of_numpy[2], torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", LOOKS)
def test_every_generator_stays_where_it_was(name: str) -> None:
    model = DynamicNet()
    before = generators()
    LOOKS[name](model)
    assert generators() == before


def test_weights_drawn_by_numpy_and_python_follow_the_seed() -> None:
    def deeper(seed: int) -> Tensor:
        return with_depth(model, 4, seed=seed).get_parameter("middle.3.inner.weight")

    model = DynamicNet()
    first = deeper(1)
    np.random.seed(9)
    random.seed(9)
    assert torch.equal(deeper(1), first)
    assert not torch.equal(deeper(2), first)

"""Models, data and waiting that the tests of training share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

CROSS_ENTROPY = nn.CrossEntropyLoss()


def samples(count: int = 96, features: int = 6, classes: int = 3) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(5)
    return (
        torch.randn(count, features, generator=generator),
        torch.randint(0, classes, (count,), generator=generator),
    )


def small_network(depth: int = 3, *, seed: int = 0) -> nn.Sequential:
    """Everything that must come back at a reset: dropout, running statistics, weights."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for _ in range(depth):
        modules += [nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3)]
    return nn.Sequential(*modules, nn.Linear(6, 3))


def plain_network(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def losses_of(flow: Any, count: int) -> list[float]:
    return [reading.loss for reading in flow.steps(count)]


def same_bits(first: Any, second: Any) -> bool:
    return np.asarray(first).tobytes() == np.asarray(second).tobytes()

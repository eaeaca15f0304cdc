"""Networks and loops that the tests of measurement share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.measurement.reading import Reading


def plain(
    depth: int,
    width: int,
    activation: Callable[[], nn.Module],
    sigma_w: float | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """``depth`` Linear layers of equal width; sigma_w None leaves PyTorch's initialisation."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        if sigma_w is not None:
            nn.init.normal_(linear.weight, std=sigma_w / width**0.5)
        nn.init.zeros_(linear.bias)
        modules += [linear, activation()]
    return nn.Sequential(*modules[:-1])


def small(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)
    ).to(dtype)


def batch(
    size: int = 8, inputs: int = 5, outputs: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(size, inputs, generator=generator, dtype=dtype),
        torch.randn(size, outputs, generator=generator, dtype=dtype),
    )


def one_reading(
    model: nn.Module, loss: Callable[[], torch.Tensor], *, full: bool = True, rate: float = 0.1
) -> Reading:
    """Do one SGD step under a probe and return its reading."""
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=rate
    )
    with GradientProbe(model, optimizer, full=full) as probe:
        loss().backward()
        optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    return reading


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.SGD:
    """Plain gradient descent on all of a model."""
    return torch.optim.SGD(model.parameters(), lr=rate)

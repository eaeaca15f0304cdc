"""Networks for the GPU, and their numbers worked out on the CPU in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

DEVICE = "cuda"
DEPTH, WIDTH, BATCH = 8, 32, 16


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    modules = [m for _ in range(DEPTH) for m in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*modules).to(DEVICE)


def inputs(seed: int = 1) -> torch.Tensor:
    drawn = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn.to(DEVICE)


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(batch).square().mean()
    return loss


class InDoublePrecision:
    """What one forward and backward pass gives on the CPU in float64."""

    def __init__(self, model: nn.Sequential, batch: torch.Tensor) -> None:
        twin = copy.deepcopy(model).cpu().double()
        outputs: list[torch.Tensor] = []

        def kept(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            output.retain_grad()
            outputs.append(output)

        for layer in twin:
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(kept)
        loss = loss_of(twin, batch.cpu().double())
        loss.backward()
        linear = [layer for layer in twin if isinstance(layer, nn.Linear)]
        self.loss = loss.item()
        self.weight_grad_norm = [float(layer.weight.grad.norm()) for layer in linear]
        self.weight_grad_max = [float(layer.weight.grad.abs().max()) for layer in linear]
        self.weight_norm = [float(layer.weight.detach().norm()) for layer in linear]
        self.signal_grad_norm = [float(o.grad.norm(dim=1).square().mean().sqrt()) for o in outputs]
        self.activation_rms = [float(o.detach().square().mean().sqrt()) for o in outputs]
        self.total_norm = float(torch.cat([p.grad.flatten() for p in twin.parameters()]).norm())

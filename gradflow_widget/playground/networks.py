"""Networks to explore, in plain torch.nn."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ..tweaks.activation import activation_module
from ..tweaks.depth import checked_depth


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
    sizes = [inputs, *[width] * (depth - 1), outputs]
    modules: list[nn.Module] = []
    for before, after in pairwise(sizes):
        modules += [nn.Linear(before, after), activation_module(activation)]
    return nn.Sequential(*modules[:-1])


NETWORKS = {"mlp": mlp}

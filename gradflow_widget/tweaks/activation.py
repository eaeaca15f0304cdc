"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


def checked_activation(name: object) -> str:
    """Return ``name`` if it is a known activation.

    Raises:
        ValueError: it is not; the message lists the known ones.
    """
    if isinstance(name, str) and name in ACTIVATIONS:
        return name
    raise ValueError(f"activation {name!r} is unknown: choose one of {', '.join(ACTIVATIONS)}.")


def activation_module(name: str) -> nn.Module:
    """Return a new activation module.

    Raises:
        ValueError: no activation has that name; the message lists the known ones.
    """
    return ACTIVATIONS[checked_activation(name)]()

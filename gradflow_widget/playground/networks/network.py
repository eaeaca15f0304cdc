"""What every network of the playground is, and the data that it fits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..data import Kind, Loaded

Optimize = Callable[..., torch.optim.Optimizer]


_DECIDED = ("inputs", "channels", "features", "vocabulary", "length", "outputs")


@dataclass(frozen=True)
class Network:
    """A network by name, and how it is trained.

    Attributes:
        name: what ``GradientFlow.playground(network=...)`` calls it.
        takes: the kinds of data that it takes, the one it is made for first; how large
            they are, and how many outputs are asked for, ``make`` is told.
        make: makes it. The cold knobs that it has are among its parameters.
        optimize: called with the parameters and ``lr``.
        learning_rate: with which it learns at its default settings.
    """

    name: str
    takes: tuple[Kind, ...]
    make: Callable[..., nn.Module]
    optimize: Optimize
    learning_rate: float

    @property
    def parameters(self) -> dict[str, Any]:
        """What of ``make``'s parameters one may choose, with defaults: cold knobs and others."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.make).parameters.items()
            if name not in _DECIDED
        }

    def fitted(self, data: Loaded) -> dict[str, Any]:
        """Return the arguments of ``make`` that ``data`` decide."""
        sizes = {**_sizes(data), "outputs": data.outputs}
        asked = inspect.signature(self.make).parameters
        return {name: size for name, size in sizes.items() if name in asked}


def _sizes(data: Loaded) -> dict[str, int | None]:
    """Return what data are shaped like, under the names that networks have for it."""
    first = data.input_shape[0]
    if data.kind == "vector":
        return {"inputs": first}
    if data.kind == "image":
        return {"channels": first}
    if data.kind == "sequence":
        return {"length": first, "features": data.input_shape[1], "vocabulary": None}
    # Tokens are foretold: as many can go in as come out.
    return {"length": first, "features": None, "vocabulary": data.outputs}


def momentum(parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.SGD:
    """Return stochastic gradient descent with momentum 0.9."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

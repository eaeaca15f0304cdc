"""Puts a playground together from names: network, optimizer, loss and data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..tweaks.knobs import COLD_KNOBS, checked_knob
from .data import DATA
from .networks import NETWORKS

HOT_KNOBS = ("clip_norm", "clip_value", "batch_size", "speed")


@dataclass(frozen=True)
class Playground:
    """Everything that a widget needs; ``hot`` are first values of its other knobs."""

    build: Callable[..., nn.Module]
    optimize: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss_fn: nn.Module
    data: tuple[torch.Tensor, torch.Tensor]
    hot: dict[str, Any]


def assemble(network: object, data: object, knobs: Mapping[str, Any]) -> Playground:
    """Look names and knobs up.

    Raises:
        ValueError: a name or a value is unknown; the message lists the known ones.
    """
    if not isinstance(network, str) or network not in NETWORKS:
        raise ValueError(f"network {network!r} is unknown: choose one of {', '.join(NETWORKS)}.")
    if not isinstance(data, str) or data not in DATA:
        raise ValueError(f"data {data!r} is unknown: choose one of {', '.join(DATA)}.")
    known = (*COLD_KNOBS, "learning_rate", *HOT_KNOBS)
    for name in knobs:
        if name not in known:
            raise ValueError(f"knob {name!r} is unknown: choose among {', '.join(known)}.")
    if knobs.get("clip_norm") is not None and knobs.get("clip_value") is not None:
        raise ValueError("clip_norm and clip_value are both given: choose one.")
    make = NETWORKS[network]
    first_depth = checked_knob("depth", knobs.get("depth", 8))
    first_activation = checked_knob("activation", knobs.get("activation", "tanh"))
    rate = knobs.get("learning_rate", 0.1)

    def build(depth: int = first_depth, activation: str = first_activation) -> nn.Module:
        return make(depth, activation)

    return Playground(
        build,
        lambda parameters: torch.optim.SGD(parameters, lr=float(rate)),
        nn.CrossEntropyLoss(),
        DATA[data](),
        {name: knobs[name] for name in HOT_KNOBS if name in knobs},
    )

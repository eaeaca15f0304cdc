"""Puts a playground together from names: network, optimizer, loss and data that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..checked import checked_positive
from ..quoting import quoted
from ..tweaks.knobs import COLD_KNOBS, checked_knob
from .data import DATA, KINDS, Kind, Loaded, Source, as_loaded
from .networks import NETWORKS, Network

# Of these neither the network nor its optimizer is made: the widget is given them.
KNOBS_OF_TRAINING = (
    "clip_norm",
    "clip_value",
    "batch_size",
    "optimizer_kind",
    "weight_decay",
    "regime",
    "speed",
)
# Each has a target at every place: with 64 of 64 characters a step would take 20 ms.
_PIECES_OF_TEXT = 16


class PlaygroundNetwork(partial[nn.Module]):
    """A factory of the playground's, which tells it from one of the user's."""


@dataclass(frozen=True, eq=False)
class Playground:
    """Everything that a widget needs.

    Attributes:
        build: makes the network; names the cold knobs that it has as parameters.
        optimize: makes its optimizer.
        loss_fn: takes outputs and targets.
        data: inputs and targets to train on.
        hot: first values of the knobs that ``build`` has not.
        loaded: the data with what is held out from training.
    """

    build: Callable[..., nn.Module]
    optimize: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss_fn: nn.Module
    data: tuple[torch.Tensor, torch.Tensor]
    hot: dict[str, Any]
    loaded: Loaded

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of a widget that have no name: model, optimizer, loss and data."""
        return self.build, self.optimize, self.loss_fn, self.data


def assemble(network: object, data: object, knobs: Mapping[str, Any]) -> Playground:
    """Look names and knobs up, and load the data in the form that the network takes.

    Args:
        network: a name out of ``NETWORKS``.
        data: a name out of ``DATA``, or one's own: a ``Loaded``, a pair of arrays or a
            dataset of images.
        knobs: first values of knobs, and the parameters of the network and of the data.

    Raises:
        ValueError: a name or a value is unknown, or network and data don't fit; the message
            lists what would do.
        TypeError: data are none of these.
    """
    if not isinstance(network, str) or network not in NETWORKS:
        raise ValueError(
            f"network {quoted(network)} is unknown: choose one of {', '.join(NETWORKS)}."
        )
    if isinstance(data, str) and data not in DATA:
        raise ValueError(f"data {quoted(data)} is unknown: choose one of {', '.join(DATA)}.")
    chosen, source = NETWORKS[network], DATA[data] if isinstance(data, str) else as_loaded(data)
    kind = _common_kind(chosen, source)
    of_data = tuple(source.parameters) if isinstance(source, Source) else ()
    own = tuple(name for name in chosen.parameters if name not in COLD_KNOBS)
    known = (*COLD_KNOBS, "learning_rate", *KNOBS_OF_TRAINING, *own, *of_data)
    for name in knobs:
        if name not in known:
            raise ValueError(f"knob {quoted(name)} is unknown: choose among {', '.join(known)}.")
    if knobs.get("clip_norm") is not None and knobs.get("clip_value") is not None:
        raise ValueError("clip_norm and clip_value are both given: choose one.")
    rate = checked_positive("learning_rate", knobs.get("learning_rate", chosen.learning_rate))
    values = {
        name: checked_knob(name, value) if name in COLD_KNOBS else value
        for name, value in knobs.items()
    }
    if kind == "tokens":
        values.setdefault("batch_size", _PIECES_OF_TEXT)
    if isinstance(source, Source):
        loaded = source.load(kind, **{name: values[name] for name in of_data if name in values})
    else:
        loaded = source
    built_with = [name for name in chosen.parameters if name in values]
    return Playground(
        PlaygroundNetwork(
            chosen.make, **chosen.fitted(loaded), **{name: values[name] for name in built_with}
        ),
        lambda parameters: chosen.optimize(parameters, lr=rate),
        loaded.loss,
        loaded.training,
        {
            name: values[name]
            for name in (*COLD_KNOBS, *KNOBS_OF_TRAINING)
            if name in values and name not in built_with
        },
        loaded,
    )


def fitting_networks(kinds: Iterable[Kind]) -> list[str]:
    """Return the networks that take data of one of these kinds."""
    return [name for name, network in NETWORKS.items() if set(network.takes) & set(kinds)]


def fitting_data(network: Network) -> list[str]:
    """Return the data sets that can be loaded as the network takes them."""
    return [name for name, source in DATA.items() if set(source.kinds) & set(network.takes)]


def _common_kind(network: Network, source: Source | Loaded) -> Kind:
    """Return the kind of data that suits both.

    Raises:
        ValueError: there is none; the sentence says what would fit.
    """
    kinds = source.kinds if isinstance(source, Source) else (source.kind,)
    for kind in network.takes:
        if kind in kinds:
            return kind
    data = f"data {source.name!r}" if isinstance(source, Source) else "the data given"
    raise ValueError(
        f"network {network.name!r} takes {_listed(network.takes)}, but {data} "
        f"come as {_listed(kinds)}: choose data among {', '.join(fitting_data(network))}, "
        f"or network among {', '.join(fitting_networks(kinds))}."
    )


def _listed(kinds: Iterable[Kind]) -> str:
    plural: dict[Kind, str] = {kind: f"{kind.removesuffix('s')}s" for kind in KINDS}
    return " or ".join(plural[kind] for kind in kinds)

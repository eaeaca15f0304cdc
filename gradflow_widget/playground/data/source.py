"""What every data set of the playground is, and what loading it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import nn

from ...checked import checked_seed

Kind = Literal["vector", "image", "sequence", "tokens"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_KIND_OF_DIMENSIONS: dict[int, Kind] = {2: "vector", 3: "sequence", 4: "image"}


@dataclass(frozen=True, eq=False)
class Loaded:
    """Data in memory: fresh tensors, nobody else's.

    Attributes:
        inputs: of shape (samples, *input_shape); float32, but int64 for tokens.
        targets: int64 classes of shape (samples,); float32 values of shape
            (samples, outputs); for tokens int64 of shape (samples, length), the token that
            follows each one.
        validation_inputs: the same for samples that no training sees.
        validation_targets: the same for samples that no training sees.
        input_shape: (features,), (channels, height, width), (length, features) or (length,).
        outputs: how many numbers a network returns, for tokens at every place: classes,
            values, or the size of the vocabulary.
        loss: takes a network's outputs and the targets.
        classes: what the classes are called, or the tokens; empty where they have no names.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    validation_inputs: torch.Tensor
    validation_targets: torch.Tensor
    input_shape: tuple[int, ...]
    outputs: int
    loss: nn.Module
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What a network must take: "vector", "image", "sequence" or "tokens".

        Raises:
            ValueError: ``inputs`` have a shape that none of them has.
        """
        kind = kind_of(self.inputs)
        if kind is None:
            raise ValueError(
                f"inputs of shape {tuple(self.inputs.shape)} fit no kind: give (samples, features),"
                " (samples, length, features) or (samples, channels, height, width)."
            )
        return kind

    @property
    def training(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets to train on, as ``GradientFlow(data=...)`` takes them."""
        return self.inputs, self.targets

    @property
    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets held out from training."""
        return self.validation_inputs, self.validation_targets


def kind_of(inputs: torch.Tensor) -> Kind | None:
    """Return the kind that inputs of this shape and dtype are of; None if of none."""
    if inputs.dtype is torch.int64:
        return "tokens" if inputs.dim() == 2 else None
    return _KIND_OF_DIMENSIONS.get(inputs.dim())


@dataclass(frozen=True)
class Source:
    """A data set by name.

    Attributes:
        name: what ``GradientFlow.playground(data=...)`` calls it.
        kinds: as what it can be loaded; the first is the usual one.
        load: ``load(kind=kinds[0], seed=0, **parameters)`` returns it as ``Loaded``. The
            seed decides which samples are held out, and draws the samples where they are
            drawn; the same arguments give the same tensors. Raises ValueError where one
            of them won't do.
        parameters: what else ``load`` takes, with its default.
    """

    name: str
    kinds: tuple[Kind, ...]
    load: Callable[..., Loaded]
    parameters: Mapping[str, Any]


def source(name: str, kinds: tuple[Kind, ...], make: Callable[..., Loaded]) -> Source:
    """Return the source that ``make(kind, seed, *, parameter=default, ...)`` makes."""
    signature = inspect.signature(make)
    parameters = {
        parameter.name: parameter.default
        for parameter in signature.parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    def load(kind: str = kinds[0], seed: int = 0, **given: Any) -> Loaded:
        if kind not in kinds:
            raise ValueError(f"data {name!r} is no {kind!r}: choose one of {', '.join(kinds)}.")
        for parameter in given:
            if parameter not in parameters:
                known = f"its own are {', '.join(parameters)}" if parameters else "it takes none"
                raise ValueError(f"data {name!r} has no parameter {parameter!r}: {known}.")
        return make(kind, checked_seed(seed), **given)

    return Source(name, kinds, load, MappingProxyType(parameters))

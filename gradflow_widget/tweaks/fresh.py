"""A new block, built like one that is there and initialised as its class does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn
from zlib import crc32

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..deep_copies import deep_copy
from .computed import hooked
from .copying import leave_gradients_out
from .errors import CannotTweak
from .lineage import descend
from .resetting import drawn_as_plain, drawn_on_the_cpu, initializer_of, reset, resets

_PLAIN = (str, bytes, int, float, complex, bool, type(None), tuple, type)


def fresh_copy(
    model: nn.Module, block: list[nn.Module], ancestors: list[nn.Module], seed: int, place: str
) -> list[nn.Module]:
    """Return freshly initialised copies of the modules of ``block``, a block of ``model``.

    Each layer is initialised by its ``reset_parameters``, then by the ``_init_weights`` of the
    nearest of the ``ancestors`` (outermost first) that has one, as Hugging Face models and
    nanoGPT do it. What the block shares with the rest of the model (tied weights, a
    configuration) is shared by the copy. Device, dtype, modes and frozen weights are those of
    ``block``. ``seed`` and ``place`` fix the weights; the global random state is untouched.

    Raises:
        CannotTweak: a layer's class does not say how to initialise it.
    """
    shared = _seen_outside(model, block)
    memo: dict[int, Any] = {
        key: value for key, value in shared.items() if not isinstance(value, nn.Parameter)
    }
    for module in block:
        leave_gradients_out(module.parameters(), memo)
    fresh = deep_copy(block, memo)
    pairs = [
        (old, new)
        for old_root, new_root in zip(block, fresh, strict=True)
        for old, new in zip(_as_built(old_root), _as_built(new_root), strict=True)
        if old is not new
    ]
    new_layers = [new for _, new in pairs]
    tensors = [
        tensor
        for layer in new_layers
        for tensor in (*layer._parameters.values(), *layer._buffers.values())
    ]
    with drawn_on_the_cpu(tensors, seed_of(seed, place)), torch.no_grad():
        _initialize(new_layers, ancestors)
    for old, new in pairs:
        for name, tied in old._parameters.items():
            if id(tied) in shared:
                new._parameters[name] = tied
        descend(new, old, place)
    return fresh


def why_none_is_drawn(block: list[nn.Module], ancestors: list[nn.Module]) -> str:
    """Return why :func:`fresh_copy` will refuse ``block``, "" where it is not known beforehand.

    It is where a parameter is in no layer that has a method to initialise it, and within none.
    """
    if any(isinstance(one, nn.Transformer) or initializer_of(one) for one in ancestors):
        return ""
    waiting = list(block)
    while waiting:
        module = waiting.pop()
        if resets(module) or isinstance(module, parametrize.ParametrizationList):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                return _no_initializer(module, name)
        waiting.extend(module.children())
    return ""


def seed_of(seed: int, place: str) -> int:
    """Return a seed of its own for what is drawn at ``place``, in the 32 bits a seed has."""
    return crc32(f"{seed} {place}".encode())


def _initialize(layers: list[nn.Module], ancestors: list[nn.Module]) -> None:
    own = next((one for module in reversed(ancestors) if (one := initializer_of(module))), None)
    # The tensors of a parametrization are computed from its layer's weight.
    plain = [layer for layer in layers if not isinstance(layer, parametrize.ParametrizationList)]
    with drawn_as_plain(plain, built_anew=True):
        _unset(plain)
        for layer in plain:
            reset(layer)
            if own is not None:
                own(layer)
        if any(isinstance(ancestor, nn.Transformer) for ancestor in ancestors):
            for layer in plain:
                for parameter in layer._parameters.values():
                    if parameter is not None and parameter.dim() > 1:
                        nn.init.xavier_uniform_(parameter)
        _check_set(plain)


def _unset(layers: list[nn.Module]) -> None:
    for layer in layers:
        for parameter in layer._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                parameter.fill_(torch.nan)


def _check_set(layers: list[nn.Module]) -> None:
    for layer in layers:
        for name, parameter in layer._parameters.items():
            if parameter is not None and not parameter.is_meta and parameter.isnan().any():
                _refuse(layer, name)


def _refuse(layer: nn.Module, name: str) -> NoReturn:
    if by := next((one.by for one in hooked(layer) if name in one.sources), ""):
        raise CannotTweak(
            f"A new block needs fresh weights, but those of a {type(layer).__name__} are computed "
            f"already, by {by}: take that off before."
        )
    raise CannotTweak(_no_initializer(layer, name))


def _no_initializer(layer: nn.Module, name: str) -> str:
    return (
        f"A new block needs fresh weights, but {type(layer).__name__} does not say how to "
        f"initialise its {name}: give the class a method reset_parameters()."
    )


def _as_built(module: nn.Module, seen: set[int] | None = None) -> Iterator[nn.Module]:
    """Yield children before their parents, in the order in which they were registered.

    A skip around a block, or a norm in it, must not change the order in which it is drawn.
    """
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    for child in module.children():
        yield from _as_built(child, seen)
    yield module


def _seen_outside(model: nn.Module, block: list[nn.Module]) -> dict[int, Any]:
    """Return what ``model`` reaches without passing through ``block``, by identity."""
    reached: dict[int, Any] = {}
    # A block that stands in several places is shared by them all.
    places = Counter(id(child) for module in model.modules() for child in module._modules.values())
    within = {id(module) for module in block if places[id(module)] <= 1}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in reached or id(module) in within:
            continue
        reached[id(module)] = module
        waiting.extend(child for child in module._modules.values() if child is not None)
    shared = dict(reached)
    for module in reached.values():
        for parameter in module._parameters.values():
            if parameter is not None:
                shared[id(parameter)] = parameter
        for name, value in module.__dict__.items():
            if not name.startswith("_") and not isinstance(value, _PLAIN):
                shared[id(value)] = value
    return shared

"""A new block, built like one that is there and initialised as its class does it."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import torch
from torch import nn
from torch.nn.utils import parametrize

from .errors import CannotTweak
from .lineage import descend

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
        for parameter in module.parameters():
            if parameter.grad is not None:
                memo[id(parameter.grad)] = None
    fresh = copy.deepcopy(block, memo)
    pairs = [
        (old, new)
        for old_root, new_root in zip(block, fresh, strict=True)
        for old, new in zip(_bottom_up(old_root), _bottom_up(new_root), strict=True)
        if old is not new
    ]
    new_layers = [new for _, new in pairs]
    homes = _to_float32_on_cpu(new_layers)
    with seeded(seed, place), torch.no_grad():
        _initialize(new_layers, ancestors)
    for tensor, device, dtype in homes:
        tensor.data = tensor.data.to(device=device, dtype=dtype)
    for old, new in pairs:
        for name, tied in old._parameters.items():
            if id(tied) in shared:
                new._parameters[name] = tied
        descend(new, old, place)
    return fresh


@contextmanager
def seeded(seed: int, place: str) -> Iterator[None]:
    """Draw the CPU's random numbers from ``seed`` within; afterwards all is as before."""
    state = torch.get_rng_state()
    # torch.manual_seed would seed the accelerators too.
    # Its generator takes 32 bits of a seed.
    torch.default_generator.manual_seed(crc32(f"{seed} {place}".encode()))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _initialize(layers: list[nn.Module], ancestors: list[nn.Module]) -> None:
    own = _initializer(ancestors)
    # The tensors of a parametrization are computed from its layer's weight.
    plain = [layer for layer in layers if not isinstance(layer, parametrize.ParametrizationList)]
    _unset(plain)
    for layer in plain:
        _reset(layer)
        if own is not None and not parametrize.is_parametrized(layer):
            own(layer)
    if any(isinstance(ancestor, nn.Transformer) for ancestor in ancestors):
        for layer in layers:
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
                raise CannotTweak(
                    f"A new block needs fresh weights, but {_class_name(layer)} does not say how "
                    f"to initialise its {name}: give the class a method reset_parameters()."
                )


def _class_name(layer: nn.Module) -> str:
    cls = type(layer)
    return (cls.__mro__[1] if parametrize.is_parametrized(layer) else cls).__name__


def _reset(layer: nn.Module) -> None:
    if parametrize.is_parametrized(layer):
        _reset_parametrized(layer)
        return
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(layer, name, None)
        if callable(method):
            method()
            return


def _reset_parametrized(layer: nn.Module) -> None:
    # remove_parametrizations would take the property off a class that the model's own layers
    # share with this copy.
    lists = dict(layer.parametrizations.items())  # type: ignore[union-attr, operator]
    plain: nn.Module = object.__new__(type(layer).__mro__[1])
    plain.__dict__.update(layer.__dict__)
    mode, layer.training = layer.training, False
    weights = {name: nn.Parameter(getattr(layer, name).detach().clone()) for name in lists}
    layer.training = mode
    plain.__dict__["_parameters"] = {**layer._parameters, **weights}
    plain.__dict__["_modules"] = {
        name: module for name, module in layer._modules.items() if name != "parametrizations"
    }
    _unset([plain])
    _reset(plain)
    _check_set([plain])
    for name, steps in lists.items():
        weight = plain._parameters[name]
        assert weight is not None
        try:
            setattr(layer, name, weight.detach())
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise CannotTweak(
                f"A new block needs fresh weights, but the parametrization of {name} in "
                f"{_class_name(layer)} takes none."
            ) from error
        for step in steps:
            if hasattr(step, "_power_method"):
                # Spectral norm knows the singular vectors of the weight that was copied.
                step._power_method(step._reshape_weight_to_matrix(weight), 15)


def _initializer(ancestors: list[nn.Module]) -> Callable[[nn.Module], Any] | None:
    for ancestor in reversed(ancestors):
        method: Callable[[nn.Module], Any] | None = getattr(ancestor, "_init_weights", None)
        if callable(method) and _takes_one_argument(method):
            return method
    return None


def _takes_one_argument(method: Callable[..., Any]) -> bool:
    required = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return len(required) == 1


def _to_float32_on_cpu(
    layers: list[nn.Module],
) -> list[tuple[torch.Tensor, torch.device, torch.dtype]]:
    # On the CPU and in float32 the same seed gives the same weights everywhere, and what has no
    # half-precision kernel (orthogonal's QR) works.
    homes = []
    for layer in layers:
        for tensor in [*layer._parameters.values(), *layer._buffers.values()]:
            if tensor is None or tensor.is_meta:
                continue
            homes.append((tensor, tensor.device, tensor.dtype))
            tensor.data = tensor.data.to("cpu")
            if tensor.dtype in (torch.bfloat16, torch.float16):
                tensor.data = tensor.data.to(torch.float32)
    return homes


def _bottom_up(module: nn.Module) -> Iterator[nn.Module]:
    found = [*module.modules()]
    return reversed(found)


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

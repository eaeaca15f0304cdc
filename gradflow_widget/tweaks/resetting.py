"""A layer's weights drawn anew as its own class does it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .computed import put_computed
from .norms import is_norm

_METHODS = ("reset_parameters", "_reset_parameters")
_BY_ROWS = torch.contiguous_format
_HALF = (torch.bfloat16, torch.float16)


def reset(layer: nn.Module) -> list[str]:
    """Run the ``reset_parameters`` of a layer; a norm without one starts at scale 1, shift 0.

    A parametrized layer's weight is drawn as without its parametrizations, which are then
    made to compute it. What no class says how to draw stays as it is.

    Returns:
        The names of the computed weights that stay so.

    Raises:
        CannotTweak: a parametrization can't be made to compute the drawn weight.
    """
    if parametrize.is_parametrized(layer):
        return _reset_parametrized(layer)
    method = next((m for name in _METHODS if callable(m := getattr(layer, name, None))), None)
    if method is not None:
        method()
    elif is_norm(layer):
        with torch.no_grad():
            for name, parameter in layer.named_parameters(recurse=False):
                parameter.fill_(1.0 if name == "weight" else 0.0)
    return []


def initializer_of(module: nn.Module) -> Callable[[nn.Module], Any] | None:
    """Return the ``_init_weights`` of a model that initialises its layers one by one.

    Hugging Face models and nanoGPT have one; a method that takes more than the layer is
    something else.
    """
    method: Callable[[nn.Module], Any] | None = getattr(module, "_init_weights", None)
    if not callable(method):
        return None
    required = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return method if len(required) == 1 else None


@contextmanager
def drawn_on_the_cpu(tensors: Iterable[Tensor | None], seed: int) -> Iterator[None]:
    """Keep ``tensors`` on the CPU within, in float32 at least, and draw from ``seed``.

    An accelerator's generator gives other numbers for the same seed, and half precision lacks
    what some initialisations need, such as orthogonal's QR decomposition. Afterwards tensors
    are back where they were, and so is the random state.
    """
    homes = [(t, t.device, t.dtype) for t in tensors if t is not None and not t.is_meta]
    for tensor, _, dtype in homes:
        tensor.data = tensor.data.to("cpu", torch.float32 if dtype in _HALF else dtype)
    try:
        with seeded(seed):
            yield
    finally:
        for tensor, device, dtype in homes:
            tensor.data = tensor.data.to(device, dtype)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the CPU's random numbers from ``seed`` within; afterwards all is as before."""
    state = torch.get_rng_state()
    # torch.manual_seed would seed the accelerators too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _reset_parametrized(layer: nn.Module) -> list[str]:
    # reset_parameters would write into the computed weight, which is thrown away; and
    # remove_parametrizations would take the property off a class that copies share.
    names = list(layer.get_submodule("parametrizations")._modules)
    plain: nn.Module = object.__new__(type(layer).__mro__[1])
    plain.__dict__.update(layer.__dict__)
    # In train mode spectral norm moves its vectors whenever its weight is looked at.
    mode, layer.training = layer.training, False
    # What was computed may lie column by column in memory, and would be drawn in that order.
    drawn = {
        name: nn.Parameter(getattr(layer, name).detach().clone(memory_format=_BY_ROWS))
        for name in names
    }
    layer.training = mode
    plain.__dict__["_parameters"] = {**layer._parameters, **drawn}
    plain.__dict__["_modules"] = {
        name: module for name, module in layer._modules.items() if name != "parametrizations"
    }
    before = {name: parameter._version for name, parameter in drawn.items()}
    reset(plain)
    left = [name for name, parameter in drawn.items() if parameter._version == before[name]]
    for name, parameter in drawn.items():
        if name not in left:
            put_computed(layer, name, parameter.detach())
    return left

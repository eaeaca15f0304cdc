"""A layer's weights drawn anew as its own class does it."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .computed import order_without, put_computed, remember_drawn
from .norms import is_norm
from .random_state import random_state_kept

_METHODS = ("reset_parameters", "_reset_parameters")
_BY_ROWS = torch.contiguous_format
_HALF = (torch.bfloat16, torch.float16)


def reset(layer: nn.Module) -> None:
    """Run the ``reset_parameters`` of a layer; a norm without one starts at scale 1, shift 0.

    What no class says how to draw stays as it is. A parametrized layer is to be reset within
    :func:`drawn_as_plain`.
    """
    method = _method_of(layer)
    if method is not None:
        method()
    elif is_norm(layer):
        with torch.no_grad():
            for name, parameter in layer.named_parameters(recurse=False):
                parameter.fill_(1.0 if name == "weight" else 0.0)


def resets(layer: nn.Module) -> bool:
    """Whether :func:`reset` does something to ``layer``, and maybe to what is in it."""
    return _method_of(layer) is not None or is_norm(layer)


def _method_of(layer: nn.Module) -> Callable[[], Any] | None:
    return next((m for name in _METHODS if callable(m := getattr(layer, name, None))), None)


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
    """Draw the CPU's random numbers, Python's and NumPy's from ``seed`` within.

    Afterwards all is as before.
    """
    with random_state_kept(()):
        # torch.manual_seed would seed the accelerators too.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield


@contextmanager
def drawn_as_plain(
    layers: Iterable[nn.Module], *, built_anew: bool = False
) -> Iterator[list[nn.Parameter]]:
    """Let ``layers`` be without their parametrizations within, so that classes can draw them.

    What looks for a weight by its name finds a parameter there. Afterwards the parametrizations
    are back and compute what was drawn. What was not drawn stays as it is.

    Args:
        layers: the layers; those that are not parametrized stay as they are.
        built_anew: they are new, and what is drawn is their weight from before, which comes
            back when a parametrization of ours is taken off.

    Yields:
        A list to which, at the end, the parameters behind the weights that were drawn are added.

    Raises:
        CannotTweak: a parametrization can't be made to compute the drawn weight.
    """
    plain = [_Plain(layer) for layer in list(layers) if parametrize.is_parametrized(layer)]
    behind: list[nn.Parameter] = []
    try:
        yield behind
    finally:
        for one in plain:
            one.put_back()
    for one in plain:
        behind += one.compute_drawn(built_anew)


class _Plain:
    """A layer made as it would be without its parametrizations, until they are put back."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._cls = layer, type(layer)
        self._parameters, self._modules = layer._parameters, layer._modules
        lists = layer.get_submodule("parametrizations")
        # In train mode spectral norm moves its vectors whenever its weight is looked at.
        modes = [(step, step.training) for step in lists.modules()]
        lists.eval()
        self._weights = {}
        for name, steps in lists.named_children():
            # What was computed may lie column by column in memory, and would be drawn so.
            value = getattr(layer, name).detach().clone(memory_format=_BY_ROWS)
            trained = any(parameter.requires_grad for parameter in steps.parameters())
            self._weights[name] = nn.Parameter(value, requires_grad=trained)
        for step, mode in modes:
            step.training = mode
        self._before = {
            name: (weight._version, weight.detach().clone())
            for name, weight in self._weights.items()
        }
        every = {**self._parameters, **self._weights}
        layer.__dict__["_parameters"] = {name: every[name] for name in order_without(layer)}
        layer.__dict__["_modules"] = {
            name: module for name, module in self._modules.items() if name != "parametrizations"
        }
        # remove_parametrizations would take the property off a class that copies share.
        layer.__class__ = self._cls.__mro__[1]

    def put_back(self) -> None:
        """Give the layer its parametrizations back, which compute what they did."""
        layer = self._layer
        now = layer._parameters
        layer.__class__ = self._cls
        layer.__dict__["_parameters"] = self._parameters
        layer.__dict__["_modules"] = self._modules
        for name in self._parameters:
            self._parameters[name] = now.get(name)
        for name in self._weights:
            weight = now.get(name)
            if weight is not None:
                self._weights[name] = weight

    def compute_drawn(self, built_anew: bool) -> Iterator[nn.Parameter]:
        """Make the parametrizations compute what was drawn; yield the parameters behind it."""
        for name, weight in self._weights.items():
            version, before = self._before[name]
            # Who draws through .data leaves the version as it was.
            if weight._version == version and torch.equal(weight, before):
                continue
            put_computed(self._layer, name, weight.detach())
            if built_anew:
                remember_drawn(self._layer, name, weight)
            yield from self._layer.get_submodule(f"parametrizations.{name}").parameters()

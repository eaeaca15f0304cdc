"""Nonlinearities as functions of one number: what a module or a function does to each entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..deep_copies import deep_copy
from .random_state import random_state_kept
from .silence import nothing_printed

FUNCTIONS = frozenset(
    {
        "celu",
        "elu",
        "gelu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "logsigmoid",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "rrelu",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "softshrink",
        "softsign",
        "tanh",
        "tanhshrink",
        "threshold",
    }
)
"""The functions of torch and torch.nn.functional, and methods of tensors, that count."""

_NEVER = (
    nn.Dropout,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Flatten,
    nn.Unflatten,
    nn.Softmax,
    nn.LogSoftmax,
    nn.Softmin,
    nn.Identity,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.modules.dropout._DropoutNd,
)


@dataclass(frozen=True)
class Nonlinearity:
    """A function φ applied to every entry by itself.

    Attributes:
        name: for people, such as ``"LeakyReLU(negative_slope=0.01)"``.
        function: φ, from a float64 tensor to one of the same shape.
    """

    name: str
    function: Callable[[Tensor], Tensor] = field(compare=False, repr=False)


LINEAR = Nonlinearity("linear", lambda z: z)


def function_name(target: Any) -> str:
    """Return the name of an elementwise nonlinearity, given as function or method; else ``""``."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    name = str(name).rstrip("_")
    return name if name in FUNCTIONS else ""


def as_attribute(function: str) -> str:
    """Return how a module that does what one of ``FUNCTIONS`` does is made an attribute."""
    words = {name.lower(): name for name in nn.modules.activation.__all__}
    return f"self.act = nn.{words[function.replace('_', '')]}()"


def as_nonlinearity(module: object, *args: Any, **options: Any) -> Nonlinearity | None:
    """Return what ``module`` does to each entry, or None where it is no nonlinearity.

    A module, or a function that is called with the tensor, ``args`` and ``options``.
    """
    if isinstance(module, nn.Module):
        if isinstance(module, nn.Identity):
            return LINEAR
        if isinstance(module, nn.PReLU):
            slope = float(module.weight.detach().mean())
            return Nonlinearity(f"PReLU({slope:.3g})", lambda z: nn.functional.leaky_relu(z, slope))
        if isinstance(module, _NEVER) or next(module.children(), None) is not None:
            return None
        try:
            twin = deep_copy(module, {}).to("cpu", torch.float64).eval()
        except (RuntimeError, TypeError, NotImplementedError):
            return None
        found = Nonlinearity(repr(module).removesuffix("()"), twin)
    elif callable(module):
        name = function_name(module) or getattr(module, "__name__", type(module).__name__)
        function = module
        found = Nonlinearity(name, lambda z: function(z, *args, **options))
    else:
        return None
    return found if _acts_on_each_entry(found.function) else None


def _acts_on_each_entry(function: Callable[[Tensor], Any]) -> bool:
    """Whether the halves of a tensor come out as in the whole, and not all as they went in."""
    z = torch.linspace(-3.0, 3.0, 14, dtype=torch.float64, device="cpu")
    try:
        with (
            random_state_kept(()),
            nothing_printed(),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            whole = function(z.clone())
            halves = [function(half.clone()) for half in (z[:7], z[7:])]
            return (
                isinstance(whole, Tensor)
                and whole.shape == z.shape
                # Vector units round the last entries of a tensor differently from the others.
                and torch.allclose(whole, torch.cat(halves), rtol=1e-9, atol=1e-12, equal_nan=True)
                and not torch.allclose(whole, z)
            )
    except Exception:  # any code may stand in a user's module; it is no nonlinearity then
        return False

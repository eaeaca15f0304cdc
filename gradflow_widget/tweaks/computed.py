"""Weights computed by torch.nn.utils.parametrize, put on and taken off without loss.

A weight and the numbers that it is computed from are remembered together: as long as neither
has been trained since, putting on and taking off bring back the other bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .errors import CannotTweak

_KEPT = "_gradflow_computed"
_KINDS = {
    "_WeightNorm": "weight",
    "_SpectralNorm": "spectral",
    "_Orthogonal": "orthogonal",
    "OrthogonalKernel": "orthogonal",
}


@dataclass
class _Pair:
    """A weight and the state of the parametrization, of a kind, that stands for it.

    ``ours`` if we put it there; ``order`` is that of the module's parameters without it.
    """

    kind: str
    weight: Tensor
    state: dict[str, Tensor]
    ours: bool
    order: list[str]


def computed_as(module: nn.Module, name: str = "weight") -> str:
    """Return "weight", "spectral" or "orthogonal"; "other" if else computed, "" if not."""
    if not parametrize.is_parametrized(module, name):
        return ""
    steps = module.get_submodule(f"parametrizations.{name}").children()
    kinds = (_KINDS.get(type(step).__name__) for step in steps)
    return next((kind for kind in kinds if kind), "other")


def give_own_class(module: nn.Module) -> None:
    """Give a copy of a parametrized module a class of its own.

    A parametrized module computes its weight by a property of its class, which copies share:
    taking the parametrization off one would break them all.
    """
    shared = type(module)
    if parametrize.is_parametrized(module):
        body = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, body)


def compute(module: nn.Module, kind: str, register: Callable[[], object], name: str) -> None:
    """Put a parametrization on ``module.name`` by calling ``register``.

    Raises:
        CannotTweak: the weight can't be computed so, in its dtype or shape.
    """
    weight = module.get_parameter(name).detach().clone()
    order = list(module._parameters)
    give_own_class(module)
    try:
        with torch.random.fork_rng(devices=[]):
            # Spectral norm starts its power iteration from random vectors.
            torch.default_generator.manual_seed(0)
            register()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise CannotTweak(
            f"The {name} of a {type(module).__name__} of dtype {weight.dtype} can't be computed "
            f"as {kind} ({first})."
        ) from error
    behind = module.get_submodule(f"parametrizations.{name}")
    pair = _kept(module).get(name)
    if pair is not None and pair.kind == kind and torch.equal(pair.weight.to(weight), weight):
        behind.load_state_dict(pair.state)
    ours = pair is None or pair.ours or pair.kind != kind
    _kept(module)[name] = _Pair(kind, weight, _state(behind), ours, order)


def uncompute(module: nn.Module, name: str = "weight") -> bool:
    """Take the parametrizations off ``module.name``; return whether we had put them there.

    The weight from before comes back if the numbers behind it are as they were put on; else
    the weight is what was computed, or for spectral norm what was trained behind it.
    """
    kind = computed_as(module, name)
    behind = module.get_submodule(f"parametrizations.{name}")
    state = _state(behind)
    pair = _kept(module).get(name)
    unchanged = pair is not None and pair.kind == kind and _same_numbers(pair.state, state)
    order = pair.order if pair is not None else [name]
    give_own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=kind != "spectral")
    weight = module.get_parameter(name)
    # What was computed may lie column by column in memory, and BLAS rounds otherwise then.
    before = pair.weight.to(weight) if unchanged and pair is not None else weight.detach()
    weight.data = before.clone(memory_format=torch.contiguous_format)
    _put_in_order(module, order)
    ours = pair is not None and pair.ours
    _kept(module)[name] = _Pair(kind, weight.detach().clone(), state, False, order)
    return ours


def put_computed(module: nn.Module, name: str, value: Tensor) -> None:
    """Set what is behind a computed weight so that it becomes ``value``, or its projection."""
    with torch.no_grad():
        if computed_as(module, name) != "spectral":
            setattr(module, name, value)
            return
        # Spectral norm goes on from the old weight's largest singular value; anew it starts
        # from the new one's.
        step: Any = module.get_submodule(f"parametrizations.{name}.0")
        settings = {"n_power_iterations": step.n_power_iterations, "eps": step.eps, "dim": step.dim}
        ours = uncompute(module, name)
        module.get_parameter(name).copy_(value)
        del _kept(module)[name]
        compute(
            module,
            "spectral",
            lambda: parametrizations.spectral_norm(module, name, **settings),
            name,
        )
        _kept(module)[name].ours = ours


def _put_in_order(module: nn.Module, order: list[str]) -> None:
    # Optimizers count parameters, and the weight would come back behind the bias.
    parameters = module._parameters
    for name in [*order, *(name for name in list(parameters) if name not in order)]:
        if name in parameters:
            parameters[name] = parameters.pop(name)


def register_norm(module: nn.Module, kind: str, dim: int) -> None:
    """Put weight or spectral norm on ``module.weight``, whose outputs are dimension ``dim``."""
    if kind == "weight":
        compute(module, kind, lambda: parametrizations.weight_norm(module, dim=dim), "weight")
    else:
        compute(module, kind, lambda: parametrizations.spectral_norm(module, dim=dim), "weight")


def _kept(module: nn.Module) -> dict[str, _Pair]:
    kept: dict[str, _Pair] = module.__dict__.setdefault(_KEPT, {})
    return kept


def _state(behind: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in behind.state_dict().items()}


def _same_numbers(before: dict[str, Tensor], now: dict[str, Tensor]) -> bool:
    # The vectors of spectral norm's power iteration move with every forward pass.
    return all(
        torch.equal(before[key].to(value), value)
        for key, value in now.items()
        if key.startswith("original")
    )

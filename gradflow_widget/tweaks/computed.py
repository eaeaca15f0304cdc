"""Weights computed by torch.nn.utils.parametrize, put on and taken off without loss.

A weight and the numbers that it is computed from are remembered together: as long as neither
has been trained since, putting on and taking off bring back the other bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    """A weight and the state, by kind of parametrization, that gives the same output."""

    kind: str
    weight: Tensor
    state: dict[str, Tensor]
    ours: bool


def computed_as(module: nn.Module, name: str = "weight") -> str:
    """Return "weight", "spectral" or "orthogonal"; "other" if else computed, "" if not."""
    if not parametrize.is_parametrized(module, name):
        return ""
    steps = module.get_submodule(f"parametrizations.{name}").children()
    kinds = (_KINDS.get(type(step).__name__) for step in steps)
    return next((kind for kind in kinds if kind), "other")


def compute(module: nn.Module, kind: str, register: Callable[[], object], name: str) -> None:
    """Put a parametrization on ``module.name`` by calling ``register``.

    Raises:
        CannotTweak: the weight can't be computed so, in its dtype or shape.
    """
    weight = module.get_parameter(name).detach().clone()
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
    _kept(module)[name] = _Pair(kind, weight, _state(behind), ours)


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
    parametrize.remove_parametrizations(module, name, leave_parametrized=kind != "spectral")
    weight = module.get_parameter(name)
    if unchanged and pair is not None:
        with torch.no_grad():
            weight.copy_(pair.weight)
    _kept(module)[name] = _Pair(kind, weight.detach().clone(), state, ours=False)
    return pair is not None and pair.ours


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

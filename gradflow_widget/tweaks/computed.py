"""Weights computed by torch.nn.utils.parametrize, put on and taken off without loss.

A weight and the numbers that it is computed from are remembered together: as long as neither
has been trained since, putting on and taking off bring back the other bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .errors import CannotTweak
from .random_state import drawn_from

_KEPT = "_gradflow_computed"
_KINDS = {
    "_WeightNorm": "weight",
    "_SpectralNorm": "spectral",
    "_Orthogonal": "orthogonal",
    "OrthogonalKernel": "orthogonal",
}
# As many as torch's own spectral norm takes when it is put on.
_SPECTRAL_START = 15


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


@dataclass(frozen=True)
class Hooked:
    """A tensor that a hook computes before each forward pass, from which nothing leads back.

    Attributes:
        name: the tensor's, an attribute of its module that is no parameter.
        by: the function of PyTorch that put the hook there.
        sources: the names of the parameters that it is computed from.
    """

    name: str
    by: str
    sources: tuple[str, ...]


def hooked(module: nn.Module) -> Iterator[Hooked]:
    """Yield what the older weight and spectral norm, and pruning, compute in ``module``."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            sources = (f"{hook.name}_g", f"{hook.name}_v")
            yield Hooked(hook.name, "torch.nn.utils.weight_norm", sources)
        elif isinstance(hook, SpectralNorm):
            yield Hooked(hook.name, "torch.nn.utils.spectral_norm", (f"{hook.name}_orig",))
        elif isinstance(hook, BasePruningMethod):
            name: str = hook._tensor_name
            yield Hooked(name, "torch.nn.utils.prune", (f"{name}_orig",))


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
    order, plain = list(module._parameters), type(module).__name__
    give_own_class(module)
    try:
        # Spectral norm starts from random vectors, and a wide orthogonal matrix is completed by
        # some: what is drawn next must not depend on it.
        with drawn_from(0, weight):
            register()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise CannotTweak(
            f"The {name} of a {plain} of dtype {weight.dtype} can't be computed "
            f"as {kind} ({first})."
        ) from error
    behind = module.get_submodule(f"parametrizations.{name}")
    _start_anew(behind, weight)
    pair = _kept(module).get(name)
    if pair is not None and pair.kind == kind and torch.equal(pair.weight.to(weight), weight):
        behind.load_state_dict(pair.state)
    ours = pair is None or pair.ours or pair.kind != kind
    _kept(module)[name] = _Pair(kind, weight, _state(behind), ours, order)


def uncompute(module: nn.Module, name: str = "weight") -> bool:
    """Take the parametrizations off ``module.name``; return whether we had put them there.

    The weight from before comes back if the numbers behind it are as they were put on; else
    the weight is what was computed, or for spectral norm what was trained behind it. It is frozen
    if all of these numbers are.
    """
    kind = computed_as(module, name)
    behind = module.get_submodule(f"parametrizations.{name}")
    trained = any(parameter.requires_grad for parameter in behind.parameters())
    state = _state(behind)
    pair = _kept(module).get(name)
    unchanged = pair is not None and pair.kind == kind and _same_numbers(pair.state, state)
    order = pair.order if pair is not None else [name]
    give_own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=kind != "spectral")
    left = module._buffers.pop(name, None)
    if left is not None:
        # Torch makes a buffer of it where several numbers, all frozen, were behind it.
        module.register_parameter(name, nn.Parameter(left, requires_grad=trained))
    weight = module.get_parameter(name)
    # What was computed may lie column by column in memory, and BLAS rounds otherwise then.
    before = pair.weight.to(weight) if unchanged and pair is not None else weight.detach()
    weight.data = before.clone(memory_format=torch.contiguous_format)
    _put_in_order(module, order)
    ours = pair is not None and pair.ours
    _kept(module)[name] = _Pair(kind, weight.detach().clone(), state, False, order)
    return ours


def put_computed(module: nn.Module, name: str, value: Tensor) -> None:
    """Set what is behind a computed weight so that it becomes ``value``, or its projection.

    Raises:
        CannotTweak: a parametrization has no way back from a weight to what is behind it.
    """
    behind = module.get_submodule(f"parametrizations.{name}")
    buffers = [(step, dict(step._buffers)) for step in behind.modules()]
    try:
        with torch.no_grad(), drawn_from(0, value):
            setattr(module, name, value)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise CannotTweak(
            f"The parametrization of {name} in a {type(module).__bases__[0].__name__} takes no "
            "weight that was drawn anew."
        ) from error
    for step, before in buffers:
        for key, buffer in before.items():
            new = step._buffers[key]
            if buffer is not None and new is not None and new is not buffer:
                # Who holds the buffer, to bring it back to its device, must hold what is used.
                buffer.data = new.data
                step._buffers[key] = buffer
    _start_anew(behind, value)


def order_without(module: nn.Module) -> list[str]:
    """Return the names of the parameters as they stand without any parametrization."""
    computed = list(module.get_submodule("parametrizations")._modules)
    pair = next((pair for pair in _kept(module).values() if pair.order), None)
    order = pair.order if pair is not None else computed
    return list(dict.fromkeys([*order, *computed, *module._parameters]))


def remember_drawn(module: nn.Module, name: str, weight: Tensor) -> None:
    """Let a weight that was drawn anew come back when a parametrization of ours is taken off."""
    pair = _kept(module).get(name)
    if pair is not None and pair.ours:
        state = _state(module.get_submodule(f"parametrizations.{name}"))
        _kept(module)[name] = replace(pair, weight=weight.detach().clone(), state=state)


def frozen_behind(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield the buffers that only frozen weights are computed with: module, name and tensor."""
    for behind in model.modules():
        if not isinstance(behind, parametrize.ParametrizationList):
            continue
        if not any(parameter.requires_grad for parameter in behind.parameters()):
            for step in behind.modules():
                for name, buffer in step._buffers.items():
                    if buffer is not None:
                        yield step, name, buffer


def divided_by_zero(model: nn.Module) -> str:
    """Return "weight" or "spectral", the norm by which weights of 0 are divided; "" if none are.

    Found by computing them: where a norm underflows, or only one output's weights are 0, what
    comes out is not finite either.
    """
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        for name, steps in module.get_submodule("parametrizations").named_children():
            kind = computed_as(module, name)
            if kind in ("weight", "spectral") and _comes_out_not_finite(steps):
                return kind
    return ""


def _comes_out_not_finite(steps: nn.Module) -> bool:
    if not all(bool(parameter.isfinite().all()) for parameter in steps.parameters()):
        return False
    # In train mode spectral norm moves its vectors whenever its weight is looked at.
    modes = [(step, step.training) for step in steps.modules()]
    steps.eval()
    try:
        with torch.no_grad():
            return not bool(steps().isfinite().all())
    finally:
        for step, mode in modes:
            step.training = mode


def _start_anew(steps: nn.Module, weight: Tensor) -> None:
    """Make spectral norm look for a new weight's largest singular value from the start.

    Torch's own start goes on by one step whenever the weight is looked at, so that it would
    depend on how the norm was put on.
    """
    spectral: Any
    for spectral in steps.children():
        if _KINDS.get(type(spectral).__name__) == "spectral":
            # The same vectors on every device: a GPU's generator has others for the same seed.
            generator = torch.Generator("cpu").manual_seed(0)
            with torch.no_grad():
                for vector in (spectral._u, spectral._v):
                    drawn = torch.randn(
                        vector.shape, dtype=vector.dtype, generator=generator, device="cpu"
                    )
                    vector.copy_(nn.functional.normalize(drawn, dim=0))
                spectral._power_method(spectral._reshape_weight_to_matrix(weight), _SPECTRAL_START)


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

"""A copy of a model to tweak: nothing of the original is shared or touched."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..deep_copies import deep_copy
from .errors import CannotTweak
from .lineage import mark_lineage
from .record import carry_record

HOOKS = tuple(name for name in nn.Module().__dict__ if name.endswith("_hooks") or "_hooks_" in name)
NO_ROOM = "There is no room in memory for a changed copy of the model, so it stays as it is."
# PyTorch has an exception of its own for CUDA's memory only.
_NO_ROOM_SAYS = ("DefaultCPUAllocator", "backend out of memory")
_in_hand: ContextVar[nn.Module | None] = ContextVar("_in_hand", default=None)


@contextmanager
def changed_in_place(twin: nn.Module) -> Iterator[None]:
    """Let tweaks change ``twin``, a copy already, itself: several then cost one copy."""
    token = _in_hand.set(twin)
    try:
        yield
    finally:
        _in_hand.reset(token)


def is_in_hand(model: nn.Module) -> bool:
    """Whether ``model`` is a copy that several tweaks change, of which this may not be the last."""
    return _in_hand.get() is model


@contextmanager
def refusing_without_room() -> Iterator[None]:
    """Say in one sentence that memory has run out, whichever way PyTorch and Python put it.

    Raises:
        CannotTweak: it has.
    """
    try:
        yield
    except MemoryError as error:
        raise CannotTweak(NO_ROOM) from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(
            words in str(error) for words in _NO_ROOM_SAYS
        ):
            raise CannotTweak(NO_ROOM) from error
        raise


def leave_gradients_out(parameters: Iterable[nn.Parameter], memo: dict[int, Any]) -> None:
    """Let a deepcopy with ``memo`` leave out gradients, which some classes would copy as well.

    nn.Parameter does not, so that its gradients need not be looked at: another thread may be
    training, and the process may crash where gradients are read that are written meanwhile.
    """
    for parameter in parameters:
        if type(parameter).__deepcopy__ is nn.Parameter.__deepcopy__:
            continue
        if parameter.grad is not None:
            memo[id(parameter.grad)] = None


def check_is_module(model: object) -> None:
    """Refuse what is no model.

    Raises:
        TypeError: ``model`` is no module.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, not the class {model.__name__} itself: "
            f"pass {model.__name__}(...)."
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}.")


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of ``model`` without gradients.

    What :func:`changed_in_place` has in hand is a copy already, and returned itself.

    Tied weights stay tied, frozen ones frozen; buffers, modes, dtypes and devices are as
    before. Hooks are copied too (old-style weight and spectral norm live in them), but not
    those of a probe that watches the original.

    Raises:
        TypeError: ``model`` is no module.
        CannotTweak: the model can't be copied, or the copy does not fit in memory.
    """
    check_is_module(model)
    if is_in_hand(model):
        mark_lineage(model)
        return model
    # A forward pass may have left some of its graph in attributes, which deepcopy refuses.
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors_in(module.__dict__, 4)
        if tensor.grad_fn is not None
    }
    for module in model.modules():
        for name in HOOKS:
            hooks = module.__dict__.get(name)
            if isinstance(hooks, OrderedDict) and any(map(is_ours, hooks.values())):
                kept = ((k, v) for k, v in hooks.items() if not is_ours(v))
                memo[id(hooks)] = OrderedDict((k, copy.deepcopy(v, memo)) for k, v in kept)
    leave_gradients_out(model.parameters(), memo)
    try:
        with refusing_without_room():
            twin = deep_copy(model, memo)
    except (RuntimeError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".:")
        raise CannotTweak(
            f"The model can't be copied ({type(error).__name__}: {reason})."
        ) from error
    for parameter in twin.parameters():
        parameter.grad = None
    mark_lineage(twin)
    carry_record(model, twin)
    return twin


def _tensors_in(value: Any, depth: int) -> Iterator[torch.Tensor]:
    """Go through the tensors in containers within containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors_in(inner, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _tensors_in(inner, depth - 1)


def refuse_lazy(model: nn.Module) -> None:
    """Refuse a model with layers whose shapes are not known yet.

    Raises:
        TypeError: ``model`` is no module.
        CannotTweak: there is one.
    """
    check_is_module(model)
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise CannotTweak(
            "The model has lazy layers whose shapes are not known yet: run one batch through it "
            "before changing it."
        )


def is_ours(hook: object) -> bool:
    """Whether a hook is this package's own."""
    return str(getattr(hook, "__module__", "")).startswith("gradflow_widget.")

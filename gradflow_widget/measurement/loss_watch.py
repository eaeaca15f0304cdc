"""Sees the scalars from which backward passes start, in loops that are not ours.

No hook of PyTorch tells which loss a user's own loop differentiates, so while a probe is
attached `torch.autograd.backward` (which `Tensor.backward` calls) is wrapped, and
`GradScaler.scale` too, because under mixed precision the scalar is the scaled loss. The
originals come back with the last probe that leaves; nothing is computed differently.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from .norms import stacked


class Root(NamedTuple):
    """Where a backward pass starts.

    Attributes:
        loss: the scalar that is differentiated, unscaled; None where it is no scalar.
        scale: what a GradScaler multiplied the loss and so the gradients by.
        keeps_graph: another pass may go through the same graph.
    """

    loss: torch.Tensor | None
    scale: torch.Tensor | None = None
    keeps_graph: bool = False


class LossListener(Protocol):
    """Who wants to be told of backward passes."""

    def before_backward(self, root: Root) -> None:
        """A backward pass starts."""

    def after_backward(self) -> None:
        """It is over, or has failed."""


_lock = threading.RLock()
# Weak, so that a probe nobody closed goes when its model goes.
_listeners: list[weakref.ref[LossListener]] = []
_wrapped: list[tuple[object, str, Any, Any]] = []  # owner, name, original, wrapper
_scaled = WeakTensorKeyDictionary()  # scaled loss: (loss, scale)


def _root(tensors: Any, weights: Any) -> Root:
    """Return the sum of the scalars that ``backward(tensors, weights)`` differentiates."""
    if isinstance(tensors, torch.Tensor):
        if weights is None and tensors.dim() == 0 and not _scaled:
            return Root(tensors.detach())  # as nearly always
        tensors = (tensors,)
    tensors = tuple(tensors)
    if weights is None or isinstance(weights, torch.Tensor):
        weights = (weights,) * len(tensors)
    losses, scale = [], None
    for tensor, weight in zip(tensors, weights, strict=False):
        if not isinstance(tensor, torch.Tensor) or tensor.numel() != 1:
            return Root(None)
        if len(_scaled) and tensor in _scaled:
            loss, scale = _scaled[tensor]
        else:
            loss = tensor.detach()
        loss = loss.reshape(())
        losses.append(loss if weight is None else loss * weight.detach().reshape(()))
    if not losses:
        return Root(None)
    return Root(losses[0] if len(losses) == 1 else stacked(losses).sum(), scale)


def _keeps_graph(
    retain_graph: bool | None = None, create_graph: bool = False, *_: Any, **__: Any
) -> bool:
    return create_graph if retain_graph is None else retain_graph


def _watched_backward(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        # Within a backward pass, a checkpointed block goes back through itself.
        if not _listeners or torch._C._current_graph_task_id() != -1:
            return original(tensors, grad_tensors, *args, **kwargs)
        listeners = [here for r in tuple(_listeners) if (here := r()) is not None]
        if not isinstance(tensors, (torch.Tensor, tuple, list)):
            tensors = tuple(tensors)  # may be gone through only once
        root = _root(tensors, grad_tensors)
        if _keeps_graph(*args, **kwargs):
            root = root._replace(keeps_graph=True)
        for listener in listeners:
            listener.before_backward(root)
        try:
            return original(tensors, grad_tensors, *args, **kwargs)
        finally:
            for listener in listeners:
                listener.after_backward()

    return backward


def _watched_scale(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        factor = getattr(self, "_scale", None)
        if isinstance(factor, torch.Tensor):
            several = isinstance(outputs, (list, tuple))
            for before, after in zip(
                outputs if several else (outputs,), result if several else (result,), strict=False
            ):
                if isinstance(before, torch.Tensor) and after is not before:
                    _scaled[after] = (before.detach(), factor.detach().clone())
        return result

    return scale


def _wrap(owner: object, name: str, wrapping: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    wrapper = wrapping(original)
    _wrapped.append((owner, name, original, wrapper))
    setattr(owner, name, wrapper)


def listen(listener: LossListener) -> None:
    """Tell ``listener`` of every backward pass from now on, for as long as it lives."""
    with _lock:
        if not _wrapped:
            _wrap(torch.autograd, "backward", _watched_backward)
            _wrap(torch.amp.GradScaler, "scale", _watched_scale)
        _listeners.append(weakref.ref(listener, _drop))


def leave(listener: LossListener) -> None:
    """Stop telling ``listener``; the last one to leave puts the originals back."""
    for reference in [r for r in _listeners if r() is listener]:
        _drop(reference)


def _drop(reference: weakref.ref[LossListener]) -> None:
    with _lock:
        if reference in _listeners:
            _listeners.remove(reference)
        if _listeners or not all(
            getattr(owner, name) is wrapper for owner, name, _, wrapper in _wrapped
        ):
            return  # where somebody has wrapped our wrapper, it stays and passes all on
        while _wrapped:
            owner, name, original, _ = _wrapped.pop()
            setattr(owner, name, original)

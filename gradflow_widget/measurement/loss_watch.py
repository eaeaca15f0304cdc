"""Sees the scalars from which backward passes start, in loops that are not ours.

No hook of PyTorch tells which loss a user's own loop differentiates, so while a probe is
attached `torch.autograd.backward` (which `Tensor.backward` calls) is wrapped, and
`GradScaler.scale` too, because under mixed precision the scalar is the scaled loss. The
originals come back with the last probe that leaves; nothing is computed differently.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

_lock = threading.Lock()
_listeners: list[LossListener] = []
_originals: list[tuple[object, str, Any]] = []
_scaled = WeakTensorKeyDictionary()  # scaled loss: (loss, scale)


@dataclass(frozen=True)
class Root:
    """The scalar of one backward pass: the loss, and what the gradient was scaled by."""

    loss: torch.Tensor
    scale: torch.Tensor | None


@dataclass(frozen=True)
class LossListener:
    """What a probe wants to be told: the root before its backward pass, and the end of it."""

    before_backward: Callable[[Root], None]
    after_backward: Callable[[], None]


def _only_scalar(tensors: object) -> torch.Tensor | None:
    if isinstance(tensors, (tuple, list)):
        if len(tensors) != 1:
            return None
        tensors = tensors[0]
    if isinstance(tensors, torch.Tensor) and tensors.numel() == 1:
        return tensors
    return None


def _watched_backward(original: Callable[..., None]) -> Callable[..., None]:
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        scalar = _only_scalar(tensors)
        listeners = tuple(_listeners) if scalar is not None else ()
        if scalar is not None:
            loss, scale = _scaled[scalar] if scalar in _scaled else (scalar.detach(), None)
            for listener in listeners:
                listener.before_backward(Root(loss.reshape(()), scale))
        original(tensors, *args, **kwargs)
        for listener in listeners:
            listener.after_backward()

    return backward


def _watched_scale(original: Callable[..., Any]) -> Callable[..., Any]:
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        if isinstance(outputs, torch.Tensor) and result is not outputs:
            factor = self._scale
            if isinstance(factor, torch.Tensor) and outputs.numel() == 1:
                _scaled[result] = (outputs.detach(), factor.detach().clone())
        return result

    return scale


def _wrap(owner: object, name: str, wrapper: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    _originals.append((owner, name, original))
    setattr(owner, name, wrapper(original))


def listen(listener: LossListener) -> None:
    """Tell ``listener`` of every backward pass from now on."""
    with _lock:
        if not _listeners:
            _wrap(torch.autograd, "backward", _watched_backward)
            _wrap(torch.amp.GradScaler, "scale", _watched_scale)
        _listeners.append(listener)


def leave(listener: LossListener) -> None:
    """Stop telling ``listener``; the last one to leave puts the originals back."""
    with _lock:
        if listener not in _listeners:
            return
        _listeners.remove(listener)
        if not _listeners:
            while _originals:
                owner, name, original = _originals.pop()
                setattr(owner, name, original)

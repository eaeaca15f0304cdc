"""Steering: learning rate, weight decay and clipping, through the optimizer's own hooks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim import Optimizer

from ..measurement.probe import GradientProbe
from .optimizers import decays_of, set_weight_decay
from .settings import Settings


class Steering:
    """Applies hot settings at every optimizer step, whoever's loop it is.

    The hooks surround the probe's: the learning rate is set before the probe reads it,
    and clipping acts after the probe has read the gradients, so after any clipping of
    the user's own. The optimizer's own weight decay comes back on closing.
    """

    def __init__(self, optimizer: Optimizer, settings_of_step: Callable[[], Settings]) -> None:
        self._optimizer = optimizer
        self._settings_of_step = settings_of_step
        self._settings = settings_of_step()
        self._applied: float | None = None
        self._ratios = _ratios(optimizer)
        self._own_decays = decays_of(optimizer)
        self._applied_decay: float | None = None
        self._probe: GradientProbe | None = None
        self._handles = [optimizer.register_step_pre_hook(self._begin)]

    def follow(self, probe: GradientProbe) -> None:
        """Put the clipping hook behind the hooks of ``probe``."""
        self._probe = probe
        self._handles.append(self._optimizer.register_step_pre_hook(self._clip_before_step))

    @property
    def own_weight_decay(self) -> float | None:
        """The greatest weight decay that a group has of its own; None where none has one."""
        return max((float(one) for one in self._own_decays if one is not None), default=None)

    def coming(self) -> list[dict[str, Any]]:
        """Return each group's learning rate and weight decay as the next step will have them."""
        settings = self._settings_of_step()
        groups: list[dict[str, Any]] = [
            {key: float(group[key]) for key in ("lr", "weight_decay") if key in group}
            for group in self._optimizer.param_groups
        ]
        stand_in: Any = SimpleNamespace(param_groups=groups)
        if settings.learning_rate is not None and settings.learning_rate != self._applied:
            set_learning_rate(stand_in, settings.learning_rate, self._ratios)
        if settings.weight_decay is not None:
            set_weight_decay(stand_in, settings.weight_decay, self._own_decays)
        else:
            for group, own in zip(groups, self._own_decays, strict=False):
                if own is not None:
                    group["weight_decay"] = float(own)
        return groups

    def set_rate_anew(self) -> None:
        """Set the rate at the next step, also where a scheduler has gone on from that very one."""
        self._applied = None

    def close(self) -> None:
        """Take the hooks off."""
        self._decay_by(None)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(self, *_: Any) -> None:
        settings = self._settings = self._settings_of_step()
        if self._probe is not None:
            self._probe.settings = settings
        wanted = settings.learning_rate
        # Only a turn of the knob sets the rate, so that a scheduler goes on from there.
        if wanted is not None and wanted != self._applied:
            set_learning_rate(self._optimizer, wanted, self._ratios)
            self._applied = wanted
        self._decay_by(settings.weight_decay)

    def _decay_by(self, wanted: float | None) -> None:
        if wanted == self._applied_decay:
            return
        if wanted is not None:
            set_weight_decay(self._optimizer, wanted, self._own_decays)
        else:
            for group, own in zip(self._optimizer.param_groups, self._own_decays, strict=False):
                if own is not None:
                    group["weight_decay"] = own
        self._applied_decay = wanted

    def _clip_before_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if len(args) < 2 and kwargs.get("closure") is None:  # the optimizer is the first
            self.clip()

    def clip(self) -> None:
        """Clip the gradients now; an optimizer with a closure computes them in its step."""
        settings = self._settings
        if settings.clip_norm is None and settings.clip_value is None:
            return
        parameters = [
            parameter
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not parameters or self._probe is None:
            return
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            self._probe.clipped_by_norm(settings.clip_norm)
        elif settings.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, settings.clip_value)
            self._probe.clipped_otherwise()


def set_learning_rate(optimizer: Optimizer, rate: float, ratios: list[float]) -> None:
    """Give the first parameter group ``rate`` and the others their ratio of it."""
    for group, ratio in zip(optimizer.param_groups, ratios, strict=False):
        if "lr" not in group:
            continue
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate * ratio)
        else:
            group["lr"] = rate * ratio


def learning_rate_of(optimizer: Optimizer) -> float | None:
    """Return the first parameter group's learning rate; None where it has none."""
    rate = optimizer.param_groups[0].get("lr")
    return None if rate is None else float(rate)


def _ratios(optimizer: Optimizer) -> list[float]:
    """Return every group's learning rate in relation to the first group's.

    A scheduler that warms up from 0 has put the rate that it aims at in ``initial_lr``.
    """
    for key in ("lr", "initial_lr"):
        rates = [float(group.get(key, 0.0)) for group in optimizer.param_groups]
        if rates[0]:
            return [rate / rates[0] for rate in rates]
    return [1.0] * len(optimizer.param_groups)

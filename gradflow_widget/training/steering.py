"""Steering: learning rate, weight decay and clipping, through the optimizer's own hooks."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from ..measurement.last_hooks import LastHooks
from ..measurement.norms import dense
from ..measurement.optimizers import number_in, rate_of
from ..measurement.probe import GradientProbe
from ..uninterrupted import uninterrupted
from .optimizers import decays_of, steered_decays
from .settings import Settings
from .sparse import decay_meets_sparse

# Further apart than the rounding of a rate that is kept in a float32 tensor.
_SAME_RATIO = 1e-6
_HALF = (torch.float16, torch.bfloat16)


class Steering:
    """Applies hot settings at every optimizer step, whoever's loop it is.

    The hooks surround the probe's: the learning rate is set before the probe reads it,
    and clipping acts after the probe has read the gradients, so after any clipping of
    the user's own. Where a closure computes them inside the step, they are clipped at the end
    of each call of it. The optimizer's own weight decay, which is what the user has last given
    it, comes back on closing.
    """

    def __init__(self, optimizer: Optimizer, settings_of_step: Callable[[], Settings]) -> None:
        self._optimizer = optimizer
        self._settings_of_step = settings_of_step
        self._settings = settings_of_step()
        self._applied: float | None = None
        self._rates = GroupRates(optimizer)
        self._decays = GroupDecays(optimizer)
        self._applied_decay: float | None = None
        self._probe: GradientProbe | None = None
        self._handles = [optimizer.register_step_pre_hook(self._begin)]

    def follow(self, probe: GradientProbe) -> None:
        """Put the clipping hook behind the hooks of ``probe``."""
        self._probe = probe
        hooks = LastHooks.of(self._optimizer)
        self._handles.append(hooks.register(self._clip_before_step))

    @property
    def own_weight_decay(self) -> float | None:
        """The greatest weight decay that a group has of its own; None where none has one."""
        return _most(self._decays.own())

    def decay_meets_sparse(self, model: nn.Module) -> bool:
        """Whether the knob's weight decay would come to gradients that are sparse, and fail."""
        return decay_meets_sparse(model, self._optimizer, self._decays.own())

    def coming(self) -> list[dict[str, Any]]:
        """Return each group's learning rate and weight decay as the next step will have them."""
        settings = self._settings_of_step()
        groups: list[dict[str, Any]] = [
            {
                key: number
                for key in ("lr", "weight_decay")
                if (number := number_in(group.get(key))) is not None
            }
            for group in self._optimizer.param_groups
        ]
        stand_in: Any = SimpleNamespace(param_groups=groups)
        if settings.learning_rate is not None and settings.learning_rate != self._applied:
            set_learning_rate(stand_in, settings.learning_rate, self._rates.ratios())
        decays = self._decays.coming(settings.weight_decay, self._is_turned(settings.weight_decay))
        for group, decay in zip(groups, decays, strict=False):
            if "weight_decay" in group:
                group["weight_decay"] = number_in(decay)
        return groups

    def set_rate_anew(self) -> None:
        """Set the rate at the next step, also where a scheduler has gone on from that very one."""
        self._applied = None

    def set_decay_anew(self) -> None:
        """Set the weight decay at the next step, also where a schedule has left that very one."""
        self._applied_decay = math.nan  # which no knob says

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
            self._rates.set(wanted)
            self._applied = wanted
        self._decay_by(settings.weight_decay)

    def _is_turned(self, decay: float | None) -> bool:
        """Whether the knob of the weight decay is; else a schedule goes on from the last turn."""
        return decay != self._applied_decay

    def _decay_by(self, wanted: float | None) -> None:
        is_turned = self._is_turned(wanted)
        if is_turned or self._decays.has_grown:
            self._decays.set(wanted, is_turned)
            self._applied_decay = wanted

    def _clip_before_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._settings.clip_norm is None and self._settings.clip_value is None:
            return None
        if len(args) > 1 and callable(args[1]):  # the optimizer is the first
            return (args[0], self._clipping(args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._clipping(kwargs["closure"])}
        self._clip()
        return None

    def _clipping(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``closure`` with the gradients clipped that it has computed."""

        @functools.wraps(closure)
        def clipped(*args: Any, **kwargs: Any) -> Any:
            result = closure(*args, **kwargs)
            self._clip()
            return result

        return clipped

    def _clip(self) -> None:
        settings, probe = self._settings, self._probe
        holders: Any  # torch's functions ask parameters for nothing but their gradients
        gradients = [
            _values_of_gradient(parameter)
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not gradients or probe is None:
            return
        # A fused optimizer divides by it only inside its step.
        scale = getattr(self._optimizer, "grad_scale", None)
        if not isinstance(scale, torch.Tensor):
            scale = None
        if settings.clip_norm is not None:
            total = get_total_norm(gradients)
            if scale is not None:
                # Not the threshold, which torch would make a float: that waits for a device.
                total = total / scale.to(total.device)
            holders = [SimpleNamespace(grad=gradient) for gradient in gradients]
            clip_grads_with_norm_(holders, settings.clip_norm, total)
            if _is_rounded(gradients, total):
                probe.clipped_otherwise()
            else:
                probe.clipped_by_norm(settings.clip_norm)
        elif settings.clip_value is not None:
            parts = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
            if scale is None:
                holders = [SimpleNamespace(grad=part) for part in parts]
                clip_grad_value_(holders, settings.clip_value)
            else:
                _clip_value(parts, settings.clip_value * scale)
            probe.clipped_otherwise()


def _values_of_gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Return what clipping changes in place: of a sparse gradient the values that it has."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout is torch.strided:
        return gradient
    parameter.grad = gradient.coalesce()
    return parameter.grad._values()


def _is_rounded(gradients: Iterable[torch.Tensor], total: torch.Tensor) -> bool:
    """Whether clipping by norm left other gradients than the coefficient says.

    Half precision rounds them visibly; where torch's float32 ``total`` overflows they are 0.
    A device is not asked.
    """
    if total.device.type == "cpu" and not math.isfinite(total):
        # Where the gradients themselves are not finite, NaN and 0 are what comes out.
        return all(bool(dense(gradient).isfinite().all()) for gradient in gradients)
    return any(gradient.dtype in _HALF for gradient in gradients)


def _clip_value(gradients: Iterable[torch.Tensor], bound: torch.Tensor) -> None:
    """Clip every element to [-bound, bound], without waiting for the device it is on."""
    with torch.no_grad():
        for gradient in gradients:
            here = bound.to(gradient.device)
            gradient.clamp_(min=-here, max=here)


class GroupRates:
    """How the parameter groups' learning rates stand to the one that a knob sets.

    That is the first group's; where it is 0 and another's is not, the first of the others, and
    the 0 stays. What counts is how they stand at present, whatever a scheduler or the user has
    made of them; where all are 0, as at the beginning of a warm-up, how they stood before.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._ratios = [1.0] * len(optimizer.param_groups)
        self._leading = 1.0  # the rate of a ratio of 1, when last there was any
        self._left: list[float] | None = None  # what the last turn of the knob left
        # A scheduler that warms up from 0 has put the rate that it aims at in initial_lr.
        for key in ("lr", "initial_lr"):
            rates = [number_in(group.get(key)) or 0.0 for group in optimizer.param_groups]
            if any(rates):
                self._leading = next(rate for rate in rates if rate)
                self._ratios = [rate / self._leading for rate in rates]
                break

    def ratios(self) -> list[float]:
        """Return each group's rate in relation to the one that a knob would set now."""
        rates, known = self._present(), self._ratios
        if not any(rates) or rates[: len(known)] == self._left:
            return known + [rate / self._leading for rate in rates[len(known) :]]
        leading = next(rate for rate in rates if rate)
        ratios = [rate / leading for rate in rates]
        # The known ones are without the rounding of many turns.
        for place, ratio in enumerate(known[: len(ratios)]):
            if math.isclose(ratio, ratios[place], rel_tol=_SAME_RATIO):
                ratios[place] = ratio
        return ratios

    def set(self, rate: float) -> None:
        """Give the leading group ``rate`` and the others their ratio of it."""
        self._ratios = self.ratios()
        set_learning_rate(self._optimizer, rate, self._ratios)
        self._left, self._leading = self._present(), rate

    def _present(self) -> list[float]:
        return [rate_of(group) or 0.0 for group in self._optimizer.param_groups]


class GroupDecays:
    """The parameter groups' own weight decay, while a knob has set another.

    Own is what the user has given a group last: at first, by a schedule, by a checkpoint.

    A step sets what others may read meanwhile, who compare the groups with what the knob has left.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._lock = threading.RLock()
        # Of the groups that were there when the knob was turned, and those that have come since.
        self._own: list[float | None] = []
        # By the knob; None where that is a schedule's, as a whole where all groups have their own.
        self._left: list[float | None] | None = None

    @property
    def has_grown(self) -> bool:
        """Whether there are groups that came after the knob was turned."""
        return self._left is not None and len(self._optimizer.param_groups) > len(self._left)

    def own(self) -> list[float | None]:
        """Return each group's own; None where it has none."""
        with self._lock:
            present = decays_of(self._optimizer)
            known = zip(present, self._held(present), self._own, strict=False)
            ours = [own if is_held else now for now, is_held, own in known]
            return [*ours, *present[len(ours) :]]

    def coming(self, decay: float | None, is_turned: bool) -> list[float | None]:
        """Return each group's as the next step will have it; None where it has none.

        A turn of the knob is for all groups, and None brings their own back. A turn before is for
        groups that came after it too, unless the user has given all the others another since.
        """
        with self._lock:
            if is_turned:
                return steered_decays(decay, self.own())
            present = decays_of(self._optimizer)
            steered = steered_decays(decay, self._own_at_turn(present))
            choices = zip(present, steered, self._held(present), strict=True)
            return [new if is_held else now for now, new, is_held in choices]

    def set(self, decay: float | None, is_turned: bool) -> None:
        """Give the groups what is :meth:`coming`."""
        with uninterrupted(), self._lock:
            present, coming = decays_of(self._optimizer), self.coming(decay, is_turned)
            own = self.own() if is_turned else self._own_at_turn(present)
            held = [is_turned or is_held for is_held in self._held(present)]
            for group, new in zip(self._optimizer.param_groups, coming, strict=True):
                if new is not None:
                    group["weight_decay"] = new
            left = [new if is_held else None for new, is_held in zip(coming, held, strict=True)]
            self._own, self._left = own, None if decay is None else left

    def _held(self, present: list[float | None]) -> list[bool]:
        """Return of each group whether it is the knob's: by a turn, or since it came after one."""
        left = self._left or []
        known = [one is not None and now == one for now, one in zip(present, left, strict=False)]
        return known + [any(known)] * (len(present) - len(known))

    def _own_at_turn(self, present: list[float | None]) -> list[float | None]:
        """Return each group's own as the last turn found it, or as it came after that."""
        known = self._own[: len(present)]
        return known + present[len(known) :]


def set_learning_rate(optimizer: Optimizer, rate: float, ratios: list[float]) -> None:
    """Give each parameter group its ratio of ``rate``.

    Groups without a rate of their own stay so.
    """
    for group, ratio in zip(optimizer.param_groups, ratios, strict=False):
        if group.get("lr") is None:
            continue
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate * ratio)
        else:
            group["lr"] = rate * ratio


def learning_rate_of(groups: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the learning rate that a knob sets: of the first parameter group where it is not 0.

    0 where all are; None where the first group has none of its own.
    """
    rates = [rate_of(group) for group in groups]
    return None if rates[0] is None else next((rate for rate in rates if rate), 0.0)


def weight_decay_of(groups: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the weight decay that a knob sets: the most that a parameter group has; or None."""
    return _most(group.get("weight_decay") for group in groups)


def _most(decays: Iterable[Any]) -> float | None:
    numbers = (number_in(one) for one in decays)
    return max((one for one in numbers if one is not None), default=None)

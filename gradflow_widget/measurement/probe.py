"""GradientProbe: takes a Reading of every optimizer step, in any training loop."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from . import loss_watch
from .capture import Capture, Collected, collect
from .history import History
from .layers import LayerParts, find_layers, in_forward_order
from .norms import NormPlan, exact_norms, largest_magnitudes, stacked
from .reading import Reading
from .transfer import Transfer

FloatArray = NDArray[np.float64]
# A clip that another hand applied shows when the norm it left is off by more than rounding.
_SAME_NORM = 1e-5


def _norm(norms: FloatArray) -> float:
    return math.sqrt(float(norms @ norms))


def _clip_coefficient(total: float, clip_norm: float) -> float:
    """Return what ``torch.nn.utils.clip_grad_norm_`` multiplies gradients by."""
    if math.isnan(total):
        return math.nan
    return min(1.0, clip_norm / (total + 1e-6))


@dataclass
class _Step:
    """What is known of a step between the optimizer's pre-hook and its arrival on the CPU."""

    learning_rates: tuple[float, ...]
    present: list[int]
    settings: object | None
    requires_grad: list[bool] | None = None
    loss_seen: bool = False
    clip_norm: float | None = None
    # Names of the vectors that go into the one transfer, with their lengths.
    sections: list[tuple[str, int]] = field(default_factory=list)
    vectors: list[torch.Tensor] = field(default_factory=list)
    # Already on the CPU, where the gradients are.
    known: dict[str, FloatArray] = field(default_factory=dict)
    transfer: Transfer | None = None
    full: bool = False
    collected: Collected | None = None
    number: int = 0

    def add(self, name: str, scalars: list[torch.Tensor]) -> None:
        if scalars:
            self.sections.append((name, len(scalars)))
            self.vectors.append(stacked(scalars))

    def send(self) -> None:
        if len(self.vectors) == 1:
            self.transfer = Transfer(self.vectors[0])
        elif self.vectors:
            first = self.vectors[0]
            wide = torch.float32 if first.device.type == "mps" else torch.float64
            self.transfer = Transfer(
                torch.cat([v.to(first.device, wide, non_blocking=True) for v in self.vectors])
            )
        self.vectors = []

    def arrived(self) -> bool:
        return self.transfer is None or self.transfer.arrived

    def values(self) -> dict[str, FloatArray]:
        values = dict(self.known)
        if self.transfer is not None:
            flat, start = self.transfer.values(), 0
            for name, length in self.sections:
                values[name] = flat[start : start + length]
                start += length
        return values


class GradientProbe:
    """Watches a model and its optimizer and records a Reading of every step.

    The optimizer's step pre-hook reads the gradients that it is about to use, the
    post-hook what it did. ``full`` says whether the next steps are read in full, with hooks
    on the layers for that time; set it between steps. On CUDA nothing waits for the device:
    a reading arrives a little later, at the latest when ``history`` is asked for.

    The loss is seen where the loop's backward pass starts, summed where several backward
    passes add up to one gradient. Watching changes no number of the training.

    Args:
        model: the module to watch; it is not changed.
        optimizer: the optimizer that steps over the model's parameters.
        full: read every step in full.
        history: where to record; a new one by default.

    Raises:
        TypeError: ``model`` or ``optimizer`` is something else.
        ValueError: the model has no parameters, has lazy modules not initialised, or the
            optimizer holds none of its parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        full: bool = False,
        history: History | None = None,
    ) -> None:
        parts = find_layers(model)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}."
            )
        own = {id(parameter) for parameter in model.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(
                "optimizer holds none of the model's parameters: "
                "make it with optimizer = Optimizer(model.parameters(), ...)."
            )
        self.model = model
        self.optimizer = optimizer
        self.on_reading: Callable[[Reading], None] | None = None
        self.settings: object | None = None
        self.steps = 0
        self._history = history if history is not None else History()
        self._full = False
        self._capture: Capture | None = None
        self._pending: deque[_Step] = deque()
        self._step: _Step | None = None
        self._called: list[nn.Module] | None = []
        self._order_handles: list[RemovableHandle] = []
        self._set_parts(parts)
        self._forget_losses()
        self._forward_thread: int | None = None
        self._ever_forward = False
        self._watch_clipping = True
        self._unclipped: list[torch.Tensor] | None = None
        self._unclipped_scale: torch.Tensor | None = None
        self._version_after_backward: int | None = None
        for part in parts:
            self._order_handles.append(part.module.register_forward_pre_hook(self._note_call))
        self._handles = [
            model.register_forward_pre_hook(self._note_forward),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._listener = loss_watch.LossListener(self._before_backward, self._after_backward)
        loss_watch.listen(self._listener)
        self.full = full

    # -- what a user sees ------------------------------------------------------------

    @property
    def history(self) -> History:
        """All readings so far; waits for those still on their way from the device."""
        self._deliver(wait=True)
        return self._history

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers; in forward order once a forward pass has shown it."""
        return tuple(part.layer.name for part in self._parts)

    @property
    def full(self) -> bool:
        """Whether the next steps are read in full."""
        return self._full

    @full.setter
    def full(self, value: bool) -> None:
        self._full = value
        if value and self._capture is None:
            self._capture = Capture(self.model, self._parts)
        elif not value and self._capture is not None:
            self._capture.close()
            self._capture = None

    def close(self) -> None:
        """Take every hook off; what was recorded stays."""
        self._deliver(wait=True)
        loss_watch.leave(self._listener)
        for handle in (*self._handles, *self._order_handles):
            handle.remove()
        self._handles, self._order_handles = [], []
        self.full = False
        self._forget_losses()
        self._unclipped = None

    def __enter__(self) -> GradientProbe:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- for who clips between the reading and the step ------------------------------

    def clipped_by_norm(self, clip_norm: float) -> None:
        """Say that the gradients just read are clipped to a global norm of ``clip_norm``."""
        if self._step is not None:
            self._step.clip_norm = clip_norm

    def clipped_otherwise(self) -> None:
        """Say that the gradients just read were changed, so that they are read again."""
        if self._step is not None:
            self._step.add("clipped", exact_norms(self._gradients(self._step.present)))

    # -- layers ----------------------------------------------------------------------

    def _set_parts(self, parts: list[LayerParts]) -> None:
        self._parts = parts
        self.described = tuple(part.layer for part in parts)
        unique: dict[int, int] = {}
        self._parameters: list[nn.Parameter] = []
        for part in parts:
            for parameter in part.parameters:
                if id(parameter) not in unique:
                    unique[id(parameter)] = len(self._parameters)
                    self._parameters.append(parameter)
        self._weights = [weight for part in parts for weight in part.weights]
        self._weight_index = np.array([unique[id(weight)] for weight in self._weights])
        lengths = [len(part.weights) for part in parts]
        self._weight_starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp)
        self._one_weight_each = all(length == 1 for length in lengths)
        self._weights_before: list[torch.Tensor] | None = None
        self._plan = NormPlan(
            self._parameters,
            may_be_sparse=any(getattr(part.module, "sparse", False) for part in parts),
        )
        self._on_cpu = all(p.device.type == "cpu" for p in self._parameters)
        self._every_index = list(range(len(self._parameters)))

    def _note_call(self, module: nn.Module, _: Any) -> None:
        if self._called is not None:
            self._called.append(module)

    def _settle_order(self) -> None:
        """Sort the layers by the first forward pass, once, before the first reading."""
        for handle in self._order_handles:
            handle.remove()
        self._order_handles = []
        called, self._called = self._called, None
        if not called:
            return
        ordered = in_forward_order(self._parts, called)
        if [id(part) for part in ordered] == [id(part) for part in self._parts]:
            return
        if self._capture is not None:
            place = {id(part): index for index, part in enumerate(self._parts)}
            self._capture.reorder([place[id(part)] for part in ordered], ordered)
        self._set_parts(ordered)

    def settle_layers(self) -> None:
        """Fix the forward order from the passes seen so far, ahead of the first step."""
        if self._called:
            full, self.full = self._full, False
            self._settle_order()
            self.full = full

    # -- losses ----------------------------------------------------------------------

    def _forget_losses(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._loss_scale: torch.Tensor | None = None
        self._sum_is_done = True

    def _note_forward(self, *_: Any) -> None:
        self._forward_thread = threading.get_ident()
        self._ever_forward = True

    def _concerns_us(self) -> bool:
        """Whether the backward pass that starts now may be of this model's loss."""
        return not self._ever_forward or self._forward_thread == threading.get_ident()

    def _before_backward(self, root: loss_watch.Root) -> None:
        if not self._concerns_us():
            return
        # No gradient is held: whatever was summed before has been thrown away.
        if self._sum_is_done or all(p.grad is None for p in self._parameters):
            if self._losses and self._capture is not None:
                self._capture.restart_before_last_pass()
            self._losses = []
            self._sum_is_done = False
        self._losses.append(root.loss)
        self._loss_scale = root.scale

    def _after_backward(self) -> None:
        if not self._losses or not self._concerns_us():
            return
        if self._capture is not None:
            self._capture.end_of_pass()
        first = next((p.grad for p in self._parameters if p.grad is not None), None)
        self._version_after_backward = None if first is None else first._version
        self._unclipped = None
        if self._watch_clipping and first is not None:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            self._unclipped = self._plan.norms(gradients)
            self._unclipped_scale = self._loss_scale

    # -- a step ----------------------------------------------------------------------

    def _gradients(self, present: list[int]) -> list[torch.Tensor]:
        parameters = self._parameters
        return [g for i in present if (g := parameters[i].grad) is not None]

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._called is not None:
            self._settle_order()
        step = _Step(
            learning_rates=tuple(float(g["lr"]) for g in self.optimizer.param_groups if "lr" in g),
            present=[],
            settings=self.settings,
        )
        self._step = step
        if self._full:
            step.full = True
            self._keep_weights(step)
        if not args and kwargs.get("closure") is None:
            self._read_gradients(step)

    def _read_gradients(self, step: _Step) -> None:
        gradients = []
        present = []
        for index, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            if gradient is not None:
                gradients.append(gradient)
                present.append(index)
        complete = len(present) == len(self._parameters)
        step.present = self._every_index if complete else present
        if not complete:
            step.requires_grad = [parameter.requires_grad for parameter in self._parameters]
        if gradients:
            self._add_norms(step, "used", gradients)
            self._read_clipping_by_others(step, gradients)
            if self._full:
                step.add("largest", largest_magnitudes(gradients))
        if self._losses:
            losses = self._losses
            step.loss_seen = True
            step.add("loss", [losses[0] if len(losses) == 1 else stacked(losses).sum()])
        self._losses = []
        self._sum_is_done = True

    def _keep_weights(self, step: _Step) -> None:
        """Keep a copy of the weights, in memory that is allocated once."""
        if self._weights_before is None:
            self._weights_before = [torch.empty_like(w, requires_grad=False) for w in self._weights]
        with torch.no_grad():
            torch._foreach_copy_(self._weights_before, list[torch.Tensor](self._weights))
        self._add_norms(step, "weight_norm", self._weights_before)

    def _add_norms(self, step: _Step, name: str, tensors: list[torch.Tensor]) -> None:
        norms = self._plan.norms(tensors)
        if self._on_cpu:
            values = stacked(norms).numpy().astype(np.float64)
            step.known[name] = self._plan.settle(values, tensors)
        else:
            step.add(name, norms)

    def _read_clipping_by_others(self, step: _Step, gradients: list[torch.Tensor]) -> None:
        """Keep the norms from the end of the backward pass if gradients changed since."""
        changed = gradients[0]._version != self._version_after_backward
        known_before = self._version_after_backward is not None
        if changed and known_before and self._unclipped is not None:
            if len(self._unclipped) == len(gradients):
                step.add("backward", self._unclipped)
                if self._unclipped_scale is not None:
                    step.add("scale", [self._unclipped_scale])
        self._watch_clipping = changed and known_before
        self._unclipped = None
        self._version_after_backward = None

    def _after_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        if args or kwargs.get("closure") is not None:
            self._read_gradients(step)
        if step.full and self._capture is not None:
            kept = self._weights_before or []
            with torch.no_grad():
                torch._foreach_sub_(kept, list[torch.Tensor](self._weights))
            self._add_norms(step, "change", kept)
            collected = step.collected = collect(self._capture.sums)
            step.add("norms", collected.norms)
            step.add("counts", collected.counts)
            if self._loss_scale is not None:
                step.add("signal_scale", [self._loss_scale])
            self._capture.close()
            self._capture = Capture(self.model, self._parts)
        self._loss_scale = None
        step.send()
        self.steps += 1
        step.number = self.steps
        self._pending.append(step)
        self._deliver(wait=self._on_cpu)

    def _deliver(self, *, wait: bool) -> None:
        while self._pending and (wait or self._pending[0].arrived()):
            reading = self._make_reading(self._pending.popleft())
            self._history.append(reading)
            if self.on_reading is not None:
                self.on_reading(reading)

    # -- a reading -------------------------------------------------------------------

    def _per_layer(self, per_weight: FloatArray) -> FloatArray:
        """Join the L2 norms of each layer's weights, shape (weights,) to (layers,)."""
        if self._one_weight_each:
            return per_weight
        result: FloatArray = np.sqrt(np.add.reduceat(np.square(per_weight), self._weight_starts))
        return result

    def _spread(self, norms: FloatArray, present: list[int]) -> FloatArray:
        """Return norms of all parameters, 0 for those without a gradient."""
        if len(present) == len(self._parameters):
            return norms
        spread = np.zeros(len(self._parameters))
        spread[present] = norms
        return spread

    def _make_reading(self, step: _Step) -> Reading:
        values = step.values()
        nothing = np.zeros(0)
        used = self._spread(values.get("used", nothing), step.present)
        unclipped, total, clip_scale = used, _norm(used), 1.0
        if "backward" in values:
            scale = float(values["scale"][0]) if "scale" in values else 1.0
            earlier = self._spread(values["backward"] / scale, step.present)
            earlier_total = _norm(earlier)
            if not abs(earlier_total - total) <= _SAME_NORM * earlier_total:
                clip_scale = total / earlier_total if earlier_total else 1.0
                unclipped, total = earlier, earlier_total
        if step.clip_norm is not None:
            coefficient = _clip_coefficient(_norm(used), step.clip_norm)
            if coefficient != 1.0:
                with np.errstate(invalid="ignore"):  # inf * 0 is NaN, as in the gradient
                    used = used * coefficient
                clip_scale *= coefficient
        if "clipped" in values:
            clipped, before = self._spread(values["clipped"], step.present), _norm(used)
            if not abs(_norm(clipped) - before) <= _SAME_NORM * before:
                clip_scale *= _norm(clipped) / before if before else 1.0
                used = clipped

        missing, frozen = self._missing(step)
        weight_grad_norm = self._layer_norms(used, missing)
        same = used is unclipped
        full: dict[str, FloatArray] = {}
        if step.collected is not None:
            full = self._full_columns(values, step, step.collected, missing)
        return Reading(
            step=step.number,
            loss=float(values["loss"][0]) if "loss" in values else math.nan,
            loss_seen=step.loss_seen,
            learning_rate=step.learning_rates[0] if step.learning_rates else math.nan,
            learning_rates=step.learning_rates,
            described=self.described,
            weight_grad_norm=weight_grad_norm,
            total_norm=total,
            clip_scale=clip_scale,
            unclipped_grad_norm=weight_grad_norm
            if same
            else self._layer_norms(unclipped, missing),
            missing=missing,
            frozen=frozen,
            settings=step.settings,
            **full,
        )

    def _layer_norms(self, per_parameter: FloatArray, missing: NDArray[np.bool_]) -> FloatArray:
        norms = self._per_layer(per_parameter[self._weight_index])
        if missing.any():
            norms = np.where(missing, np.nan, norms)
        norms.flags.writeable = False
        return norms

    def _missing(self, step: _Step) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        count = len(self._parts)
        if step.requires_grad is None:
            none = np.zeros(count, dtype=np.bool_)
            return none, none
        here = np.zeros(len(self._parameters), dtype=np.bool_)
        here[step.present] = True
        asks = np.array(step.requires_grad)
        starts = self._weight_starts
        any_here = np.logical_or.reduceat(here[self._weight_index], starts)
        any_asks = np.logical_or.reduceat(asks[self._weight_index], starts)
        return ~any_here, ~any_here & ~any_asks

    def _full_columns(
        self,
        values: dict[str, FloatArray],
        step: _Step,
        collected: Collected,
        missing: NDArray[np.bool_],
    ) -> dict[str, FloatArray]:
        weight_norm = self._per_layer(values["weight_norm"])
        change = self._per_layer(values["change"])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(weight_norm > 0, change / weight_norm, np.nan)
        nothing = np.zeros(0)
        signals, activation, dead, saturated = collected.columns(
            values.get("norms", nothing), values.get("counts", nothing)
        )
        if "signal_scale" in values:
            signals = signals / values["signal_scale"][0]
        largest = self._spread(values.get("largest", np.zeros(0)), step.present)
        grad_max = np.maximum.reduceat(largest[self._weight_index], self._weight_starts)
        return {
            "weight_grad_max": np.where(missing, np.nan, grad_max),
            "weight_norm": weight_norm,
            "update_ratio": ratio,
            "signal_grad_norm": signals,
            "activation_rms": activation,
            "dead_fraction": dead,
            "saturated_fraction": saturated,
        }

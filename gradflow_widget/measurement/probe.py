"""GradientProbe: takes a Reading of every optimizer step, in any training loop."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from . import loss_watch
from .capture import Capture, Collected
from .history import History
from .layers import LayerParts, find_layers, in_forward_order
from .norms import NormPlan, dense, largest_magnitudes, stacked
from .reading import Reading
from .transfer import Transfer

FloatArray = NDArray[np.float64]
# A clip that another hand applied shows when the norm it left is off by more than rounding.
_SAME_NORM = 1e-5


_version_of = attrgetter("_version")


def _norm(norms: FloatArray) -> float:
    return math.sqrt(float(norms @ norms))


def _clip_coefficient(total: float, clip_norm: float) -> float:
    """Return what ``torch.nn.utils.clip_grad_norm_`` multiplies gradients by."""
    if math.isnan(total):
        return math.nan
    return min(1.0, clip_norm / (total + 1e-6))


def _same(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= _SAME_NORM * one


@dataclass(slots=True)
class _Gradients:
    """Which parameters have a gradient, what it measures, and how to tell it has changed."""

    present: list[int]
    marks: list[tuple[int, int]]  # identity and version of each
    norms: torch.Tensor | FloatArray


@dataclass(slots=True)
class _Step:
    """What is known of a step between the optimizer's pre-hook and its arrival on the CPU."""

    learning_rates: tuple[float, ...]
    settings: object | None
    full: bool
    has_closure: bool
    present: list[int] = field(default_factory=list)
    present_after_backward: list[int] = field(default_factory=list)
    requires_grad: list[bool] | None = None
    loss: float = math.nan
    loss_seen: bool = False
    clip_norm: float | None = None
    clipped_parameters: NDArray[np.bool_] | None = None
    collected: Collected | None = None
    # Already on the CPU, and what is to go there in one transfer, by name and length.
    known: dict[str, FloatArray] = field(default_factory=dict)
    sections: list[tuple[str, int]] = field(default_factory=list)
    vectors: list[torch.Tensor] = field(default_factory=list)
    transfer: Transfer | None = None

    def add(self, name: str, vector: torch.Tensor | FloatArray) -> None:
        if not isinstance(vector, torch.Tensor):
            self.known[name] = vector
        elif vector.device.type == "cpu":
            self.known[name] = vector.double().numpy()
        else:
            self.sections.append((name, len(vector)))
            self.vectors.append(vector)

    def send(self) -> None:
        if self.vectors:
            device = self.vectors[0].device
            wide = torch.float32 if device.type == "mps" else torch.float64
            self.transfer = Transfer(
                torch.cat([v.to(device, wide, non_blocking=True) for v in self.vectors])
            )
            self.vectors = []

    def arrived(self) -> bool:
        return self.transfer is None or self.transfer.arrived

    def values(self) -> dict[str, FloatArray]:
        if self.transfer is not None:
            flat, start = self.transfer.values(), 0
            for name, length in self.sections:
                self.known[name] = flat[start : start + length]
                start += length
        return self.known


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
        self._delivering = threading.Lock()
        self._step: _Step | None = None
        self._weights_before: list[torch.Tensor] | None = None
        self._edits_are_hidden = False
        self._after_last_backward: _Gradients | None = None
        self._set_parts(parts)
        self._sum_is_done = True
        self._forget_gradients()
        self._before: list[tuple[int, int] | None] | None = None
        self._root: loss_watch.Root | None = None
        self._root_thread = 0
        self._threads: set[int] = set()
        self._called: dict[nn.Module, None] | None = {}
        self._order_handles: list[RemovableHandle] = [
            part.module.register_forward_pre_hook(self._note_call) for part in parts
        ]
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        loss_watch.listen(self)
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
        return tuple(layer.name for layer in self.described)

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
        loss_watch.leave(self)
        for handle in (*self._handles, *self._order_handles):
            handle.remove()
        self._handles, self._order_handles = [], []
        self._called = None
        self.full = False
        self._forget_gradients()
        self._weights_before = None
        self._step = None
        self._deliver(wait=True)

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
        """Say that the gradients just read were clipped to a global norm of ``clip_norm``.

        It is the norm over the optimizer's parameters, as ``clip_grad_norm_`` takes it.
        """
        step = self._step
        if step is None or step.has_closure:
            return
        clipped = {id(p): p for group in self.optimizer.param_groups for p in group["params"]}
        mine = [id(parameter) in clipped for parameter in self._parameters]
        if sum(mine) < len(clipped):
            # The norm had parts that are not known here.
            self.clipped_otherwise()
            return
        step.clip_norm = clip_norm
        step.clipped_parameters = None if all(mine) else np.array(mine)

    def clipped_otherwise(self) -> None:
        """Say that the gradients just read were changed, so that they are read again."""
        step = self._step
        if step is None or step.has_closure or not step.present:
            return
        gradients = [g for i in step.present if (g := self._parameters[i].grad) is not None]
        if len(gradients) == len(step.present):
            step.add("clipped", self._plan.norms(gradients))
            if step.full:
                step.add("largest", stacked(largest_magnitudes(gradients)))

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
        self._every_index = list(range(len(self._parameters)))
        self._per_element = np.array([p.numel() or 1 for p in self._parameters]) ** -0.5
        self._weights = [weight for part in parts for weight in part.weights]
        self._weight_index = np.array([unique[id(weight)] for weight in self._weights])
        lengths = [len(part.weights) for part in parts]
        self._weight_starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp)
        self._one_weight_each = all(length == 1 for length in lengths)
        self._none_missing = np.zeros(len(parts), dtype=np.bool_)
        self._none_missing.flags.writeable = False
        may_be_sparse = any(getattr(part.module, "sparse", False) for part in parts)
        self._plan = NormPlan(self._parameters, may_be_sparse=may_be_sparse)
        self._weight_plan = NormPlan(self._weights)

    def _note_call(self, module: nn.Module, _: Any) -> None:
        if not torch.compiler.is_compiling() and self._called is not None:
            self._called[module] = None
            self._threads.add(threading.get_ident())

    def _settle_order(self) -> None:
        """Sort the layers by the first forward pass, once, before anything is measured."""
        for handle in self._order_handles:
            handle.remove()
        self._order_handles = []
        called, self._called = self._called, None
        if not called:
            return
        ordered = in_forward_order(self._parts, called)
        if ordered != self._parts:
            self._weights_before = None
            self._after_last_backward = None
            self._set_parts(ordered)

    def set_order(self, names: tuple[str, ...]) -> None:
        """Fix the forward order as another pass over the same model has shown it."""
        place = {name: index for index, name in enumerate(names)}
        known = [part for part in self._parts if part.layer.name in place]
        known.sort(key=lambda part: place[part.layer.name])
        self._called = {part.module: None for part in known}
        self._settle_order()

    def settle_layers(self) -> None:
        """Fix the forward order from the passes seen so far, ahead of the first step."""
        if self._called:
            self._settle_order()

    # -- losses ----------------------------------------------------------------------

    def _forget_gradients(self) -> None:
        self._losses: list[float | torch.Tensor] = []
        self._loss_scale: torch.Tensor | None = None
        self._after_last_backward = None

    def before_backward(self, root: loss_watch.Root) -> None:
        """Take note of a loss; called by the loss watch.

        A backward pass is of this model's loss where it gives the parameters a gradient. In
        a thread that never did so it may as well be another model's, and counts for
        nothing while one of a known thread is under way.
        """
        thread = threading.get_ident()
        if self._root is not None and thread not in self._threads:
            return
        self._root_thread = thread
        gradients = [parameter.grad for parameter in self._parameters]
        nothing_held = not any(gradient is not None for gradient in gradients)
        if self._sum_is_done or nothing_held or self._were_zeroed(gradients):
            # What was summed before has been thrown away.
            self._forget_gradients()
            if self._capture is not None:
                self._capture.drop_used()
        self._before = (
            None
            if nothing_held
            else [None if g is None else (id(g), g._version) for g in gradients]
        )
        self._root = root
        if self._capture is not None:
            self._capture.begin_backward()

    def _were_zeroed(self, gradients: Sequence[torch.Tensor | None]) -> bool:
        """Whether gradients that are held were set to zero since the last backward pass."""
        held = [gradient for gradient in gradients if gradient is not None]
        last = self._after_last_backward
        if last is None or last.marks == [(id(g), g._version) for g in held]:
            return False
        # Looking at the values would stall a device; zeroing is why gradients change
        # between two backward passes.
        return any(g.device.type != "cpu" for g in held) or not any(
            bool(dense(g).any()) for g in held
        )

    def after_backward(self) -> None:
        """See which gradients the backward pass has left; called by the loss watch."""
        root = self._root
        if root is None or self._root_thread != threading.get_ident():
            return
        self._root = None
        before, self._before = self._before, None
        parameters = self._parameters
        if before is None:
            touched = any(parameter.grad is not None for parameter in parameters)
        else:
            touched = before != [
                None if (g := parameter.grad) is None else (id(g), g._version)
                for parameter in parameters
            ]
        if self._capture is not None:
            self._capture.end_backward(counts=touched)
        if not touched:
            return
        self._threads.add(self._root_thread)
        if self._called is not None:
            self._settle_order()
        self._sum_is_done = False
        self._loss_scale = root.scale
        if root.loss is not None:
            # A copy, because the loop may change its loss in place.
            on_cpu = root.loss.device.type == "cpu"
            self._losses.append(root.loss.item() if on_cpu else root.loss.clone())
        self._after_last_backward = self._measure()

    # -- a step ----------------------------------------------------------------------

    def _present(self) -> tuple[list[int], list[torch.Tensor]]:
        """Return which parameters have a gradient, and the gradients."""
        gradients = [g for p in self._parameters if (g := p.grad) is not None]
        if len(gradients) == len(self._parameters):
            return self._every_index, gradients
        return [i for i, p in enumerate(self._parameters) if p.grad is not None], gradients

    def _measure(self) -> _Gradients | None:
        """Measure the gradients; those of the last backward pass only where they changed."""
        present, gradients = self._present()
        if not gradients:
            return None
        marks = list(zip(map(id, gradients), map(_version_of, gradients), strict=True))
        last = self._after_last_backward
        if last is not None and last.marks == marks and self._are_as_measured(gradients, last):
            return last
        return _Gradients(present, marks, self._plan.norms(gradients))

    def _are_as_measured(self, gradients: list[torch.Tensor], last: _Gradients) -> bool:
        """Whether gradients of the same identity and version may count as unchanged.

        GradScaler.unscale_ and whatever goes through ``.data`` change them without a new
        version. On the CPU two are measured again: the one with the largest elements,
        which a clip would touch first, and each in its turn. One difference, and this
        loop's gradients are always measured twice. On a device looking would stall it.
        """
        norms = last.norms
        if self._edits_are_hidden or isinstance(norms, torch.Tensor):
            return False
        if self._loss_scale is not None:
            return False
        largest = int((norms * self._per_element[last.present]).argmax())
        for place in (largest, self.steps % len(gradients)):
            again = self._plan.norms([gradients[place]])[0]
            if not (_same(norms[place], again) or math.isnan(again)):
                self._edits_are_hidden = True
                return False
        return True

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._called is not None:
            self._settle_order()
        # The optimizer itself is the first of args.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        step = self._step = _Step(
            tuple([float(g["lr"]) for g in self.optimizer.param_groups if "lr" in g]),
            self.settings,
            self._full,
            closure is not None,
        )
        if step.full:
            self._keep_weights(step)
        if not step.has_closure:
            self._read_gradients(step)

    def _read_gradients(self, step: _Step) -> None:
        measured, last = self._measure(), self._after_last_backward
        if measured is not None:
            step.present = measured.present
            step.add("used", measured.norms)
            if last is not None and measured is not last:
                step.present_after_backward = last.present
                step.add("backward", last.norms)
                if self._loss_scale is not None:
                    step.add("scale", self._loss_scale.reshape(1))
            if step.full:
                _, gradients = self._present()
                step.add("largest", stacked(largest_magnitudes(gradients)))
        if len(step.present) < len(self._parameters):
            step.requires_grad = [parameter.requires_grad for parameter in self._parameters]
        self._read_loss(step)
        # A fused optimizer unscales by itself, and skips the step by itself.
        for name in ("grad_scale", "found_inf"):
            value = getattr(self.optimizer, name, None)
            if isinstance(value, torch.Tensor):
                step.add(name, value.detach().clone().reshape(1))

    def _read_loss(self, step: _Step) -> None:
        numbers = [loss for loss in self._losses if isinstance(loss, float)]
        tensors = [loss for loss in self._losses if isinstance(loss, torch.Tensor)]
        if numbers:
            step.loss = sum(numbers)
        if tensors:
            step.add("loss", stacked(tensors))
        step.loss_seen = bool(numbers or tensors)

    def _keep_weights(self, step: _Step) -> None:
        """Keep a copy of the weights, in memory that is allocated once."""
        if self._weights_before is None:
            self._weights_before = [torch.empty_like(w, requires_grad=False) for w in self._weights]
        with torch.no_grad():
            torch._foreach_copy_(self._weights_before, list[torch.Tensor](self._weights))
        step.add("weight_norm", self._weight_plan.norms(self._weights_before))

    def _after_step(self, *_: Any) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        if step.has_closure:
            self._read_gradients(step)
        if step.full:
            self._read_change(step)
            if self._capture is not None:
                self._collect(step, self._capture)
        self._forget_gradients()
        self._sum_is_done = True
        step.send()
        self._pending.append(step)
        self._deliver(wait=step.transfer is None)

    def _read_change(self, step: _Step) -> None:
        kept = self._weights_before
        if kept is None:
            return
        with torch.no_grad():
            torch._foreach_sub_(kept, list[torch.Tensor](self._weights))
        step.add("change", self._weight_plan.norms(kept))

    def _collect(self, step: _Step, capture: Capture) -> None:
        collected = step.collected = capture.collect(self._parts)
        if collected.norms:
            step.add("norms", stacked(collected.norms))
        if collected.counts:
            step.add("counts", stacked(collected.counts))
        if self._loss_scale is not None:
            step.add("signal_scale", self._loss_scale.reshape(1))
        capture.forget()

    def _deliver(self, *, wait: bool) -> None:
        while self._pending:
            with self._delivering:
                if not self._pending or not (wait or self._pending[0].arrived()):
                    return
                reading = self._make_reading(self._pending.popleft())
                if reading is not None:
                    self._history.append(reading)
            if reading is not None and self.on_reading is not None:
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

    def _make_reading(self, step: _Step) -> Reading | None:
        """Return the reading; None where the optimizer skipped the step for an inf."""
        values = step.values()
        if "found_inf" in values and values["found_inf"][0]:
            return None
        self.steps += 1
        nothing = np.zeros(0)
        used = self._spread(values.get("used", nothing), step.present)
        largest = self._spread(values["largest"], step.present) if "largest" in values else None
        fused_scale = float(values["grad_scale"][0]) if "grad_scale" in values else 1.0
        if fused_scale != 1.0:
            used = used / fused_scale
            largest = None if largest is None else largest / fused_scale
        unclipped, total, clip_scale = used, _norm(used), 1.0
        if "backward" in values:
            scale = float(values["scale"][0]) if "scale" in values else 1.0
            earlier = self._spread(values["backward"] / scale, step.present_after_backward)
            earlier_total = _norm(earlier)
            if not _same(earlier_total, total):
                clip_scale = total / earlier_total if earlier_total else 1.0
                unclipped, total = earlier, earlier_total
        if step.clip_norm is not None:
            theirs = step.clipped_parameters
            theirs_before = _norm(used if theirs is None else used[theirs])
            coefficient = _clip_coefficient(theirs_before, step.clip_norm)
            if coefficient != 1.0:
                before = _norm(used)
                factors = coefficient if theirs is None else np.where(theirs, coefficient, 1.0)
                with np.errstate(invalid="ignore"):  # inf * 0 is NaN, as in the gradient
                    used = used * factors
                    largest = None if largest is None else largest * factors
                clip_scale *= coefficient if theirs is None else _norm(used) / before
        if "clipped" in values:
            clipped = self._spread(values["clipped"], step.present) / fused_scale
            before = _norm(used)
            if not _same(before, _norm(clipped)):
                clip_scale *= _norm(clipped) / before if before else 1.0
                used = clipped

        missing = frozen = self._none_missing
        if step.requires_grad is not None:
            missing, frozen = self._missing(step.present, step.requires_grad)
        weight_grad_norm = self._layer_norms(used, missing)
        full: dict[str, FloatArray] = {}
        if step.full:
            full = self._full_columns(values, step, largest, missing)
        return Reading(
            step=self.steps,
            loss=step.loss + float(values["loss"].sum()) if "loss" in values else step.loss,
            learning_rate=step.learning_rates[0] if step.learning_rates else math.nan,
            learning_rates=step.learning_rates,
            described=self.described,
            weight_grad_norm=weight_grad_norm,
            total_norm=total,
            clip_scale=clip_scale,
            unclipped_grad_norm=weight_grad_norm
            if used is unclipped
            else self._layer_norms(unclipped, missing),
            missing=missing,
            frozen=frozen,
            loss_seen=step.loss_seen,
            settings=step.settings,
            **full,
        )

    def _layer_norms(self, per_parameter: FloatArray, missing: NDArray[np.bool_]) -> FloatArray:
        norms = self._per_layer(per_parameter[self._weight_index])
        if missing is not self._none_missing:
            norms = np.where(missing, np.nan, norms)
        norms.flags.writeable = False
        return norms

    def _missing(
        self, present: list[int], requires_grad: list[bool]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which layers' weights have no gradient, and which do not ask for one."""
        here = np.zeros(len(self._parameters), dtype=np.bool_)
        here[present] = True
        asks = np.array(requires_grad)
        starts = self._weight_starts
        any_here = np.logical_or.reduceat(here[self._weight_index], starts)
        any_asks = np.logical_or.reduceat(asks[self._weight_index], starts)
        return ~any_here, ~any_here & ~any_asks

    def _full_columns(
        self,
        values: dict[str, FloatArray],
        step: _Step,
        largest: FloatArray | None,
        missing: NDArray[np.bool_],
    ) -> dict[str, FloatArray]:
        weight_norm = self._per_layer(values["weight_norm"])
        change = self._per_layer(values["change"])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(weight_norm > 0, change / weight_norm, np.nan)
        columns = {"weight_norm": weight_norm, "update_ratio": ratio}
        if largest is None:
            largest = np.zeros(len(self._parameters))
        grad_max = np.maximum.reduceat(largest[self._weight_index], self._weight_starts)
        columns["weight_grad_max"] = np.where(missing, np.nan, grad_max)
        nothing = np.zeros(0)
        collected = step.collected or Collected([], len(self._parts))
        signals, activation, dead, saturated = collected.columns(
            values.get("norms", nothing), values.get("counts", nothing)
        )
        if "signal_scale" in values:
            signals = signals / values["signal_scale"][0]
        columns["signal_grad_norm"] = signals
        columns["activation_rms"] = activation
        columns["dead_fraction"] = dead
        columns["saturated_fraction"] = saturated
        return columns

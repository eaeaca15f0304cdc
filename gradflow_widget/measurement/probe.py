"""GradientProbe: takes a Reading of every optimizer step, in any training loop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter, mul
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from . import loss_watch
from .ahead import Ahead
from .capture import Capture
from .delivery import Delivery
from .history import History
from .hooks import Hook
from .layer_notes import NoteTaker
from .layers import Layer, find_layers, in_forward_order
from .norms import Norms, dense, stacked
from .reading import Glance, Reading
from .step import HiddenEdits, Step, Watched, same

FloatArray = NDArray[np.float64]
# Quicker than a comprehension, and every microsecond counts that is spent at every step.
_gradient_of, _version_of = attrgetter("grad"), attrgetter("_version")
# Gradients that look unchanged are looked at in turn, one in so many steps.
_LOOK_AROUND_EVERY = 4
# On a device all of them are measured again in the first steps, and in one step of so many.
_FIRST_LOOKS, _LOOK_AGAIN_EVERY = 8, 8


def _on_device(rate: object) -> bool:
    """Whether a learning rate is a tensor whose value would have to be waited for."""
    return isinstance(rate, torch.Tensor) and rate.device.type != "cpu"


_Marks = tuple[list[int], list[int]]
_NO_MARKS: _Marks = ([], [])


def _marks(gradients: list[torch.Tensor]) -> _Marks:
    """Return what tells gradients from others, and from themselves before a change in place.

    The identity and the version of each.
    """
    return list(map(id, gradients)), list(map(_version_of, gradients))


@dataclass(slots=True)
class _Gradients:
    """Which parameters have a gradient, what it measures, and how to tell it has changed."""

    present: list[int]
    marks: _Marks
    norms: torch.Tensor | Norms


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
        history: where to record, and whose steps to go on counting; a new one by default.

    Attributes:
        settings: what to write down as the settings of the steps that come.
        nothing_comes_between: nobody clips or otherwise changes gradients between a backward
            pass and the step, so that one look at them tells all. For whoever makes the steps.

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
        self.settings: object | None = None
        self.nothing_comes_between = False
        self._looks = self._largest = 0
        self._full = False
        self._looks_away = False
        self._capture: Capture | None = None
        self._notes: NoteTaker | None = None
        # Kept between full readings: looking for norms and layers takes 0.3 ms.
        self._instruments: tuple[Capture, NoteTaker] | None = None
        self._step: Step | None = None
        self._weights_before: list[torch.Tensor] | None = None
        self._hidden_edits = HiddenEdits()
        self._after_last_backward: _Gradients | None = None
        self._watched = Watched(parts)
        self._ahead: Ahead | None = None
        # Norms taken ahead in the last backward pass, by the parameter's place.
        self._known: dict[int, float] = {}
        self._delivery = Delivery(self._watched, history)
        self._sum_is_done = True
        self._begins_with_none = False
        self._forget_gradients()
        self._before: _Marks | None = None
        self._root: loss_watch.Root | None = None
        self._forward_threads: set[int] = set()
        self._called: dict[nn.Module, None] | None = {}
        self._order_handles: list[RemovableHandle] = [
            part.module.register_forward_pre_hook(Hook(self._note_call)) for part in parts
        ]
        self._handles = [
            model.register_forward_pre_hook(Hook(self._note_forward)),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        loss_watch.listen(self)
        self.full = full

    # -- what a user sees ------------------------------------------------------------

    @property
    def history(self) -> History:
        """All readings so far; waits for those still on their way from the device."""
        return self._delivery.history

    @property
    def described(self) -> tuple[Layer, ...]:
        """The layers, in the order of :attr:`layers`."""
        return self._watched.described

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers; in forward order once a forward pass has shown it."""
        return tuple(layer.name for layer in self.described)

    @property
    def steps(self) -> int:
        """How many steps were recorded; those still on their way from the device not yet."""
        return self._delivery.steps

    @property
    def on_reading(self) -> Callable[[Reading], None] | None:
        """Who is told of each step's reading as soon as it is there."""
        return self._delivery.on_reading

    @on_reading.setter
    def on_reading(self, listener: Callable[[Reading], None] | None) -> None:
        self._delivery.tell_readings(listener)

    @property
    def full(self) -> bool:
        """Whether the next steps are read in full."""
        return self._full

    @full.setter
    def full(self, value: bool) -> None:
        self._full = value
        if value and self._capture is None:
            if self._instruments is None:
                parts = self._watched.parts
                self._instruments = Capture(self.model, parts), NoteTaker(self.model, parts)
            self._capture, self._notes = self._instruments
            self._capture.paused = self._notes.paused = self._looks_away
            self._capture.open()
            self._notes.open()
        elif not value and self._capture is not None:
            self._capture.close()
            self._capture = None
            if self._notes is not None:
                self._notes.close()
                self._notes = None

    @property
    def on_glance(self) -> Callable[[Glance], None] | None:
        """Who is told, instead of by a Reading, of steps that hold nothing unusual.

        Those that are not read in full, have every gradient, finite and unclipped, and wait for
        no device. Their readings are made when ``history`` is asked for, or many at a time.
        """
        return self._delivery.on_glance

    @on_glance.setter
    def on_glance(self, listener: Callable[[Glance], None] | None) -> None:
        self._delivery.tell_glances(listener)

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Leave passes of the model out of the step that they come in, inside the ``with``.

        For whoever uses the model beside its training, on the thread that trains: a
        validation, or the search for an adversarial input.
        """
        before = self._looks_away
        self._look_away(True)
        try:
            yield
        finally:
            self._look_away(before)

    def _look_away(self, value: bool) -> None:
        self._looks_away = value
        for part in (self._capture, self._notes):
            if part is not None:
                part.paused = value

    def close(self) -> None:
        """Take every hook off; what was recorded stays."""
        loss_watch.leave(self)
        for handle in (*self._handles, *self._order_handles):
            handle.remove()
        self._handles, self._order_handles = [], []
        self._called = None
        self.full = False
        self._instruments = None
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._forget_gradients()
        self._weights_before = None
        self._step = None
        self._delivery.catch_up()

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
        mine = [id(parameter) in clipped for parameter in self._watched.parameters]
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
        gradients = [g for i in step.present if (g := self._watched.parameters[i].grad) is not None]
        if len(gradients) == len(step.present):
            step.add("clipped", self._watched.plan.norms(gradients))
            if step.full:
                step.add("largest", self._watched.plan.largest(gradients))

    # -- layers ----------------------------------------------------------------------

    def _note_call(self, module: nn.Module, _: Any) -> None:
        if torch.compiler.is_compiling() or self._called is None or self._looks_away:
            return
        self._called[module] = None

    def _settle_order(self) -> None:
        """Sort the layers by the first forward pass, once, before anything is measured."""
        for handle in self._order_handles:
            handle.remove()
        self._order_handles = []
        called, self._called = self._called, None
        if not called:
            return
        ordered = in_forward_order(self._watched.parts, called)
        if ordered != self._watched.parts:
            self._weights_before = None
            self._after_last_backward = None
            self._watched = self._delivery.watched = Watched(ordered)
            if self._ahead is not None:
                self._ahead.close()
                self._ahead = None

    def set_order(self, names: tuple[str, ...]) -> None:
        """Fix the forward order as another pass over the same model has shown it."""
        place = {name: index for index, name in enumerate(names)}
        known = [part for part in self._watched.parts if part.layer.name in place]
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

    def _note_forward(self, *_: Any) -> None:
        if not torch.compiler.is_compiling():
            self._forward_threads.add(threading.get_ident())

    def _concerns_us(self) -> bool:
        """Whether the backward pass under way may be of this model's loss.

        Gradients may only be looked at in a thread that trains this model: while another
        thread's backward pass writes them, that would crash.
        """
        if self._looks_away:
            return False
        return not self._forward_threads or threading.get_ident() in self._forward_threads

    def before_backward(self, root: loss_watch.Root) -> None:
        """Take note of a loss; called by the loss watch.

        A backward pass is of this model's loss where it gives the parameters a gradient.
        """
        if not self._concerns_us():
            return
        held: list[torch.Tensor] = []
        if not self._are_none_again():
            gradients = list(map(_gradient_of, self._watched.parameters))
            held = [gradient for gradient in gradients if gradient is not None]
            self._begins_with_none = not held
        if self._sum_is_done or not held or self._were_zeroed(held):
            # What was summed before has been thrown away.
            self._forget_gradients()
            if self._capture is not None:
                self._capture.drop_used()
        self._before = _marks(held) if held else None
        self._root = root
        if self._capture is not None:
            self._capture.begin_backward()
        if self._called is None:  # before, the layers' order is not known
            if self._ahead is None:
                self._ahead = Ahead(self._watched.parameters)
            self._ahead.begin()

    def _are_none_again(self) -> bool:
        """Whether the gradients have gone since the last step, as they had before the one before.

        Looking at every parameter takes 1 % of a small step; the first and the last will do
        where all were None the last time.
        """
        if not (self._begins_with_none and self._sum_is_done):
            return False
        parameters = self._watched.parameters
        return parameters[0].grad is None and parameters[-1].grad is None

    def _were_zeroed(self, held: list[torch.Tensor]) -> bool:
        """Whether gradients that are held were set to zero since the last backward pass."""
        last = self._after_last_backward
        if last is None or last.marks == _marks(held):
            return False
        # Looking at the values would stall a device; zeroing is why gradients change
        # between two backward passes.
        return any(g.device.type != "cpu" for g in held) or not any(
            bool(dense(g).any()) for g in held
        )

    def after_backward(self) -> None:
        """See which gradients the backward pass has left; called by the loss watch."""
        if self._root is None or not self._concerns_us():
            return
        root, self._root = self._root, None
        before, self._before = self._before, None
        gradients = list(map(_gradient_of, self._watched.parameters))
        known = {} if self._ahead is None else self._ahead.end(gradients)
        held = [gradient for gradient in gradients if gradient is not None]
        touched = bool(held) if before is None else before != _marks(held)
        if self._capture is not None:
            self._capture.end_backward(counts=touched)
        if not touched:
            return
        if self._called is not None:
            self._settle_order()
            gradients = list(map(_gradient_of, self._watched.parameters))
        self._sum_is_done = False
        self._loss_scale = root.scale
        if root.loss is not None:
            # A copy, because the loop may change its loss in place.
            self._losses.append(root.loss.item() if root.loss.is_cpu else root.loss.clone())
        self._known = known
        self._after_last_backward = None if self.nothing_comes_between else self._measure(gradients)

    @property
    def loss_so_far(self) -> float | None:
        """Sum of the losses seen since the last step; None where it is not on the CPU."""
        numbers = [loss for loss in self._losses if isinstance(loss, float)]
        return sum(numbers) if numbers and len(numbers) == len(self._losses) else None

    # -- a step ----------------------------------------------------------------------

    def _measure(self, gradients: list[torch.Tensor | None]) -> _Gradients | None:
        """Measure the gradients; those of the last backward pass only where they changed."""
        held = [gradient for gradient in gradients if gradient is not None]
        if not held:
            return None
        last = self._after_last_backward
        # Nobody will ask whether they have changed where nothing comes between.
        marks = _NO_MARKS if self.nothing_comes_between else _marks(held)
        if last is not None and last.marks == marks and self._are_as_measured(held, last):
            return last
        known, self._known = self._known, {}
        present = self._watched.every_index
        if len(held) < len(present):
            present = [index for index in present if gradients[index] is not None]
            known = {here: known[there] for here, there in enumerate(present) if there in known}
        return _Gradients(present, marks, self._watched.plan.norms(held, known))

    def _are_as_measured(self, gradients: list[torch.Tensor], last: _Gradients) -> bool:
        """Whether gradients of the same identity and version may count as unchanged.

        GradScaler.unscale_ and whatever goes through ``.data`` change them without a new
        version. On the CPU the one that had the largest elements of late, which a clip would
        touch first, is measured again, and now and then another in its turn. On a device looking
        would stall it: all are measured again now and then, and compared when they have
        arrived. One difference, and this loop's gradients are always measured twice.
        """
        norms = last.norms
        if self._hidden_edits.seen or self._loss_scale is not None:
            return False
        if isinstance(norms, torch.Tensor):
            self._looks += 1
            return self._looks > _FIRST_LOOKS and self._looks % _LOOK_AGAIN_EVERY > 0
        if self._looks % _LOOK_AROUND_EVERY == 0 or self._largest >= len(gradients):
            factors = self._watched.per_element(norms, last.present)
            per_element = list(map(mul, norms.values, factors))
            self._largest = per_element.index(max(per_element))
            looks = [self._largest, self._looks // _LOOK_AROUND_EVERY % len(gradients)]
        else:
            looks = [self._largest]
        self._looks += 1
        for look in looks:
            place = look if norms.order is None else norms.order[look]
            again = self._watched.plan.norm(gradients[place])
            if not (same(norms.values[look], again) or math.isnan(again)):
                self._hidden_edits.seen = True
                return False
        return True

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._called is not None:
            self._settle_order()
        # The optimizer itself is the first of args.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        rates = [group["lr"] for group in self.optimizer.param_groups if "lr" in group]
        on_device = [rate.detach().reshape(()) for rate in rates if _on_device(rate)]
        step = self._step = Step(
            tuple([rate if _on_device(rate) else float(rate) for rate in rates]),
            self.settings,
            self._full,
            closure is not None,
        )
        if on_device:
            step.add("learning_rates", stacked(on_device).clone())
        if step.full:
            self._keep_weights(step)
        if not step.has_closure:
            self._read_gradients(step)

    def _read_gradients(self, step: Step) -> None:
        gradients = list(map(_gradient_of, self._watched.parameters))
        measured, last = self._measure(gradients), self._after_last_backward
        if measured is not None:
            step.present = measured.present
            step.add("used", measured.norms)
            if last is not None and measured is not last:
                step.present_after_backward = last.present
                step.add("backward", last.norms)
                if measured.marks == last.marks:
                    step.hidden_edits = self._hidden_edits
                if self._loss_scale is not None:
                    step.add("scale", self._loss_scale.reshape(1))
            if step.full:
                held = [gradient for gradient in gradients if gradient is not None]
                step.add("largest", self._watched.plan.largest(held))
        if len(step.present) < len(self._watched.parameters):
            step.requires_grad = [parameter.requires_grad for parameter in self._watched.parameters]
        if step.full and self._notes is not None:
            step.notes = self._notes.take(self._watched.parts)
            vector = None if step.notes is None else step.notes.vector()
            if vector is not None:
                step.add("notes", vector)
        self._read_loss(step)
        # A fused optimizer unscales by itself, and skips the step by itself.
        for name in ("grad_scale", "found_inf"):
            value = getattr(self.optimizer, name, None)
            if isinstance(value, torch.Tensor):
                step.add(name, value.detach().clone().reshape(1))

    def _read_loss(self, step: Step) -> None:
        numbers = [loss for loss in self._losses if isinstance(loss, float)]
        tensors = [loss for loss in self._losses if isinstance(loss, torch.Tensor)]
        step.loss_seen = bool(numbers or tensors)
        if step.loss_seen:
            step.loss = sum(numbers)
        if tensors:
            step.add("loss", stacked(tensors))  # yet to come from the device

    def _keep_weights(self, step: Step) -> None:
        """Keep a copy of the weights, in memory that is allocated once."""
        if self._weights_before is None:
            self._weights_before = [
                torch.empty_like(w, requires_grad=False) for w in self._watched.weights
            ]
        with torch.no_grad():
            torch._foreach_copy_(self._weights_before, list[torch.Tensor](self._watched.weights))
        step.add("weight_norm", self._watched.weight_plan.norms(self._weights_before))

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
        self._delivery.take(step)

    def _read_change(self, step: Step) -> None:
        kept = self._weights_before
        if kept is None:
            return
        with torch.no_grad():
            torch._foreach_sub_(kept, list[torch.Tensor](self._watched.weights))
        step.add("change", self._watched.weight_plan.norms(kept))

    def _collect(self, step: Step, capture: Capture) -> None:
        collected = step.collected = capture.collect(self._watched.parts)
        if collected.norms:
            step.add("norms", stacked(collected.norms))
        if collected.counts:
            step.add("counts", stacked(collected.counts))
        if collected.through_time.vectors:
            step.add("through_time", torch.cat(collected.through_time.vectors))
        if self._loss_scale is not None:
            step.add("signal_scale", self._loss_scale.reshape(1))
        capture.forget()

"""GradientProbe: takes a Reading of every optimizer step, in any training loop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..checked import checked_switch
from . import loss_watch
from .capture import Capture
from .delivery import Delivery
from .gradients import Gradients
from .history import History
from .hooks import Hook, is_being_traced
from .last_hooks import LastHooks
from .layer_notes import NoteTaker
from .layers import Layer, find_layers, in_forward_order
from .losses import Losses
from .norms import joined, stacked
from .optimizers import check_watchable, number_in
from .reading import Glance, Reading
from .step import Step, Watched
from .weight_change import WeightChange


def _rate_in(group: dict[str, Any]) -> float | torch.Tensor:
    """Return a group's learning rate, NaN for none; as the tensor where its device is to wait."""
    rate = group.get("lr")
    if isinstance(rate, torch.Tensor) and rate.device.type != "cpu" and rate.numel() == 1:
        return rate
    number = number_in(rate)
    return math.nan if number is None else number


class GradientProbe:
    """Watches a model and its optimizer and records a Reading of every step.

    The optimizer's step pre-hook reads the gradients that it is about to use, the
    post-hook what it did. ``full`` says whether the next steps are read in full, with hooks
    on the layers for that time; set it between steps. On CUDA nothing waits for the device:
    a reading arrives a little later, at the latest when ``history`` is asked for.

    The loss is seen where the loop's backward pass starts, summed where several backward
    passes add up to one gradient. Of a step with a closure, such as L-BFGS's, loss and gradients
    are those of the closure's last call. Watching changes no number of the training.

    Args:
        model: the module to watch; it is not changed.
        optimizer: the optimizer that steps over the model's parameters.
        full: read every step in full.
        history: where to record, and whose steps to go on counting; a new one by default.

    Attributes:
        settings: what to write down as the settings of the steps that come.
        may_train_here: says whether backward passes in the caller's thread are of this model's
            training now; None: those are in any thread that has called the model.

    Raises:
        TypeError: ``model``, ``optimizer``, a learning rate of it or ``history`` is something
            else.
        ValueError: the model has no parameters, has lazy modules not initialised, the
            optimizer holds none of its parameters, ``full`` is neither True nor False, or the
            history is of another network.
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
        check_watchable(optimizer)
        full = checked_switch("full", full)
        own = {id(parameter) for parameter in model.parameters()}
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if own.isdisjoint(stepped):
            raise ValueError(
                "optimizer holds none of the model's parameters: "
                "make it with optimizer = Optimizer(model.parameters(), ...)."
            )
        if not (history is None or isinstance(history, History)):
            raise TypeError(
                f"history must be a History, not {type(history).__name__}: "
                "leave it out for a new one."
            )
        self._recorded_order = () if history is None else history.layers
        if self._recorded_order and set(self._recorded_order) != {p.layer.name for p in parts}:
            raise ValueError(
                "history is of another network with other layers: give each a History of its own."
            )
        self.model = model
        self.optimizer = optimizer
        self.settings: object | None = None
        self.may_train_here: Callable[[], bool] | None = None
        self._full = self._closed = False
        self._looks_away = False
        self._capture: Capture | None = None
        self._notes: NoteTaker | None = None
        # Kept between full readings: looking for norms and layers takes 0.3 ms.
        self._instruments: tuple[Capture, NoteTaker] | None = None
        self._step: Step | None = None
        self._watched = Watched(parts)
        self._weight_change: WeightChange | None = None
        self._gradients = Gradients(self._watched, stepped)
        self._losses = Losses()
        self._delivery = Delivery(self._watched, history)
        self._root: loss_watch.Root | None = None
        self._forward_threads: set[int] = set()
        self._called: dict[nn.Module, None] | None = {}
        self._order_handles: list[RemovableHandle] = []
        self._handles: list[RemovableHandle] = []
        self._last_hooks = LastHooks.of(optimizer)
        self._moves_before = 0
        try:
            self._put_hooks_on()
            self.full = full
        except BaseException:  # an interrupt, after which nobody else could take them off
            self.close()
            raise

    def _put_hooks_on(self) -> None:
        model, optimizer, add = self.model, self.optimizer, self._handles.append
        for part in self._watched.parts:
            note_call = part.module.register_forward_pre_hook(Hook(self._note_call))
            self._order_handles.append(note_call)
        add(model.register_forward_pre_hook(Hook(self._note_forward)))
        add(self._last_hooks.register(self._before_step))
        add(optimizer.register_step_post_hook(self._after_step))
        loss_watch.listen(self)

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
    def coming_step(self) -> int:
        """The number of the step to come, where those still on their way from the device count."""
        return self._delivery.coming_step

    @property
    def on_reading(self) -> Callable[[Reading], None] | None:
        """Who is told of each step's reading as soon as it is there."""
        return self._delivery.on_reading

    @on_reading.setter
    def on_reading(self, listener: Callable[[Reading], None] | None) -> None:
        self._delivery.tell_readings(listener)

    @property
    def full(self) -> bool:
        """Whether the next steps are read in full; a closed probe reads none.

        Raises:
            ValueError: it is set to something else than True or False.
        """
        return self._full

    @full.setter
    def full(self, value: bool) -> None:
        self._full = value = checked_switch("full", value) and not self._closed
        if value and self._capture is None:
            if self._instruments is None:
                parts = self._watched.parts
                self._instruments = Capture(self.model, parts), NoteTaker(self.model, parts)
            self._capture, self._notes = self._instruments
            self._capture.paused = self._notes.paused = self._looks_away
            try:
                self._capture.open()
                self._notes.open()
            except BaseException:  # an interrupt: half of the hooks would read half of a step
                self.full = False
                raise
        elif not value and self._capture is not None:
            self._capture.close()
            self._capture = None
            if self._notes is not None:
                self._notes.close()
                self._notes = None

    @property
    def nothing_comes_between(self) -> bool:
        """Whether nobody changes gradients between a backward pass and the step.

        One look at them tells all then. It is for whoever makes the steps to say so.
        """
        return self._gradients.nothing_comes_between

    @nothing_comes_between.setter
    def nothing_comes_between(self, value: bool) -> None:
        self._gradients.nothing_comes_between = value

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
        self._closed = True
        loss_watch.leave(self)
        for handle in (*self._handles, *self._order_handles):
            handle.remove()
        self._handles, self._order_handles = [], []
        self._called = None
        self.full = False
        self._instruments = None
        self._gradients.close()
        self._losses.forget()
        self._weight_change = None
        self._step = None
        self._delivery.close()

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
        if step is not None and not step.has_closure and step.present:
            self._gradients.read_again(step)

    # -- layers ----------------------------------------------------------------------

    def _note_call(self, module: nn.Module, _: Any) -> None:
        if is_being_traced() or self._called is None or self._looks_away:
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
        if self._recorded_order:
            # As the history has them: the order of a network that chooses its way may vary.
            ordered.sort(key=lambda part: self._recorded_order.index(part.layer.name))
        if tuple(part.layer for part in ordered) != self._watched.described:
            self._watched = self._delivery.watched = Watched(ordered)
            self._gradients.watch(self._watched)
            self._weight_change = None

    def set_order(self, names: tuple[str, ...]) -> None:
        """Fix the forward order as another pass over the same model has shown it."""
        place = {name: index for index, name in enumerate(names)}
        known = [part for part in self._watched.parts if part.layer.name in place]
        known.sort(key=lambda part: place[part.layer.name])
        self._called = {part.module: None for part in known}
        self._settle_order()

    # -- losses ----------------------------------------------------------------------

    def _note_forward(self, *_: Any) -> None:
        if not is_being_traced():
            self._forward_threads.add(threading.get_ident())

    def _concerns_us(self) -> bool:
        """Whether the backward pass under way may be of this model's loss.

        Gradients may only be looked at in a thread that trains this model: while another
        thread's backward pass writes them, that would crash.
        """
        if self._looks_away:
            return False
        if self.may_train_here is not None and not self.may_train_here():
            return False
        return not self._forward_threads or threading.get_ident() in self._forward_threads

    def before_backward(self, root: loss_watch.Root) -> None:
        """Take note of a loss; called by the loss watch.

        A backward pass is of this model's loss where it gives the parameters a gradient.
        """
        if not self._concerns_us():
            return
        if self._gradients.before_backward():
            self._losses.forget()
            if self._capture is not None:
                self._capture.drop_used()
        self._root = root
        if self._capture is not None:
            self._capture.begin_backward(keeps_graph=root.keeps_graph)
        if self._called is None:  # before, the layers' order is not known
            self._gradients.take_ahead()

    def after_backward(self) -> None:
        """See which gradients the backward pass has left; called by the loss watch."""
        if self._root is None or not self._concerns_us():
            return
        root, self._root = self._root, None
        touched = self._gradients.after_backward()
        if self._capture is not None:
            self._capture.end_backward(counts=touched)
        if not touched:
            return
        if self._called is not None:
            self._settle_order()
        self._losses.add(root)
        self._gradients.measure_what_it_left(within_step=self._step is not None)

    @property
    def waits_for_step(self) -> bool:
        """Whether a loss's backward pass has reached the model since the last step."""
        return self._losses.any_seen

    @property
    def loss_so_far(self) -> float | None:
        """Sum of the losses seen since the last step; None where it is not on the CPU."""
        return self._losses.so_far

    # -- a step ----------------------------------------------------------------------

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._called is not None:
            self._settle_order()
        self._moves_before = self._last_hooks.moves
        # The optimizer itself is the first of args.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        rates = [_rate_in(group) for group in self.optimizer.param_groups]
        on_device = [rate.detach().reshape(()) for rate in rates if isinstance(rate, torch.Tensor)]
        step = self._step = Step(
            tuple(rates),
            self.settings,
            self._full,
            closure is not None,
        )
        if on_device:
            step.add("learning_rates", stacked(on_device).clone())
        if step.full:
            if self._weight_change is None:
                self._weight_change = WeightChange(self._watched)
            self._weight_change.keep(step)
        if not step.has_closure:
            self._read_gradients(step)

    def _read_gradients(self, step: Step) -> None:
        self._gradients.read(step, self._losses.scale)
        if step.full and self._notes is not None:
            step.notes = self._notes.take(self._watched.parts)
            vector = None if step.notes is None else step.notes.vector()
            if vector is not None:
                step.add("notes", vector)
        self._losses.read(step)
        # A fused optimizer unscales by itself, and skips the step by itself.
        for name in ("grad_scale", "found_inf"):
            value = getattr(self.optimizer, name, None)
            if isinstance(value, torch.Tensor):
                step.add(name, value.detach().clone().reshape(1))

    def _read_after_others(self, step: Step) -> None:
        """Read the gradients that hooks have changed which came behind ours for this one step."""
        # A fused optimizer unscales them as it steps.
        if step.present and not isinstance(
            getattr(self.optimizer, "grad_scale", None), torch.Tensor
        ):
            step.clip_norm = None
            self._gradients.read_again(step)

    def _after_step(self, *_: Any) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        self._last_hooks.go_last()
        if step.has_closure:
            self._read_gradients(step)
        elif self._last_hooks.moves != self._moves_before:
            self._read_after_others(step)
        if step.full:
            if self._weight_change is not None:
                self._weight_change.read(step)
            if self._capture is not None:
                self._collect(step, self._capture)
        self._losses.forget()
        self._gradients.after_step()
        step.send()
        self._delivery.take(step)

    def _collect(self, step: Step, capture: Capture) -> None:
        collected = step.collected = capture.collect(self._watched.parts)
        if collected.norms:
            step.add("norms", stacked(collected.norms))
        if collected.counts:
            step.add("counts", stacked(collected.counts))
        if collected.through_time.vectors:
            step.add("through_time", joined(collected.through_time.vectors))
        if self._losses.scale is not None:
            step.add("signal_scale", self._losses.scale.reshape(1))
        capture.forget()

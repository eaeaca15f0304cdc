"""Captures what only hooks on the layers can see: activations and signal gradients."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .activations import (
    dead_and_saturated,
    dead_and_saturated_of_rows,
    flatness_of_output,
    producers_before,
    uses_between,
)
from .collected import Collected
from .hooks import Hook, is_being_traced
from .last_states import LastStates
from .layers import LayerParts, first_tensor, tensors_in
from .norms import norm_of
from .passes import Call, Output, Pass, Signal
from .shelf import Shelves
from .through_time import FusedCall, ThroughTime, is_fused

is_functorch_wrapped_tensor = torch._C._functorch.is_functorch_wrapped_tensor

# So many calls of layers outside of any call of the model may be of one pass.
_MOST_LOOSE_CALLS = 4096


class _Here(threading.local):
    """The forward pass under way on a thread, and its small outputs."""

    def __init__(self) -> None:
        self.open: Pass | None = None
        self.outputs: Shelves[Call] = Shelves()


class Capture:
    """Hooks on every layer, which measure the passes whose gradients add up to one step.

    The signal gradient is taken by a hook on the output tensor, which autograd calls with
    ∂L/∂h; no graph and no output outlives the pass. A layer called several times (shared,
    recurrent, micro-batches) counts every call: squares and samples are added up. Forward
    passes through which no backward pass came are left out. Small outputs and gradients are
    measured together, at the end of their pass. Passes on other threads than the one that
    trains, such as a look at the model from a cell, are left out too.

    The hooks are on between :meth:`open` and :meth:`close`.

    Attributes:
        paused: take no notice of forward passes.
    """

    def __init__(self, model: nn.Module, parts: Sequence[LayerParts]) -> None:
        self.paused = False
        self._model = model
        self._passes: list[Pass] = []
        # A look from another thread may come at any time.
        self._changing_passes = threading.Lock()
        self._here = _Here()
        # What came in the backward pass under way, and what came outside of any.
        self._arrived: list[Signal] = []
        self._watching = self._keeps_graph = False
        self._samples: int | None = None  # of the last call of the model
        self._again: Pass | None = None  # what is run again within the backward pass
        self._trains_on: int | None = None  # the thread of the last backward pass
        self._gradients: Shelves[Signal] = Shelves()
        # By layer, those that its output is computed from; None when they are known.
        self._ways: dict[str, set[str]] | None = {}
        self._handles: list[RemovableHandle] = []
        self._hooks = [(part.module, Hook(self._after(part))) for part in parts]
        self._hooks_of_fused = [
            (part.module, Hook(self._after_fused(part))) for part in parts if is_fused(part.module)
        ]

    def open(self) -> None:
        """Put every hook on."""
        # One by one: an interrupt that comes here leaves none that close() knows nothing of.
        model, add = self._model, self._handles.append
        add(model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True))
        add(model.register_forward_hook(Hook(self._end), always_call=True))
        for module, hook in self._hooks:
            add(module.register_forward_hook(hook))
        for module, hook in self._hooks_of_fused:
            add(module.register_forward_hook(hook, with_kwargs=True))

    def close(self) -> None:
        """Take every hook off and forget what was measured."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()

    def forget(self) -> None:
        """Start anew for the next step."""
        here = threading.get_ident()
        with self._changing_passes:
            passes, self._passes = self._passes, []
        for each in passes:
            if each.thread == here:
                each.close()
        self._again = None
        self._arrived.clear()
        self._gradients.clear()
        self._here.outputs.clear()
        self._here.open = None

    def drop_used(self) -> None:
        """Forget gradients that were thrown away, and passes that are over with them."""
        over, here = [], threading.get_ident()
        for each in list(self._passes):
            if each.thread != here:
                # Perhaps under way, so that only its own thread may let go of it.
                if not each.has_graph:
                    over.append(each)
                continue
            if each.used:
                each.used = False
                for call in each.calls:
                    call.signals.clear()
                    call.vector = None
                for _, fused in each.fused:
                    fused.norms = {}
            if not each.has_graph:
                each.close()
                over.append(each)
        self._remove(over)

    def _remove(self, over: Sequence[Pass]) -> None:
        if over:
            with self._changing_passes:
                self._passes = [each for each in self._passes if each not in over]

    def begin_backward(self, *, keeps_graph: bool = False) -> None:
        """Note that a backward pass starts that may be of this model's loss.

        Args:
            keeps_graph: another one may go through the same graph.
        """
        self._arrived.clear()
        self._gradients.clear()
        self._watching, self._keeps_graph = True, keeps_graph
        self._trains_on, self._again = threading.get_ident(), None

    def end_backward(self, *, counts: bool) -> None:
        """Note its end; it counts where it gave the model's parameters a gradient."""
        self._watching, self._again = False, None
        self._end_pass()
        if counts:
            self._take_arrived()
        for each in self._own_passes():
            for _, fused in each.fused:
                fused.end_backward(counts=counts)
            each.let_go()
        self._arrived.clear()
        self._gradients.clear()

    def _take_arrived(self) -> None:
        for _, shelf in self._gradients.filled():
            for signal, norm in zip(shelf.owners, shelf.norms(), strict=True):
                signal.norm = norm
        self._gradients.clear()
        for signal in self._arrived:
            signal.of.used = True
            call = signal.call
            if signal.states is not None:
                total = signal.states.total()
                if signal.values is None:
                    signal.norm = norm_of(total)
                else:
                    signal.values = total
            if signal.values is None:
                call.signals.append(signal.norm)
            elif call.vector is None:
                call.vector = signal.values
            else:
                call.vector = call.vector + signal.values

    def _take_arrived_by_hand(self) -> None:
        """Take what torch.autograd.grad has brought, for gradients that were set by hand.

        What several calls brought to one output may have been added, weighed or thrown away:
        there is no number for that.
        """
        first, again = set[int](), set[int]()
        for signal in self._arrived:
            (again if id(signal.call) in first else first).add(id(signal.call))
        self._take_arrived()
        for each in self._passes:
            for call in each.calls:
                if id(call) in again:
                    call.signals, call.vector = [math.nan], None

    def collect(self, parts: Sequence[LayerParts]) -> Collected:
        """Line up what was measured, for layers in the order of ``parts``."""
        self._end_pass()
        passes = self._own_passes()
        if not any(each.used for each in passes):
            self._take_arrived_by_hand()
        for each in passes:
            for call in each.calls:
                if call.vector is not None:
                    call.signals.append(norm_of(call.vector))
                    call.vector = None
        place = {id(part): index for index, part in enumerate(parts)}
        any_used = any(each.used for each in passes)
        collected: list[tuple[int, Call]] = []
        through_time = ThroughTime()
        for each in passes:
            if each.used or not any_used:
                calls = [call for call in each.calls if call.signals or not call.recomputed]
                collected += [(place[id(call.part)], call) for call in calls]
                each.through_time(calls, through_time)
        ways, self._ways = self._ways, None
        return Collected(collected, len(place), through_time, ways or {})

    def _listens_to(self, of: Pass) -> bool:
        """Whether a gradient counts that has come to a layer in a forward pass."""
        trains_on = self._trains_on
        is_ours = trains_on is None or of.thread == trains_on
        # Unless it all is handed from thread to thread.
        if not is_ours and any(each.thread == trains_on for each in self._passes):
            return False
        return self._watching or not of.used

    def _own_passes(self) -> list[Pass]:
        """Return the passes of this thread, or all where it has made none."""
        here = threading.get_ident()
        return [each for each in self._passes if each.thread == here] or list(self._passes)

    def _takes_no_notice(self) -> bool:
        return is_being_traced() or not torch.is_grad_enabled() or self.paused

    def _begin(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        if self._takes_no_notice():
            return
        self._drop_evaluations()
        # A single number is none of the samples.
        tensors = tensors_in((args, kwargs), any_dtype=True)
        tensor = next((tensor for tensor in tensors if tensor.dim()), None)
        self._samples = None if tensor is None else int(tensor.size(0))  # a nested one has no shape
        self._start(self._samples)

    def _drop_evaluations(self) -> None:
        """Drop the passes without a backward pass of which nothing is left."""
        here = threading.get_ident()
        over = [
            each
            for each in list(self._passes)
            if each.thread == here and not each.used and not each.has_graph
        ]
        for each in over:
            each.close()
            self._arrived = [signal for signal in self._arrived if signal.of is not each]
        self._remove(over)

    def _start(self, samples: int | None) -> Pass:
        self._end_pass()
        current = self._here.open = Pass(samples, threading.get_ident())
        self._add(current)
        return current

    def _add(self, one: Pass) -> None:
        with self._changing_passes:
            self._passes.append(one)

    def _under_way(self) -> Pass:
        """Return the pass that a layer runs in."""
        if torch._C._current_graph_task_id() == -1:
            return self._here.open or self._start(None)
        # A block that is run again within the backward pass, on a GPU by a thread of autograd's.
        if self._again is None:
            thread = threading.get_ident() if self._trains_on is None else self._trains_on
            self._again = Pass(self._samples, thread)
            self._add(self._again)
        return self._again

    def _end_pass(self) -> None:
        """Measure the small outputs of the open pass, which is over, and let go of the others."""
        here = self._here
        if here.open is None:
            return
        for channels_first, shelf in here.outputs.filled():
            for call, norm in zip(shelf.owners, shelf.norms(), strict=True):
                call.activation = norm
            for flatness in {call.flatness for call in shelf.owners if call.flatness is not None}:
                counts = dead_and_saturated_of_rows(
                    shelf.rows, flatness, channels_first=bool(channels_first)
                )
                for call, numbers in zip(shelf.owners, counts, strict=True):
                    if call.flatness == flatness:
                        call.counts = numbers
        here.outputs.clear()
        here.open.let_go()
        here.open = None

    def _end(self, _: nn.Module, __: Any, result: Any) -> None:
        if self._takes_no_notice():
            return
        current = self._here.open
        if current is None:
            return
        for output in tensors_in(result):
            if output.grad_fn is not None:
                self._see_activations(current, output.grad_fn)
        self._end_pass()

    def _see_activations(self, current: Pass, consumer: Any) -> list[Call]:
        """Find what follows the layers that ``consumer`` is computed from; return their calls."""
        outputs = current.outputs
        uses = uses_between(consumer, outputs, current.seen)
        for use in uses:
            output = outputs[use.source]
            call, output.uses = output.call, output.uses + 1
            if output.uses > 1:
                # By another way a unit may get what this activation keeps from it, and x·σ(x) is
                # no sigmoid.
                call.flatness = call.counts = None
                continue
            tensor, output.tensor = output.tensor, None
            bounds = use.flatness
            if bounds is None or (use.is_pooled and not call.has_channels_first):
                continue  # pooled over units, no one of them has the activation for itself
            if output.is_on_shelf:
                call.flatness = bounds
                continue
            assert tensor is not None
            changed = tensor._version - output.version
            if changed:
                overwritten = changed == 1 and tensor.grad_fn is use.node
                bounds = flatness_of_output(use.node) if overwritten else None
            if bounds is not None:
                call.counts = dead_and_saturated(
                    tensor, bounds, channels_first=call.has_channels_first
                )
        return [outputs[use.source].call for use in uses]

    def _after(self, part: LayerParts) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            if self._takes_no_notice():
                return
            output = first_tensor(result)
            if output is None or output.is_nested or is_functorch_wrapped_tensor(output):
                return
            current, here = self._under_way(), self._here
            if len(current.calls) >= _MOST_LOOSE_CALLS and current.samples is None:
                # Parts of a model called by themselves, again and again: no end shows.
                self._drop_evaluations()
                current = self._start(None)
            samples = current.samples or (int(output.shape[0]) if output.dim() else 1)
            values = output.detach()
            call = Call(part, output, samples)
            kind = call.has_channels_first
            is_small = not call.recomputed and here.outputs.put(call, values, kind)
            if not is_small:
                call.activation = norm_of(values)
            current.calls.append(call)
            if not output.requires_grad:
                return

            def take(gradient: torch.Tensor | None) -> None:
                # None where only other outputs of the same operation were used.
                if gradient is not None and self._listens_to(current):
                    arriving = _detached(gradient)
                    if arriving is None:
                        return
                    signal = Signal(current, call)
                    if self._keeps_graph or call.vector is not None:
                        signal.values = arriving.clone()
                    elif not self._gradients.put(signal, arriving):
                        signal.norm = norm_of(arriving)
                    self._arrived.append(signal)

            with_states = LastStates.of(part.module, result)
            if with_states is not None:
                current.hooks += self._take_states(current, call, output, *with_states)
            else:
                current.hooks += _hooks_on(output, take)
            node = output.grad_fn
            if node is not None and not call.recomputed:
                before = self._see_activations(current, node)
                if before and current.samples is None:
                    # No call of the model has told; layers may join dimensions on the way.
                    call.samples = before[0].samples
                if self._ways is not None:
                    sources, name = current.sources, part.layer.name
                    ways = self._ways.setdefault(name, set())
                    ways.update(sources[one] for one in producers_before(node, sources))
                    sources[node] = name
                    for other in tensors_in(result):
                        if other.grad_fn is not None:
                            sources.setdefault(other.grad_fn, name)
                current.outputs[node] = Output(call, None if is_small else output)

        return hook

    def _take_states(
        self,
        current: Pass,
        call: Call,
        output: torch.Tensor,
        states: LastStates,
        hidden: torch.Tensor,
    ) -> list[RemovableHandle]:
        """Let a recurrent layer's signal be that of its outputs and of its last states."""

        def take(place: int) -> Callable[[torch.Tensor | None], None]:
            def take_at(gradient: torch.Tensor | None) -> None:
                if gradient is None or not self._listens_to(current):
                    return
                arriving = _detached(gradient)
                if arriving is None:
                    return
                if not states.arrived:
                    signal = Signal(current, call)
                    signal.states = states
                    if self._keeps_graph or call.vector is not None:
                        signal.values = arriving
                    self._arrived.append(signal)
                states.arrived[place] = arriving

            return take_at

        return [
            tensor.register_hook(take(place))  # type: ignore[no-untyped-call]
            for place, tensor in enumerate((output, hidden))
            if tensor.requires_grad
        ]

    def _after_fused(self, part: LayerParts) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, result: Any) -> None:
            if self._takes_no_notice():
                return
            current = self._under_way()
            call = FusedCall.of(module, args, kwargs, result)
            if call is not None:
                current.fused.append((part, call))
                current.hooks += call.hooks

        return hook


def _hooks_on(
    output: torch.Tensor, take: Callable[[torch.Tensor | None], None]
) -> list[RemovableHandle]:
    """Have ``take`` called with what comes to ``output``, as it left its layer.

    The hook of a view is gone when somebody writes into it, such as an activation in place. What
    comes to the whole of which it is a view is the same then, for nobody else has that.
    """
    base = output._base
    if base is None or base.grad_fn is None or base.numel() != output.numel():
        return [output.register_hook(take)]  # type: ignore[no-untyped-call]
    has_come = False

    def take_of_view(gradient: torch.Tensor | None) -> None:
        nonlocal has_come
        has_come = True
        take(gradient)

    def take_of_base(gradient: torch.Tensor | None) -> None:
        nonlocal has_come
        if not has_come:
            take(gradient)
        has_come = False

    return [
        output.register_hook(take_of_view),  # type: ignore[no-untyped-call]
        base.register_hook(take_of_base),  # type: ignore[no-untyped-call]
    ]


def _detached(gradient: torch.Tensor) -> torch.Tensor | None:
    """Return a gradient; None where it is many at once, as under vmap, and none the loss's."""
    if is_functorch_wrapped_tensor(gradient):
        return None
    try:
        return gradient.detach()
    except RuntimeError:  # torch.autograd.functional's batches of gradients can't even do that
        return None

"""Captures what only hooks on the layers can see: activations and signal gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle

from .activations import (
    Flatness,
    activations_between,
    dead_and_saturated,
    dead_and_saturated_of_rows,
    has_channels_first,
)
from .hooks import Hook
from .last_states import LastStates
from .layers import LayerParts, first_tensor
from .norms import norm_of
from .shelf import Shelves
from .through_time import FusedCall, ThroughTime, is_cell, is_fused

is_functorch_wrapped_tensor = torch._C._functorch.is_functorch_wrapped_tensor
FloatArray = NDArray[np.float64]
Scalar = torch.Tensor | float

# So many calls of layers outside of any call of the model may be of one pass.
_MOST_LOOSE_CALLS = 4096
_ONLY_RELU = Flatness(dead_below=0.0)


class _Call:
    """One call of one layer: 0-d tensors on the device or numbers, and what to divide them by."""

    __slots__ = (
        "activation",
        "counts",
        "flatness",
        "number",
        "part",
        "recomputed",
        "rows",
        "samples",
        "signals",
        "vector",
    )

    activation: Scalar

    def __init__(self, part: LayerParts, output: torch.Tensor, samples: int) -> None:
        self.part = part
        self.number = output.numel()
        self.rows = int(output.shape[0]) if output.dim() > 1 else 1
        self.samples = samples
        # Checkpointing runs a block again within the backward pass; where the first run was
        # seen, no gradient comes to the second.
        self.recomputed = torch._C._current_graph_task_id() != -1
        self.signals: list[Scalar] = []
        # Their sum, where several backward passes go through one graph.
        self.vector: torch.Tensor | None = None
        # Of the activation that follows, for outputs that lie on a shelf.
        self.flatness: Flatness | None = None
        # (dead, of how many units), (saturated, of how many outputs)
        self.counts: tuple[tuple[Scalar | None, int], ...] = ()


class _Output:
    """A layer's output, kept until it shows which activation follows; None on a shelf."""

    __slots__ = ("call", "tensor", "version")

    def __init__(self, call: _Call, tensor: torch.Tensor | None) -> None:
        self.call = call
        self.tensor = tensor
        self.version = 0 if tensor is None else tensor._version


class _Signal:
    """The gradient that has come to a call's output: its norm, once it is measured.

    Or the gradient itself, where more is to be added to it.
    """

    __slots__ = ("call", "norm", "of", "states", "values")

    norm: Scalar

    def __init__(self, of: _Pass, call: _Call) -> None:
        self.of, self.call = of, call
        self.values: torch.Tensor | None = None
        self.states: LastStates | None = None


class _Pass:
    """One forward pass of the model."""

    def __init__(self, samples: int | None, thread: int) -> None:
        self.samples, self.thread = samples, thread
        self.calls: list[_Call] = []
        self.fused: list[tuple[LayerParts, FusedCall]] = []
        self.hooks: list[RemovableHandle] = []
        # Whether a backward pass that counts went through it; if none did, it was an
        # evaluation with autograd left on.
        self.used = False
        self.outputs: dict[Any, _Output | None] = {}
        self.seen: set[Any] = set()

    @property
    def has_graph(self) -> bool:
        """Whether a backward pass may still come: autograd keeps the hooks' dictionaries."""
        return any(hook.hooks_dict_ref() is not None for hook in self.hooks)

    def let_go(self) -> None:
        """Let go of outputs and graph."""
        self.outputs.clear()
        self.seen.clear()

    def close(self) -> None:
        self.let_go()
        for _, fused in self.fused:
            fused.let_go()
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def through_time(self, calls: Sequence[_Call], into: ThroughTime) -> None:
        """Add what the recurrent layers have shown; ``calls`` are those that count."""
        loops: dict[LayerParts, list[_Call]] = {}
        for call in calls:
            if is_cell(call.part.module):
                loops.setdefault(call.part, []).append(call)
        for part, loop in loops.items():
            # Blocks that are run again come in the order in which the backward pass asks.
            if not any(call.recomputed for call in loop):
                into.add_cell(part.layer.name, [call.signals for call in loop], loop[0].rows)
        for part, fused in self.fused:
            into.add_fused(part.layer.name, fused)


class _Here(threading.local):
    """The forward pass under way on a thread, and its small outputs."""

    def __init__(self) -> None:
        self.open: _Pass | None = None
        self.outputs: Shelves[_Call] = Shelves()


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
        self._passes: list[_Pass] = []
        self._here = _Here()
        # What came in the backward pass under way, and what came outside of any.
        self._arrived: list[_Signal] = []
        self._watching = self._keeps_graph = False
        self._samples: int | None = None  # of the last call of the model
        self._again: _Pass | None = None  # what is run again within the backward pass
        self._trains_on: int | None = None  # the thread of the last backward pass
        self._gradients: Shelves[_Signal] = Shelves()
        self._handles: list[RemovableHandle] = []
        self._hooks = [(part.module, Hook(self._after(part))) for part in parts]
        self._hooks_of_fused = [
            (part.module, Hook(self._after_fused(part))) for part in parts if is_fused(part.module)
        ]

    def open(self) -> None:
        """Put every hook on."""
        model = self._model
        self._handles = [
            model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True),
            model.register_forward_hook(Hook(self._end), always_call=True),
        ]
        self._handles += [module.register_forward_hook(hook) for module, hook in self._hooks]
        self._handles += [
            module.register_forward_hook(hook, with_kwargs=True)
            for module, hook in self._hooks_of_fused
        ]

    def close(self) -> None:
        """Take every hook off and forget what was measured."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()

    def forget(self) -> None:
        """Start anew for the next step."""
        here = threading.get_ident()
        for each in list(self._passes):
            if each.thread == here:
                each.close()
        self._passes, self._again = [], None
        self._arrived.clear()
        self._gradients.clear()
        self._here.outputs.clear()
        self._here.open = None

    def drop_used(self) -> None:
        """Forget gradients that were thrown away, and passes that are over with them."""
        kept, here = [], threading.get_ident()
        for each in list(self._passes):
            if each.thread != here:
                # Perhaps under way, so that only its own thread may let go of it.
                if each.has_graph:
                    kept.append(each)
                continue
            if each.used:
                each.used = False
                for call in each.calls:
                    call.signals.clear()
                    call.vector = None
                for _, fused in each.fused:
                    fused.norms = {}
            if each.has_graph:
                kept.append(each)
            else:
                each.close()
        self._passes = kept

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

    def collect(self, parts: Sequence[LayerParts]) -> Collected:
        """Line up what was measured, for layers in the order of ``parts``."""
        self._end_pass()
        passes = self._own_passes()
        if not any(each.used for each in passes):
            self._take_arrived()  # gradients of torch.autograd.grad, set by hand
        for each in passes:
            for call in each.calls:
                if call.vector is not None:
                    call.signals.append(norm_of(call.vector))
                    call.vector = None
        place = {id(part): index for index, part in enumerate(parts)}
        any_used = any(each.used for each in passes)
        collected: list[tuple[int, _Call]] = []
        through_time = ThroughTime()
        for each in passes:
            if each.used or not any_used:
                calls = [call for call in each.calls if call.signals or not call.recomputed]
                collected += [(place[id(call.part)], call) for call in calls]
                each.through_time(calls, through_time)
        return Collected(collected, len(place), through_time)

    def _listens_to(self, of: _Pass) -> bool:
        """Whether a gradient counts that has come to a layer in a forward pass."""
        trains_on = self._trains_on
        is_ours = trains_on is None or of.thread == trains_on
        # Unless it all is handed from thread to thread.
        if not is_ours and any(each.thread == trains_on for each in self._passes):
            return False
        return self._watching or not of.used

    def _own_passes(self) -> list[_Pass]:
        """Return the passes of this thread, or all where it has made none."""
        here = threading.get_ident()
        return [each for each in self._passes if each.thread == here] or list(self._passes)

    def _begin(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or self.paused:
            return
        self._drop_evaluations()
        tensor = first_tensor((args, kwargs), any_dtype=True)
        self._samples = int(tensor.shape[0]) if tensor is not None and tensor.dim() else None
        self._start(self._samples)

    def _drop_evaluations(self) -> None:
        """Drop the passes without a backward pass of which nothing is left."""
        here = threading.get_ident()
        for each in list(self._passes):
            if each.thread == here and not each.used and not each.has_graph:
                each.close()
                self._passes.remove(each)
                self._arrived = [signal for signal in self._arrived if signal.of is not each]

    def _start(self, samples: int | None) -> _Pass:
        self._end_pass()
        current = self._here.open = _Pass(samples, threading.get_ident())
        self._passes.append(current)
        return current

    def _under_way(self) -> _Pass:
        """Return the pass that a layer runs in."""
        if torch._C._current_graph_task_id() == -1:
            return self._here.open or self._start(None)
        # A block that is run again within the backward pass, on a GPU by a thread of autograd's.
        if self._again is None:
            thread = threading.get_ident() if self._trains_on is None else self._trains_on
            self._again = _Pass(self._samples, thread)
            self._passes.append(self._again)
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
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or self.paused:
            return
        current = self._here.open
        if current is None:
            return
        output = first_tensor(result)
        if output is not None and output.grad_fn is not None:
            self._see_activations(current, output.grad_fn)
        self._end_pass()

    def _see_activations(self, current: _Pass, consumer: Any) -> None:
        outputs = current.outputs
        for node, flatness in activations_between(consumer, outputs, current.seen):
            output = outputs[node]
            if output is None:
                continue
            outputs[node] = None
            if output.tensor is None:
                output.call.flatness = flatness
                continue
            changed = output.tensor._version - output.version
            # An in-place ReLU has overwritten z, yet leaves 0 just where z <= 0.
            if changed and not (changed == 1 and flatness == _ONLY_RELU):
                continue
            output.call.counts = dead_and_saturated(
                output.tensor, flatness, output.call.part.module
            )

    def _after(self, part: LayerParts) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            if torch.compiler.is_compiling() or not torch.is_grad_enabled() or self.paused:
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
            call = _Call(part, output, samples)
            kind = has_channels_first(part.module, output)
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
                    signal = _Signal(current, call)
                    if self._keeps_graph or call.vector is not None:
                        signal.values = arriving.clone()
                    elif not self._gradients.put(signal, arriving):
                        signal.norm = norm_of(arriving)
                    self._arrived.append(signal)

            with_states = LastStates.of(part.module, result)
            if with_states is not None:
                current.hooks += self._take_states(current, call, output, *with_states)
            else:
                current.hooks.append(output.register_hook(take))  # type: ignore[no-untyped-call]
            node = output.grad_fn
            if node is not None and not call.recomputed:
                self._see_activations(current, node)
                current.outputs[node] = _Output(call, None if is_small else output)

        return hook

    def _take_states(
        self,
        current: _Pass,
        call: _Call,
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
                    signal = _Signal(current, call)
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
            if torch.compiler.is_compiling() or not torch.is_grad_enabled() or self.paused:
                return
            current = self._under_way()
            call = FusedCall.of(module, args, kwargs, result)
            if call is not None:
                current.fused.append((part, call))
                current.hooks += call.hooks

        return hook


def _detached(gradient: torch.Tensor) -> torch.Tensor | None:
    """Return a gradient; None where it is many at once, as under vmap, and none the loss's."""
    if is_functorch_wrapped_tensor(gradient):
        return None
    try:
        return gradient.detach()
    except RuntimeError:  # torch.autograd.functional's batches of gradients can't even do that
        return None


class Collected:
    """A capture's scalars, ready for the one transfer, and how to read them afterwards.

    Attributes:
        norms: L2 norms, numbers or 0-d tensors: signals, then activations.
        counts: counts, likewise: dead and saturated in turn, where any can be.
        through_time: of the recurrent layers.
    """

    def __init__(
        self, calls: Sequence[tuple[int, _Call]], layers: int, through_time: ThroughTime
    ) -> None:
        self._layers = layers
        self.through_time = through_time
        signals = [(layer, call, s) for layer, call in calls for s in call.signals]
        counted = [(layer, count) for layer, call in calls for count in call.counts]
        self.norms: list[Scalar] = [s for _, _, s in signals]
        self.norms += [call.activation for _, call in calls]
        self.counts = [scalar for _, (scalar, _) in counted if scalar is not None]
        self._counted = [i for i, (_, (scalar, _)) in enumerate(counted) if scalar is not None]
        self._signals = len(signals)
        self._norm_layers = [layer for layer, _, _ in signals] + [layer for layer, _ in calls]
        self._norm_numbers = [call.samples for _, call, _ in signals]
        self._norm_numbers += [call.number for _, call in calls]
        self._count_layers = [layer for layer, _ in counted]
        self._count_numbers = [number for _, (_, number) in counted]

    def columns(self, norms: FloatArray, counts: FloatArray) -> FloatArray:
        """Return signal, activation, dead and saturated, shape (4, layers).

        Signal and activation are roots of sums of squares over the number of samples and
        of elements; dead and saturated are shares. NaN where nothing was seen.
        """
        first, squares = self._signals, np.square(norms)
        layers, numbers = self._norm_layers, self._norm_numbers
        columns = np.empty((4, self._layers))
        columns[0] = self._means(layers[:first], squares[:first], numbers[:first])
        columns[1] = self._means(layers[first:], squares[first:], numbers[first:])
        layers, numbers = self._count_layers, self._count_numbers
        every = np.zeros(len(layers))
        every[self._counted] = counts
        counts = every
        columns[2] = self._means(layers[::2], counts[::2], numbers[::2])
        columns[3] = self._means(layers[1::2], counts[1::2], numbers[1::2])
        columns[:2] = np.sqrt(columns[:2])
        return columns

    def _means(self, layers: list[int], values: FloatArray, numbers: list[int]) -> FloatArray:
        if not layers:
            return np.full(self._layers, np.nan)
        sums = np.bincount(layers, weights=values, minlength=self._layers)
        of = np.bincount(layers, weights=numbers, minlength=self._layers)
        with np.errstate(invalid="ignore"):  # 0/0 where a layer was not seen
            means: FloatArray = sums / of
        return means

"""Captures what only hooks on the layers can see: activations and signal gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle

from .activations import Flatness, activations_between, dead_and_saturated
from .layers import LayerParts, first_tensor
from .norms import wide

FloatArray = NDArray[np.float64]


@dataclass
class _Output:
    """A layer's latest output, kept until a later layer shows which activation follows."""

    tensor: torch.Tensor
    version: int


@dataclass(frozen=True)
class _Measured:
    """A 0-d tensor on the device, and what to divide by: samples, numbers or units."""

    scalar: torch.Tensor
    number: int


# The four quantities; the first two are L2 norms, the others counts.
SIGNAL, ACTIVATION, DEAD, SATURATED = range(4)


class LayerSums:
    """What was measured of one layer, call by call, for each of the four quantities."""

    def __init__(self) -> None:
        self.calls: tuple[list[_Measured], ...] = ([], [], [], [])

    def add(self, quantity: int, scalar: torch.Tensor, number: int) -> None:
        self.calls[quantity].append(_Measured(scalar, number))

    def lengths(self) -> tuple[int, ...]:
        return tuple(len(calls) for calls in self.calls)

    def drop(self, lengths: tuple[int, ...]) -> None:
        """Drop the oldest entries, as many of each quantity as ``lengths`` says."""
        for calls, length in zip(self.calls, lengths, strict=True):
            del calls[:length]


class Capture:
    """Hooks on every layer for one forward and backward pass, or several that add up.

    The signal gradient is taken by a hook on the output tensor, which autograd calls with
    ∂L/∂h; no graph and no output outlives the pass. A layer called several times (shared,
    recurrent, micro-batches) counts every call: squares and samples are added up.
    """

    def __init__(self, model: nn.Module, parts: Sequence[LayerParts]) -> None:
        self.sums = [LayerSums() for _ in parts]
        self._past = [sums.lengths() for sums in self.sums]
        self._parts = parts
        self._samples: int | None = None
        self._outputs: dict[int, _Output] = {}
        self._producers: dict[Any, int] = {}
        self._tensor_hooks: list[RemovableHandle] = []
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True)
        ]
        for index, part in enumerate(parts):
            self._handles.append(part.module.register_forward_pre_hook(self._before(index)))
            self._handles.append(part.module.register_forward_hook(self._after(index)))

    def close(self) -> None:
        """Take every hook off and let go of every tensor but the sums."""
        for handle in (*self._handles, *self._tensor_hooks):
            handle.remove()
        self._handles.clear()
        self._forget_pass()

    def end_of_pass(self) -> None:
        """Note that a backward pass is over: what comes next belongs to another."""
        self._forget_pass()
        self._past = [sums.lengths() for sums in self.sums]

    def restart_before_last_pass(self) -> None:
        """Drop the passes that are over: the gradient they added up to was thrown away."""
        for sums, lengths in zip(self.sums, self._past, strict=True):
            sums.drop(lengths)
        self._past = [sums.lengths() for sums in (LayerSums() for _ in self.sums)]

    def reorder(self, places: Sequence[int], parts: Sequence[LayerParts]) -> None:
        """Put the layers in another order, in the middle of a step."""
        self.sums = [self.sums[place] for place in places]
        self._past = [self._past[place] for place in places]
        self._parts = parts

    def _forget_pass(self) -> None:
        self._outputs.clear()
        self._producers.clear()
        self._tensor_hooks.clear()

    def _begin(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._forget_pass()
        tensor = first_tensor(args)
        if tensor is None:
            tensor = next(
                (v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)),
                first_tensor(kwargs),
            )
        self._samples = int(tensor.shape[0]) if tensor is not None and tensor.dim() else None

    def _before(self, index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            taken = first_tensor(args)
            if taken is not None and taken.grad_fn is not None and self._producers:
                self._see_activations(taken.grad_fn)

        return hook

    def _see_activations(self, consumer: Any) -> None:
        for index, flatness in activations_between(consumer, self._producers).items():
            output = self._outputs.pop(index, None)
            if output is None:
                continue
            changed = output.tensor._version - output.version
            # An in-place ReLU has overwritten z, yet leaves 0 just where z <= 0.
            if changed and not (changed == 1 and flatness == Flatness(dead_below=0.0)):
                continue
            sums = self.sums[index]
            for quantity, count in zip(
                (DEAD, SATURATED),
                dead_and_saturated(output.tensor, flatness, self._parts[index].module),
                strict=True,
            ):
                sums.add(quantity, *count)

    def _after(self, index: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            output = first_tensor(result)
            if output is None or not torch.is_grad_enabled():
                return
            sums = self.sums[index]
            values = output.detach()
            sums.add(ACTIVATION, _norm(values), values.numel())
            if not output.requires_grad:
                return
            samples = self._samples or (int(output.shape[0]) if output.dim() else 1)

            def take(gradient: torch.Tensor) -> None:
                sums.add(SIGNAL, _norm(gradient.detach()), samples)

            self._tensor_hooks.append(output.register_hook(take))  # type: ignore[no-untyped-call]
            if output.grad_fn is not None:
                self._producers[output.grad_fn] = index
                self._outputs[index] = _Output(output, output._version)

        return hook


def _norm(values: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=wide(values))
    return norm


@dataclass(frozen=True)
class Collected:
    """A capture's scalars, ready for the one transfer, and how to read them afterwards.

    Attributes:
        norms: L2 norms, 0-d tensors of one dtype.
        counts: counts, 0-d integer tensors.
        where: for each quantity and layer, the scalars' places and what they divide by.
    """

    norms: list[torch.Tensor]
    counts: list[torch.Tensor]
    where: tuple[list[tuple[slice, int]], ...]

    def columns(self, norms: FloatArray, counts: FloatArray) -> FloatArray:
        """Return the four quantities, shape (4, layers), from the scalars' values.

        Signal and activation are roots of sums of squares over the number of samples and
        of elements; dead and saturated are shares. NaN where nothing was seen.
        """
        squares = np.square(norms)
        columns = np.full((4, len(self.where[0])), np.nan)
        for quantity, places in enumerate(self.where):
            source = squares if quantity in (SIGNAL, ACTIVATION) else counts
            for layer, (place, number) in enumerate(places):
                if number:
                    columns[quantity, layer] = source[place].sum() / number
        columns[:2] = np.sqrt(columns[:2])
        return columns


def collect(sums: Sequence[LayerSums]) -> Collected:
    """Line up everything that was measured."""
    norms: list[torch.Tensor] = []
    counts: list[torch.Tensor] = []
    where: tuple[list[tuple[slice, int]], ...] = ([], [], [], [])
    for quantity, places in enumerate(where):
        scalars = norms if quantity in (SIGNAL, ACTIVATION) else counts
        for layer in sums:
            calls = layer.calls[quantity]
            start = len(scalars)
            scalars.extend(call.scalar for call in calls)
            places.append((slice(start, len(scalars)), sum(call.number for call in calls)))
    return Collected(norms, counts, where)

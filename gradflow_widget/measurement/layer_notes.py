"""Numbers that only layers of some kinds have: a norm's statistics, a skip's scale.

Of a batch norm: mean and deviation of the units over the batch, as the forward pass took them
(in eval mode the running ones, which it takes then). Of every norm: the learned scale and
shift. A module of another class may tell of itself by a method ``noted_numbers() -> dict`` of
names and numbers or tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .hooks import Hook, is_being_traced
from .layers import LayerParts
from .norms import joined, wide

FloatArray = NDArray[np.float64]
Note = tuple[str, tuple[float, float, float]]
"""A name; and mean, lowest and highest value over the layer's units."""
LayerNotes = tuple[tuple[Note, ...] | None, ...]
"""The notes of each layer; None where a layer has none."""

_Numbers = float | Tensor
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class _Layout:
    """Which notes there are, which are measured together, and where each is told.

    Made once, since it stays the same from step to step: finding it anew at every reading
    would cost as much as the measuring.
    """

    def __init__(self, places: list[tuple[int, str]], numbers: list[_Numbers], layers: int) -> None:
        self.places = places
        self.known = [i for i, one in enumerate(numbers) if not isinstance(one, Tensor)]
        # Of one shape they are measured together: a call costs more than its arithmetic.
        alike: dict[object, list[int]] = {}
        for index, one in enumerate(numbers):
            if isinstance(one, Tensor):
                alike.setdefault((one.shape, one.dtype, one.device), []).append(index)
        self.groups = list(alike.values())
        order = [*(i for group in self.groups for i in group), *self.known]
        row_of = {index: row for row, index in enumerate(order)}
        told: list[list[tuple[str, int]]] = [[] for _ in range(layers)]
        for index, (layer, name) in enumerate(places):
            told[layer].append((name, row_of[index]))
        self.told = [tuple(of_layer) for of_layer in told]


class NotePlan:
    """The notes of one step, on their way."""

    def __init__(self, layout: _Layout, numbers: list[_Numbers]) -> None:
        self._layout = layout
        self._numbers = numbers

    def vector(self) -> Tensor | None:
        """Return mean, lowest and highest of each measured note, shape (3 · notes,).

        In double precision, where :func:`joined` puts it; None where nothing is measured.
        """
        groups = self._layout.groups
        if not groups:
            return None
        found: list[Tensor] = []
        with torch.no_grad():
            for group in groups:
                rows = torch.stack([self._numbers[i] for i in group])  # type: ignore[misc]
                rows = rows.reshape(len(group), -1)
                rows = rows.to(wide(rows))
                low, high = torch.aminmax(rows, dim=1)
                found.append(torch.stack([rows.mean(1), low, high], dim=1).reshape(-1))
            self._numbers = [self._numbers[i] for i in self._layout.known]
            return joined(found)

    def arranged(self, values: FloatArray) -> LayerNotes:
        """Return the notes layer by layer, from what :meth:`vector` has become."""
        rows = [(mean, low, high) for mean, low, high in values.reshape(-1, 3).tolist()]
        rows += [(number, number, number) for number in map(float, self._numbers)]
        return tuple(
            [
                tuple([(name, rows[row]) for name, row in of_layer]) if of_layer else None
                for of_layer in self._layout.told
            ]
        )


class NoteTaker:
    """Sees the batch statistics of batch norms, and reads what the others hold.

    A norm without parameters is no layer of its own: its notes, under its class's name, are
    of the layer registered before it; a skip's without parameters of the last layer inside.

    Attributes:
        paused: take no notice of forward passes.
    """

    def __init__(self, model: nn.Module, parts: Sequence[LayerParts]) -> None:
        self.paused = False
        owners = {part.module for part in parts}
        latest: nn.Module | None = None
        # Who has something to tell, the layer that tells it, and how the names begin.
        self._homes: list[tuple[nn.Module, nn.Module, str]] = []
        for module in model.modules():
            latest = module if module in owners else latest
            is_norm = _is_norm(module)
            if not (is_norm or hasattr(type(module), "noted_numbers")):
                continue
            inside = [part for part in module.modules() if part in owners]
            home = module if module in owners else inside[-1] if inside else latest
            if home is not None:
                foreign = is_norm and home is not module
                self._homes.append((module, home, f"{type(module).__name__} " if foreign else ""))
        self._statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._layout: _Layout | None = None
        self._kind: tuple[torch.dtype, torch.device] | None = None
        self._handles: list[RemovableHandle] = []

    def open(self) -> None:
        """Put the hooks on that see batch statistics."""
        for module, _, _ in self._homes:
            if isinstance(module, _BATCH_NORM):
                self._handles.append(module.register_forward_hook(Hook(self._after)))

    def close(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._statistics.clear()

    def take(self, parts: Sequence[LayerParts]) -> NotePlan | None:
        """Gather the notes of layers in the order of ``parts``; None where there are none."""
        if not self._homes:
            return None
        place = {part.module: index for index, part in enumerate(parts)}
        places: list[tuple[int, str]] = []
        numbers: list[_Numbers] = []
        for module, home, prefix in self._homes:
            for name, one in self._numbers_of(module):
                places.append((place[home], prefix + name))
                numbers.append(one)
        self._statistics.clear()
        if not numbers:
            return None
        if self._layout is None or self._layout.places != places or self._was_moved(numbers):
            self._layout = _Layout(places, numbers, len(parts))
        return NotePlan(self._layout, numbers)

    def _was_moved(self, numbers: list[_Numbers]) -> bool:
        """Whether the model was moved or cast since the layout was made."""
        first = next((one for one in numbers if isinstance(one, Tensor)), None)
        kind = None if first is None else (first.dtype, first.device)
        before, self._kind = self._kind, kind
        return kind != before

    def _numbers_of(self, module: Any) -> Iterable[tuple[str, _Numbers]]:
        if hasattr(type(module), "noted_numbers"):
            told: Mapping[str, _Numbers] = module.noted_numbers()
            return told.items()
        numbers: list[tuple[str, _Numbers]] = []
        if isinstance(module, _BATCH_NORM):
            if module in self._statistics:
                variance, mean = self._statistics[module]
                numbers = [("batch mean", mean), ("batch deviation", variance.sqrt())]
            elif not module.training and module.running_mean is not None:
                assert module.running_var is not None
                numbers = [
                    ("running mean", module.running_mean),
                    ("running deviation", module.running_var.sqrt()),
                ]
        for name, parameter in (("scale", "weight"), ("shift", "bias")):
            values = getattr(module, parameter, None)
            if isinstance(values, Tensor):
                numbers.append((name, values))
        return numbers

    def _after(self, module: Any, args: tuple[Any, ...], _: Any) -> None:
        if is_being_traced() or not torch.is_grad_enabled() or self.paused:
            return
        takes_batch = module.training or module.running_mean is None
        if not (takes_batch and args and isinstance(args[0], Tensor) and args[0].numel()):
            return
        inputs = args[0].detach()
        if inputs.dtype in (torch.float16, torch.bfloat16):
            inputs = inputs.float()
        units = getattr(module, "dim", 1) % inputs.dim()
        others = [dim for dim in range(inputs.dim()) if dim != units]
        # In two passes, five to forty times as fast on the CPU as torch.var_mean; the variance
        # is the biased one, as the norm itself takes it.
        mean = inputs.mean(others, keepdim=True)
        variance = (inputs - mean).square_().mean(others)
        self._statistics[module] = variance, mean.reshape(-1)


def _is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: torch's norms, and classes called one with vectors alone."""
    if isinstance(module, _NORMS):
        return True
    own = list(module.parameters())
    return (
        type(module).__name__.rstrip("123d").lower().endswith("norm")
        and next(module.children(), None) is None
        and bool(own)
        and all(parameter.dim() == 1 for parameter in own)
    )

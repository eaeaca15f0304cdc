"""Norms of many tensors at once, right where their squares overflow and underflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Outside this range the square of a float32 element that matters may have under- or
# overflowed, so a norm summed in float32 can be a false zero or a false inf.
_TRUSTED = (1e-14, 1e18)
# The same of elements in double precision, whose squares have nothing wider to be summed in.
_TRUSTED_OF_DOUBLE = (1e-140, 1e150)
_DOUBLE = (torch.float64, torch.complex128)
# More elements than this add up to a visible error in float32: 1e-5 at a million, 4e-4 at
# ten million.
_LARGE = 1_000_000
_NOTHING: Mapping[int, float] = {}
# Up to this many elements, copying costs less than a call of its own.
_SMALL = 8192
# Two more functions, each called once a step, cost as much as the norms of this many.
_WORTH_STACKING = 16


def trusted(norm: float) -> bool:
    """Whether a norm that was summed in float32 is no false zero and no false inf."""
    return _TRUSTED[0] <= norm <= _TRUSTED[1]


def wide(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype in which to sum squares of ``tensor``'s elements safely."""
    if tensor.device.type == "mps":  # has no float64
        return torch.complex64 if tensor.is_complex() else torch.float32
    return torch.complex128 if tensor.is_complex() else torch.float64


def dense(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient's values as a strided tensor; zeros of a sparse one are left out."""
    gradient = gradient.detach()
    if gradient.layout is torch.strided:
        return gradient
    return gradient.coalesce().values()


def _is_uniform(tensors: Sequence[torch.Tensor]) -> bool:
    first = tensors[0]
    return all(
        tensor.dtype is first.dtype
        and tensor.device == first.device
        and tensor.layout is torch.strided
        for tensor in tensors
    )


class Norms:
    """L2 norms of tensors on the CPU, in the order in which they were taken.

    Sorting them and making an array of them is left to whoever wants that: after a long step
    the first call of any NumPy function costs as much as ten norms.

    Attributes:
        values: the norms.
        order: the places among the tensors that they belong to; None where that is in line.
    """

    __slots__ = ("order", "values")

    def __init__(self, values: list[float], order: NDArray[np.intp] | None = None) -> None:
        self.values, self.order = values, order

    def array(self) -> FloatArray:
        """Return the norms in the order of the tensors, shape (tensors,)."""
        array = np.array(self.values)
        if self.order is not None:
            array[self.order] = array.copy()
        return array

    @property
    def finite(self) -> bool:
        """Whether every one of them is finite: their sum is, for none is negative."""
        return math.isfinite(sum(self.values))


def in_line(measurements: Sequence[Norms]) -> FloatArray:
    """Return norms of the same tensors, measured again and again, shape (times, tensors)."""
    first = measurements[0].order
    if any(norms.order is not first for norms in measurements):
        return np.array([norms.array() for norms in measurements])
    arrays = np.array([norms.values for norms in measurements])
    if first is not None:
        arrays[:, first] = arrays.copy()
    return arrays


class NormPlan:
    """How to take the norms of tensors that keep their shape, dtype and device between steps.

    On the CPU, where a call costs more than the arithmetic of a small tensor, small ones of
    one shape are stacked and measured together. Float32 is summed in float32, which costs
    half of float64, and the few norms that came out where float32 squares can't be trusted
    are taken again in float64, and those of doubles scaled by their largest element. On other
    devices a second look would stall the stream, and float64 is used at once. A tensor that was
    cast or moved alone ends the plan: what the norms are written into takes none of another
    dtype or device, so that nobody has to look at each.

    Args:
        tensors: those to be measured, or others like them.
        may_be_sparse: some of them may come in a sparse layout.

    Attributes:
        has_doubles: some are in double precision, so that squares of their norms, too, may
            overflow and underflow.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], *, may_be_sparse: bool = False) -> None:
        self._may_be_sparse = may_be_sparse
        # Gradients of create_graph=True do. Entering torch.no_grad() takes 3 µs.
        self._may_have_graphs = False
        self._plan_for(tensors)

    def _plan_for(self, tensors: Sequence[torch.Tensor]) -> None:
        first = tensors[0]
        self._first = (first.dtype, first.device)
        self._count = len(tensors)
        self._uniform = not self._may_be_sparse and _is_uniform(tensors)
        self.has_doubles = any(tensor.dtype in _DOUBLE for tensor in tensors)
        self._fast = (
            self._uniform
            and first.device.type == "cpu"
            and first.dtype is torch.float32
            and all(tensor.numel() <= _LARGE for tensor in tensors)
        )
        self._stacks: list[_Stack] = []
        self._single: list[int] = []
        self._order: NDArray[np.intp] | None = None
        if not self._fast:
            return
        self._taken = torch.empty(len(tensors), dtype=torch.float32, device="cpu")
        self._slots = self._taken.unbind()
        groups = _groups(tensors)
        if not groups:
            return
        stacked_ones = [index for group in groups for index in group]
        self._single = sorted(set(range(len(tensors))).difference(stacked_ones))
        self._order = np.array(stacked_ones + self._single)
        starts = np.cumsum([0, *map(len, groups)]).tolist()
        self._stacks = [
            _Stack(group, tensors[group[0]].shape, self._taken[start : start + len(group)])
            for group, start in zip(groups, starts, strict=False)
        ]

    def norms(
        self, tensors: list[torch.Tensor], known: Mapping[int, float] = _NOTHING
    ) -> torch.Tensor | Norms:
        """Return the L2 norms, shape (tensors,): on the CPU as numbers that can be trusted.

        Elsewhere as a vector on the device, without waiting for it.

        Args:
            tensors: what to measure.
            known: norms summed in float32 that were taken ahead, by place.
        """
        first = tensors[0]
        # The model was moved or cast, or there are more gradients than when it was.
        if (first.dtype, first.device) != self._first or len(tensors) > self._count:
            self._plan_for(tensors)
        norms: torch.Tensor | None = None
        if self._uniform:
            try:
                if self._fast and not self._may_have_graphs:
                    return self._fast_norms(tensors, known)
                if self._fast:
                    with torch.no_grad():
                        return self._fast_norms(tensors, known)
                norms = torch.stack(torch._foreach_norm(tensors, 2, wide(first)))
                if self.has_doubles and norms.device.type == "cpu":
                    pairs = zip(norms.tolist(), tensors, strict=True)
                    return Norms([_looked_at_again(norm, one) for norm, one in pairs])
            except (NotImplementedError, RuntimeError):
                if not self._may_have_graphs and any(tensor.requires_grad for tensor in tensors):
                    self._may_have_graphs = True
                    return self.norms(tensors, known)
                # Sparse gradients where no module told of them, such as F.embedding's.
                self._may_be_sparse = True
                self._uniform = self._fast = False
                self._stacks = []
        if norms is None:
            norms = stacked(exact_norms(tensors))
        return Norms(norms.tolist()) if norms.device.type == "cpu" else norms

    def norm(self, tensor: torch.Tensor) -> float:
        """Return the norm of one of the tensors, on the CPU."""
        if self._fast and tensor.dtype is torch.float32:
            value: float = torch.linalg.vector_norm(tensor).item()
            if trusted(value):
                return value
        return float(exact_norms([tensor])[0])

    def largest(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Return the largest magnitude of each tensor; NaN where one holds a NaN."""
        if not (self._stacks and len(tensors) == self._count):
            return stacked(largest_magnitudes(tensors))
        with torch.no_grad():
            return self._fast_largest(tensors)

    def _fast_largest(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        pieces = [stack.filled(tensors).abs().amax(1) for stack in self._stacks]
        if self._single:
            single = [tensors[index] for index in self._single]
            pieces.append(torch.stack(largest_magnitudes(single)))
        largest = torch.cat(pieces)
        in_line = torch.empty_like(largest)
        in_line[torch.from_numpy(self._order)] = largest
        return in_line

    def _fast_norms(self, tensors: list[torch.Tensor], known: Mapping[int, float]) -> Norms:
        norm, order, start = torch.linalg.vector_norm, None, 0
        places: Sequence[int] = range(len(tensors))
        if self._stacks and len(tensors) == self._count:
            order, places, start = self._order, self._single, self._count - len(self._single)
            for stack in self._stacks:
                norm(stack.filled(tensors), dim=1, out=stack.norms)
        for place, slot in zip(places, self._slots[start:], strict=False):
            if place not in known:
                norm(tensors[place], out=slot)
        values: list[float] = self._taken.tolist()
        del values[len(tensors) :]
        if known:
            pairs = zip(places, values[start:], strict=True)
            values[start:] = [known.get(place, value) for place, value in pairs]
        # A NaN among them may hide here, and is one in float64 too.
        if not (min(values) >= _TRUSTED[0] and max(values) <= _TRUSTED[1]):
            for index, value in enumerate(values):
                if not trusted(value):
                    place = index if order is None else int(order[index])
                    values[index] = float(exact_norms([tensors[place]])[0])
        return Norms(values, order)


def _groups(tensors: Sequence[torch.Tensor]) -> list[list[int]]:
    """Return the places of small tensors that are quicker measured together, by shape."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, tensor in enumerate(tensors):
        if 0 < tensor.numel() <= _SMALL:
            by_shape.setdefault(tensor.shape, []).append(index)
    groups = [group for group in by_shape.values() if len(group) > 2]
    return groups if sum(map(len, groups)) >= _WORTH_STACKING else []


class _Stack:
    """Small tensors of one shape, copied side by side into memory that is allocated once."""

    def __init__(self, group: Sequence[int], shape: torch.Size, norms: torch.Tensor) -> None:
        self.norms = norms
        self._choose = itemgetter(*group)
        self._stacked = torch.empty(len(group), *shape, dtype=torch.float32, device="cpu")
        self._flat = self._stacked.view(len(group), -1)

    def filled(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Return the group's tensors, shape (group, elements); good until the next call."""
        torch.stack(self._choose(tensors), out=self._stacked)
        return self._flat


def has_norm(values: torch.Tensor) -> bool:
    """Whether torch can sum up a tensor's squares: whole numbers and float8 are but codes."""
    return values.is_complex() or (values.is_floating_point() and values.itemsize > 1)


def norm_of(values: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm summed in float64, as a real 0-d tensor on the tensor's device.

    NaN for the codes of quantised numbers, whole or in float8.
    """
    if not has_norm(values):
        return torch.full((), math.nan, dtype=torch.float64, device=values.device)
    if values.is_cuda:
        # A GPU converts element by element here; vector_norm makes a copy in float64 first.
        return torch._foreach_norm([values], 2, wide(values))[0]
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=wide(values))
    if values.dtype in _DOUBLE and values.device.type == "cpu":
        value = norm.item()
        again = _looked_at_again(value, values)
        return norm if again is value else norm.new_tensor(again)
    return norm


def norms_of_rows(values: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm of each of ``values``, shape (rows, ...), as :func:`norm_of` does."""
    norms: torch.Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=wide(values))
    if values.dtype in _DOUBLE and values.device.type == "cpu":
        pairs = zip(norms.tolist(), values, strict=True)
        return norms.new_tensor([_looked_at_again(norm, row) for norm, row in pairs])
    return norms


def _looked_at_again(norm: float, values: torch.Tensor) -> float:
    """Return the norm of doubles on the CPU, taken anew where their squares can't be trusted.

    Args:
        norm: as summed from their squares.
        values: what it is of.
    """
    # NaN is NaN by any way of summing.
    if not (norm < _TRUSTED_OF_DOUBLE[0] or norm > _TRUSTED_OF_DOUBLE[1]):
        return norm
    with torch.no_grad():
        if values.is_complex():
            values = torch.view_as_real(values.resolve_conj())
        largest = _largest_magnitude(values)
        if not 0 < largest.item() < math.inf:
            return norm
        return float(largest * torch.linalg.vector_norm(values / largest))


def joined_norms(norms: FloatArray, axis: int = -1) -> FloatArray:
    """Return the norm of all that the norms along an axis are of, however small or large.

    NaN where one is NaN.
    """
    with np.errstate(over="ignore"):
        joint = np.hypot.reduce(norms, axis=axis)
    # Of infinity and NaN hypot makes infinity.
    joint = np.maximum(joint, np.max(norms, axis=axis, initial=0.0))
    return np.asarray(joint, dtype=np.float64)


def exact_norms(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return L2 norms summed in float64, as real 0-d tensors on the tensors' devices."""
    return [norm_of(values) for values in map(dense, tensors)]


def largest_magnitudes(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the largest magnitude of each tensor; NaN where one holds a NaN."""
    return [_largest_magnitude(values) for values in map(dense, tensors)]


def _largest_magnitude(values: torch.Tensor) -> torch.Tensor:
    if not values.numel():
        return torch.zeros((), device=values.device)
    if values.is_complex():
        return values.abs().amax()
    # One pass without a copy; the L-inf norm of a CPU tensor takes ten times as long.
    low, high = torch.aminmax(values)
    return torch.maximum(-low, high)


def stacked(scalars: Sequence[torch.Tensor | float]) -> torch.Tensor:
    """Stack real numbers and 0-d tensors of any real dtype and device, shape (scalars,).

    The vector is where :func:`_away_from_the_cpu` says; on the CPU where there are only numbers.
    """
    given = [scalar for scalar in scalars if isinstance(scalar, torch.Tensor)]
    if not given:
        return torch.tensor(scalars, dtype=torch.float64, device="cpu")
    first = _away_from_the_cpu(given)
    tensors = [
        s if isinstance(s, torch.Tensor) else torch.tensor(s, dtype=torch.float64, device="cpu")
        for s in scalars
    ]
    if all(tensor.dtype is first.dtype and tensor.device == first.device for tensor in tensors):
        return torch.stack(tensors)
    return torch.stack([t.to(first.device, wide(first), non_blocking=True) for t in tensors])


def joined(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join vectors of real numbers, of any dtype and device, shape (numbers in all,).

    In double precision, where the device has it, and where :func:`_away_from_the_cpu` says.
    """
    first = _away_from_the_cpu(vectors)
    return torch.cat([v.to(first.device, wide(first), non_blocking=True) for v in vectors])


def _away_from_the_cpu(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the first of the tensors that is not on the CPU, or else the first.

    Where it is, the others can go: on the way to the CPU somebody would have to wait for them,
    or would read what has not arrived yet.
    """
    return next((tensor for tensor in tensors if tensor.device.type != "cpu"), tensors[0])

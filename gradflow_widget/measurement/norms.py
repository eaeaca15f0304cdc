"""Norms of many tensors at once, right where float32 overflows and underflows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# Outside this range the square of a float32 element that matters may have under- or
# overflowed, so a norm summed in float32 can be a false zero or a false inf.
_TRUSTED = (1e-14, 1e18)
# More elements than this add up to a visible error in float32: 1e-5 at a million, 4e-4 at
# ten million.
_LARGE = 1_000_000


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


class NormPlan:
    """How to take the norms of tensors that keep their dtype and device between steps.

    On the CPU, small float32 tensors are summed in float32, which costs half of float64,
    and the few norms that came out where float32 squares can't be trusted are taken again
    in float64.
    On other devices a second look would stall the stream, and float64 is used at once.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], *, may_be_sparse: bool = False) -> None:
        self._may_be_sparse = may_be_sparse
        self._plan_for(tensors)

    def _plan_for(self, tensors: Sequence[torch.Tensor]) -> None:
        first = tensors[0]
        self._first = (first.dtype, first.device)
        self.uniform = not self._may_be_sparse and _is_uniform(tensors)
        self._dtype: torch.dtype | None = None
        self._twice = (
            first.dtype is torch.float32
            and first.device.type == "cpu"
            and all(tensor.numel() <= _LARGE for tensor in tensors)
        )
        if self.uniform and not self._twice:
            self._dtype = wide(first)

    def norms(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the L2 norms as a vector on the device, without waiting for it.

        On the CPU the norms are settled: what float32 may have got wrong is put right.
        """
        first = tensors[0]
        if (first.dtype, first.device) != self._first:  # the model was moved or cast
            self._plan_for(tensors)
        if not self.uniform:
            return stacked(exact_norms(tensors))
        try:
            norms = torch.stack(torch._foreach_norm(list(tensors), 2, self._dtype))
        except (NotImplementedError, RuntimeError):
            # Sparse gradients where no module told of them, such as F.embedding's.
            self._may_be_sparse = True
            self.uniform = False
            return stacked(exact_norms(tensors))
        return self._settled(norms, tensors) if self._twice else norms

    def _settled(self, norms: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        values = norms.numpy()
        low, high = _TRUSTED
        if values.min() >= low and values.max() <= high:
            return norms  # comparisons with NaN are False, so NaN goes on
        settled = norms.double()
        for index in np.flatnonzero(~((values >= low) & (values <= high))).tolist():
            settled[index] = exact_norms([tensors[index]])[0]
        return settled


def exact_norms(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return L2 norms summed in float64, as real 0-d tensors on the tensors' devices."""
    return [torch.linalg.vector_norm(values, dtype=wide(values)) for values in map(dense, tensors)]


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


def stacked(scalars: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack 0-d tensors of any real dtype and device into one vector on the first's device."""
    first = scalars[0]
    if all(s.dtype is first.dtype and s.device == first.device for s in scalars):
        return torch.stack(list(scalars))
    dtype = torch.float32 if first.device.type == "mps" else torch.float64
    return torch.stack([s.to(first.device, dtype, non_blocking=True) for s in scalars])

"""Whether tensors hold the same values."""

from __future__ import annotations

import torch


def differ(value: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether a tensor is another than before; of some layouts and dtypes torch can't tell."""
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return False  # nothing writes into such in place
    if value.shape != before.shape:
        return True
    if torch.equal(value, before):
        return False
    # What is written again is no longer what a graph has seen: not for NaN, which equals nothing.
    is_number = value.is_floating_point() or value.is_complex()
    return not (is_number and bool(torch.isclose(value, before, 0, 0, equal_nan=True).all()))

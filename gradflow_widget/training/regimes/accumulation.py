"""Gradient accumulation: the gradients of several micro-batches make one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def backward_over(forward: Callable[[Any], torch.Tensor], batches: Sequence[Any]) -> torch.Tensor:
    """Go forward and backward through each batch in turn; return the mean of the losses.

    Every loss counts 1/n, so that for a loss that is a mean over samples, batches of one size
    and a network that treats each sample by itself (no BatchNorm), the gradients that add up
    in ``.grad`` are those of the n batches taken as one. A single batch is left as it is, bit
    for bit.

    Args:
        forward: ``forward(batch)`` is the scalar to minimise, with its graph.
        batches: at least one.

    Returns:
        A detached scalar, or the loss itself where there is one batch.
    """
    if len(batches) == 1:
        loss = forward(batches[0])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss
    shares: list[torch.Tensor] = []
    for batch in batches:
        share = forward(batch) / len(batches)
        share.backward()  # type: ignore[no-untyped-call]
        shares.append(share.detach())
    return torch.stack(shares).sum()

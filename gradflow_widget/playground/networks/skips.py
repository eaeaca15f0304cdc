"""Skip connections, written out: x + scale·f(x)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...checked import as_float
from ...quoting import quoted


def skip_scale(skips: Any, blocks: int) -> float | nn.Parameter | None:
    """Return by what a block is multiplied before the skip connection adds its input.

    Args:
        skips: a number; "1/sqrt(2L)", with which gradients grow by less than √e in all;
            "learned", from 0 (ReZero, Bachlechner et al. 2021); None for no connection.
        blocks: L, how many blocks the network has.

    Raises:
        ValueError: ``skips`` is none of these.
    """
    if skips is None:
        return None
    if isinstance(skips, str) and skips == "learned":
        return nn.Parameter(torch.zeros(()))
    if isinstance(skips, str) and skips == "1/sqrt(2L)":
        return 1 / math.sqrt(2 * blocks)
    if math.isfinite(scale := as_float(skips)):
        return scale
    raise ValueError(
        f"skips must be a number, '1/sqrt(2L)', 'learned' or None, not {quoted(skips)}."
    )


def joined(x: Tensor, f_x: Tensor, scale: float | Tensor | None) -> Tensor:
    """Return x + scale·f(x), or f(x) alone where there is no connection."""
    return f_x if scale is None else x + scale * f_x

"""Readings made of numbers, for charts that never see a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradflow_widget.measurement.layers import Layer
from gradflow_widget.measurement.reading import Reading


def reading(
    norms: Sequence[float],
    *,
    step: int = 1,
    loss: float = 1.0,
    unclipped: Sequence[float] | None = None,
    missing: Sequence[int] = (),
    frozen: Sequence[int] = (),
    **full: Any,
) -> Reading:
    """A reading of Linear layers with these weight gradients; ``full`` as in Reading."""
    count = len(norms)
    after = np.array(norms, dtype=float)
    before = after if unclipped is None else np.array(unclipped, dtype=float)
    absent = np.isin(np.arange(count), [*missing, *frozen])
    with np.errstate(invalid="ignore"):
        scale = 1.0 if unclipped is None else float(np.linalg.norm(after) / np.linalg.norm(before))
    return Reading(
        step=step,
        loss=loss,
        learning_rate=0.1,
        learning_rates=(0.1,),
        described=tuple(
            Layer(f"layer{n}", "Linear", (f"layer{n}.weight",), (64, 64), "Linear", True, 64)
            for n in range(count)
        ),
        weight_grad_norm=after,
        total_norm=float(np.linalg.norm(before)),
        clip_scale=scale,
        unclipped_grad_norm=before,
        missing=absent,
        frozen=np.isin(np.arange(count), list(frozen)),
        **{name: _as_arrays(name, values) for name, values in full.items()},
    )


def _as_arrays(name: str, values: Any) -> Any:
    if name == "layer_notes":
        return values
    if isinstance(values, Mapping):
        return {key: np.array(each, dtype=float) for key, each in values.items()}
    return np.array(values, dtype=float)

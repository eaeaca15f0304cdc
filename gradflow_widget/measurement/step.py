"""A step on its way: from what was measured around it to its Reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .collected import Collected
from .history import Rows
from .layer_notes import NotePlan
from .layers import LayerParts, with_ways
from .norms import NormPlan, Norms, in_line, joined, joined_norms
from .reading import Reading
from .through_time import ThroughTime
from .transfer import Transfer

FloatArray = NDArray[np.float64]
# A clip that another hand applied shows when the norm it left is off by more than rounding.
_SAME_NORM = 1e-5


def _clip_coefficient(total: float, clip_norm: float) -> float:
    """Return what ``torch.nn.utils.clip_grad_norm_`` multiplies gradients by."""
    if math.isnan(total):
        return math.nan
    return min(1.0, clip_norm / (total + 1e-6))


def same(one: float, other: float) -> bool:
    """Whether two norms are the same number, but for rounding."""
    if math.isnan(one) or one == other:
        return math.isnan(one) == math.isnan(other)
    return math.isfinite(one) and abs(one - other) <= _SAME_NORM * one


class HiddenEdits:
    """Whether a loop changes gradients in a way that leaves no mark on them.

    Attributes:
        seen: it was seen to; there's no going back.
    """

    def __init__(self) -> None:
        self.seen = False


@dataclass(slots=True)
class Step:
    """What is known of a step between the optimizer's pre-hook and its arrival on the CPU."""

    learning_rates: tuple[float | torch.Tensor, ...]
    settings: object | None
    full: bool
    has_closure: bool
    present: list[int] = field(default_factory=list)
    present_after_backward: list[int] = field(default_factory=list)
    # Who wants to know whether gradients that bear the same marks measure the same.
    hidden_edits: HiddenEdits | None = None
    requires_grad: list[bool] | None = None
    loss: float = math.nan
    loss_seen: bool = False
    clip_norm: float | None = None
    clipped_parameters: NDArray[np.bool_] | None = None
    collected: Collected | None = None
    notes: NotePlan | None = None
    # Already on the CPU, and what is to go there in one transfer, by name and length.
    known: dict[str, FloatArray | Norms] = field(default_factory=dict)
    sections: list[tuple[str, int]] = field(default_factory=list)
    vectors: list[torch.Tensor] = field(default_factory=list)
    transfer: Transfer | None = None

    def add(self, name: str, vector: torch.Tensor | Norms) -> None:
        """Add numbers: those on the CPU are known at once, the others go along."""
        if isinstance(vector, Norms):
            self.known[name] = vector  # made into an array when somebody asks
        elif vector.device.type == "cpu":
            self.known[name] = vector.double().numpy()
        else:
            self.sections.append((name, len(vector)))
            self.vectors.append(vector)

    def send(self) -> None:
        """Start the one transfer, where there is anything to transfer."""
        if self.vectors:
            self.transfer = Transfer(joined(self.vectors))
            self.vectors = []

    def arrived(self) -> bool:
        """Whether :meth:`values` would return without waiting."""
        return self.transfer is None or self.transfer.arrived

    def values(self) -> dict[str, FloatArray]:
        """Return all numbers by name, waiting for those still on their way."""
        if self.transfer is not None:
            flat, start = self.transfer.values(), 0
            for name, length in self.sections:
                self.known[name] = flat[start : start + length]
                start += length
        return {
            name: numbers.array() if isinstance(numbers, Norms) else numbers
            for name, numbers in self.known.items()
        }

    @property
    def used(self) -> Norms | None:
        """Norms of the gradients that the optimizer used, where nothing else had to be known."""
        if len(self.known) != 1:
            return None
        used = self.known.get("used")
        return used if isinstance(used, Norms) else None


class Watched:
    """The layers that a probe watches, their parameters in line, and how to read them."""

    def __init__(self, parts: list[LayerParts]) -> None:
        self.parts = parts
        self.described = tuple(part.layer for part in parts)
        unique: dict[int, int] = {}
        self.parameters: list[nn.Parameter] = []
        for part in parts:
            for parameter in part.parameters:
                if id(parameter) not in unique:
                    unique[id(parameter)] = len(self.parameters)
                    self.parameters.append(parameter)
        self.every_index = list(range(len(self.parameters)))
        self._per_element = [(parameter.numel() or 1) ** -0.5 for parameter in self.parameters]
        self.weights = [weight for part in parts for weight in part.weights]
        self._weight_index = np.array([unique[id(weight)] for weight in self.weights])
        lengths = [len(part.weights) for part in parts]
        self._weight_starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp)
        self._one_weight_each = all(length == 1 for length in lengths)
        self._owned = [[unique[id(one)] for one in part.parameters] for part in parts]
        self._none_missing = np.zeros(len(parts), dtype=np.bool_)
        self._none_missing.flags.writeable = False
        may_be_sparse = any(getattr(part.module, "sparse", False) for part in parts)
        self.plan = NormPlan(self.parameters, may_be_sparse=may_be_sparse)
        self.weight_plan = NormPlan(self.weights)
        self._known_factors: tuple[NDArray[np.intp] | None, list[float]] = None, self._per_element

    def per_element(self, norms: Norms, present: list[int]) -> list[float]:
        """Return what makes an RMS of each norm of the gradients present, in the norms' order."""
        if present is self.every_index and norms.order is self._known_factors[0]:
            return self._known_factors[1]
        factors = [self._per_element[index] for index in present]
        if norms.order is not None:
            factors = [factors[place] for place in norms.order]
        if present is self.every_index:
            self._known_factors = norms.order, factors
        return factors

    def _per_layer(self, per_weight: FloatArray) -> FloatArray:
        """Join the L2 norms of each layer's weights, shape (..., weights) to (..., layers)."""
        if self._one_weight_each:
            return per_weight
        starts = self._weight_starts
        if self.plan.has_doubles:
            parts = np.split(per_weight, starts[1:], axis=-1)
            return np.stack([joined_norms(part) for part in parts], axis=-1)
        result: FloatArray = np.sqrt(np.add.reduceat(np.square(per_weight), starts, axis=-1))
        return result

    def _norm(self, norms: FloatArray) -> float:
        """Join the L2 norms of all parameters, or of some."""
        if self.plan.has_doubles:
            return float(joined_norms(norms))
        return math.sqrt(float(norms @ norms))

    def _spread(self, norms: FloatArray, present: list[int]) -> FloatArray:
        """Return norms of all parameters, 0 for those without a gradient."""
        if len(present) == len(self.parameters):
            return norms
        spread = np.zeros(len(self.parameters))
        spread[present] = norms
        return spread

    def is_plain(self, step: Step) -> bool:
        """Whether nothing but loss, rates and every gradient's norm is known of a step."""
        return (
            not step.full
            and step.clip_norm is None
            and step.transfer is None
            and len(step.present) == len(self.parameters)
            and step.used is not None
        )

    def rows(self, steps: Sequence[Step]) -> Rows:
        """Return plain steps as columns: what :meth:`reading` says of each, all at once."""
        norms = in_line([step.used for step in steps if step.used is not None])
        by_step = [step.learning_rates or (math.nan,) for step in steps]
        # By group: one that was added between them is missing in the first.
        rates = np.array(list(zip_longest(*by_step, fillvalue=math.nan)))
        return Rows(
            np.array([step.loss for step in steps]),
            rates.T,
            joined_norms(norms)
            if self.plan.has_doubles
            else np.sqrt((norms[:, None] @ norms[:, :, None]).ravel()),
            self._per_layer(norms[:, self._weight_index]),
        )

    def reading(self, step: Step, number: int) -> Reading | None:
        """Return the reading; None where the optimizer skipped the step for an inf."""
        values = step.values()
        if "found_inf" in values and values["found_inf"][0]:
            return None
        nothing = np.zeros(0)
        used = self._spread(values.get("used", nothing), step.present)
        largest = self._spread(values["largest"], step.present) if "largest" in values else None
        fused_scale = float(values["grad_scale"][0]) if "grad_scale" in values else 1.0
        if fused_scale != 1.0:
            used = used / fused_scale
            largest = None if largest is None else largest / fused_scale
        unclipped, total, clip_scale = used, self._norm(used), 1.0
        if "backward" in values:
            scale = float(values["scale"][0]) if "scale" in values else 1.0
            earlier = self._spread(values["backward"] / scale, step.present_after_backward)
            earlier_total = self._norm(earlier)
            if not same(earlier_total, total):
                clip_scale = total / earlier_total if earlier_total else 1.0
                unclipped, total = earlier, earlier_total
                if step.hidden_edits is not None:
                    step.hidden_edits.seen = True
            elif not np.allclose(earlier, used, rtol=_SAME_NORM, atol=0.0, equal_nan=True):
                unclipped = earlier  # small ones were changed, which the total does not show
                if math.isnan(total):
                    clip_scale = math.nan  # nor does one of NaN
        if step.clip_norm is not None:
            theirs = step.clipped_parameters
            theirs_before = self._norm(used if theirs is None else used[theirs])
            coefficient = _clip_coefficient(theirs_before, step.clip_norm)
            if coefficient != 1.0:
                before = self._norm(used)
                factors = coefficient if theirs is None else np.where(theirs, coefficient, 1.0)
                with np.errstate(invalid="ignore"):  # inf * 0 is NaN, as in the gradient
                    used = used * factors
                    largest = None if largest is None else largest * factors
                clip_scale *= coefficient if theirs is None else self._norm(used) / before
        if "clipped" in values:
            clipped = self._spread(values["clipped"], step.present) / fused_scale
            before, after = self._norm(used), self._norm(clipped)
            # Where one of them is NaN, the totals do not tell whether others have changed.
            if math.isnan(after) or not same(before, after):
                clip_scale *= after / before if before else 1.0
                used = clipped

        arrived = iter(values.get("learning_rates", nothing).tolist())
        rates = tuple(
            [rate if isinstance(rate, float) else next(arrived) for rate in step.learning_rates]
        )
        missing = frozen = self._none_missing
        if step.requires_grad is not None:
            missing, frozen = self._missing(step.present, step.requires_grad)
        weight_grad_norm = self._layer_norms(used, missing)
        full: dict[str, Any] = {}
        if step.full:
            full = self._full_columns(values, step, largest, missing)
            if step.notes is not None:
                full["layer_notes"] = step.notes.arranged(values.get("notes", nothing))
        return Reading(
            step=number,
            loss=step.loss + float(values["loss"].sum()) if "loss" in values else step.loss,
            learning_rate=rates[0] if rates else math.nan,
            learning_rates=rates,
            described=self.described,
            weight_grad_norm=weight_grad_norm,
            total_norm=total,
            clip_scale=clip_scale,
            unclipped_grad_norm=weight_grad_norm
            if used is unclipped
            else self._layer_norms(unclipped, missing),
            missing=missing,
            frozen=frozen,
            spoilt=None
            if math.isfinite(total) and math.isfinite(clip_scale)
            else self._spoilt(unclipped, used),
            loss_seen=step.loss_seen,
            settings=step.settings,
            **full,
        )

    def _layer_norms(self, per_parameter: FloatArray, missing: NDArray[np.bool_]) -> FloatArray:
        norms = self._per_layer(per_parameter[self._weight_index])
        if missing is not self._none_missing:
            norms = np.where(missing, np.nan, norms)
        norms.flags.writeable = False
        return norms

    def _spoilt(self, unclipped: FloatArray, used: FloatArray) -> NDArray[np.bool_]:
        """Return which layers own a gradient that is not finite, before any clipping if any is."""
        bad = ~np.isfinite(unclipped)
        if not bad.any():
            bad = ~np.isfinite(used)
        return np.array([bad[owned].any() for owned in self._owned])

    def _missing(
        self, present: list[int], requires_grad: list[bool]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which layers' weights have no gradient, and which do not ask for one."""
        here = np.zeros(len(self.parameters), dtype=np.bool_)
        here[present] = True
        asks = np.array(requires_grad)
        starts = self._weight_starts
        any_here = np.logical_or.reduceat(here[self._weight_index], starts)
        any_asks = np.logical_or.reduceat(asks[self._weight_index], starts)
        return ~any_here, ~any_here & ~any_asks

    def _full_columns(
        self,
        values: dict[str, FloatArray],
        step: Step,
        largest: FloatArray | None,
        missing: NDArray[np.bool_],
    ) -> dict[str, Any]:
        weight_norm = self._per_layer(values["weight_norm"])
        change = self._per_layer(values["change"])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(weight_norm > 0, change / weight_norm, np.nan)
        columns: dict[str, Any] = {"weight_norm": weight_norm, "update_ratio": ratio}
        if largest is None:
            largest = np.zeros(len(self.parameters))
        grad_max = np.maximum.reduceat(largest[self._weight_index], self._weight_starts)
        columns["weight_grad_max"] = np.where(missing, np.nan, grad_max)
        nothing = np.zeros(0)
        collected = step.collected or Collected([], len(self.parts), ThroughTime(), {})
        if collected.ways:
            self.described = with_ways(self.described, collected.ways)
        signals, activation, dead, saturated = collected.columns(
            values.get("norms", nothing), values.get("counts", nothing)
        )
        through_time = values.get("through_time", nothing)
        if "signal_scale" in values:
            signals = signals / values["signal_scale"][0]
            through_time = through_time / values["signal_scale"][0]
        columns["signal_grad_norm"] = signals
        columns["activation_rms"] = activation
        columns["dead_fraction"] = dead
        columns["saturated_fraction"] = saturated
        columns["signal_grad_through_time"] = collected.through_time.arrays(through_time)
        return columns

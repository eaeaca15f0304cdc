"""A Reading: everything that one training step has told about the gradient flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..quoting import counted
from . import flow
from .layer_notes import LayerNotes
from .layers import Layer

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
GradientState = Literal["", "zero", "none", "frozen", "nan", "inf"]


@dataclass(slots=True, eq=False)
class Glance:
    """What can be told of a step at once, ahead of its Reading; its numbers are finite.

    Attributes:
        step: number of the step, from 1.
        loss: as in a Reading.
        learning_rate: likewise.
        loss_seen: likewise.
        settings: likewise.
    """

    is_full: ClassVar[bool] = False

    step: int
    loss: float
    learning_rate: float
    loss_seen: bool
    settings: object | None


@dataclass(frozen=True, eq=False)
class Reading:
    """One step's numbers. Arrays are float64, shape (layers,), in forward order.

    NaN stands only where there is no number to give: ``gradient_states`` tells a missing
    gradient from one that is NaN. What costs more is None outside a full reading.

    Attributes:
        step: number of the step, from 1; 0 for a reading taken without a step.
        loss: the scalar whose gradient was taken; NaN where it was not seen.
        learning_rate: of the first parameter group, as the step used it.
        learning_rates: of every parameter group; NaN where one has none of its own.
        described: the layers.
        weight_grad_norm: L2 norm of ∂L/∂W as the optimizer used it, after any clipping.
        total_norm: L2 norm of all the model's gradients, before any clipping.
        clip_scale: what clipping left of the total norm; 1.0 where it did not bind.
        unclipped_grad_norm: L2 norm of ∂L/∂W before any clipping.
        missing: layers whose weights have no gradient (None).
        frozen: those among them that do not ask for one.
        spoilt: layers with a gradient that is not finite, of a bias too, before any clipping;
            None where all are finite, or nobody looked.
        loss_seen: False where no loss was seen, so that ``loss`` is NaN for want of one.
        settings: the settings that the step used, where a session trained it.
        weight_grad_max: largest magnitude in ∂L/∂W.
        weight_norm: L2 norm of the weights before the step.
        update_ratio: ‖ΔW‖/‖W‖ from the actual change of the weights.
        signal_grad_norm: ‖∂L/∂h‖ at the layer's output, per-sample L2 norm, root mean
            square over the samples (theory.md, Words).
        activation_rms: root mean square of the layer's output.
        dead_fraction: share of units where the activation that follows, such as a ReLU, is
            exactly flat for the whole batch.
        saturated_fraction: share of outputs so far out that the activation that follows has
            less than a twentieth of its steepest slope there and all the way beyond. That a
            GELU's slope passes through 0 nearer to the middle does not count, nor does the flat
            side of a ReLU and its like, of which ``dead_fraction`` tells.
        signal_grad_through_time: ‖∂L/∂h_t‖ at each time step of recurrent layers, by name,
            arrays of shape (T,), normed as ``signal_grad_norm``; the total derivative, by way
            of all later steps too. An nn.RNN, nn.LSTM or nn.GRU of several layers or
            directions has ``name.l0``, ``name.l0_reverse``, … None where there are none.
        layer_notes: for each layer pairs of a name and the mean, lowest and highest value over
            its units, or None: of norms what ``layer_notes.py`` lists, of skips their scale.
            None as a whole where no layer has any.
    """

    step: int
    loss: float
    learning_rate: float
    learning_rates: tuple[float, ...]
    described: tuple[Layer, ...]
    weight_grad_norm: FloatArray
    total_norm: float
    clip_scale: float
    unclipped_grad_norm: FloatArray
    missing: BoolArray
    frozen: BoolArray
    spoilt: BoolArray | None = None
    loss_seen: bool = True
    settings: object | None = None
    weight_grad_max: FloatArray | None = None
    weight_norm: FloatArray | None = None
    update_ratio: FloatArray | None = None
    signal_grad_norm: FloatArray | None = None
    activation_rms: FloatArray | None = None
    dead_fraction: FloatArray | None = None
    saturated_fraction: FloatArray | None = None
    signal_grad_through_time: Mapping[str, FloatArray] | None = None
    layer_notes: LayerNotes | None = None

    def __post_init__(self) -> None:
        """Make the arrays as immutable as the rest."""
        self._seal()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what another holds: arrays that were copied or pickled may be written into."""
        self.__dict__.update(state)
        self._seal()

    def _seal(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        for value in (self.signal_grad_through_time or {}).values():
            value.flags.writeable = False

    def __repr__(self) -> str:
        """Return what it is of; its arrays would fill the screen."""
        loss = f"loss {self.loss:.4g}" if self.loss_seen else "no loss seen"
        layers = counted(len(self.described), "layer")
        extent = "read in full" if self.is_full else "not read in full"
        return f"<Reading: step {self.step}, {loss}, {layers}, {extent}>"

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in forward order."""
        return tuple(layer.name for layer in self.described)

    @property
    def is_full(self) -> bool:
        """Whether the costly quantities were measured at this step."""
        return self.signal_grad_norm is not None

    @cached_property
    def paths(self) -> tuple[flow.Path, ...]:
        """The ways of the signal through the network, with the decades of each; () if not full."""
        if self.signal_grad_norm is None:
            return ()
        return flow.paths(self.signal_grad_norm, self.described)

    @cached_property
    def decades(self) -> float | None:
        """log10(‖∂L/∂h_1‖/‖∂L/∂h_L‖) over weight layers of one role; None if not full."""
        if self.signal_grad_norm is None:
            return None
        return flow.decades(self.paths)

    @cached_property
    def slope(self) -> float | None:
        """g, growth of ln‖∂L/∂h‖ per layer toward the input; None if not full."""
        if self.signal_grad_norm is None:
            return None
        return flow.slope(self.signal_grad_norm, self.described, self.paths)

    @cached_property
    def gradient_states(self) -> tuple[GradientState, ...]:
        """What stands in for a number: "" (none needed), zero, none, frozen, nan or inf."""
        states: list[GradientState] = []
        for norm, missing, frozen in zip(
            self.weight_grad_norm.tolist(), self.missing, self.frozen, strict=True
        ):
            if frozen:
                states.append("frozen")
            elif missing:
                states.append("none")
            elif np.isnan(norm):
                states.append("nan")
            elif np.isinf(norm):
                states.append("inf")
            else:
                states.append("zero" if norm == 0 else "")
        return tuple(states)

    @property
    def unseen(self) -> BoolArray:
        """Layers whose output no hook saw: what is NaN there is so for want of a number.

        Not where the output itself is NaN: then the signal at it is there, or a gradient of NaN.
        """
        if self.activation_rms is None or self.signal_grad_norm is None:
            return np.ones(len(self.described), dtype=np.bool_)
        return (
            np.isnan(self.activation_rms)
            & np.isnan(self.signal_grad_norm)
            & (self.missing | np.isfinite(self.weight_grad_norm))
        )

    @property
    def is_finite(self) -> bool:
        """Whether the loss (where it was seen) and the gradients are free of NaN and inf.

        Those of the backward pass, and those that the optimizer used.
        """
        return (
            math.isfinite(self.total_norm)
            and math.isfinite(self.clip_scale)
            and (not self.loss_seen or math.isfinite(self.loss))
            and bool((np.isfinite(self.weight_grad_norm) | self.missing).all())
        )

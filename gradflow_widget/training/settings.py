"""Settings: what the knobs say, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..checked import checked_from_zero, checked_positive, checked_seed, checked_whole
from ..tweaks.knobs import AS_GIVEN, CAN_BE_OFF, COLD_KNOBS, checked_knob
from .optimizers import checked_kind
from .regimes.regime import NOTHING, Regime, regime_from


@dataclass(frozen=True)
class Settings:
    """What the knobs say. A step reads the settings once, when it starts.

    Attributes:
        learning_rate: of the first parameter group whose rate is not 0; the others keep their
            ratio to it. None leaves the optimizer's own.
        rate_turns: how often it was turned; a scheduler may have moved the rate since a turn, so
            that the same value is a turn again.
        clip_norm: clip to this global L2 norm; None is off.
        clip_value: clip every element to this magnitude; None is off.
        batch_size: samples a step; None where the data come in batches of their own.
        optimizer_kind: "as given", or a name out of ``optimizers.KINDS``.
        weight_decay: of the parameter groups that have most of it, the others keep their
            ratio to it; None leaves the optimizer's own.
        seed: of weights, batch order and dropout.
        depth, activation: cold knobs; None where the model does not offer them.
        initialization: a cold knob: "as given" or a scheme.
        normalization: a cold knob: "as given", None for off, or a kind.
        skips: a cold knob: None for off, a positive number, "1/sqrt(2L)" or "learned".
        orthogonality: a cold knob: None for off, a positive strength of the penalty that is
            added to the loss, or "hard".
        regime: how data and gradients reach the model: a :class:`Regime`, what ``regime_from``
            takes, or None for everything off.

    Raises:
        ValueError: a value is out of range; the sentence names it and what would do.
        TypeError: ``regime`` is none.
    """

    learning_rate: float | None = None
    rate_turns: int = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    batch_size: int | None = None
    optimizer_kind: str = AS_GIVEN
    weight_decay: float | None = None
    seed: int = 0
    depth: int | None = None
    activation: str | None = None
    initialization: str = AS_GIVEN
    normalization: str | None = AS_GIVEN
    skips: float | str | None = None
    orthogonality: float | str | None = None
    regime: Regime = NOTHING

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm", "clip_value"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked_positive(name, value))
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                "clip_norm and clip_value are both set: choose one and set the other to None."
            )
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", checked_whole("batch_size", self.batch_size))
        checked_kind(self.optimizer_kind)
        if self.weight_decay is not None:
            decay = checked_from_zero("weight_decay", self.weight_decay)
            object.__setattr__(self, "weight_decay", decay)
        object.__setattr__(self, "seed", checked_seed(self.seed))
        for name in COLD_KNOBS:
            value = getattr(self, name)
            if value is not None or name not in (*CAN_BE_OFF, "depth", "activation"):
                object.__setattr__(self, name, checked_knob(name, value))
        if not isinstance(self.regime, Regime):
            object.__setattr__(self, "regime", regime_from(self.regime))

    def replaced(self, **changes: Any) -> Settings:
        """Return a copy with some values changed."""
        return replace(self, **changes)

    @property
    def cold(self) -> dict[str, Any]:
        """What all cold knobs say, and what of the regime takes a new run."""
        return {**{name: getattr(self, name) for name in COLD_KNOBS}, "regime": self.regime.cold}

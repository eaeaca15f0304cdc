"""Preparation: everything that a session is made of, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..measurement.loss_modules import modules_of
from .audience import Audience
from .batches import DEFAULT_BATCH_SIZE, Batches, as_batches
from .construction import Construction, ModelSource, OptimizerSource
from .objective import Objective, as_objective
from .session import TrainingSession
from .settings import Settings
from .validation import Validator


@dataclass(frozen=True, eq=False)
class Preparation:
    """What a session is made of.

    Attributes:
        model: as it was given.
        construction: makes the model and its optimizer.
        minimised: the objective that ``loss_fn`` or ``objective`` stands for; None where only
            the user's own loop trains and nothing is validated.
        origin: the name of the argument that it came from.
        loss_fn, objective: as they were given.
        batches: where batches come from; None where only the user's own loop trains.
        settings: the first settings.
        validator: evaluates beside the training; None: nothing is validated.
        shares_cores: see :class:`TrainingSession`.
    """

    model: ModelSource
    construction: Construction
    minimised: Objective | None
    origin: str
    loss_fn: Callable[[Any, Any], Any] | None
    objective: Objective | None
    batches: Batches | None
    settings: Settings
    validator: Validator | None
    shares_cores: bool

    @property
    def samples(self) -> int | None:
        """How many samples the data have; None where they come in batches of their own."""
        return None if self.batches is None else self.batches.size

    def session(self, audience: Audience) -> TrainingSession:
        """Make the session, which is still to :meth:`~TrainingSession.begin`.

        Raises:
            TypeError, ValueError, RuntimeError: see :class:`TrainingSession`.
        """
        return TrainingSession(
            self.construction,
            self.minimised,
            self.batches,
            self.settings,
            audience,
            origin=self.origin,
            validator=self.validator,
            shares_cores=self.shares_cores,
        )


def prepare(
    model: ModelSource,
    optimizer: OptimizerSource,
    loss_fn: Callable[[Any, Any], Any] | None,
    data: Any,
    *,
    objective: Objective | None = None,
    clip_norm: float | None = None,
    seed: int,
    validation: Any,
    shares_cores: bool = True,
) -> Preparation:
    """Check the arguments of a widget, which names and describes them.

    Raises:
        TypeError, ValueError: one of them can't be used; the sentence says what would do.
    """
    loss = modules_of(objective if loss_fn is None else loss_fn)
    construction = Construction(model, optimizer, loss)
    # Where only a loop of the user's own trains, the loss is there to validate with.
    learns_from, called = (validation, "validation") if data is None else (data, "data")
    minimised, origin = as_objective(loss_fn, objective, learns_from, called)
    floating = _floating_of(model)
    batches = as_batches(data, floating=floating) if data is not None else None
    samples = batches.size if batches is not None else None
    settings = Settings(
        clip_norm=clip_norm,
        batch_size=None if samples is None else min(DEFAULT_BATCH_SIZE, samples),
        seed=seed,
    )
    validator = None
    if minimised is not None and validation is not None:
        validator = Validator(minimised, validation, floating=floating)
    return Preparation(
        model,
        construction,
        minimised,
        origin,
        loss_fn,
        objective,
        batches,
        settings,
        validator,
        shares_cores,
    )


def _floating_of(model: ModelSource) -> torch.dtype | None:
    """Return the dtype of a model in double precision; None where torch's default will do."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    is_double = any(parameter.dtype is torch.float64 for parameter in parameters)
    return torch.float64 if is_double else None

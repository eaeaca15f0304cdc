"""Trainer: what one step of our own does, and the look before the first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS

from ..measurement.reading import Reading
from ..measurement.single import checked_loss
from .batches import Batches, TensorBatches, on_device
from .first_inputs import first_inputs
from .objective import Objective
from .penalty import whole_objective
from .preview import preview
from .randomness import RandomStream
from .run import Run
from .settings import Settings


class Trainer:
    """Trains a run step by step, on batches and random numbers of its own.

    Args:
        objective: ``objective(model, batch)`` is the scalar to minimise.
        batches: where batches come from.
        origin: the name of the argument that ``objective`` came from, for error messages.
    """

    def __init__(self, objective: Objective, batches: Batches, origin: str) -> None:
        self._objective, self._batches, self._origin = objective, batches, origin
        self._random = RandomStream(0, every_source=not isinstance(batches, TensorBatches))

    @property
    def samples(self) -> int | None:
        """The number of samples; None where only batches are known."""
        return self._batches.size

    def preview(self, model: nn.Module, settings: Settings) -> Reading:
        """Look at a network before any step; batches and random state stay as they are.

        Raises:
            TypeError, ValueError, RuntimeError: see :func:`preview`.
        """
        shown = preview(model, self._objective, self._batches, settings, self._origin)
        self._random.every_source |= shown.draws_elsewhere
        return shown.reading

    def first_inputs(self, model: nn.Module, settings: Settings) -> Any:
        """Return what ``model`` is called with in the first step; see :func:`first_inputs`."""
        batch = self._batches.first(settings.seed, settings.batch_size)
        batch = on_device(batch, next(model.parameters()).device)
        return first_inputs(model, self._objective, batch)

    def restart(self, seed: int) -> None:
        """Go back to the first batch and the first random number of ``seed``.

        An iterator of the user's, and the processes behind it, are let go.
        """
        self._random.restart(seed)
        self._batches.restart(seed)

    def step(self, run: Run, settings: Settings) -> None:
        """Batch, forward, backward, optimizer.

        Raises:
            Exception: what the user's model, loss, data or optimizer raised.
        """
        model, optimizer = run.model, run.optimizer
        with self._random():
            batch = on_device(self._batches.next(settings.batch_size), run.a_parameter.device)

            def forward() -> object:
                return self._objective(model, batch)

            def closure() -> torch.Tensor:
                optimizer.zero_grad(set_to_none=True)
                begins_at = torch.get_rng_state()
                loss = whole_objective(model, forward(), self._origin)
                loss = checked_loss(loss, self._origin)
                if loss.device.type == "cpu" and not math.isfinite(loss.item()):

                    def repeated() -> object:
                        torch.set_rng_state(begins_at)  # the same dropout; it is put back
                        return forward()

                    run.fault.look_again(run.probe.steps + 1, repeated)
                loss.backward()  # type: ignore[no-untyped-call]
                if isinstance(optimizer, LBFGS):
                    run.steering.clip()  # before its step there was nothing to clip
                return loss

            if isinstance(optimizer, LBFGS):
                optimizer.step(closure)  # type: ignore[no-untyped-call]
            else:
                closure()
                optimizer.step()

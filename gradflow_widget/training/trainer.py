"""Trainer: what one step of our own does, and the look before the first."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS

from ..measurement.loss_modules import modules_of
from ..measurement.reading import Reading
from ..measurement.single import checked_loss, everything_kept
from .batches import Batches, IndexedBatches, TensorBatches, as_new, on_device
from .construction import Built
from .first_inputs import first_inputs
from .objective import Objective
from .penalty import whole_objective
from .preview import preview
from .randomness import RandomStream
from .regimes.accumulation import backward_over
from .regimes.adversarial import perturbed
from .regimes.applied import batches_of_step, batches_under
from .regimes.curriculum import FloatArray, losses_of_samples
from .regimes.first_model import first_model
from .regimes.freezing import forward_order
from .run import Run
from .settings import Settings


class Trainer:
    """Trains a run step by step, on batches and random numbers of its own.

    Args:
        objective: ``objective(model, batch)`` is the scalar to minimise.
        batches: where batches come from, before any regime.
        origin: the name of the argument that ``objective`` came from, for error messages.
    """

    def __init__(self, objective: Objective, batches: Batches, origin: str) -> None:
        self._objective, self._origin = objective, origin
        self._given = self._batches = batches
        self._random = RandomStream(0, every_source=not isinstance(batches, TensorBatches))

    @property
    def samples(self) -> int | None:
        """The number of samples; None where only batches are known."""
        return self._given.size

    # -- before a run ----------------------------------------------------------------

    def batches_for(self, settings: Settings, built: Built) -> Batches:
        """Return the batches of a run under the settings' regime; those in use stay in place.

        Raises:
            ValueError: the regime can't be had with these data; the sentence says why.
            Exception: what the first model of a curriculum raised.
        """
        regime = settings.regime
        if not regime.changes_data:
            return self._given

        def first_losses(batches: IndexedBatches) -> FloatArray:
            assert regime.curriculum is not None
            trained = first_model(
                *built.at_the_beginning(),
                self._objective,
                batches,
                steps=regime.curriculum.first_model_steps,
                batch_size=settings.batch_size,
                seed=settings.seed,
            )
            return losses_of_samples(trained, self._objective, batches)

        with RandomStream(settings.seed, every_source=True)():
            return batches_under(regime, as_new(self._given), first_losses)

    def use(self, batches: Batches) -> None:
        """Take other batches from now on; :meth:`restart` is to follow."""
        self._batches = batches

    def preview(
        self, model: nn.Module, settings: Settings, batches: Batches | None = None
    ) -> Reading:
        """Look at a network before any step; batches and random state stay as they are.

        ``batches``: those of the run in waiting; None: those in use.

        Raises:
            TypeError, ValueError, RuntimeError: see :func:`preview`.
        """
        shown = preview(model, self._objective, batches or self._batches, settings, self._origin)
        self._random.every_source |= shown.draws_elsewhere
        return shown.reading

    def first_inputs(self, model: nn.Module, settings: Settings) -> Any:
        """Return what ``model`` is called with in the first step; see :func:`first_inputs`."""
        return first_inputs(model, self._objective, self._first_batch(model, settings))

    def forward_order(self, model: nn.Module, settings: Settings) -> Sequence[nn.Module]:
        """Return the modules of ``model`` in the order of their first call."""
        return forward_order(model, self._objective, self._first_batch(model, settings))

    def check_attack(self, run: Run, settings: Settings) -> None:
        """Try the settings' attack on the present run, of which nothing changes.

        Raises:
            TypeError, ValueError: the inputs can't be attacked; see :func:`perturbed`.
            Exception: what the model, the objective or the data raised.
        """
        attack = settings.regime.adversarial
        if attack is None:
            return
        with RandomStream(settings.seed, every_source=True)(), run.probe.looking_away():
            batch = self._first_batch(run.model, settings)
            perturbed(run.model, self._objective, batch, attack, origin=self._origin)

    def _first_batch(self, model: nn.Module, settings: Settings) -> Any:
        """Return the first batch of the data as they were given: for shapes, not for numbers."""
        batch = self._given.first(settings.seed, settings.batch_size)
        return on_device(batch, next(model.parameters()).device)

    def restart(self, seed: int) -> None:
        """Go back to the first batch and the first random number of ``seed``.

        An iterator of the user's, and the processes behind it, are let go.
        """
        self._random.restart(seed)
        self._batches.restart(seed)

    # -- a step ----------------------------------------------------------------------

    def step(self, run: Run, settings: Settings) -> None:
        """Batches, forward, backward, optimizer.

        Raises:
            Exception: what the user's model, loss, data or optimizer raised.
        """
        model, optimizer, regime = run.model, run.optimizer, settings.regime
        device = run.a_parameter.device
        with self._random() as random:
            batches = batches_of_step(
                regime,
                model,
                self._objective,
                lambda: on_device(self._batches.next(settings.batch_size), device),
                origin=self._origin,
                looking_away=run.probe.looking_away,
            )
            # Rows of tensors are chosen by a generator of their own, so nothing is drawn yet.
            nothing_drawn = not self._random.every_source and regime.adversarial is None
            known_state = random.of_torch if nothing_drawn else None

            def loss_of(batch: Any) -> torch.Tensor:
                nonlocal known_state
                begins_at = torch.get_rng_state() if known_state is None else known_state
                known_state = None

                def forward() -> object:
                    return self._objective(model, batch)

                loss = whole_objective(model, forward(), self._origin)
                loss = checked_loss(loss, self._origin)
                if loss.device.type == "cpu" and not math.isfinite(loss.item()):

                    def repeated() -> object:
                        torch.set_rng_state(begins_at)  # the same dropout; it is put back
                        with everything_kept(model, *modules_of(self._objective)):
                            return forward()

                    is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
                    targets = batch[1] if is_pair else None
                    run.fault.look_again(run.probe.coming_step, repeated, targets)
                return loss

            def closure() -> torch.Tensor:
                run.zero_grad()
                return backward_over(loss_of, batches)

            takes_closure = _takes_closure(type(optimizer))  # type: ignore[arg-type]
            if not takes_closure or _steps_twice(optimizer):
                closure()
            if takes_closure:
                optimizer.step(closure)  # type: ignore[arg-type]
            else:
                optimizer.step()


@cache
def _takes_closure(kind: Any) -> bool:
    """Whether an optimizer evaluates the loss itself, as L-BFGS and SAM do."""
    if issubclass(kind, LBFGS) or _steps_twice(kind):
        return True
    closure = inspect.signature(kind.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _steps_twice(optimizer: object) -> bool:
    """Whether it is a SAM as most write it: gradients are there before a step, and come again."""
    return hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step")

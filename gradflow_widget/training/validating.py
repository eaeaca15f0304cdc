"""Validating: when a run is validated, whoever steps it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import nn

from .failure import FirstBatchError
from .objective import NoPairError
from .run import Run
from .validation import Validation, ValidationCurve, Validator

# What somebody who has pressed Step or Pause may have to wait for.
LONGEST_AT_REST = 1.0


class Watcher(Protocol):
    """Who looks on."""

    def validated(self, validation: Validation) -> None:
        """Take in a validation."""


class Validating:
    """Validates the present run between two steps, and where it has come to rest.

    Its methods are called on the thread that steps, or while nobody does.

    Args:
        validator: evaluates, and says when it is due.
        watcher: is told of each validation.

    Attributes:
        curve: all validations of the present run.
    """

    def __init__(self, validator: Validator, watcher: Watcher) -> None:
        self._validator, self._watcher = validator, watcher
        self.curve = ValidationCurve()
        self._steps = 0
        self._loop_since: float | None = None
        # Of the steps of a loop that is not ours only the end is seen.
        self._clock: Callable[[], float] = validator.clock

    def check(self, model: nn.Module) -> None:
        """Try ``model`` on the first samples.

        Raises:
            NoPairError: they come in batches that are no pairs.
            FirstBatchError: the model, the objective or the data raised something.
        """
        try:
            self._validator.check(model)
        except FirstBatchError as error:
            if isinstance(error.__cause__, NoPairError):
                raise NoPairError(
                    "validation gave a batch that is no pair (inputs, targets): give pairs like "
                    "those of the training."
                ) from error
            raise

    def begin_run(self) -> None:
        """Forget the run before."""
        self._validator.restart()
        self.curve.clear()
        self._steps = 0
        self._loop_since = None

    # -- steps -----------------------------------------------------------------------

    def own_step(self) -> AbstractContextManager[None]:
        """Count what happens inside the ``with`` as a step of our own."""
        self._steps += 1
        return self._validator.timing_a_step()

    def loop_stepped(self) -> None:
        """Count a step of a loop that is not ours, from the last one on."""
        self._steps += 1
        if self._loop_since is not None:
            self._validator.count_training(self._clock() - self._loop_since)
        self._loop_since = None

    def loop_goes_on(self) -> None:
        """Note that such a loop goes on with its next step now."""
        self._loop_since = self._clock()

    def loop_rests(self) -> None:
        """Note that such a loop does nothing for a while, or is over."""
        self._loop_since = None

    # -- validations -----------------------------------------------------------------

    def if_due(self, run: Run) -> None:
        """Validate the run after a step where it is time.

        Raises:
            Exception: what the model or the objective raised.
        """
        if self._steps and self._validator.is_due(self._steps):
            self._evaluate(run)

    def at_rest(self, run: Run, *, whatever_it_takes: bool = False) -> None:
        """Validate the latest step, beside the account of :meth:`if_due`, unless it has been.

        Where a validation is known to take more than ``LONGEST_AT_REST`` seconds that waits
        until somebody asks for it, ``whatever_it_takes``.

        Raises:
            Exception: what the model or the objective raised.
        """
        latest = self.curve.latest
        if not self._steps or (latest is not None and latest.step == _steps_of(run)):
            return
        if whatever_it_takes or latest is None or latest.seconds <= LONGEST_AT_REST:
            self._evaluate(run, on_account=False)

    def _evaluate(self, run: Run, *, on_account: bool = True) -> None:
        validation = self._validator.evaluate(
            run.model, _steps_of(run), looking_away=run.probe.looking_away, on_account=on_account
        )
        self.curve.append(validation)
        self._watcher.validated(validation)


def _steps_of(run: Run) -> int:
    return run.probe.history.steps_recorded

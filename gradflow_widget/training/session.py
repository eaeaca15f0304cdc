"""TrainingSession: runs steps on a thread of its own, or watches the user's own loop.

What is trained stands on the bench, and who may step when is the pace's to say; both keep the
rules of locking. Readings are told to the audience when their step is over, so that whoever
looks on may pause, reset or close the session.
"""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..measurement.history import History
from ..measurement.nonfinite import NonFinite
from ..measurement.reading import Reading
from ..tweaks.record import Tweak, tweaks_of
from .audience import Audience, Telling
from .batches import Batches
from .bench import CLOSED, Bench
from .construction import Construction
from .failure import LastFailure
from .loops import UserLoops
from .objective import Objective
from .own_loop import PATIENCE
from .pace import Pace
from .regimes.regime import Regime, listed
from .settings import Settings, checked_count
from .steering import learning_rate_of
from .trainer import Trainer
from .validating import Validating
from .validation import ValidationCurve, Validator
from .worker import Worker

_log = logging.getLogger(__name__)


class TrainingSession:
    """Trains a model step by step under the hand of its settings.

    Args:
        construction: makes the model and its optimizer.
        objective: ``objective(model, batch)`` is the scalar to minimise; None where only
            the user's own loop trains.
        batches: where batches come from; None likewise.
        settings: the first settings.
        audience: who looks on.
        origin: the name of the argument that ``objective`` came from, for error messages.
        validator: evaluates beside the training; None: nothing is validated.

    Raises:
        TypeError, ValueError: the model, optimizer, data or objective can't be used.
        RuntimeError: the model, objective or data failed on the first batch.
    """

    def __init__(
        self,
        construction: Construction,
        objective: Objective | None,
        batches: Batches | None,
        settings: Settings,
        audience: Audience,
        *,
        origin: str = "objective",
        validator: Validator | None = None,
    ) -> None:
        self._construction = construction
        self._trainer = (
            None if objective is None or batches is None else Trainer(objective, batches, origin)
        )
        self._audience = audience
        self._pace = Pace()
        self._telling = Telling(audience)
        self._failure = LastFailure()
        self._worker = Worker(self._pace, self._take_turn, self._fail)
        self._validating = None if validator is None else Validating(validator, audience)
        self._no_validations = ValidationCurve()
        self._steps_here = 0
        self._bench = Bench(
            construction,
            self._trainer,
            settings,
            audience,
            self._telling,
            self._pace,
            self._validating,
        )
        self._loops = UserLoops(
            self._bench,
            self._pace,
            audience,
            self._telling,
            self._worker,
            self._come_to_rest,
            self._validating,
        )
        self._bench.begin(self._loops.before_step, self._loops.after_step)
        _open_sessions.add(self)

    # -- what is there ---------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the knobs say now."""
        return self._bench.settings

    @property
    def model(self) -> nn.Module:
        """The model of the present run."""
        return self._bench.run.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the present run."""
        return self._bench.run.optimizer

    @property
    def learning_rate(self) -> float | None:
        """The first parameter group's learning rate; None where it has none."""
        return learning_rate_of(self.optimizer)

    @property
    def coming_options(self) -> list[dict[str, Any]]:
        """Learning rate and weight decay of each parameter group, as the next step has them."""
        return self._bench.run.steering.coming()

    def model_at_the_beginning(self) -> nn.Module:
        """Return a copy of the model as the present run began with it."""
        return self._bench.run.at_the_beginning()

    @property
    def own_weight_decay(self) -> float | None:
        """The greatest weight decay of a parameter group before any steering; or None."""
        return self._bench.run.steering.own_weight_decay

    @property
    def tweaks(self) -> tuple[Tweak, ...]:
        """What has been changed in the model of the present run."""
        return tweaks_of(self.model)

    @property
    def history(self) -> History:
        """The readings of the present run; waits for those still on the device."""
        history = self._bench.run.probe.history
        self._telling.tell()
        return history

    @property
    def validations(self) -> ValidationCurve:
        """The validations of the present run; at rest, with that of the latest step.

        Raises:
            Exception: what the model or the objective raised on the validation data.
        """
        if self._validating is None:
            return self._no_validations
        if self._nobody_steps and not self.failure:
            with self._bench.stepping():
                self._bench.validate_at_rest(whatever_it_takes=True)
        return self._validating.curve

    @property
    def _nobody_steps(self) -> bool:
        loops = self._loops
        return self._pace.is_over and not (self._steps_here or loops.under_way or loops.foreign)

    @property
    def first_nonfinite(self) -> NonFinite | None:
        """The first tensor of the present run that was not finite."""
        return self._bench.run.fault.found

    @property
    def failure(self) -> str:
        """What stopped the training, in one line without a full stop; "" if nothing did."""
        return self._failure.text

    @property
    def playing(self) -> bool:
        """Whether steps follow one another until somebody pauses."""
        return self._pace.playing

    @property
    def at_rest(self) -> bool:
        """Whether no further step will begin by itself."""
        return self._pace.at_rest

    @property
    def closed(self) -> bool:
        """Whether the session has been stopped."""
        return self._pace.stopped

    @property
    def can_train(self) -> bool:
        """Whether there is an objective and data, or a loop of the user's under way."""
        return self._trainer is not None or self._loops.under_way

    @property
    def foreign_loop(self) -> bool:
        """Whether a plain loop of the user's has stepped and its cell is not known to end."""
        return self._loops.foreign

    # -- changing the run ------------------------------------------------------------

    def check(self, **changes: Any) -> Settings:
        """Return the settings as ``changes`` would make them.

        Raises:
            ValueError: a value is out of range, the batch size larger than the data, or the
                regime none that can be had.
            RuntimeError: the session is closed.
        """
        self._check_open()
        settings = self._bench.checked(changes)
        if settings.regime != self.settings.regime and (reason := self.why_not(settings.regime)):
            raise ValueError(f"regime can't be changed: {reason}")
        return settings

    def why_no_other_optimizer(self) -> str:
        """Return why the kind of optimizer can't be changed, as a sentence; "" if it can."""
        if self._trainer is None or self._loops.under_way:
            return "your own loop holds the optimizer that it steps with."
        if self.learning_rate is None:
            return "the optimizer has no learning rate to hand on."
        return ""

    def why_no_regime(self) -> str:
        """Return why most of a regime can't be had at all, as a sentence; "" if it can."""
        if self._trainer is None:
            return "your own loop trains this model: give data with loss_fn or objective."
        return ""

    def why_not(self, regime: Regime) -> str:
        """Return why a regime can't be had, as a sentence; "" if it can, as far as is known."""
        ours = regime.of_our_steps
        of_the_loop = "your own loop makes its steps itself"
        if self._trainer is None:
            if ours:
                return (
                    f"{of_the_loop}, and {listed(ours)} needs ours: give data with loss_fn or "
                    "objective."
                )
            if regime.changes_model and not self._construction.is_factory:
                return (
                    "your own loop trains this model, and would not know of a changed copy: "
                    "give data with loss_fn or objective, or a factory as model."
                )
        # Any change of the cold part ends a loop that is under way.
        elif self._loops.under_way and ours and regime.cold == self.settings.regime.cold:
            return f"{of_the_loop}, and {listed(ours)} needs ours: wait() for it first."
        return ""

    def turn(self, **changes: Any) -> None:
        """Change settings: hot ones act at the next step, cold ones by a rebuild.

        A cold change ends a loop of the user's that is under way.

        Raises:
            ValueError: a value can't be used.
            CannotTweak: the model can't be changed so; the present run goes on unchanged.
            Exception: what a factory raised; likewise.
        """
        self._check_open()
        if self._bench.turn_hot(changes):
            return
        with self._changing_the_run():
            begins = self._bench.turn(changes, lambda: self._make_way(self._loops.drop))
        if begins:
            self._audience.state_changed()

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step: same seed, same run; with a new seed another one.

        A model from a factory is made anew from a new seed; a model given ready made keeps
        its first weights and sees other batches, but what knobs have drawn in a changed copy
        of it is drawn anew. A loop of the user's starts again, with the random state that it
        first began with, or one of the new seed.

        Raises:
            ValueError: ``seed`` can't be used.
            RuntimeError: the session is closed, or a loop under way can't be ended.
        """
        self.check(**({} if seed is None else {"seed": seed}))
        with self._changing_the_run():
            self._bench.reset(seed, lambda: self._make_way(lambda: self._loops.unwind(seed)))
        self._audience.state_changed()

    def _make_way(self, end_loop: Callable[[], object]) -> None:
        end_loop()
        self._failure.clear()

    @contextmanager
    def _changing_the_run(self) -> Iterator[None]:
        self._loops.check_no_foreign()
        with self._bench.changing():
            yield

    # -- play, pause, step, wait -----------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another.

        Raises:
            RuntimeError: there is nothing to train with, or the session is closed.
        """
        self._check_can_train()
        self._failure.clear()
        self._pace.play()
        self._worker.start()
        self._audience.state_changed()

    def pause(self) -> None:
        """Stop after the step under way."""
        self._pace.pause()
        self._audience.state_changed()

    def request_steps(self, count: int) -> int:
        """Pause after ``count`` more steps, without waiting for them.

        Raises:
            RuntimeError: there is nothing to train with, or the session is closed.
            ValueError: ``count`` is no whole number of at least 1.
        """
        count = checked_count("n", count)
        self._check_can_train()
        self._failure.clear()
        ticket = self._pace.ask(count)
        self._worker.start()
        self._audience.state_changed()
        return ticket

    def step(self, count: int = 1) -> None:
        """Run ``count`` steps and return when they are done, or called off by a pause.

        Raises:
            ValueError: ``count`` is no whole number of at least 1.
            RuntimeError: nothing to train with, closed, or called on the training thread.
            Exception: what the user's model or data raised.
        """
        self._check_not_on_thread("step()")
        ticket = self.request_steps(count)
        self._pace.wait_for_ticket(ticket)
        self._failure.raise_again()
        self._check_open()
        self.history  # noqa: B018 - waits for readings still on the device

    def wait(self, steps: int | None = None, timeout: float | None = None) -> bool:
        """Wait until ``steps`` more steps are done, or until the session comes to rest.

        Returns:
            False where ``timeout`` seconds ran out first.

        Raises:
            ValueError: ``steps`` is no whole number of at least 1.
            RuntimeError: the session rests already, so that no step would ever come; or it
                is called on the training thread.
            Exception: what the user's model or data raised.
        """
        self._check_not_on_thread("wait()")
        if steps is not None:
            steps = checked_count("steps", steps)
            self._failure.raise_again()
            self._check_open()
            if self._pace.is_over:
                raise RuntimeError("nothing is training: call play() before wait(steps=...).")
        reached = self._pace.wait(steps, timeout)
        self._failure.raise_again()
        self.history  # noqa: B018 - waits for readings still on the device
        return reached

    def steps(self, count: int) -> Iterator[Reading]:
        """Train in the calling thread and yield each step's reading.

        Raises:
            ValueError: ``count`` is no whole number of at least 1.
            RuntimeError: nothing to train with, closed, or a loop of the user's is under way.
            Exception: what the user's model or data raised.
        """
        count = checked_count("n", count)
        self._check_can_train()
        if self._loops.under_way:
            raise RuntimeError("your own loop is under way: wait() for it first.")
        return self._steps_in_this_thread(count)

    def _steps_in_this_thread(self, count: int) -> Iterator[Reading]:
        self._failure.clear()
        self.pause()
        self._steps_here += 1
        try:
            for number in range(1, count + 1):
                drawn = self._audience.next_is_drawn(may_wait=False, must=number == count)
                yield self._step_here(drawn)
            with self._bench.stepping():
                self._bench.validate_at_rest()
        finally:
            self._steps_here -= 1
            self._audience.state_changed()

    def _step_here(self, drawn: bool) -> Reading:
        with self._bench.stepping():
            self._check_open()
            try:
                self._one_step(drawn, asked=False)
                latest = self.history.latest
            except Exception as error:
                self._fail(error)
                raise
        assert latest is not None
        return latest

    def run(self, loop: Callable[[], object]) -> None:
        """Run the user's own training function on the session's thread, and play.

        Its optimizer steps pause, go on and end under the session's hand.

        Raises:
            TypeError: ``loop`` can't be called.
            RuntimeError: another loop is under way, the regime needs steps of our own, or the
                session is closed.
        """
        if not callable(loop):
            raise TypeError(
                f"loop must be a function without parameters, not {type(loop).__name__}."
            )
        with self._bench.stepping():
            self._check_open()
            if self._loops.under_way:
                raise RuntimeError("another loop is under way: wait() for it, or call reset().")
            if ours := self.settings.regime.of_our_steps:
                raise RuntimeError(
                    f"your own loop makes its steps itself, and {listed(ours)} needs ours: "
                    "set regime to None first."
                )
            self._loops.hand_over(loop)
        self.play()

    def loop_has_ended(self) -> None:
        """Note that the cell with the user's plain loop has ended, and validate what it did.

        Raises:
            Exception: what the model or the objective raised on the validation data.
        """
        self._loops.foreign_has_ended()
        with self._bench.stepping():
            self._bench.validate_at_rest()

    def stop(self) -> None:
        """End the thread and take every hook off; what was recorded stays.

        A loop of the user's is unwound where it steps next; if it does not step within
        ``PATIENCE`` seconds, the hooks stay until it does.
        """
        if not self._pace.stop():
            return
        if self._worker.is_current:
            if self._loops.is_running:
                return  # its hooks are being called; the thread takes them off at its end
        elif not self._worker.join(PATIENCE if self._loops.under_way else None):
            return
        self._let_go()

    def _let_go(self) -> None:
        self._bench.close()
        _open_sessions.discard(self)

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError(CLOSED)

    def _check_can_train(self) -> None:
        self._check_open()
        if not self.can_train:
            raise RuntimeError(
                "there is nothing to train with: give loss_fn and data, or hand your own "
                "loop to run(loop)."
            )

    def _check_not_on_thread(self, name: str) -> None:
        if self._worker.is_current:
            raise RuntimeError(
                f"{name} was called on the training thread, for which it would wait forever: "
                "call it from a cell."
            )

    # -- on the thread ---------------------------------------------------------------

    def _take_turn(self) -> None:
        if self._loops.under_way:
            self._loops.run(self._let_go)
        else:
            self._step_for_pace()

    def _fail(self, error: BaseException) -> None:
        self._failure.keep(error)
        self._pace.pause()
        try:
            self._come_to_rest()
        except Exception:
            # An observer has failed too; the first failure is the one to tell.
            _log.exception("the end of training could not be shown")

    def _come_to_rest(self) -> None:
        """Tell the audience of everything, also of what was still on the device."""
        self.history  # noqa: B018
        self._audience.state_changed()

    def _step_for_pace(self) -> None:
        if self._trainer is None:  # the loop that was to be played has just ended
            self.pause()
            return
        drawn = self._audience.next_is_drawn(may_wait=True, must=self._pace.next_is_last)
        with self._bench.stepping():
            if not self._pace.begin():  # paused, or asked to make way, while waiting for the page
                if self._pace.at_rest:
                    self._bench.validate_at_rest()
                return
            self._one_step(drawn, asked=True)
            if self._pace.at_rest:
                self._bench.validate_at_rest()
        if self._pace.at_rest:
            self._come_to_rest()

    def _one_step(self, drawn: bool, *, asked: bool) -> None:
        """Do one step, the step lock held, and tell the audience."""
        self._loops.foreign_has_ended()
        self._bench.own_step(drawn)
        try:
            self._telling.tell()
            self._bench.validate_if_due()
        finally:
            self._pace.count(asked=asked)


_open_sessions: weakref.WeakSet[TrainingSession] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """End the threads before the interpreter takes torch away from under them."""
    for session in list(_open_sessions):
        session.stop()

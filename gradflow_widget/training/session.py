"""TrainingSession: runs steps on a thread of its own, or watches the user's own loop.

What is trained stands on the bench, and who may step when is the pace's to say; both keep the
rules of locking. Steps are our own or those of the user's loops. Readings are told to the
audience when their step is over, so that whoever looks on may pause, reset or close the session.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..checked import checked_timeout, checked_whole
from ..measurement.reading import Reading
from .audience import Audience, Telling
from .batches import Batches
from .bench import Bench
from .construction import Construction
from .failure import LastFailure
from .loops import UserLoops
from .objective import Objective
from .openmp import end_idle_threads
from .own_loop import PATIENCE, check_loop
from .own_steps import OwnSteps
from .pace import Pace
from .present_run import PresentRun
from .refusals import Refusals
from .resting import Resting
from .settings import Settings
from .trainer import Trainer
from .validating import Validating
from .validation import ValidationCurve, Validator
from .worker import Worker


class TrainingSession(PresentRun):
    """Trains a model step by step under the hand of its settings.

    Made, it has its first run, of which nobody is told before :meth:`begin`.

    Args:
        construction: makes the model and its optimizer.
        objective: ``objective(model, batch)`` is the scalar to minimise; None where only
            the user's own loop trains.
        batches: where batches come from; None likewise.
        settings: the first settings.
        audience: who looks on.
        origin: the name of the argument that ``objective`` came from, for error messages.
        validator: evaluates beside the training; None: nothing is validated.
        shares_cores: see :class:`Bench`.

    Attributes:
        refusals: says what can't be changed, and why.

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
        shares_cores: bool = True,
    ) -> None:
        self._construction = construction
        self._trainer = (
            None if objective is None or batches is None else Trainer(objective, batches, origin)
        )
        self._audience = audience
        self._pace = Pace()
        self._awaited: set[int] = set()
        self._telling = Telling(audience)
        self._failure = LastFailure()
        self._validating = None if validator is None else Validating(validator, audience)
        self._no_validations = ValidationCurve()
        self._bench = Bench(
            construction,
            self._trainer,
            settings,
            audience,
            self._telling,
            self._pace,
            self._validating,
            shares_cores=shares_cores,
        )
        resting = Resting(self._bench, self._pace, audience, self._failure)
        self._worker = Worker(self._pace, self._take_turn, resting.fail, self._let_go)
        self._loops = UserLoops(
            self._bench,
            self._pace,
            audience,
            self._telling,
            self._worker,
            resting,
            self._validating,
        )
        self._own_steps = OwnSteps(
            self._bench, self._pace, audience, self._telling, self._loops, resting
        )
        self.refusals = Refusals(construction, self._loops, trains=self._trainer is not None)
        loops = self._loops
        self._bench.make_first(
            loops.before_step, loops.after_step, loops.may_train_here, self._making_way
        )
        _open_sessions.add(self)

    def begin(self) -> None:
        """Begin the first run: the audience is shown the network before any step."""
        self._bench.begin()

    # -- how it stands ---------------------------------------------------------------

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
        loops, callers = self._loops, self._own_steps.callers
        return self._pace.is_over and not (callers or loops.under_way or loops.foreign)

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
    def has_callers(self) -> bool:
        """Whether a caller of :meth:`steps` is between two of them."""
        return self._own_steps.callers > 0

    @property
    def steps_are_awaited(self) -> bool:
        """Whether a caller of :meth:`step` or :meth:`steps` is not done yet."""
        return bool(self._awaited) or self.has_callers

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

    @property
    def has_loop(self) -> bool:
        """Whether a loop of the user's was handed over and is not over."""
        return self._loops.under_way

    @property
    def is_on_its_thread(self) -> bool:
        """Whether the caller is on the thread of this session."""
        return self._worker.is_current

    @property
    def steps_are_missed(self) -> bool:
        """Whether gradients have come in this run, but no step of the optimizer."""
        probe = self._bench.run.probe
        return probe.waits_for_step and probe.coming_step == 1

    @property
    def loop_of_another(self) -> bool:
        """Whether that loop is run by another session, on that one's thread."""
        return self._loops.is_run_elsewhere

    # -- changing the run ------------------------------------------------------------

    def check(self, **changes: Any) -> Settings:
        """Return the settings as ``changes`` would make them.

        Raises:
            ValueError: a value is out of range, the batch size larger than the data, or the
                regime none that can be had.
            RuntimeError: the session is closed.
        """
        self._bench.check_open()
        settings, present = self._bench.checked(changes), self.settings.regime
        if settings.regime != present:
            reason = self.refusals.of_regime(settings.regime, present)
            if reason:
                raise ValueError(f"regime can't be changed: {reason}")
        return settings

    def turn(self, **changes: Any) -> None:
        """Change settings: hot ones act at the next step, cold ones by a rebuild.

        A cold change ends a loop of the user's that is under way.

        Raises:
            ValueError: a value can't be used.
            CannotTweak: the model can't be changed so; the present run goes on unchanged.
            Exception: what a factory raised; likewise.
        """
        self._bench.check_open()
        if self._bench.turn_hot(changes):
            return
        with self.standing_still():
            if self._bench.begins_anew(changes):
                self._loops.stand_still()
            begins = self._bench.turn(changes, lambda: self._make_way(self._loops.drop))
        if begins:
            self._audience.state_changed()

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step: same seed, same run; with a new seed another one.

        A model from a factory is made anew from a new seed; a model given ready made keeps
        its first weights and sees other batches, but what knobs have drawn in a changed copy
        of it is drawn anew. What depends on the batch size, the weights of "lsuv" and the order
        of a curriculum by loss, is that of the present one. An optimizer from a factory is made
        anew. A loop of the user's starts again, with the same optimizer and the random state that
        it first began with, or one of the new seed; where the new seed makes a new model, it ends,
        as by a cold change. Steps that were asked for are called off.

        Raises:
            ValueError: ``seed`` can't be used.
            RuntimeError: the session is closed, or a loop under way can't be ended.
        """
        self.check(**({} if seed is None else {"seed": seed}))
        with self.standing_still():
            self._loops.stand_still()
            # One that goes on may hold the model before, which it would train unseen.
            ends_loop = self._bench.makes_another_model(seed)
            let_go = self._loops.drop if ends_loop else self._loops.unwind
            self._bench.reset(
                seed,
                lambda: self._make_way(lambda: let_go(seed)),
                keeps_optimizer=self._loops.under_way,
            )
            self._pace.call_off()
        self._audience.state_changed()

    def _make_way(self, end_loop: Callable[[], object]) -> None:
        end_loop()
        self._failure.clear()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let no step of our own begin inside the ``with``; one that plays goes on after it.

        Raises:
            RuntimeError: the session is closed, the user's own loop is under way in a cell, or
                the caller is within a step.
        """
        self._loops.check_no_foreign()
        if self._bench.is_in_own_step:
            raise RuntimeError(
                "the model, its objective or its data can't begin another run within a step: "
                "do it from a cell."
            )
        with self._bench.changing():
            yield

    @contextmanager
    def _making_way(self) -> Iterator[None]:
        """Let no step begin inside the ``with``, but for who is called within one."""
        if self.closed or self._worker.is_current or self._bench.is_in_own_step:
            yield
            return
        with self._bench.changing():
            self._loops.stand_still()
            yield

    # -- play, pause, step, wait -----------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another.

        Raises:
            RuntimeError: there is nothing to train with, the session is closed, or a loop of the
                user's is under way in another thread.
        """
        self._check_can_train()
        self._failure.clear()
        end_idle_threads()
        self._pace.play()
        self._worker.start()
        self._audience.state_changed()

    def pause(self) -> None:
        """Stop after the step under way, for which nobody waits here."""
        self._pace.pause()
        self._audience.state_changed()

    def pause_after_step(self) -> None:
        """Pause, and wait, boundedly, until the step under way is done.

        Not for a step within which this is called.
        """
        self.pause()
        if not (self._worker.is_current or self._bench.is_in_own_step):
            self._pace.wait(None, PATIENCE)

    def request_steps(self, count: int) -> int:
        """Pause after ``count`` more steps, without waiting for them.

        Raises:
            RuntimeError: there is nothing to train with, the session is closed, or a loop of the
                user's is under way in another thread.
            ValueError: ``count`` is no whole number of at least 1.
        """
        count = checked_whole("n", count)
        self._check_can_train()
        self._failure.clear()
        end_idle_threads()
        ticket = self._pace.ask(count)
        self._worker.start()
        self._audience.state_changed()
        return ticket

    def step(self, count: int = 1) -> None:
        """Run ``count`` steps and return when they are done, or called off by a pause.

        What has stopped the steps before is raised first, where nobody has heard of it yet.

        Raises:
            ValueError: ``count`` is no whole number of at least 1.
            RuntimeError: nothing to train with, closed, or called on the training thread or by
                whoever is told of a step of :meth:`steps`.
            Exception: what the user's model or data raised.
            KeyboardInterrupt: while waiting; what is left of the steps is called off.
        """
        self._worker.check_not_current("step()")
        self._own_steps.check_not_within("step()")
        self._failure.raise_once()
        ticket = self.request_steps(count)
        self._awaited.add(ticket)
        try:
            self._pace.wait_for_ticket(ticket)
        except BaseException:
            self.pause()
            raise
        finally:
            self._awaited.discard(ticket)
        self._failure.raise_again()
        self._bench.check_open()
        self.history  # noqa: B018 - waits for readings still on the device

    def wait(self, steps: int | None = None, timeout: float | None = None) -> bool:
        """Wait until ``steps`` more steps are done, or until the session comes to rest.

        Returns:
            False where ``timeout`` seconds ran out first.

        Raises:
            ValueError: ``steps`` is no whole number of at least 1, or ``timeout`` no number from 0.
            RuntimeError: the session rests already, so that no step would ever come; or it
                is called on the training thread.
            Exception: what the user's model or data raised.
        """
        timeout = checked_timeout(timeout)
        self._worker.check_not_current("wait()")
        self._own_steps.check_not_within("wait()")
        end_idle_threads()
        if steps is not None:
            steps = checked_whole("steps", steps)
            self._failure.raise_again()
            self._bench.check_open()
            if self._pace.is_over:
                raise RuntimeError("nothing is training: call play() before wait(steps=...).")
        reached = self._pace.wait(steps, timeout)
        self._failure.raise_again()
        self.history  # noqa: B018 - waits for readings still on the device
        return reached

    def steps(self, count: int) -> Iterator[Reading]:
        """Train in the calling thread and yield each step's reading.

        What has stopped the steps before is raised first, where nobody has heard of it yet.

        Raises:
            ValueError: ``count`` is no whole number of at least 1.
            RuntimeError: nothing to train with, closed, or a loop of the user's is under way; or
                called within a step.
            Exception: what the user's model or data raised.
        """
        count = checked_whole("n", count)
        self._worker.check_not_current("steps()")
        self._own_steps.check_not_within("steps()")
        self._check_can_train()
        self._loops.check_none_handed_over()
        return self._steps_in_this_thread(count)

    def _steps_in_this_thread(self, count: int) -> Iterator[Reading]:
        self._failure.raise_once()
        self._failure.clear()
        self.pause()
        yield from self._own_steps.here(count)

    def run(self, loop: Callable[[], object]) -> None:
        """Run the user's own training function on the session's thread, and play.

        Its optimizer steps pause, go on and end under the session's hand. One that was handed
        over before and is not over ends, and this one goes on from there.

        Raises:
            TypeError: ``loop`` can't be called without arguments.
            RuntimeError: the loop before is the caller itself or can't be ended, one is under way
                in another thread, the regime needs steps of our own, or the session is closed.
        """
        check_loop(loop)
        with self._bench.changing():
            self._loops.check_no_foreign()
            if reason := self.refusals.of_loop(self.settings.regime):
                raise RuntimeError(reason)
            self._loops.hand_over(loop)
        self.play()

    def cell_begins(self, cell: str) -> None:
        """Take in that a cell begins; run again after a reset, a plain loop in it repeats itself.

        Args:
            cell: what tells it from all other cells.
        """
        self._loops.cell_begins(cell)

    def cell_ends(self) -> None:
        """Take in that it has ended."""
        self._loops.cell_ends()

    def end_loop(self) -> None:
        """End a loop that was handed over, where one is under way.

        Raises:
            RuntimeError: it is the caller itself, or does not come to a step in time.
        """
        if self._loops.under_way:
            with self._bench.changing():
                self._loops.end()
            self._audience.state_changed()

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

        A loop of the user's is unwound where it steps next. If neither that nor the step under
        way, which may wait for data, ends within ``PATIENCE`` seconds, the hooks stay until it
        does.
        """
        if not self._pace.stop():
            return
        if self._worker.is_current:
            if self._loops.is_running:
                return  # its hooks are being called; the thread takes them off at its end
        elif not self._worker.join(PATIENCE):
            self._bench.run.is_left = True
            return
        self._let_go()

    def _let_go(self) -> None:
        self._bench.close()
        self._failure.let_go()
        _open_sessions.discard(self)

    def _check_can_train(self) -> None:
        self._bench.check_open()
        if not self.can_train:
            raise RuntimeError(
                "there is nothing to train with: give loss_fn and data, or hand your own "
                "loop to run(loop)."
            )
        self._loops.check_no_foreign()

    def _take_turn(self) -> None:
        if self._loops.under_way:
            self._loops.run()
        elif self._trainer is None:  # the loop that was to be played has just ended
            self.pause()
        else:
            self._own_steps.for_pace()


_open_sessions: weakref.WeakSet[TrainingSession] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """End the threads before the interpreter takes torch away from under them."""
    for session in list(_open_sessions):
        session.stop()

"""The user's own loops on the present run: one handed to the session, or one in a cell."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from .audience import Audience, Telling
from .bench import Bench
from .own_loop import LoopStopped, OwnLoop
from .pace import Pace
from .randomness import RandomState
from .repeated_cells import RepeatedCells
from .resting import Resting
from .validating import Validating
from .worker import TrainingThread, Worker


class UserLoops:
    """Comes in between the steps of loops that are not ours.

    Args:
        bench: what they train.
        pace: who says when they may go on.
        audience: who looks on.
        telling: how readings are told.
        worker: the thread on which a loop that was handed over runs.
        resting: brings training to rest.
        validating: counts the steps that are to be validated; None: nothing is.
    """

    def __init__(
        self,
        bench: Bench,
        pace: Pace,
        audience: Audience,
        telling: Telling,
        worker: Worker,
        resting: Resting,
        validating: Validating | None,
    ) -> None:
        self._bench, self._pace = bench, pace
        self._audience, self._telling = audience, telling
        self._worker, self._resting = worker, resting
        self._validating = validating
        self._loop: OwnLoop | None = None
        # Where the latest loop, which is over, began to draw random numbers.
        self._began_at: RandomState | None = None
        # The seed under which a loop first began, and where: what no seed brings back.
        self._first: tuple[int, RandomState] | None = None
        self._foreign: threading.Thread | None = None
        self._cells = RepeatedCells()

    # -- one that was handed over ----------------------------------------------------

    @property
    def under_way(self) -> bool:
        """Whether a loop was handed over and is not over."""
        return self._loop is not None

    @property
    def is_running(self) -> bool:
        """Whether it runs now, or stands between two steps."""
        return self._loop is not None and self._loop.is_running

    def check_none_handed_over(self) -> None:
        """Raise RuntimeError where a loop was handed over and is not over."""
        if self.under_way:
            raise RuntimeError("your own loop is under way: wait() for it first.")

    def hand_over(self, function: Callable[[], object]) -> None:
        """Take the user's training function, to be run by :meth:`run`; one under way ends.

        Raises:
            RuntimeError: that is the caller itself, or does not come to a step in time.
        """
        if self._loop is not None and self._worker.is_current:
            raise RuntimeError("your own loop can't start another: call run() from a cell.")
        self.end()
        self._foreign = None
        self._loop = OwnLoop(function, self._pace)

    def run(self) -> None:
        """Run it to its end on the worker's thread.

        Raises:
            BaseException: what it raised of its own accord.
            RuntimeError: it has not made one step.
        """
        loop = self._loop
        if loop is None or not loop.begin():
            return
        probe, pace = self._bench.run.probe, self._pace
        probe.full = self._audience.next_is_drawn(
            probe.coming_step, may_wait=True, must=pace.next_is_last
        )
        failure = loop.run()
        if not loop.has_ended:
            return
        with self._bench.stepping():
            if self._loop is not loop:  # another was handed over meanwhile
                return
            self._loop, self._began_at = None, loop.begins_at
            if failure is None and not loop.has_stepped:
                failure = RuntimeError(
                    "your own loop has ended without a step() of the optimizer that the widget "
                    "was given, so that nothing could be recorded."
                )
            if failure is not None:
                raise failure
            self._pace.pause()
            self._bench.validate_at_rest()
        self._resting.come_to_rest()

    def stand_still(self) -> None:
        """Wait until it stands between two steps, where it stays within Pace.changing().

        Raises:
            RuntimeError: it is the caller itself, or does not come to a step in time.
        """
        loop = self._loop_of_another()
        if loop is not None:
            loop.stand_still()

    def unwind(self, seed: int | None = None) -> None:
        """Unwind it, to be repeated.

        Of one that is over the random state comes back that it began with: handed over again, it
        repeats itself. So does a plain one when its cell is run again. With another ``seed`` than
        the present one, what follows draws from that.

        Raises:
            RuntimeError: it is the caller itself, or does not come to a step in time.
        """
        loop = self._loop_of_another()
        if loop is not None:
            loop.unwind(self._beginning(loop.begins_at, seed))
        elif self._began_at is not None:
            self._began_at = self._beginning(self._began_at, seed)
            self._began_at.put()
        present = self._bench.settings.seed
        self._cells.reset(present, present if seed is None else seed)

    def _beginning(self, latest: RandomState, seed: int | None) -> RandomState:
        """Return where a loop begins that began at ``latest`` under the present seed."""
        present = self._bench.settings.seed
        if seed is None or seed == present:
            return latest
        if self._first is None:
            self._first = present, latest
        first_seed, first = self._first
        return first if seed == first_seed else RandomState.seeded(seed)

    def _loop_of_another(self) -> OwnLoop | None:
        if self._loop is not None and self._worker.is_current:
            raise RuntimeError("your own loop can't reset itself: call reset() from a cell.")
        return self._loop

    def drop(self, seed: int | None = None) -> None:
        """End it; the random state comes back that it, or the latest one, began with.

        With another ``seed`` than the present one, what follows draws from that.

        Raises:
            RuntimeError: it is the caller itself, or does not come to a step in time.
        """
        self.end()
        self.unwind(seed)

    def end(self) -> None:
        """Unwind it for good; random numbers go on from where they are.

        Raises:
            RuntimeError: it is the caller itself, or does not come to a step in time.
        """
        loop = self._loop_of_another()
        if loop is not None:
            loop.unwind(loop.begins_at)
            loop.call_off()
            self._loop, self._began_at = None, loop.begins_at
            self._pace.pause()

    # -- one in a cell ---------------------------------------------------------------

    def cell_begins(self, cell: str) -> None:
        """Take in that a cell begins, in which the user may train."""
        self._cells.begins(cell)

    def cell_ends(self) -> None:
        """Take in that it has ended."""
        self._cells.ends()

    @property
    def foreign(self) -> bool:
        """Whether a plain loop of the user's has stepped and its cell is not known to end."""
        return self._foreign is not None

    @property
    def is_run_elsewhere(self) -> bool:
        """Whether that loop runs on the thread of another session, so in no cell."""
        return isinstance(self._foreign, TrainingThread)

    @property
    def is_in_another_thread(self) -> bool:
        """Whether that loop is on a thread that lives and is not the caller's."""
        foreign = self._foreign
        return (
            foreign is not None and foreign.is_alive() and foreign is not threading.current_thread()
        )

    def foreign_has_ended(self) -> None:
        """Note that the cell with the user's plain loop has ended, or that we step ourselves."""
        self._foreign = None
        if self._validating is not None:
            self._validating.loop_rests()

    def _other_session_rests(self) -> None:
        """Take in that the loop stands or has ended which another session runs."""
        if self._pace.stopped or not self.is_run_elsewhere:
            return
        self.foreign_has_ended()
        try:
            with self._bench.stepping():
                self._bench.validate_at_rest()
        except Exception as error:
            self._resting.fail(error)
        else:
            self._resting.come_to_rest()

    def check_no_foreign(self) -> None:
        """Raise RuntimeError where a plain loop in another thread may be between two steps."""
        if self.is_in_another_thread:
            raise RuntimeError(
                "your own loop is training this model under another widget: pause it there."
                if self.is_run_elsewhere
                else "your own loop is training this model in a cell: wait until it has "
                "ended, or hand it to run(loop)."
            )
        if self._foreign is threading.current_thread():
            self._foreign = None

    # -- around each optimizer step --------------------------------------------------

    def may_train_here(self) -> bool:
        """Whether no other thread than the caller's is training the model now."""
        if self._bench.is_in_own_step or self._pace.at_rest:
            return True
        loop = self._loop
        return loop is not None and (self._worker.is_current or not loop.is_running)

    def before_step(self, *_: Any) -> None:
        """Look for a NaN in a loop that is not ours, while the weights still are as they were.

        Raises:
            RuntimeError: it is a plain one, and the session, or a loop that was handed over,
                makes steps just now.
            LoopStopped: it was told to end, and has called no module since; or the session that
                it was handed to is closed, and it has gone over to another optimizer, past that
                session's hooks.
        """
        if self._bench.is_in_own_step:
            return
        if self._loop is not None and self._loop.is_ending and self._worker.is_current:
            raise LoopStopped
        thread = threading.current_thread()
        if isinstance(thread, TrainingThread) and thread.is_left and not self._worker.is_current:
            raise LoopStopped
        if not self.may_train_here():
            raise RuntimeError(
                "the widget is training this model itself: pause() it before a loop of your own "
                "steps, or hand the loop to run(loop)."
                if self._loop is None
                else "the loop that was handed to run() is training this model: pause() it before "
                "another steps."
            )
        run = self._bench.run
        if run.fault.found is None:
            loss = run.probe.loss_so_far
            if loss is not None and not math.isfinite(loss):
                run.fault.look_again(run.probe.coming_step)

    def after_step(self, *_: Any) -> None:
        """Come in between two steps of a loop that is not ours."""
        if self._bench.is_in_own_step:
            return
        bench, probe, pace = self._bench, self._bench.run.probe, self._pace
        pace.announce()
        self._telling.tell()
        if self._validating is not None:
            self._validating.loop_stepped()
        bench.validate_if_due()
        loop = self._loop
        if loop is not None and loop.is_running and self._worker.is_current:
            pace.count(asked=True)
            if pace.at_rest:
                bench.validate_at_rest()
                self._resting.come_to_rest()
                self._worker.tell_guests()
            while loop.hold():
                probe.full = self._audience.next_is_drawn(
                    probe.coming_step, may_wait=True, must=pace.next_is_last
                )
                if not pace.at_rest:
                    self._loop_goes_on()
                    break
            return
        if pace.stopped:
            return
        known, self._foreign = self._foreign, threading.current_thread()
        if known is not self._foreign and isinstance(self._foreign, TrainingThread):
            self._foreign.call_at_rest(self._other_session_rests)
        if known is None:
            self._cells.trains(bench.settings.seed)
            self._resting.goes_on()
            self._audience.state_changed()
        pace.count(asked=False)
        # In a cell nobody could hear the page that is waited for.
        probe.full = self._audience.next_is_drawn(probe.coming_step, may_wait=self.is_run_elsewhere)
        self._loop_goes_on()

    def _loop_goes_on(self) -> None:
        if self._validating is not None:
            self._validating.loop_goes_on()

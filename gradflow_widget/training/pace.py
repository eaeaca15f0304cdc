"""Pace: who may step when. Play, pause, so many steps, wait, stop; no torch.

One lock guards all of it, and nobody else's code is called while it is held. A thread
that works asks for each step with :meth:`Pace.begin`; whoever changes the run announces
itself with :meth:`Pace.changing` and is let in between two steps. A step counts as done
once it is trained and as told once the audience knows of it; waiting threads wait for the
second, so that they find everything up to date.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """Play, pause, so many steps, stop."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Who steps waits for a turn, everybody else for something to be met. A thread that
        # is woken for nothing contends for the interpreter: 0.1 ms a step were measured.
        self._turn = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._hopes: list[Callable[[], bool]] = []
        self._playing = False
        self._stopped = False
        self._changers = 0
        # Steps that somebody waits for: asked for, done or called off, and told of.
        self._asked = self._served = self._told = 0
        self._steps = self._steps_told = self._announced = 0
        # Between a step's permission and the moment when its audience knows of it.
        self._working = False

    @property
    def playing(self) -> bool:
        """Whether steps follow one another until somebody pauses."""
        return self._playing

    @property
    def stopped(self) -> bool:
        """Whether there will be no more steps."""
        return self._stopped

    @property
    def at_rest(self) -> bool:
        """Whether no further step will begin."""
        return self._stopped or not (self._playing or self._asked > self._served)

    @property
    def next_is_last(self) -> bool:
        """Whether the coming step is the last one asked for."""
        return not self._playing and self._asked - self._served == 1

    # -- the user's hand -------------------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another."""
        with self._lock:
            self._playing = not self._stopped
            self._turn.notify_all()

    def pause(self) -> None:
        """Let no further step begin; those asked for are called off."""
        with self._lock:
            self._rest()

    def ask(self, count: int) -> int:
        """Pause after ``count`` more steps; return a ticket for :meth:`wait_for_ticket`."""
        with self._lock:
            self._playing = False
            self._asked += count
            if self._stopped:
                self._rest()
            self._turn.notify_all()
            return self._asked

    def stop(self) -> bool:
        """Let no step begin ever again; return whether it was this call that did it."""
        with self._lock:
            first, self._stopped = not self._stopped, True
            self._rest()
            return first

    def call_off(self) -> None:
        """Call off the steps that were asked for; what plays goes on."""
        with self._lock:
            self._call_off()

    def _rest(self) -> None:
        self._playing = False
        self._call_off()

    def _call_off(self) -> None:
        self._served = self._asked
        if not self._working:
            self._told = self._served
        self._turn.notify_all()
        self._tell_who_waits()

    # -- waiting ---------------------------------------------------------------------

    def wait_for_ticket(self, ticket: int) -> None:
        """Wait until the steps of a ticket are done and told of, or called off."""
        with self._lock:
            self._wait_for(lambda: self._told >= ticket)

    def wait(self, steps: int | None, timeout: float | None) -> bool:
        """Wait for ``steps`` more steps, or until no step is under way and none will come.

        Returns:
            False where ``timeout`` seconds ran out first.
        """
        with self._lock:
            # Who waits may know already of one that is announced.
            goal = None if steps is None else max(self._steps, self._announced) + steps
            return self._wait_for(
                lambda: (
                    (self.at_rest and not self._working)
                    or (goal is not None and self._steps_told >= goal)
                ),
                timeout,
            )

    def _wait_for(self, met: Callable[[], bool], timeout: float | None = None) -> bool:
        self._hopes.append(met)
        try:
            return self._news.wait_for(met, timeout)
        finally:
            self._hopes.remove(met)

    def _tell_who_waits(self) -> None:
        if any(met() for met in self._hopes):
            self._news.notify_all()

    @property
    def working(self) -> bool:
        """Whether a step is under way, or a loop that does not stand between two of them."""
        return self._working

    @property
    def is_over(self) -> bool:
        """Whether no step is under way and none will come."""
        with self._lock:
            return self.at_rest and not self._working

    # -- who steps -------------------------------------------------------------------

    def wait_for_turn(self) -> bool:
        """Wait until steps are wanted and nobody changes the run; False once stopped."""
        with self._lock:
            self._turn.wait_for(lambda: self._stopped or self.may_begin)
            return not self._stopped

    @property
    def may_begin(self) -> bool:
        """Whether steps are wanted and nobody changes the run."""
        return not self.at_rest and not self._changers

    def begin(self, claim: Callable[[], None] | None = None) -> bool:
        """Take the permission for a step, or for a loop of them, if there still is one.

        ``claim`` is called with the lock held: it must be short and take no lock.
        """
        with self._lock:
            if not self.may_begin:
                return False
            self._working = True
            if claim is not None:
                claim()
            return True

    def announce(self) -> None:
        """Note that the audience is about to hear of a step, which is counted after that."""
        with self._lock:
            self._announced = self._steps + 1

    def count(self, *, asked: bool) -> None:
        """Count a step as done; ``asked``: it is one that :meth:`begin` gave."""
        with self._lock:
            self._steps += 1
            if asked and self._served < self._asked:
                self._served += 1
            if not self._working:
                self._tell()

    def end(self) -> None:
        """Give the permission back: the audience knows of all that was done."""
        with self._lock:
            self._working = False
            self._tell()

    def _tell(self) -> None:
        self._told, self._steps_told = self._served, self._steps
        self._tell_who_waits()

    def hold(self, must_end: Callable[[], bool]) -> bool:
        """Stand between two steps of a loop until it may go on; False where it must end.

        Nor does it go on while somebody changes the run.
        """
        with self._lock:
            self._working = False
            self._tell()
            self._turn.wait_for(lambda: self._stopped or must_end() or self.may_begin)
            self._working = True
            return not (self._stopped or must_end())

    # -- who changes the run ---------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep further steps from beginning, ahead of a session that plays."""
        with self._lock:
            self._changers += 1
        try:
            yield
        finally:
            with self._lock:
                self._changers -= 1
                self._turn.notify_all()

    def wake(self, change: Callable[[], None]) -> None:
        """Make a short change that waiting threads look at."""
        with self._lock:
            change()
            self._turn.notify_all()
            self._tell_who_waits()

    def wait_until(self, met: Callable[[], bool], timeout: float) -> bool:
        """Wait, boundedly, for something that is changed with :meth:`wake`."""
        with self._lock:
            return self._wait_for(met, timeout)

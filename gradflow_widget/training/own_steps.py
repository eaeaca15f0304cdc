"""Own steps: those that a session makes itself, on its thread or in the caller's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..measurement.reading import Reading
from .audience import Audience, Telling
from .bench import Bench
from .loops import UserLoops
from .pace import Pace
from .resting import Resting


class OwnSteps:
    """Makes steps on the bench, tells the audience of each, and validates where it is time.

    Args:
        bench: what is trained.
        pace: who may step when.
        audience: who looks on.
        telling: how readings are told.
        loops: the user's own loops, none of which is under way while we step.
        resting: brings training to rest.

    Attributes:
        callers: how many callers are stepping in threads of their own.
    """

    def __init__(
        self,
        bench: Bench,
        pace: Pace,
        audience: Audience,
        telling: Telling,
        loops: UserLoops,
        resting: Resting,
    ) -> None:
        self._bench, self._pace = bench, pace
        self._audience, self._telling = audience, telling
        self._loops, self._resting = loops, resting
        self.callers = 0
        self._stepping: int | None = None  # the thread of the caller whose step is under way

    def check_not_within(self, what: str) -> None:
        """Raise RuntimeError where ``what`` would wait for the step that it is called within."""
        if self._stepping == threading.get_ident():
            raise RuntimeError(
                f"{what} can't be called within a step: training would wait for itself."
            )

    def for_pace(self) -> None:
        """Make the step that the pace has given a turn for, unless it was called off since.

        Raises:
            Exception: what the user's model, loss, data or optimizer raised.
        """
        bench, pace = self._bench, self._pace
        drawn = self._is_drawn(may_wait=True, must=pace.next_is_last)
        with bench.stepping():
            if not pace.begin():  # paused, or asked to make way, while waiting for the page
                if pace.at_rest:
                    bench.validate_at_rest()
                return
            self._make(drawn)
            self._tell(asked=True)
            if pace.at_rest:
                bench.validate_at_rest()
        if pace.at_rest:
            self._resting.come_to_rest()

    def here(self, count: int) -> Iterator[Reading]:
        """Make ``count`` steps in the calling thread and yield each step's reading.

        Raises:
            RuntimeError: the session was closed meanwhile.
            Exception: what the user's model, loss, data or optimizer raised.
        """
        self.callers += 1
        try:
            for number in range(1, count + 1):
                drawn = self._is_drawn(may_wait=False, must=number == count)
                yield self._one_here(drawn)
            with self._bench.stepping():
                self._bench.validate_at_rest()
        finally:
            self.callers -= 1
            self._audience.state_changed()

    def _is_drawn(self, *, may_wait: bool, must: bool) -> bool:
        coming = self._bench.run.probe.coming_step
        return self._audience.next_is_drawn(coming, may_wait=may_wait, must=must)

    def _one_here(self, drawn: bool) -> Reading:
        with self._bench.stepping():
            self._bench.check_open()
            self._loops.check_none_handed_over()  # since the last of these steps
            self._stepping = threading.get_ident()
            try:
                self._make(drawn)
                # Now, for whoever is told of the step may reset the run, or begin another.
                latest = self._bench.run.probe.history.latest
                self._tell(asked=False)
            except Exception as error:
                self._resting.fail(error, is_heard=True)
                raise
            finally:
                self._stepping = None
        assert latest is not None
        return latest

    def _make(self, drawn: bool) -> None:
        """Make one step, the step lock held."""
        self._loops.foreign_has_ended()
        self._bench.own_step(drawn)

    def _tell(self, *, asked: bool) -> None:
        """Tell the audience of the step made, and validate where it is time."""
        self._pace.announce()
        try:
            self._telling.tell()
            self._bench.validate_if_due()
        finally:
            self._pace.count(asked=asked)

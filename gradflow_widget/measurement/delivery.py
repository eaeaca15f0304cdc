"""Delivery: from steps measured to readings, told in their order and recorded."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import torch

from ..uninterrupted import uninterrupted
from .history import History, nothing_is_missing
from .reading import Glance, Reading
from .step import Step, Watched

# Steps that nobody waits for are made into rows of the history so many at a time.
_TOGETHER = 64
_NOT_YET = object()


class Delivery:
    """Takes in measured steps, tells whoever listens, and records all in a history.

    Steps whose numbers are still on a device wait until these have arrived. Steps that hold
    nothing unusual are made into rows of the history many at a time, where nobody needs their
    Readings. A step leaves its queue when it is recorded, so that one whose recording is
    interrupted is recorded next, unless it was recorded already.

    Args:
        watched: the layers that the steps are of.
        history: where to record, and whose steps to go on counting; None: a new one.

    Attributes:
        watched: as above; another one may be set before the first step comes.
        on_reading: is told of each step's reading as soon as it is there.
        on_glance: is told, instead, of steps that hold nothing unusual.
    """

    def __init__(self, watched: Watched, history: History | None) -> None:
        self.watched = watched
        self.on_reading: Callable[[Reading], None] | None = None
        self.on_glance: Callable[[Glance], None] | None = None
        # Whoever gave a history of his own may look at it at any time.
        self._at_once = history is not None
        self._history = history if history is not None else History()
        self._recorded = self._history.steps_recorded
        if history is None:
            self._history.catch_up = self.catch_up
        self._pending: deque[Step] = deque()
        # Told of by a glance, and yet to be made into rows of the history.
        self._glanced: list[Step] = []
        # What is being recorded by itself: after an interrupt it is seen whether that has happened.
        self._under_way: tuple[Step, Reading] | None = None
        self._delivering = threading.Lock()
        # Recorded, and yet to be told of: by one thread at a time, whoever recorded them.
        self._outbox: deque[Reading | Glance] = deque()
        self._telling = threading.Lock()

    @property
    def history(self) -> History:
        """All readings so far; waits for those still on their way from the device."""
        self.catch_up()
        return self._history

    @property
    def steps(self) -> int:
        """How many steps have arrived."""
        self._deliver(wait=False)
        with self._delivering:
            return self._steps

    @property
    def coming_step(self) -> int:
        """The number of the step after all that were taken in; one that was skipped may count."""
        self._deliver(wait=False)
        with self._delivering:
            return self._steps + len(self._pending) + 1

    @property
    def _steps(self) -> int:
        return self._recorded + len(self._glanced)

    def tell_readings(self, listener: Callable[[Reading], None] | None) -> None:
        """Tell another of the readings that come from now on."""
        self._deliver(wait=False)
        self.on_reading = listener

    def tell_glances(self, listener: Callable[[Glance], None] | None) -> None:
        """Tell another of the glances that come from now on."""
        self._deliver(wait=False)
        self.on_glance = listener

    def take(self, step: Step) -> None:
        """Take in a step that is over."""
        self._pending.append(step)
        if (
            self._at_once
            or self.on_reading is not None
            or step.transfer is not None
            or len(self._pending) >= _TOGETHER
        ):
            self._deliver(wait=step.transfer is None)

    def catch_up(self) -> None:
        """Record all that was taken in, waiting for what is still on its way."""
        self._deliver(wait=True)
        with self._delivering:
            self._record_glanced()

    def close(self) -> None:
        """Record all that was taken in; the history then knows nothing of the model any more."""
        self.catch_up()
        if self._history.catch_up == self.catch_up:
            self._history.catch_up = nothing_is_missing

    def _deliver(self, *, wait: bool) -> None:
        while self._pending:
            with self._delivering:
                told = self._record_next(wait)
                if told is _NOT_YET:
                    return
                if isinstance(told, (Glance, Reading)):
                    self._outbox.append(told)
            self._tell()

    def _tell(self) -> None:
        while self._outbox and self._telling.acquire(blocking=False):
            try:
                while self._outbox:
                    told = self._outbox.popleft()
                    if isinstance(told, Glance):
                        if self.on_glance is not None:
                            self.on_glance(told)
                    elif self.on_reading is not None:
                        self.on_reading(told)
            finally:
                self._telling.release()

    def _record_next(self, wait: bool) -> object:
        """Record the step that has waited longest; where nobody hears of it, all at once."""
        pending = self._pending
        self._drop_what_is_recorded()
        if not pending or not (wait or pending[0].arrived()):
            return _NOT_YET
        if self.on_glance is not None and not self._at_once:
            glance = self._glance(pending[0])
            if glance is not None:
                if len(self._glanced) >= _TOGETHER:
                    self._record_glanced()
                # In this order: an interrupt between them leaves the step in both.
                self._glanced.append(pending[0])
                pending.popleft()
                return glance
        self._record_glanced()
        plain = 0
        if self.on_reading is None and len(pending) > 2:
            for step in pending:
                if not self.watched.is_plain(step):
                    break
                plain += 1
        if plain > 2:
            # The last of them has its Reading made: it is the latest.
            with uninterrupted():
                self._record_rows(list(islice(pending, plain - 1)))
                for _ in range(plain - 1):
                    pending.popleft()
        reading = self.watched.reading(pending[0], self._recorded + 1)
        if reading is not None:
            self._under_way = pending[0], reading
            self._history.append(reading)
            self._recorded = reading.step
        pending.popleft()
        self._under_way = None
        return reading

    def _drop_what_is_recorded(self) -> None:
        """Let a step leave the queue that was recorded, or told of, just before an interrupt."""
        pending = self._pending
        if self._under_way is not None:
            step, reading = self._under_way
            if self._history.ends_with(reading):
                self._recorded = reading.step
                if pending and pending[0] is step:
                    pending.popleft()
            self._under_way = None
        if pending and self._glanced and pending[0] is self._glanced[-1]:
            pending.popleft()

    def _glance(self, step: Step) -> Glance | None:
        """Return what can be told of a step without its Reading; None where that is needed."""
        if not self.watched.is_plain(step):
            return None
        if step.used is None or not step.used.finite:
            return None
        if step.loss_seen and not math.isfinite(step.loss):
            return None
        rate = step.learning_rates[0] if step.learning_rates else math.nan
        if isinstance(rate, torch.Tensor):
            return None
        return Glance(self._steps + 1, step.loss, rate, step.loss_seen, step.settings)

    def _record_glanced(self) -> None:
        """Record the steps that were told of by a glance; the last of them is the latest."""
        steps = self._glanced
        if not steps:
            return
        with uninterrupted():
            if len(steps) > 1:
                self._record_rows(steps[:-1])
                del steps[:-1]
            reading = self.watched.reading(steps[0], self._steps)
            assert reading is not None, "nothing skips a step that a device need not be asked about"
            self._history.append(reading)
            self._recorded = reading.step
            steps.clear()

    def _record_rows(self, steps: Sequence[Step]) -> None:
        rows = self.watched.rows(steps)
        self._history.append_rows(self.watched.described, self._recorded + 1, rows)
        self._recorded += len(steps)

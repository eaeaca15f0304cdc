"""Who looks on while a session trains, and how readings are told to them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from ..measurement.reading import Glance, Reading
from .validation import Validation


class Audience(Protocol):
    """Who looks on while a session trains."""

    def next_is_drawn(self, step: int, *, may_wait: bool, must: bool = False) -> bool:
        """Say whether the coming step will be drawn, waiting boundedly for room.

        ``step``: its number, from 1 in each run. ``must``: it is the last one that was asked for,
        and whoever asked wants to see it.
        """

    def record(self, reading: Reading | Glance) -> None:
        """Take in a step."""

    def validated(self, validation: Validation) -> None:
        """Take in a validation of the present run."""

    def begin_run(self, preview: Reading | None) -> None:
        """Take in that a new run begins, with a look at the network before any step."""

    def state_changed(self) -> None:
        """Take in that the session plays, pauses, has failed or has finished."""


class Telling:
    """Readings that the audience has yet to be told of, kept until their step is over.

    Whoever looks on may then pause, reset or close the session.
    """

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._untold: deque[Reading | Glance] = deque()
        self._telling = threading.Lock()

    def note(self, reading: Reading | Glance) -> None:
        """Keep a reading until :meth:`tell`."""
        self._untold.append(reading)

    def forget(self) -> None:
        """Drop what has not been told."""
        self._untold.clear()

    def tell(self) -> None:
        """Tell the audience of new readings, in their order; one thread at a time."""
        while self._untold and self._telling.acquire(blocking=False):
            try:
                while self._untold:
                    self._audience.record(self._untold.popleft())
            finally:
                self._telling.release()

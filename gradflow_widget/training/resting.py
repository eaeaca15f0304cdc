"""Resting: how training comes to rest, at its end or by a failure."""

from __future__ import annotations

import logging

from .audience import Audience
from .bench import Bench
from .failure import LastFailure
from .pace import Pace

_log = logging.getLogger(__name__)


class Resting:
    """Brings training to rest, with the audience knowing of everything that was done.

    Args:
        bench: what is trained.
        pace: who may step when.
        audience: who looks on.
        failure: keeps what stopped the training.
    """

    def __init__(self, bench: Bench, pace: Pace, audience: Audience, failure: LastFailure) -> None:
        self._bench, self._pace = bench, pace
        self._audience, self._failure = audience, failure

    def come_to_rest(self) -> None:
        """Tell the audience of everything, also of what was still on the device."""
        self._bench.history  # noqa: B018 - waits for readings still on the device
        self._audience.state_changed()

    def goes_on(self) -> None:
        """Forget what stopped the training."""
        self._failure.clear()

    def fail(self, error: BaseException, *, is_heard: bool = False) -> None:
        """Keep what was raised, pause, and come to rest.

        ``is_heard``: it goes on to be raised to whoever asked for the steps.
        """
        self._failure.keep(error, is_heard=is_heard)
        self._pace.pause()
        try:
            self.come_to_rest()
        except Exception:
            # An observer has failed too; the first failure is the one to tell.
            _log.exception("the end of training could not be shown")

"""The thread on which a session trains."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from .openmp import end_idle_threads
from .pace import Pace


class TrainingThread(threading.Thread):
    """A worker's thread. Who is stepped by what another session runs here is its guest."""

    def __init__(self, work: Callable[[], None], pace: Pace) -> None:
        super().__init__(target=work, name="gradflow-training", daemon=True)
        self._pace = pace
        self._guests: list[weakref.WeakMethod[Callable[[], None]]] = []

    def call_at_rest(self, guest: Callable[[], None]) -> None:
        """Call ``guest``, a method of what may go meanwhile, once when training rests here."""
        self._guests.append(weakref.WeakMethod(guest))

    @property
    def is_left(self) -> bool:
        """Whether its session is closed."""
        return self._pace.stopped

    def rests(self) -> None:
        """Tell the guests that training rests here."""
        guests, self._guests = self._guests, []
        for reference in guests:
            guest = reference()
            if guest is not None:
                guest()


class Worker:
    """A daemon thread that takes turn after turn, for as long as the pace gives them.

    Args:
        pace: who says when there is a turn, and when there will be no more.
        turn: does one.
        failed: takes what a turn has raised.
        ended: is called on the thread when the last turn is over.
    """

    def __init__(
        self,
        pace: Pace,
        turn: Callable[[], None],
        failed: Callable[[BaseException], None],
        ended: Callable[[], None],
    ) -> None:
        self._pace, self._turn, self._failed, self._ended = pace, turn, failed, ended
        self._thread: TrainingThread | None = None
        self._lock = threading.Lock()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def check_not_current(self, call: str) -> None:
        """Raise RuntimeError where ``call``, which waits for this thread, was made on it."""
        if self.is_current:
            raise RuntimeError(
                f"{call} was called on the training thread, for which it would wait forever: "
                "call it from a cell."
            )

    def start(self) -> None:
        """Start the thread where there is none yet and the pace has not stopped."""
        with self._lock:
            if self._thread is None and not self._pace.stopped:
                self._thread = TrainingThread(self._work, self._pace)
                self._thread.start()

    def tell_guests(self) -> None:
        """Tell other sessions that are stepped on this thread that training rests."""
        if self._thread is not None:
            self._thread.rests()

    def join(self, timeout: float | None) -> bool:
        """Wait for the end; False where it did not come in time."""
        thread = self._thread
        if thread is None or self.is_current:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _work(self) -> None:
        while self._wait_for_turn():
            try:
                self._turn()
            except BaseException as error:
                self._failed(error)
            finally:
                self._pace.end()
                if self._pace.at_rest:
                    self.tell_guests()
        self._ended()

    def _wait_for_turn(self) -> bool:
        if not self._pace.may_begin:
            end_idle_threads()
        return self._pace.wait_for_turn()

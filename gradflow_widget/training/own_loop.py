"""The user's own training function, run on the session's thread."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

from .openmp import end_idle_threads
from .pace import Pace
from .randomness import RandomState

# A loop can be ended only behind a step; how long to wait for that.
PATIENCE = 10.0
_NO_STEP = (
    "your own loop has not come to an optimizer step for {:.0f} seconds, "
    "where it could be ended: try again later."
)
_NO_MODULE = (
    "your own loop has called no module since its optimizer step for {:.0f} seconds, "
    "where it could be ended: try again later."
)


class LoopStopped(BaseException):
    """Unwinds the user's own loop when its session is stopped or reset."""


def check_loop(loop: object) -> None:
    """Raise TypeError where ``loop`` can't be called without arguments, as far as it tells."""
    if not callable(loop):
        raise TypeError(f"loop must be a function without parameters, not {type(loop).__name__}.")
    try:
        parameters = inspect.signature(loop).parameters.values()
    except (TypeError, ValueError):  # some in C tell nothing
        return
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        raise TypeError(
            f"loop must be a function without parameters, but it needs {', '.join(needed)}: "
            f"give run(lambda: loop({', '.join(needed)}))."
        )


class OwnLoop:
    """A training function and whether it runs; guarded by the pace's lock.

    A repeated loop begins with the random state that it first began with.

    Attributes:
        begins_at: that state.
        is_running: whether it runs, or stands between two steps.
        is_over: whether it will not run again.
        has_ended: whether that is of its own accord, by what it raised too.
        has_stepped: whether it has come to an optimizer step.
        is_ending: whether it was told to end, and is to make no further step.
    """

    def __init__(self, function: Callable[[], object], pace: Pace) -> None:
        self._function, self._pace = function, pace
        self.begins_at = RandomState()
        self._is_repeated = False
        self._must_end = False
        self.is_running = False
        self.is_over = self.has_ended = False
        self.has_stepped = False
        self.is_ending = False
        self._ending = ExitStack()

    def begin(self) -> bool:
        """Take the pace's permission to run, if there still is one."""
        return self._pace.begin(self._mark_running) and self.is_running

    def _mark_running(self) -> None:
        self.is_running = not self.is_over

    def call_off(self) -> None:
        """Let it not run again."""
        self.is_over = True

    def run(self) -> BaseException | None:
        """Run the function to its end, and return what it raised of its own accord."""
        failure: BaseException | None = None
        try:
            if self._is_repeated:
                self.begins_at.put()
            self._function()
        except LoopStopped:
            pass
        except BaseException as error:
            failure = error
        self._ending.close()
        self._pace.wake(self._leave)
        # What it raises on being unwound ends with it.
        return failure if self.has_ended else None

    def _leave(self) -> None:
        self.is_running = self.is_ending = False
        if not (self._must_end or self._pace.stopped):
            self.is_over = self.has_ended = True

    def hold(self) -> bool:
        """Stand between two steps until the loop may go on; False where it is to end.

        It ends by LoopStopped at the next module that it calls. Whoever wraps the optimizer, such
        as a GradScaler, has to finish the step: he would be left in the middle of it here.
        """
        self.has_stepped = True
        if not self._pace.may_begin:
            end_idle_threads()
        if self._pace.hold(lambda: self._must_end):
            return True
        if not self.is_ending:
            # With the process: a loader's workers are copies of this thread.
            self.is_ending, here = True, (os.getpid(), threading.get_ident())

            def end_here(*_: Any) -> None:
                if (os.getpid(), threading.get_ident()) == here:
                    self._ending.close()  # what tidies up behind it may call modules
                    raise LoopStopped

            self._ending.callback(register_module_forward_pre_hook(end_here).remove)
        return False

    def stand_still(self) -> None:
        """Wait until it stands between two steps, or has ended; call it within Pace.changing().

        Elsewhere it may be writing gradients, which torch lets nobody read meanwhile: it makes
        the process crash now and then.

        Raises:
            RuntimeError: it does not come to a step in time.
        """
        if not self._pace.wait_until(
            lambda: not (self.is_running and self._pace.working), PATIENCE
        ):
            raise RuntimeError(_NO_STEP.format(PATIENCE))

    def unwind(self, begins_at: RandomState) -> None:
        """End the function behind its next step; run again, it begins anew, at ``begins_at``.

        Raises:
            RuntimeError: it does not come to a step in time.
        """
        self._pace.wake(self._ask_to_end)
        self._pace.wait_until(lambda: not self.is_running, PATIENCE)
        was_ending = self.is_ending
        self._pace.wake(self._take_back)
        if self.is_running:
            raise RuntimeError((_NO_MODULE if was_ending else _NO_STEP).format(PATIENCE))
        self._is_repeated = True
        self.begins_at = begins_at

    def _ask_to_end(self) -> None:
        self._must_end = True

    def _take_back(self) -> None:
        """Let it go on, should it have neither ended nor been unwound so far."""
        self._must_end = False
        if self.is_running:
            self._ending.close()
            self.is_ending = False

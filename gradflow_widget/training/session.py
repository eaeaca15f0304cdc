"""TrainingSession: runs steps on a thread of its own, or watches the user's own loop.

One step at a time holds the step lock; whatever changes the run (reset, rebuild) announces
itself to the pace first, so that a session that plays makes way for it, and then takes the
same lock. The step lock comes before the pace's own, which nobody holds while calling anybody
else. Settings are one immutable value, replaced whole and read once per step.
Readings are told to the audience when their step is over, so that whoever looks on may
pause, reset or close the session.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from ..measurement.history import History
from ..measurement.nonfinite import NonFinite
from ..measurement.reading import Reading
from .batches import Batches
from .construction import Construction
from .failure import described
from .objective import Objective
from .own_loop import PATIENCE, OwnLoop
from .pace import Pace
from .run import Run, check_unwatched
from .settings import Settings, checked_count
from .trainer import Trainer

_log = logging.getLogger(__name__)
CLOSED = "this GradientFlow is closed: make a new one."


class Audience(Protocol):
    """Who looks on while a session trains."""

    def next_is_drawn(self, *, may_wait: bool, must: bool = False) -> bool:
        """Say whether the coming step will be drawn, waiting boundedly for room.

        ``must``: it is the last one that was asked for, and whoever asked wants to see it.
        """

    def record(self, reading: Reading) -> None:
        """Take in a step's reading."""

    def begin_run(self, preview: Reading | None) -> None:
        """Take in that a new run begins, with a look at the network before any step."""

    def state_changed(self) -> None:
        """Take in that the session plays, pauses, has failed or has finished."""


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
    ) -> None:
        self._construction = construction
        self._trainer = (
            None if objective is None or batches is None else Trainer(objective, batches, origin)
        )
        self._settings = self._settings_of_step = settings
        self._settings_lock = threading.Lock()
        self._audience = audience
        self._pace = Pace()
        self._step_lock = threading.RLock()
        self._own_step_on: int | None = None
        self._untold: deque[Reading] = deque()
        self._telling = threading.Lock()
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.Lock()
        self._loop: OwnLoop | None = None
        self._foreign: threading.Thread | None = None
        self.error: BaseException | None = None
        self._traceback: TracebackType | None = None
        model, optimizer = construction.build(settings)
        check_unwatched(optimizer)
        preview = self._preview(model, settings)
        self._run = self._watch(model, optimizer)
        self._begin_run(preview)
        _open_sessions.add(self)

    # -- what is there ---------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the knobs say now."""
        return self._settings

    @property
    def model(self) -> nn.Module:
        """The model of the present run."""
        return self._run.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the present run."""
        return self._run.optimizer

    @property
    def history(self) -> History:
        """The readings of the present run; waits for those still on the device."""
        history = self._run.probe.history
        self._tell()
        return history

    @property
    def first_nonfinite(self) -> NonFinite | None:
        """The first tensor of the present run that was not finite."""
        return self._run.fault.found

    @property
    def failure(self) -> str:
        """What stopped the training, in one line without a full stop; "" if nothing did."""
        return "" if self.error is None else described(self.error)

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
        return self._trainer is not None or self._loop is not None

    @property
    def foreign_loop(self) -> bool:
        """Whether a plain loop of the user's has stepped and its cell is not known to end."""
        return self._foreign is not None

    # -- making and changing the run -------------------------------------------------

    def _preview(self, model: nn.Module, settings: Settings) -> Reading | None:
        return None if self._trainer is None else self._trainer.preview(model, settings)

    def _watch(self, model: nn.Module, optimizer: Optimizer) -> Run:
        return Run(
            model,
            optimizer,
            self._read_settings,
            on_reading=self._on_reading,
            before_step=self._before_step,
            after_step=self._after_step,
        )

    def _begin_run(self, preview: Reading | None) -> None:
        if self._trainer is not None:
            self._trainer.restart(self._settings.seed)
        if preview is not None:
            self._run.probe.set_order(preview.layers)
        self._untold.clear()
        self.error = None
        self._audience.begin_run(preview)
        self._run.probe.full = self._audience.next_is_drawn(may_wait=False)

    def check(self, **changes: Any) -> Settings:
        """Return the settings as ``changes`` would make them.

        Raises:
            ValueError: a value is out of range, or the batch size larger than the data.
            RuntimeError: the session is closed.
        """
        self._check_open()
        settings = self._settings.replaced(**changes)
        size = None if self._trainer is None else self._trainer.samples
        if size is not None and (settings.batch_size or 0) > size:
            raise ValueError(
                f"batch_size is {settings.batch_size} but data has only {size} samples: "
                f"choose at most {size}."
            )
        return settings

    def turn(self, **changes: Any) -> None:
        """Change settings: hot ones act at the next step, cold ones by a rebuild.

        A cold change ends a loop of the user's that is under way.

        Raises:
            ValueError: a value can't be used.
            Exception: what a factory raised; the present run then goes on unchanged.
        """
        with self._settings_lock:
            settings = self.check(**changes)
            if settings.cold == self._settings.cold:
                self._settings = settings
                return
        with self._changing_the_run():
            model, optimizer, preview = self._made(self.check(**changes))
            if self._unwind_loop() and self._loop is not None:
                self._loop.call_off()
                self._loop = None
                self._pace.pause()
            self._replace(model, optimizer, preview, changes)
        self._audience.state_changed()

    def _made(self, settings: Settings) -> tuple[nn.Module, Optimizer, Reading | None]:
        model, optimizer = self._construction.build(settings)
        return model, optimizer, self._preview(model, settings)

    def _replace(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        preview: Reading | None,
        changes: dict[str, Any],
    ) -> None:
        if optimizer is self._run.optimizer:
            self._run.close()
            run = self._watch(model, optimizer)
        else:
            run = self._watch(model, optimizer)
            self._run.close()
        self._run = run
        with self._settings_lock:
            self._settings = self._settings.replaced(**changes)
        self._begin_run(preview)

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step: same seed, same run; with a new seed another one.

        A model from a factory is made anew from a new seed; a model given ready made keeps
        its first weights and sees other batches. A loop of the user's starts again, with
        the random state that it first began with, or one of the new seed.

        Raises:
            ValueError: ``seed`` can't be used.
            RuntimeError: the session is closed, or a loop under way can't be ended.
        """
        changes = {} if seed is None else {"seed": seed}
        self.check(**changes)
        with self._changing_the_run():
            settings = self.check(**changes)
            made = None
            if seed is not None and self._construction.is_factory:
                made = self._made(settings)
            self._unwind_loop(seed)
            if made is not None:
                self._replace(*made, changes)
            else:
                self._rewind(changes)
        self._audience.state_changed()

    def _rewind(self, changes: dict[str, Any]) -> None:
        self._run.rewind()
        with self._settings_lock:
            self._settings = self._settings.replaced(**changes)
        preview: Reading | None = None
        try:
            preview = self._preview(self.model, self._settings)
        finally:
            self._begin_run(preview)

    @contextmanager
    def _changing_the_run(self) -> Iterator[None]:
        """Hold the step lock, ahead of a session that plays."""
        foreign = self._foreign
        if foreign is not None and foreign.is_alive():
            if foreign is not threading.current_thread():
                raise RuntimeError(
                    "your own loop is training this model in a cell: wait until it has ended, "
                    "or hand it to run(loop)."
                )
            self._foreign = None
        with self._pace.changing(), self._step_lock:
            self._check_open()
            yield

    # -- play, pause, step, wait -----------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another.

        Raises:
            RuntimeError: there is nothing to train with, or the session is closed.
        """
        self._check_can_train()
        self.error = None
        self._pace.play()
        self._start_thread()
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
        self.error = None
        ticket = self._pace.ask(count)
        self._start_thread()
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
        self._raise_error()
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
            self._raise_error()
            self._check_open()
            if self._pace.is_over:
                raise RuntimeError("nothing is training: call play() before wait(steps=...).")
        reached = self._pace.wait(steps, timeout)
        self._raise_error()
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
        if self._loop is not None:
            raise RuntimeError("your own loop is under way: wait() for it first.")
        return self._steps_here(count)

    def _steps_here(self, count: int) -> Iterator[Reading]:
        self.error = None
        self.pause()
        try:
            for number in range(1, count + 1):
                drawn = self._audience.next_is_drawn(may_wait=False, must=number == count)
                yield self._step_here(drawn)
        finally:
            self._audience.state_changed()

    def _step_here(self, drawn: bool) -> Reading:
        with self._step_lock:
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
            RuntimeError: another loop is under way, or the session is closed.
        """
        if not callable(loop):
            raise TypeError(
                f"loop must be a function without parameters, not {type(loop).__name__}."
            )
        with self._step_lock:
            self._check_open()
            if self._loop is not None:
                raise RuntimeError("another loop is under way: wait() for it, or call reset().")
            self._foreign = None
            self._loop = OwnLoop(loop, self._pace)
        self.play()

    def stop(self) -> None:
        """End the thread and take every hook off; what was recorded stays.

        A loop of the user's is unwound where it steps next; if it does not step within
        ``PATIENCE`` seconds, the hooks stay until it does.
        """
        if not self._pace.stop():
            return
        thread, loop = self._thread, self._loop
        if thread is threading.current_thread():
            if loop is not None and loop.is_running:
                return  # its hooks are being called; the thread takes them off at its end
        elif thread is not None:
            thread.join(PATIENCE if loop is not None else None)
            if thread.is_alive():
                return
        self._let_go()

    def _let_go(self) -> None:
        with self._step_lock:
            self._run.close()
            if self._trainer is not None:
                self._trainer.restart(self._settings.seed)
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
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                f"{name} was called on the training thread, for which it would wait forever: "
                "call it from a cell."
            )

    def _raise_error(self) -> None:
        if self.error is not None:
            # Raising adds to a traceback; each time it begins where the user's code raised.
            raise self.error.with_traceback(self._traceback)

    # -- the thread ------------------------------------------------------------------

    def _start_thread(self) -> None:
        with self._thread_lock:
            if self._thread is None and not self.closed:
                self._thread = threading.Thread(
                    target=self._work, name="gradflow-training", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        while self._pace.wait_for_turn():
            try:
                if self._loop is not None:
                    self._run_loop(self._loop)
                else:
                    self._step_for_pace()
            except BaseException as error:
                self._fail(error)
            finally:
                self._pace.end()

    def _fail(self, error: BaseException) -> None:
        self.error, self._traceback = error, error.__traceback__
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
        with self._step_lock:
            if not self._pace.begin():
                return  # paused, or asked to make way, while waiting for the page
            self._one_step(drawn, asked=True)
        if self._pace.at_rest:
            self._come_to_rest()

    # -- a step ----------------------------------------------------------------------

    def _one_step(self, drawn: bool, *, asked: bool) -> None:
        """Do one step, the step lock held, and tell the audience."""
        assert self._trainer is not None
        self._foreign = None
        self._run.probe.full = drawn
        self._own_step_on = threading.get_ident()
        settings = self._settings_of_step = self._settings
        try:
            self._trainer.step(self._run, settings)
        finally:
            self._own_step_on = None
        try:
            self._tell()
        finally:
            self._pace.count(asked=asked)

    # -- the user's own loop ---------------------------------------------------------

    def _run_loop(self, loop: OwnLoop) -> None:
        if not loop.begin():
            return
        self._run.probe.full = self._audience.next_is_drawn(may_wait=False)
        failure = loop.run()
        if loop.is_over:
            self._loop = None
            if failure is not None:
                raise failure
            self._pace.pause()
            self._come_to_rest()
        elif self.closed:
            self._let_go()

    def _unwind_loop(self, seed: int | None = None) -> bool:
        """Unwind the user's loop, to be repeated; False where none is under way.

        Raises:
            RuntimeError: it is the caller itself, or does not come to a step in time.
        """
        loop = self._loop
        if loop is None:
            return False
        if threading.current_thread() is self._thread:
            raise RuntimeError("your own loop can't reset itself: call reset() from a cell.")
        loop.unwind(seed)
        return not loop.is_over

    def _before_step(self, *_: Any) -> None:
        """Look for a NaN in a loop that is not ours, while the weights still are as they were."""
        if self._own_step_on != threading.get_ident() and self._run.fault.found is None:
            loss = self._run.probe.loss_so_far
            if loss is not None and not math.isfinite(loss):
                self._run.fault.look_again(self._run.probe.steps + 1)

    def _after_step(self, *_: Any) -> None:
        """Come in between two steps of a loop that is not ours."""
        if self._own_step_on == threading.get_ident():
            return
        self._tell()
        probe, pace = self._run.probe, self._pace
        loop = self._loop
        if loop is not None and loop.is_running and threading.current_thread() is self._thread:
            pace.count(asked=True)
            if pace.at_rest:
                self._come_to_rest()
            while True:
                loop.hold()
                probe.full = self._audience.next_is_drawn(may_wait=True, must=pace.next_is_last)
                if not pace.at_rest:
                    return
        if self.closed:
            return
        known, self._foreign = self._foreign, threading.current_thread()
        if known is None:
            self._audience.state_changed()
        pace.count(asked=False)
        probe.full = self._audience.next_is_drawn(may_wait=False)

    def loop_has_ended(self) -> None:
        """Note that the cell with the user's plain loop has ended."""
        self._foreign = None

    # -- readings and settings of a step ---------------------------------------------

    def _read_settings(self) -> Settings:
        """Return the settings of the step under way: in our own, those it began with."""
        if self._own_step_on is None:
            self._settings_of_step = self._settings
        return self._settings_of_step

    def _on_reading(self, reading: Reading) -> None:
        self._run.fault.take(reading)
        self._untold.append(reading)

    def _tell(self) -> None:
        """Tell the audience of new readings, in their order; one thread at a time."""
        while self._untold and self._telling.acquire(blocking=False):
            try:
                while self._untold:
                    self._audience.record(self._untold.popleft())
            finally:
                self._telling.release()


_open_sessions: weakref.WeakSet[TrainingSession] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """End the threads before the interpreter takes torch away from under them."""
    for session in list(_open_sessions):
        session.stop()

"""TrainingSession: runs steps on a thread of its own, or watches the user's own loop.

One step at a time holds the step lock; whatever changes the run (reset, rebuild) announces
itself first, so that a session that plays makes way for it, and then takes the same lock.
Settings are one immutable value, replaced whole and read once per step. The audience (the
page, or nobody) decides which steps are drawn, and a session waits for it only between
steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

from ..measurement.history import History
from ..measurement.nonfinite import NonFinite, first_nonfinite, first_nonfinite_output
from ..measurement.probe import GradientProbe
from ..measurement.reading import Reading
from ..measurement.single import checked_loss, read_objective
from .batches import Batches, TensorBatches, on_device
from .construction import Construction
from .randomness import RandomStream
from .settings import Settings
from .snapshot import Snapshot
from .steering import Steering

Objective = Callable[[nn.Module, Any], torch.Tensor]


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


class LoopStopped(BaseException):
    """Unwinds the user's own loop when its session is stopped or reset."""


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
        TypeError, ValueError: the model, optimizer or objective can't be trained; see
            :class:`GradientProbe` and :func:`checked_loss`.
        RuntimeError: the first forward pass failed.
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
        self._objective = objective
        self._batches = batches
        self._settings = self._settings_of_step = settings
        self._audience = audience
        self._origin = origin
        self._random = RandomStream(
            settings.seed, every_source=not isinstance(batches, TensorBatches | None)
        )
        self._step_lock = threading.RLock()
        self._changed = threading.Condition()
        self._changers = 0
        self._playing = False
        self._due = 0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._loop: Callable[[], object] | None = None
        self._loop_is_running = False
        self._loop_must_end = False
        self._in_own_step = False
        self._steps_done = 0
        self.error: BaseException | None = None
        self.foreign_loop = False
        self.first_nonfinite: NonFinite | None = None
        with self._random():
            model, optimizer = construction.build(settings)
        self._attach(model, optimizer, self._preview(model, settings))

    # -- what is there ---------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """What the knobs say now."""
        return self._settings

    @property
    def history(self) -> History:
        """The readings of the present run."""
        return self.probe.history

    @property
    def playing(self) -> bool:
        """Whether steps follow one another until somebody pauses."""
        return self._playing

    @property
    def step_number(self) -> int:
        """Steps done in the present run."""
        return self.probe.steps

    @property
    def can_train(self) -> bool:
        """Whether there is an objective and data, or a loop of the user's under way."""
        return self._objective is not None or self._loop is not None

    @property
    def runs_loop(self) -> bool:
        """Whether a loop of the user's is under way on the session's thread."""
        return self._loop is not None

    # -- making and changing the run -------------------------------------------------

    def _preview(self, model: nn.Module, settings: Settings) -> Reading | None:
        """Look at a network before any step: one forward and backward on the first batch."""
        if self._objective is None or self._batches is None:
            return None
        with self._random():
            self._batches.restart(settings.seed)
            try:
                batch = self._next_batch(model, settings)
                reading = read_objective(model, self._objective, batch, origin=self._origin)
            except (TypeError, ValueError):
                raise
            except Exception as error:
                raise RuntimeError(
                    f"model failed on the first batch with {type(error).__name__}: {error} "
                    "— check that the data fit the model."
                ) from error
            finally:
                self._batches.restart(settings.seed)
        return reading

    def _attach(self, model: nn.Module, optimizer: Optimizer, preview: Reading | None) -> None:
        """Put hooks on a new pair and make it the present run."""
        steering = Steering(optimizer, lambda: self._read_settings())
        try:
            probe = GradientProbe(model, optimizer)
        except BaseException:
            steering.close()
            raise
        steering.follow(probe)
        probe.on_reading = self._on_reading
        if preview is not None:
            probe.set_order(preview.layers)
        self.model, self.optimizer = model, optimizer
        self.probe, self._steering = probe, steering
        self._loop_hook = optimizer.register_step_post_hook(self._after_step)
        self._snapshot = Snapshot(model, optimizer)
        self._random.restart(self._settings.seed)
        self.first_nonfinite = None
        self.error = None
        self._audience.begin_run(preview)
        probe.full = self._audience.next_is_drawn(may_wait=False)

    def _detach(self) -> None:
        self.probe.close()
        self._steering.close()
        self._loop_hook.remove()

    def apply(self, settings: Settings) -> None:
        """Take over new settings: hot ones at the next step, cold ones by a rebuild.

        Raises:
            ValueError: the batch size is larger than the data.
            Exception: what a factory raised; the present run then goes on unchanged.
        """
        self.check_batch_size(settings)
        if settings.cold == self._settings.cold:
            self._settings = settings
            return
        with self._exclusive():
            self._end_loop()
            self._rebuild(settings)

    def check_batch_size(self, settings: Settings) -> None:
        """Raise ValueError where the batch size is larger than the data."""
        size = self._batches.size if self._batches is not None else None
        if size is not None and (settings.batch_size or 0) > size:
            raise ValueError(
                f"batch_size is {settings.batch_size} but data has only {size} samples: "
                f"choose at most {size}."
            )

    def _rebuild(self, settings: Settings) -> None:
        self._random.restart(settings.seed)
        with self._random():
            model, optimizer = self._construction.build(settings)
        preview = self._preview(model, settings)
        self._detach()
        self._settings = settings
        self._attach(model, optimizer, preview)

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step: same seed, same run; with a new seed another one.

        A model from a factory is made anew from a new seed; a model given ready made keeps
        its first weights and sees other batches. A loop of the user's starts again.
        """
        settings = self._settings if seed is None else self._settings.replaced(seed=seed)
        with self._exclusive():
            loop = self._end_loop()
            if seed is not None and self._construction.is_factory:
                self._rebuild(settings)
            else:
                self._settings = settings
                self._snapshot.restore(self.model, self.optimizer)
                preview = self._preview(self.model, settings)
                self._detach()
                self._attach(self.model, self.optimizer, preview)
            if loop is not None:
                self._loop = loop
        self._notify()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the step lock, ahead of a session that plays."""
        with self._changed:
            self._changers += 1
        try:
            with self._step_lock:
                yield
        finally:
            with self._changed:
                self._changers -= 1
                self._changed.notify_all()

    # -- play, pause, step, wait -----------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another.

        Raises:
            RuntimeError: there is nothing to train with, or the session is closed.
        """
        self._check_can_train()
        self.error = None
        with self._changed:
            self._playing = True
        self._start_thread()
        self._notify()

    def pause(self) -> None:
        """Stop after the step under way."""
        with self._changed:
            self._playing = False
            self._due = 0
        self._notify()

    def request_steps(self, count: int) -> None:
        """Let ``count`` steps run, without waiting for them.

        Raises:
            RuntimeError: there is nothing to train with, or the session is closed.
            ValueError: ``count`` is no whole number of at least 1.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"n must be a whole number of at least 1, not {count!r}.")
        self._check_can_train()
        self.error = None
        with self._changed:
            self._playing = False
            self._due += count
        self._start_thread()
        self._notify()

    def step(self, count: int = 1) -> None:
        """Run ``count`` steps and return when they are done.

        Raises:
            Exception: what the user's model or data raised.
        """
        self.pause()
        self.request_steps(count)
        with self._changed:
            self._changed.wait_for(lambda: self._due == 0 or self._at_rest())
        self._raise_error()
        self.probe.history  # noqa: B018 - waits for readings still on the device

    def wait(self, steps: int | None = None, timeout: float | None = None) -> bool:
        """Wait until ``steps`` more steps are done, or until the session comes to rest.

        Returns:
            False where ``timeout`` seconds ran out first.

        Raises:
            RuntimeError: the session rests already, so that no step would ever come.
            Exception: what the user's model or data raised.
        """
        with self._changed:
            goal = None if steps is None else self._steps_done + steps
            if self._at_rest() and self.error is None and steps:
                raise RuntimeError("nothing is training: call play() before wait(steps=...).")
            reached = self._changed.wait_for(
                lambda: self._at_rest() or (goal is not None and self._steps_done >= goal),
                timeout,
            )
        self._raise_error()
        self.probe.history  # noqa: B018 - waits for readings still on the device
        return reached

    def steps(self, count: int) -> Iterator[Reading]:
        """Train in the calling thread and yield each step's reading.

        Raises:
            Exception: what the user's model or data raised.
        """
        self.pause()
        self._check_can_train()
        for number in range(1, count + 1):
            drawn = self._audience.next_is_drawn(may_wait=False, must=number == count)
            self._one_step(drawn)
            latest = self.probe.history.latest
            assert latest is not None
            yield latest

    def run(self, loop: Callable[[], object]) -> None:
        """Run the user's own training function on the session's thread, and play.

        Its optimizer steps pause, go on and end under the session's hand.

        Raises:
            TypeError: ``loop`` can't be called without arguments.
            RuntimeError: another loop is under way, or the session is closed.
        """
        if not callable(loop):
            raise TypeError(
                f"loop must be a function without parameters, not {type(loop).__name__}."
            )
        if self._stopped:
            raise RuntimeError("this GradientFlow is closed: make a new one.")
        if self._loop is not None:
            raise RuntimeError("another loop is under way: wait() for it, or call reset().")
        self._loop = loop
        self.play()

    def stop(self) -> None:
        """End the thread and take every hook off; what was recorded stays."""
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            self._playing = False
            self._due = 0
            self._loop_must_end = True
            self._changed.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._detach()

    def _check_can_train(self) -> None:
        if self._stopped:
            raise RuntimeError("this GradientFlow is closed: make a new one.")
        if not self.can_train:
            raise RuntimeError(
                "there is nothing to train with: give loss_fn and data, or hand your own "
                "loop to run(loop)."
            )

    def _raise_error(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            self.error = error
            raise error

    def _at_rest(self) -> bool:
        return self._stopped or not (self._playing or self._due)

    def _is_last(self) -> bool:
        return self._due == 1 and not self._playing

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._audience.state_changed()

    # -- the thread ------------------------------------------------------------------

    def _start_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._work, name="gradflow-training", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or (not self._at_rest() and not self._changers)
                )
                if self._stopped:
                    return
            try:
                if self._loop is not None:
                    self._run_loop(self._loop)
                else:
                    drawn = self._audience.next_is_drawn(may_wait=True, must=self._is_last())
                    self._one_step(drawn, on_thread=True)
            except BaseException as error:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        with self._changed:
            self._playing = False
            self._due = 0
        self._notify()

    def _one_step(self, drawn: bool, *, on_thread: bool = False) -> None:
        with self._step_lock:
            if on_thread and (self._at_rest() or self._changers):
                return  # paused, or asked to make way, while waiting for the page
            self.probe.full = drawn
            self._in_own_step = True
            try:
                self._train()
            finally:
                self._in_own_step = False
        self._count_step(on_thread)

    def _count_step(self, asked_for: bool) -> None:
        with self._changed:
            self._steps_done += 1
            finished = False
            if asked_for and self._due and not self._playing:
                self._due -= 1
                finished = self._due == 0
            self._changed.notify_all()
        if finished:
            self._audience.state_changed()

    def _train(self) -> None:
        """Do one step: batch, forward, backward, optimizer."""
        settings = self._settings_of_step = self._settings
        optimizer = self.optimizer
        with self._random():
            batch = self._next_batch(self.model, settings)

            def closure() -> torch.Tensor:
                optimizer.zero_grad(set_to_none=True)
                assert self._objective is not None
                loss = checked_loss(self._objective(self.model, batch), self._origin)
                if self.first_nonfinite is None and loss.device.type == "cpu":
                    self._look_for_nonfinite(loss, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            if isinstance(optimizer, LBFGS):
                optimizer.step(closure)  # type: ignore[no-untyped-call]
            else:
                closure()
                optimizer.step()

    def _next_batch(self, model: nn.Module, settings: Settings) -> Any:
        assert self._batches is not None
        device = next(model.parameters()).device
        return on_device(self._batches.next(settings.batch_size), device)

    def _look_for_nonfinite(self, loss: torch.Tensor, batch: Any) -> None:
        """Find the layer where the first non-finite loss came from, before weights change."""
        objective = self._objective
        if bool(torch.isfinite(loss)) or objective is None:
            return
        layer = first_nonfinite_output(self.model, lambda: objective(self.model, batch))
        step = self.probe.steps + 1
        self.first_nonfinite = (
            NonFinite(step, layer, "output") if layer else NonFinite(step, "", "loss")
        )

    # -- the user's own loop ---------------------------------------------------------

    def _run_loop(self, loop: Callable[[], object]) -> None:
        self._loop_is_running = True
        self._loop_must_end = False
        ended = False
        try:
            self.probe.full = self._audience.next_is_drawn(may_wait=False)
            loop()
            ended = True
        except LoopStopped:
            pass
        finally:
            with self._changed:
                self._loop_is_running = False
                if ended or not self._loop_must_end:
                    self._loop = None
                    self._playing = False
                    self._due = 0
                self._changed.notify_all()
        if ended:
            self._notify()

    def _end_loop(self) -> Callable[[], object] | None:
        """Unwind the user's loop, if one is under way, and return it."""
        with self._changed:
            loop = self._loop
            if loop is None or threading.current_thread() is self._thread:
                return None
            self._loop_must_end = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._loop_is_running)
            self._loop = None
        return loop

    def _after_step(self, *_: Any) -> None:
        """Come in between two steps of a loop that is not ours."""
        if self._in_own_step:
            return
        if self._loop_is_running and threading.current_thread() is self._thread:
            self._count_step(asked_for=True)
            self._pause_point()
            self.probe.full = self._audience.next_is_drawn(may_wait=True, must=self._is_last())
            self._pause_point()
            return
        if not self.foreign_loop:
            self.foreign_loop = True
            self._audience.state_changed()
        self._count_step(asked_for=False)
        self.probe.full = self._audience.next_is_drawn(may_wait=False)

    def _pause_point(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._loop_must_end or not self._at_rest()
            )
            if self._stopped or self._loop_must_end:
                raise LoopStopped

    def loop_has_ended(self) -> None:
        """Note that the cell with the user's plain loop has ended."""
        self.foreign_loop = False

    # -- readings and settings of a step ---------------------------------------------

    def _read_settings(self) -> Settings:
        """Return the settings of the step under way: in our own, those it began with."""
        if not self._in_own_step:
            self._settings_of_step = self._settings
        return self._settings_of_step

    def _on_reading(self, reading: Reading) -> None:
        if self.first_nonfinite is None:
            self.first_nonfinite = first_nonfinite(reading)
        self._audience.record(reading)

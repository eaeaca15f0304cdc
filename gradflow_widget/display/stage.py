"""Stage: charts, table and status line together, and which steps reach them."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from .bars import FlowChart, Measure
from .frame import FrameWriter
from .hearing import Hearing
from .loss import LossChart
from .loss_curve import sign_of_nonfinite
from .panel import LayerTable, Panel, draw_table
from .publisher import FASTEST_INTERVAL, Publisher

if TYPE_CHECKING:
    from ..measurement.reading import Glance, Reading

Speed = int | Literal["max"]
SPEEDS: tuple[Speed, ...] = (1, 2, 5, 20, "max")
_REMEMBERED = 10
_UNSEEN_INTERVAL = 0.25
_TOGETHER = 8


class Spoken(Protocol):
    """A verdict as the stage shows it."""

    @property
    def problem(self) -> str:
        """The problem's name; "" where nothing can be said."""

    @property
    def severity(self) -> str:
        """How bad it is: "", "watch" or "fault"."""

    @property
    def sentence(self) -> str:
        """What to tell the user."""


class Director(Protocol):
    """Who tells the stage what to say: the widget."""

    def verdict(self, readings: Sequence[Reading]) -> Spoken:
        """Judge the latest full readings, the newest last."""

    def layer_problems(self, reading: Reading) -> Sequence[str]:
        """Judge each layer."""

    def step_problems(self, reading: Reading, name: str) -> Sequence[str]:
        """Judge each time step of a recurrent layer."""

    def notice(self) -> tuple[str, bool]:
        """Return what else to say, and whether it is an error."""

    def is_playing(self) -> bool:
        """Say whether steps follow one another now."""

    def is_stepping(self) -> bool:
        """Say whether somebody makes steps in a cell."""

    def on_heard(self) -> None:
        """Take in that the page is heard, on the calling thread."""

    def on_key(self, action: str) -> None:
        """Do what a key in the page asks for."""

    def on_status(self, status: str) -> None:
        """Take in the status line."""


class Stage:
    """What the page shows of a run; the session's audience."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self.bars, self.loss = FlowChart(), LossChart()
        self.panel, self.table = Panel(), LayerTable()
        self._writer = FrameWriter(
            {"panel": self.panel, "table": self.table, **self.bars.targets, **self.loss.targets}
        )
        self._writer.set("panel", is_current=True)
        self.panel.set_trait("frame_targets", self._writer.ids)
        self.panel.send_state("frame_targets")
        self.hearing = Hearing()
        self._sends_to_subshell = False
        self.publisher = Publisher(self._compose, self._send)
        self.panel.on_msg(self._on_message)
        self.speed: Speed = 1
        self._lock = threading.Lock()
        self._last_unseen = 0.0
        self._begin()

    def _begin(self) -> None:
        self._shown: Reading | None = None
        self._full: deque[Reading] = deque(maxlen=_REMEMBERED)
        self._steps = 0
        self._step, self._last_loss = 0, float("nan")
        self._loss_seen = False
        self._pace: deque[tuple[float, int]] = deque(maxlen=40)

    # -- the session's audience ------------------------------------------------------

    def next_is_drawn(self, step: int, *, may_wait: bool, must: bool = False) -> bool:
        """Say whether a coming step is read in full and drawn, waiting boundedly.

        At speed n every n-th step is, at "max" as many as the page can show. Without a
        page the same steps are read in full, and nothing is drawn or waited for.
        """
        publisher = self.publisher
        free = self.speed == "max" and not must
        publisher.confirmed_together = 1 if must else _TOGETHER
        if free:
            if publisher.visible:
                return publisher.room_without_waiting(FASTEST_INTERVAL)
            now = time.monotonic()
            if now - self._last_unseen < _UNSEEN_INTERVAL:
                return False
            self._last_unseen = now
            return True
        if self.speed != "max" and step % self.speed and not must:
            return False
        if not publisher.visible:
            return True
        if may_wait:
            return publisher.wait_for_room() or must
        return publisher.room_without_waiting(FASTEST_INTERVAL) or must

    def record(self, reading: Reading | Glance) -> None:
        """Take in a step: every one goes into the loss curve, a full one is drawn."""
        full = cast("Reading", reading) if reading.is_full else None
        with self._lock:
            self._steps += 1
            self._step, self._last_loss = reading.step, reading.loss
            if reading.loss_seen:
                self._loss_seen = True
                self.loss.curve.append(reading.step, reading.loss)
            if full is not None:
                self._shown = full
                self._full.append(full)
        if full is not None:
            self.publisher.draw(step=True)
        elif not self._steps_follow():
            # Paused while this step was under way: the status line tells its number.
            self.publisher.draw(step=False)

    def validation(self, step: int, accuracy: float) -> None:
        """Take in the accuracy on validation data, a share from 0 to 1, after ``step``.

        Raises:
            ValueError: it is no such share.
        """
        with self._lock:
            self.loss.validation.append(step, accuracy)
        if not self._steps_follow():  # else the next step's frame shows it
            self.publisher.draw(step=False)

    def changes_told(self, sentences: Sequence[str]) -> None:
        """Say under the controls what was changed in the model; nothing where it is as given."""
        with self._lock:
            self._writer.set("panel", changes=list(sentences))
        self.publisher.draw(step=False)

    def begin_run(self, preview: Reading | None) -> None:
        """Turn the present run into the ghost and show the new network."""
        with self._lock:
            if self._steps:
                self.bars.begin_run(self._shown)
                self.loss.begin_run()
            else:
                self.bars.begin_run(None)
            self._begin()
            if preview is not None:
                self._shown = preview
                self._full.append(preview)
        self.publisher.begin_run()
        self.publisher.draw(step=False)

    def forget_ghosts(self) -> None:
        """Show nothing of the runs before: they can't be compared with the present one."""
        with self._lock:
            self.bars.forget_ghost()
            self.loss.forget_ghost()
        self.publisher.draw(step=False)

    def state_changed(self) -> None:
        """Show that the session plays, rests, has failed or has finished."""
        with self._lock:
            self._pace.clear()
            status = self._speak()
        self._director.on_status(status)
        self.publisher.draw(step=False)

    def refresh_status(self) -> None:
        """Bring the status line up to date; no page need be there."""
        with self._lock:
            status = self._speak()
        self._director.on_status(status)

    # -- what the user looks at ------------------------------------------------------

    def mark(self, text: str) -> None:
        """Leave a marker on the loss curve at the coming step."""
        with self._lock:
            if self._steps:
                self.loss.mark(self._step + 1, text)
        self.publisher.draw(step=False)

    def look_at(
        self,
        *,
        measure: Measure | None = None,
        relative: bool | None = None,
        logarithmic_loss: bool | None = None,
    ) -> None:
        """Show another quantity, or the same on another axis."""
        with self._lock:
            if measure is not None:
                self.bars.measure = measure
            if relative is not None:
                self.bars.relative = relative
            if logarithmic_loss is not None:
                self.loss.logarithmic = logarithmic_loss
            self.bars.look_changed()
        self.publisher.draw(step=False)

    def settle(self) -> None:
        """Bring the widgets' Python side up to date with what was drawn."""
        with self._lock:
            status = self._draw()
            self._writer.settle()
        self._director.on_status(status)

    def close(self) -> None:
        """End the drawing; widgets are closed by who shows them."""
        self.publisher.close()
        self.panel.on_msg(self._on_message, remove=True)

    # -- the publisher's side --------------------------------------------------------

    def _compose(self, whole: bool) -> tuple[list[dict[str, Any]], list[memoryview]]:
        with self._lock:
            status = self._draw()
            message = self._writer.message(whole=whole)
        # Who listens to the status may come back here, or wait for who does.
        self._director.on_status(status)
        return message

    def _draw(self) -> str:
        reading = self._shown
        if reading is not None:
            problems = self._director.layer_problems(reading)
            self.bars.draw(self._writer, reading, self._problems(reading, problems))
            draw_table(self._writer, reading, problems, self.bars.shown(reading))
        self._writer.set("table", turns=self.loss.turns)
        self.loss.draw(self._writer)
        return self._speak()

    def _problems(self, reading: Reading, of_layers: Sequence[str]) -> Sequence[str]:
        """Return the verdict on what each bar shows."""
        recurrent = self.bars.recurrent(reading)
        if recurrent is None:
            return of_layers
        return self._director.step_problems(reading, recurrent)

    def _speak(self) -> str:
        """Say in words on the panel what there is to say; return it as one line."""
        verdict = self._director.verdict(tuple(self._full))
        notice, is_error = self._director.notice()
        line = self._status_line()
        self._writer.set(
            "panel",
            status=line,
            playing=self._steps_follow(),
            verdict=verdict.sentence,
            verdict_problem=verdict.problem,
            verdict_severity=verdict.severity,
            notice=notice,
            notice_is_error=is_error,
        )
        return " · ".join(part for part in (line, verdict.sentence, notice) if part)

    def _status_line(self) -> str:
        step = self._step
        if not self._steps:
            return "step 0 · before the first step"
        parts = [f"step {step:,}"]
        if self._loss_seen:
            parts.append(f"loss {_four_digits(self._last_loss)}")
        accuracy = self.loss.validation.latest
        if accuracy is not None:
            parts.append(f"validation {accuracy:.1f} %")
        if self._steps_follow():
            rate = self._rate()
            if rate:
                parts.append(f"{rate:.0f} steps/s" if rate >= 10 else f"{rate:.1f} steps/s")
        else:
            parts.append("paused")
            if self._shown is not None and self._shown.step not in (step, 0):
                parts.append(f"bars of step {self._shown.step:,}")
        if self.publisher.counts_drawn:
            parts.append(f"{self.publisher.steps_drawn:,} of {self._steps:,} drawn")
        return " · ".join(parts)

    def _steps_follow(self) -> bool:
        return self._director.is_playing() or self._director.is_stepping()

    def _rate(self) -> float:
        """Return steps a second over about the last second."""
        now = time.monotonic()
        self._pace.append((now, self._steps))
        while len(self._pace) > 2 and now - self._pace[0][0] > 1.0:
            self._pace.popleft()
        (then, before), (latest, after) = self._pace[0], self._pace[-1]
        return (after - before) / (latest - then) if latest - then > 0.2 else 0.0

    def _send(self, message: dict[str, Any], buffers: list[memoryview]) -> None:
        # Unheard by turns: a cell may keep the main shell, or another callback the subshell.
        self._sends_to_subshell = self.publisher.heard or not self._sends_to_subshell
        if self._sends_to_subshell:
            self.hearing.answering(self.panel.send, message, buffers)
        else:
            self.hearing.answering_the_first(self.panel.send, message, buffers)

    def _on_message(self, _: object, content: dict[str, Any], __: object) -> None:
        self.hearing.heard()
        self.publisher.heard_beside_cells = self.hearing.is_beside
        self._director.on_heard()
        if content.get("type") == "key":
            self._director.on_key(str(content["action"]))
            return
        publisher = self.publisher
        before = publisher.counts_drawn, publisher.steps_drawn
        publisher.receive(content)
        counted = (publisher.counts_drawn, publisher.steps_drawn) != before
        # The last step's confirmation comes after the last frame, which could not count it.
        if counted and not self._steps_follow():
            self.publisher.draw(step=False)


def _four_digits(value: float) -> str:
    """Write a value with four significant digits, zeros at the end too: as wide as the last."""
    if not math.isfinite(value):
        return sign_of_nonfinite(value)
    sign = "−" if value < 0 else ""
    return sign + f"{abs(value):#.4g}".removesuffix(".")

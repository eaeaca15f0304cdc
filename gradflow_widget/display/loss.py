"""The loss chart: the curve, the previous run's ghost, turns of knobs, validation accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .chart import DEAF, Axis, Label, LinearScale, Lines, chart
from .frame import FrameWriter
from .held_range import (
    HeldRange,
    label_room,
    linear_labels,
    linear_ticks,
    log_ticks,
    plain_number,
    step_labels,
)
from .loss_curve import LossCurve
from .marker_labels import LABEL_ROOM, label_place, label_step, labels, span_between
from .validation import AccuracyCurve

# On the chart, and told in the layer table.
_MOST_MARKERS, _MOST_TURNS = 60, 1000
# A line of one point, as a share of the axis.
_SHORTEST = 0.01
# Of losses, as a share of the largest.
_LEAST_SPREAD = 1e-4
# How far the ghost may widen the axis beyond the curve, on each side: in decades, or in spans of
# the curve. One that exploded would leave the curve no height.
_GHOST_DECADES, _GHOST_SPANS = 2.0, 4.0
# So many of its steps are in sight from the present run's first on, and then as many as that run
# has come to: they are what can be compared. Those of a long one would leave the curve no width.
_GHOST_STEPS = 300.0
_FIRST_STEPS = 20.0
# By so many px the margin beside the numbers grows.
_MORE_ROOM = 16


class LossChart:
    """Loss by step, on a logarithmic or a linear axis.

    Attributes:
        turns: step and text of each turn of a knob, also of those that the chart has no room for;
            another list after each turn.
    """

    def __init__(self) -> None:
        self.curve = LossCurve()
        self.logarithmic = True
        self._ghost: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._turns: list[tuple[int, str]] = []
        self.turns: list[list[str]] = []
        self._y_log = HeldRange(grain=0.25, least=0.5, loose=0.3, patience=200, falling=True)
        self._y_linear = HeldRange(grain=0.1, least=0.1, loose=0.3, patience=200)
        self._x_end = _FIRST_STEPS
        self._shows_ghost_alone = False
        x, y = (
            LinearScale(min=low, max=high, allow_padding=False)
            for low, high in ((0.0, 20.0), (-1.0, 1.0))
        )
        scales = {"x": x, "y": y}
        line = Lines(
            x=[0.0, 0.0],
            y=[0.0, 0.0],
            scales=scales,
            stroke_width=2,
            colors=["var(--gradflow-text)"],
            **DEAF,
        )
        ghost = Lines(
            x=[0.0, 0.0],
            y=[0.0, 0.0],
            scales=scales,
            stroke_width=2,
            line_style="dashed",
            colors=["var(--gradflow-ghost)"],
            visible=False,
            **DEAF,
        )
        rules = Lines(
            x=np.zeros((1, 2)),
            y=np.zeros((1, 2)),
            scales=scales,
            stroke_width=1,
            colors=["var(--gradflow-ghost)"],
            opacities=[0.6],
            visible=False,
            **DEAF,
        )
        turns = Label(
            x=[0.0],
            y=[0.0],
            text=[""],
            scales=scales,
            default_size=11,
            font_weight="normal",
            colors=["var(--gradflow-text)"],
            align="start",
            rotate_angle=-90.0,
            x_offset=-7,
            visible=False,
            **DEAF,
        )
        wrong = Label(
            x=[0.0],
            y=[0.0],
            text=[""],
            scales=scales,
            default_size=13,
            font_weight="bold",
            colors=["var(--gradflow-severed)"],
            align="start",
            y_offset=12,
            visible=False,
            **DEAF,
        )
        # In px: its letters are smaller in a narrow widget, but not the numbers above them.
        x_axis = Axis(scale=x, label="step", label_offset="29px", grid_lines="none")
        y_axis = Axis(scale=y, side="left", grid_lines="solid", label="")
        self.validation = validation = AccuracyCurve(x)
        # Labels lie over the curves, which are seen through their halo.
        marks = [ghost, rules, line, *validation.marks, turns, wrong]
        self.figure = chart("Loss", "loss", marks, [y_axis, validation.axis, x_axis])
        self._margin = dict(self.figure.fig_margin)
        # As in the other chart: axes first, then scales, then marks.
        self.targets = {
            "loss_x_axis": x_axis,
            "loss_y_axis": y_axis,
            **validation.axes,
            "loss_x": x,
            "loss_y": y,
            "loss": line,
            "loss_ghost": ghost,
            "loss_rules": rules,
            "loss_labels": turns,
            "loss_wrong": wrong,
            **validation.targets,
            "loss_figure": self.figure,
        }

    def begin_run(self) -> None:
        """Keep the present curve as the ghost and start a new one."""
        steps, losses = self.curve.points()
        if len(steps):
            self._ghost = steps, losses
        self.curve.clear()
        self.validation.clear()
        self._turns, self.turns = [], []
        self._x_end = _FIRST_STEPS
        self._y_log.forget()
        self._y_linear.forget()

    def forget_ghost(self) -> None:
        """Show nothing of the run before."""
        self._ghost = None
        self._x_end = _FIRST_STEPS  # the present run stretches it again
        self._y_log.forget()
        self._y_linear.forget()

    def mark(self, step: int, text: str) -> None:
        """Leave a labelled marker at ``step``; turns of a knob at one step share it."""
        knob = text.split(" ", 1)[0]
        if self._turns and self._turns[-1][0] == step:
            kept = [t for t in self._turns[-1][1].split(", ") if t.split(" ", 1)[0] != knob]
            self._turns[-1] = (step, ", ".join([*kept, text]))
        else:
            self._turns.append((step, text))
        del self._turns[:-_MOST_TURNS]
        # Not in each frame: of many turns it takes longer than the rest of one.
        self.turns = [[f"{step:,}", text] for step, text in self._turns]

    def draw(self, writer: FrameWriter) -> None:
        """Write the chart's present state into the next frame."""
        steps, losses = self.curve.points()
        ghost_steps, ghost_losses = self._ghost or (np.empty(0), np.empty(0))
        is_positive = self.curve.positive and not np.any(ghost_losses <= 0)
        logarithmic = self.logarithmic and is_positive
        if logarithmic:
            losses, ghost_losses = np.log10(losses), np.log10(ghost_losses)
        seen = np.isfinite(losses)
        right = self._last_in_sight(bool(seen.any()), float(ghost_steps.max(initial=0.0)))
        ghost_seen = np.isfinite(ghost_losses) & (ghost_steps <= right)
        bottom, top = self._limits(losses[seen], ghost_losses[ghost_seen], logarithmic)
        self._draw_axes(writer, right, bottom, top, logarithmic)
        self._draw_rest_of_ghost(writer, ghost_steps, ghost_losses, right, bottom, top)
        shortest = _SHORTEST * self._x_end
        _draw_line(writer, "loss", steps, losses, shortest)
        _draw_line(writer, "loss_ghost", ghost_steps, ghost_losses, shortest)
        shares = (losses[seen] - bottom) / (top - bottom)
        self._draw_markers(writer, bottom, top, steps[seen], shares)
        self._draw_wrong(writer, top)
        self.validation.draw(writer)
        writer.set("loss_figure", fig_margin={**self._margin, **self.validation.margin()})

    def _make_room(self, labels: Iterable[str]) -> None:
        """Widen the margin where numbers would be cut off at the left.

        It is never narrowed: a chart whose margins change is laid out anew, and flickers.
        """
        missing = label_room(labels) - self._margin["left"]
        if missing > 0:
            self._margin["left"] += math.ceil(missing / _MORE_ROOM) * _MORE_ROOM

    def _last_in_sight(self, is_seen: bool, ghost_end: float) -> float:
        """Return the step at which the axis ends; ``is_seen``: whether there is a curve."""
        if is_seen and self._shows_ghost_alone:
            self._x_end = _FIRST_STEPS
            self._y_log.forget()
            self._y_linear.forget()
        self._shows_ghost_alone = not is_seen
        of_ghost = min(ghost_end, _GHOST_STEPS) if is_seen else ghost_end
        end = max(float(self.curve.last_step), of_ghost)
        while end > self._x_end:  # in leaps, so that the axis rests between them
            self._x_end *= 1.5
        return float(np.ceil(self._x_end))

    def _limits(
        self, losses: NDArray[np.float64], ghost: NDArray[np.float64], logarithmic: bool
    ) -> tuple[float, float]:
        if not len(losses) and not len(ghost):
            return (-1.0, 1.0) if logarithmic else (0.0, 1.0)
        curve = losses if len(losses) else ghost
        low, high = float(np.min(curve)), float(np.max(curve))
        if len(ghost):
            span = max(high - min(low, 0.0), 1e-12)
            reach = _GHOST_DECADES if logarithmic else _GHOST_SPANS * span
            low = min(low, max(float(ghost.min()), low - reach))
            high = max(high, min(float(ghost.max()), high + reach))
        if logarithmic:
            return self._y_log.fit(low, high)
        # Linear losses have any scale: the grain follows their spread, or where they hardly have
        # one, as the first of a run, their size.
        size = max(abs(low), abs(high))
        spread = max(high - min(low, 0.0), _LEAST_SPREAD * size) if size else 1.0
        grain = 10.0 ** np.floor(np.log10(spread)) / 2
        return self._y_linear.with_grain(float(grain)).fit(min(low, 0.0), high)

    def _draw_axes(
        self, writer: FrameWriter, right: float, bottom: float, top: float, logarithmic: bool
    ) -> None:
        values, names = _step_ticks(right)
        writer.set("loss_x_axis", tick_labels=names, tick_values=values)
        writer.set("loss_x", min=0.0, max=right)
        values, names = _loss_ticks(bottom, top, logarithmic)
        self._make_room(names.values())
        writer.set("loss_y_axis", tick_labels=names, tick_values=values)
        writer.set("loss_y", min=bottom, max=top)
        # Not beside the axis, where the numbers of a loss far below 0 stand.
        note = " · linear: not every loss is positive" if self.logarithmic > logarithmic else ""
        writer.set("loss_figure", title=f"Loss{note}")

    def _draw_rest_of_ghost(
        self,
        writer: FrameWriter,
        steps: NDArray[np.float64],
        shown: NDArray[np.float64],
        right: float,
        bottom: float,
        top: float,
    ) -> None:
        """Say where a ghost ends that leaves the chart; ``shown``: its losses on the axis."""
        note = ""
        finite = np.flatnonzero(np.isfinite(shown))
        if self._ghost is not None and len(finite):
            last = finite[-1]
            if steps[last] > right or not bottom <= shown[last] <= top:
                loss = plain_number(float(self._ghost[1][last]), 2)
                note = f" · dashed: on to {int(steps[last]):,} ({loss})"
        writer.set("loss_x_axis", label=f"step{note}")

    def _draw_markers(
        self,
        writer: FrameWriter,
        bottom: float,
        top: float,
        steps: NDArray[np.float64],
        shares: NDArray[np.float64],
    ) -> None:
        """Draw rules and labels; ``shares``: how high the curve stands on the axis, 0 to 1."""
        markers = self._turns[-_MOST_MARKERS:]
        writer.set("loss_rules", visible=bool(markers))
        writer.set("loss_labels", visible=bool(markers))
        if not markers:
            return
        writer.set(
            "loss_rules",
            x=[[float(step)] * 2 for step, _ in markers],
            y=[[bottom, top]] * len(markers),
        )
        room = LABEL_ROOM * self._x_end
        labelled = labels(markers, room)
        at = [label_step(step, room) for step, _ in labelled]
        curves = ((steps, shares), self.validation.places())
        places = [
            label_place(
                len(text), [span for curve in curves for span in span_between(x - room, x, *curve)]
            )
            for x, (_, text) in zip(at, labelled, strict=True)
        ]
        writer.set(
            "loss_labels",
            x=np.array(at),
            y=bottom + np.array(places) * (top - bottom),
            text=[text for _, text in labelled],
        )

    def _draw_wrong(self, writer: FrameWriter, top: float) -> None:
        """Say at which steps the loss was not finite: the line has a gap there."""
        first = self.curve.first_nonfinite
        writer.set("loss_wrong", visible=first is not None)
        if first is None:
            return
        # To the right, where the line has ended, as long as there is room for the words.
        to_right = first[0] < 0.6 * self._x_end
        writer.set(
            "loss_wrong",
            align="start" if to_right else "end",
            x_offset=6 if to_right else -6,
            x=np.array([float(first[0])]),
            y=np.array([top]),
            text=[self._wrong_in_words()],
        )

    def _wrong_in_words(self) -> str:
        curve = self.curve
        assert curve.first_nonfinite is not None
        assert curve.last_nonfinite is not None
        (first, kind), (last, last_kind) = curve.first_nonfinite, curve.last_nonfinite
        if kind != last_kind:
            kind = f"{kind}, {last_kind}"
        if first == last:
            return f"{kind} at step {first}"
        if last == curve.last_step and last - first + 1 == curve.nonfinite_count:
            return f"{kind} since step {first}"
        return f"{kind} at {curve.nonfinite_count} steps, {first} to {last}"


# An axis stands still for many frames, and working out its ticks takes a sixth of one.
@lru_cache(maxsize=8)
def _step_ticks(right: float) -> tuple[NDArray[np.float64], dict[str, str]]:
    steps = [tick for tick in linear_ticks(0.0, right) if tick == int(tick)]
    return np.array(steps), step_labels(steps)


@lru_cache(maxsize=8)
def _loss_ticks(
    bottom: float, top: float, logarithmic: bool
) -> tuple[NDArray[np.float64], dict[str, str]]:
    if logarithmic:
        values, names = log_ticks(bottom, top)
    else:
        values = linear_ticks(bottom, top)
        names = linear_labels(values)
    return np.array(values), names


def _draw_line(
    writer: FrameWriter,
    target: str,
    steps: NDArray[np.float64],
    values: NDArray[np.float64],
    shortest: float,
) -> None:
    writer.set(target, visible=bool(len(steps)))
    if len(steps) == 1:  # a line needs two points to be seen
        steps, values = np.repeat(steps, 2), np.repeat(values, 2)
        steps = steps + shortest * np.array([-0.5, 0.5])
    if len(steps):
        writer.set(target, x=steps.astype(np.float32), y=values.astype(np.float32))

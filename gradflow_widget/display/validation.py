"""The validation accuracy on the loss chart: a dash-dotted curve with an axis of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chart import DEAF, Axis, LinearScale, Lines
from .frame import FrameWriter

_MOST_POINTS = 500
_TICKS = (0, 20, 40, 60, 80, 100)
# What the labels of the axis on the right need, in px.
_ROOM = {False: 14, True: 62}


class AccuracyCurve:
    """Accuracies in percent, sparse points by step, on an axis from 0 to 100 %.

    Colour alone does not tell it from the loss: it is dash-dotted and has a dot at each point,
    and its axis says what it is and where it stands: beside the axes, where nothing can lie on
    the words.

    Args:
        x: the scale of steps that it shares with the loss.
    """

    def __init__(self, x: LinearScale) -> None:
        self._points: list[tuple[int, float]] = []
        # Kept from run to run: a chart whose margins change is laid out anew, and flickers.
        self._has_room = False
        y = LinearScale(min=0.0, max=100.0, allow_padding=False)
        scales = {"x": x, "y": y}
        self._line = Lines(
            x=[0.0, 0.0],
            y=[0.0, 0.0],
            scales=scales,
            stroke_width=1.5,
            line_style="dash_dotted",
            marker="circle",
            marker_size=20,
            colors=["var(--gradflow-validation)"],
            visible=False,
            **DEAF,
        )
        self.axis = Axis(
            scale=y,
            side="right",
            label=_said(None),
            label_offset="3.6em",
            label_color="var(--gradflow-validation)",
            grid_lines="none",
            tick_values=np.array(_TICKS),
            tick_labels={str(tick): f"{tick} %" for tick in _TICKS},
            visible=False,
        )
        self.marks: list[Any] = [self._line]
        self.axes: dict[str, Any] = {"validation_axis": self.axis}
        self.targets: dict[str, Any] = {
            "validation_y": y,
            "validation": self._line,
        }

    @property
    def latest(self) -> float | None:
        """The latest accuracy in percent; None where there is none."""
        return self._points[-1][1] if self._points else None

    def clear(self) -> None:
        """Forget every accuracy."""
        self._points.clear()

    def append(self, step: int, accuracy: float) -> None:
        """Add the accuracy, a share from 0 to 1, that was measured after ``step``.

        Raises:
            ValueError: it is no such share.
        """
        if not 0.0 <= accuracy <= 1.0:
            raise ValueError(f"accuracy must be a share from 0 to 1, not {accuracy!r}.")
        self._points.append((step, 100.0 * accuracy))
        self._has_room = True
        if len(self._points) > _MOST_POINTS:
            # Every second one, and always the latest.
            self._points = [*self._points[:-1:2], self._points[-1]]

    def places(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return steps and how high the curve stands on the axis there, from 0 to 1."""
        steps, percents = np.array(self._points, dtype=np.float64).reshape(-1, 2).T
        return steps, percents / 100.0

    def margin(self) -> dict[str, int]:
        """Return what the axis on the right needs, to be merged into the figure's margins."""
        return {"right": _ROOM[self._has_room]}

    def draw(self, writer: FrameWriter) -> None:
        """Write the curve into the next frame."""
        points = self._points
        writer.set("validation_axis", visible=bool(points), label=_said(self.latest))
        writer.set("validation", visible=bool(points))
        if not points:
            return
        steps = np.array([float(step) for step, _ in points], dtype=np.float32)
        percents = np.array([percent for _, percent in points], dtype=np.float32)
        if len(points) == 1:  # a line needs two points to be seen
            steps, percents = np.repeat(steps, 2), np.repeat(percents, 2)
        writer.set("validation", x=steps, y=percents)


def _said(percent: float | None) -> str:
    return "validation accuracy" + ("" if percent is None else f": {percent:.1f} %")

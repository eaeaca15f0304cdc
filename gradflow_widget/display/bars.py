"""The gradient-flow chart: a bar for each layer, or each time step, in decades."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .chart import DEAF, Axis, Bars, Label, LinearScale, Lines, OrdinalScale, chart
from .frame import FrameWriter
from .held_range import HeldRange, decade_ticks

if TYPE_CHECKING:
    from ..measurement.reading import Reading

FloatArray = NDArray[np.float64]
Measure = Literal["weight gradient", "signal gradient", "update ratio", "through time"]
MEASURES: dict[Measure, str] = {
    "weight gradient": "‖∂L/∂W‖",
    "signal gradient": "‖∂L/∂h‖ per sample",
    "update ratio": "‖ΔW‖ / ‖W‖",
    "through time": "‖∂L/∂h‖ at each time step",
}
# Beyond this many layers, glyphs stand only at the ends of a run of equal ones. So many words,
# which are as wide as several bars, have room on a narrow chart, away from its edges.
_CROWDED, _WORDS = 48, 12
# In px: the plot in a window of 400, a digit of a label, and what must lie between two of them.
_NARROWEST, _DIGIT, _BETWEEN = 200, 7, 5
# A ghost of more layers, times those of the bars, would leave the bars no room.
_MOST_GHOST = 4
_LONGEST_NAME = 28
_LAYERS, _TIME_STEPS = "layer, input → output", "time step, first → last"
_COLOURS = {
    "": "var(--gradflow-unjudged)",
    "healthy": "var(--gradflow-healthy)",
    "vanishing": "var(--gradflow-vanishing)",
    "exploding": "var(--gradflow-exploding)",
    "severed": "var(--gradflow-severed)",
}
_FLOW_GLYPHS = {"vanishing": "▼", "exploding": "▲", "severed": "✕"}
STATE_GLYPHS = {"zero": "0", "none": "∅", "frozen": "∥", "nan": "NaN", "inf": "∞", "unknown": "?"}


def measured(reading: Reading, measure: Measure, *, clipped: bool = True) -> FloatArray:
    """Return the numbers behind the bars; NaN where there is none.

    Their shape is (layers,), or (time steps,) for "through time".
    """
    if measure == "through time":
        return next(iter((reading.signal_grad_through_time or {}).values()), np.empty(0))
    if measure == "weight gradient":
        return reading.weight_grad_norm if clipped else reading.unclipped_grad_norm
    values = reading.signal_grad_norm if measure == "signal gradient" else reading.update_ratio
    return np.full(len(reading.layers), np.nan) if values is None else values


class FlowChart:
    """Bars of one quantity on a logarithmic axis, coloured by each layer's own verdict."""

    def __init__(self) -> None:
        self.measure: Measure = "weight gradient"
        self.relative = False
        self._range = HeldRange(grain=1.0, least=2.0, headroom=0.2)
        self._ghost: Reading | None = None
        x = OrdinalScale(domain=[1], allow_padding=False)
        y = LinearScale(min=-4.0, max=0.0, allow_padding=False)
        scales = {"x": x, "y": y}
        bars = Bars(
            x=[1],
            y=[-4.0],
            scales=scales,
            base=-4.0,
            padding=0.15,
            stroke_width=0,
            colors=["var(--gradflow-unjudged)"],
            preserve_domain={"x": True, "y": True},
            **DEAF,
        )
        outline = Bars(
            x=[1],
            y=[-4.0],
            scales=scales,
            base=-4.0,
            padding=0.15,
            fill=False,
            stroke="var(--gradflow-text)",
            stroke_width=1.5,
            visible=False,
            preserve_domain={"x": True, "y": True},
            **DEAF,
        )
        # No colour is seen over the background and over bars of every colour: the ghost's line
        # lies on a wider one of the background's.
        casing = Lines(
            x=[1],
            y=[-4.0],
            scales=scales,
            stroke_width=5.0,
            colors=["var(--gradflow-ground)"],
            marker="circle",
            marker_size=64,
            visible=False,
            preserve_domain={"x": True, "y": True},
            **DEAF,
        )
        ghost = Lines(
            x=[1],
            y=[-4.0],
            scales=scales,
            stroke_width=1.5,
            line_style="dashed",
            colors=["var(--gradflow-ghost)"],
            marker="circle",
            marker_size=16,
            visible=False,
            preserve_domain={"x": True, "y": True},
            **DEAF,
        )
        glyphs = Label(
            x=[1],
            y=[-4.0],
            text=[""],
            scales=scales,
            default_size=13,
            align="middle",
            y_offset=-8,
            colors=["var(--gradflow-text)"],
            font_weight="bold",
            visible=False,
            preserve_domain={"x": True, "y": True},
            **DEAF,
        )
        ticks, names = _ticks(-4.0, 0.0)
        x_axis = Axis(
            scale=x,
            label=_LAYERS,
            label_offset="2.4em",
            grid_lines="none",
        )
        y_axis = Axis(
            scale=y,
            side="left",
            grid_lines="solid",
            label="",
            tick_values=ticks,
            tick_labels=names,
        )
        marks = [bars, outline, casing, ghost, glyphs]
        # The horizontal axis last: its line would lie under the grid's at the floor.
        self.figure = chart("Gradient flow", "bars", marks, [y_axis, x_axis])
        # In the order in which a frame sets them. Scales before marks, so that no mark is ever
        # placed on a domain that is already out of date; the places first with room for the old
        # marks too, which are redrawn by it. Axes before scales, and labels before values: bqplot
        # redraws an axis in d3 transitions, each of which writes the labels that held when it was
        # begun, even after newer ones are in their place.
        self.targets = {
            "bars_x_axis": x_axis,
            "bars_y_axis": y_axis,
            "bars_x_room": x,
            "bars_y": y,
            "bars": bars,
            "bars_outline": outline,
            "bars_casing": casing,
            "bars_ghost": ghost,
            "bars_glyphs": glyphs,
            "bars_x": x,
            "bars_figure": self.figure,
        }
        self._columns = 1

    def begin_run(self, last: Reading | None) -> None:
        """Keep the last reading of the run before as the ghost."""
        if last is not None:
            self._ghost = last
        self._range.forget()

    def forget_ghost(self) -> None:
        """Show nothing of the run before."""
        self._ghost = None
        self._range.forget()

    def look_changed(self) -> None:
        """Fit the axis anew: another quantity is shown."""
        self._range.forget()

    def shown(self, reading: Reading) -> Measure:
        """Return what the bars show of ``reading``: layers where it has no steps in time."""
        if self.measure == "through time" and not reading.signal_grad_through_time:
            return "signal gradient"
        return self.measure

    def recurrent(self, reading: Reading) -> str | None:
        """Return the name of the recurrent layer whose time steps the bars show, if they do."""
        if self.shown(reading) != "through time":
            return None
        return next(iter(reading.signal_grad_through_time or {}))

    def draw(self, writer: FrameWriter, reading: Reading, problems: Sequence[str]) -> None:
        """Write the bars of ``reading`` into the next frame.

        ``problems`` holds the verdict on what each bar shows, which colours it.
        """
        measure = self.shown(reading)
        values = self._in_decades(measured(reading, measure), reading, measure)
        unclipped = self._in_decades(measured(reading, measure, clipped=False), reading, measure)
        ghost = self._ghost
        old = (
            np.empty(0)
            if ghost is None
            else self._in_decades(measured(ghost, measure), ghost, measure)
        )
        if len(old) > _MOST_GHOST * len(values):
            ghost, old = None, np.empty(0)
        bound = measure == "weight gradient" and reading.clip_scale != 1.0
        everything = np.concatenate([values, old, unclipped if bound else np.empty(0)])
        finite = everything[np.isfinite(everything)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (-2.0, 0.0)
        # A bar of the least value must still be seen above the floor.
        floor, top = self._range.fit(low - 0.15, high)

        count = len(values)
        places = np.arange(1, count + 1)
        old_places: FloatArray = np.arange(1.0, len(old) + 1)
        if ghost is not None and measure != "through time":
            old_places = _places_of(ghost, reading)
        shown = np.isfinite(old) & np.isfinite(old_places)
        columns = int(max(count, old_places[np.isfinite(old_places)].max(initial=1)))
        writer.set("bars_figure", title=self._title(reading))
        ticks, names = _ticks(floor, top)
        writer.set("bars_y_axis", tick_labels=names, tick_values=ticks)
        writer.set("bars_y", min=floor, max=top)
        along = _TIME_STEPS if measure == "through time" else _LAYERS
        writer.set("bars_x_axis", label=along, tick_labels=_layer_labels(columns))
        writer.set("bars_x_room", domain=_domain(max(columns, self._columns)))
        writer.set("bars_x", domain=_domain(columns))
        self._columns = columns
        writer.set(
            "bars",
            x=places,
            y=np.where(np.isfinite(values), values, floor),
            base=floor,
            colors=[_COLOURS[problem] for problem in problems],
        )
        if bound:
            writer.set(
                "bars_outline",
                visible=True,
                x=places,
                y=np.where(np.isfinite(unclipped), unclipped, floor),
                base=floor,
            )
        else:
            _hide(writer, "bars_outline")
        if shown.any():
            places_shown = old_places[shown].astype(np.int64)
            for line in ("bars_casing", "bars_ghost"):
                writer.set(line, visible=True, x=places_shown, y=old[shown])
        else:
            _hide(writer, "bars_casing")
            _hide(writer, "bars_ghost")
        self._draw_glyphs(writer, reading, problems, (floor, top))

    def _title(self, reading: Reading) -> str:
        measure = self.shown(reading)
        if measure == "through time":
            name, *others = reading.signal_grad_through_time or {}
            if len(name) > _LONGEST_NAME:
                name = f"…{name[1 - _LONGEST_NAME :]}"
            of = f" (first of {len(others) + 1})" if others else ""
            last = ", relative to last" if self.relative else ""
            return f"Signal gradient through time · {name}{of}{last}"
        shown = f"{measure} {MEASURES[measure]}"
        if self.relative:  # what fits in the least width
            compared = self._compared(reading, measure)
            one = _last_finite(_logarithms(measured(reading, measure)), compared)
            to = "last" if one is None or one == compared[-1] else f"layer {one + 1}"
            return f"{shown[0].upper()}{shown[1:]}, relative to {to}"
        return f"Gradient flow · {shown}"

    def _in_decades(self, values: FloatArray, reading: Reading, measure: Measure) -> FloatArray:
        """Return log10 of the values, or of their ratio to the last layer's."""
        decades = _logarithms(values)
        if self.relative:
            one = _last_finite(decades, self._compared(reading, measure, len(decades)))
            if one is not None:
                decades = decades - decades[one]
        return decades

    @staticmethod
    def _compared(reading: Reading, measure: Measure, count: int = 0) -> Sequence[int]:
        """Return the bars of which the last with a number is what others are shown relative to."""
        if measure == "through time":
            return range(count)
        return [i for i, d in enumerate(reading.described) if d.is_weight_layer]

    def _draw_glyphs(
        self,
        writer: FrameWriter,
        reading: Reading,
        problems: Sequence[str],
        limits: tuple[float, float],
    ) -> None:
        floor, top = limits
        states = self.states_of(reading)
        texts = [
            STATE_GLYPHS[state] if state else _FLOW_GLYPHS.get(problem, "")
            for state, problem in zip(states, problems, strict=True)
        ]
        if len(texts) > _WORDS:
            texts = _thinned(texts, words_alone=len(texts) <= _CROWDED)
        shown = [i for i, text in enumerate(texts) if text]
        if not shown:
            _hide(writer, "bars_glyphs")
            writer.set("bars_glyphs", text=[""])
            return
        # Verdicts and infinities in a row along the top, what stands in for a bar on the floor.
        # Not at the bars' ends: where one label moves, bqplot draws all of them anew, in
        # transitions that have the page compute styles and lay out text at every frame.
        on_floor = [state not in ("", "inf") for state in states]
        small = len(texts) > 24
        # Over a narrow bar a word reaches beyond the axis, above the number that stands there.
        low, high = (0.03 if small else 0.0), 0.94
        heights = floor + np.where(on_floor, low, high) * (top - floor)
        writer.set(
            "bars_glyphs",
            visible=True,
            x=np.array(shown) + 1,
            y=heights[shown],
            text=[texts[i] for i in shown],
            colors=["var(--gradflow-text)"],
            default_size=10.0 if small else 13.0,
        )

    def states_of(self, reading: Reading) -> list[str]:
        """Return what stands in for each bar: "" where it has a number, or can't have one yet."""
        measure = self.shown(reading)
        if measure == "update ratio" and reading.update_ratio is None:
            return [""] * len(reading.layers)  # before the first step
        values = measured(reading, measure).tolist()
        if measure == "through time":
            return stand_ins(values, ["nan" if math.isnan(value) else "" for value in values])
        known = reading.gradient_states
        return list(known) if measure == "weight gradient" else stand_ins(values, known)


def stand_ins(values: Sequence[float], gradients: Sequence[str]) -> list[str]:
    """Return what stands in for each layer's number: "" where it needs nothing.

    ``gradients`` holds the same for the weight gradients, on which numbers depend.
    """
    states = []
    for value, gradient in zip(values, gradients, strict=True):
        if gradient in ("none", "frozen"):
            states.append(gradient)
        elif math.isnan(value):
            # Unknown is such as the signal at a layer that is used without being called, and the
            # ratio to a weight of 0.
            states.append("nan" if gradient in ("nan", "inf") else "unknown")
        else:
            states.append("inf" if math.isinf(value) else "zero" if value == 0 else "")
    return states


def _logarithms(values: FloatArray) -> FloatArray:
    """Return log10, NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        decades: FloatArray = np.log10(values)
    decades[~np.isfinite(decades)] = np.nan
    return decades


def _last_finite(values: FloatArray, places: Sequence[int]) -> int | None:
    return next((place for place in reversed(places) if np.isfinite(values[place])), None)


def _hide(writer: FrameWriter, target: str) -> None:
    """Hide a mark, at a place that is always there: bqplot goes on placing hidden marks."""
    writer.set(target, visible=False, x=np.array([1]), y=np.array([0.0]))


def _places_of(earlier: Reading, now: Reading) -> FloatArray:
    """Return where each layer of an earlier run stands among the present ones, from 1.

    Norms that were put in or taken out move the others on: layers with weights keep to each
    other in their order, the others to those of their name, NaN where there is none. Where
    there are more or fewer weights, layers keep their numbers.
    """
    before = [i for i, layer in enumerate(earlier.described) if layer.is_weight_layer]
    after = [i for i, layer in enumerate(now.described) if layer.is_weight_layer]
    if len(before) != len(after) or len(earlier.described) == len(now.described):
        return np.arange(1.0, len(earlier.described) + 1)
    places = {name: place for place, name in enumerate(now.layers, start=1)}
    found = np.array([places.get(name, np.nan) for name in earlier.layers], dtype=np.float64)
    found[before] = np.array(after) + 1
    return found


# Axes stand still for many frames.
@lru_cache(maxsize=8)
def _ticks(floor: float, top: float) -> tuple[FloatArray, dict[str, str]]:
    ticks, names = decade_ticks(floor, top)
    return np.array(ticks), names


@lru_cache(maxsize=8)
def _domain(columns: int) -> list[int]:
    return list(range(1, columns + 1))


@lru_cache(maxsize=8)
def _layer_labels(count: int) -> dict[str, str]:
    """Return a label for each layer: its number, or nothing where it would be too crowded.

    An ordinal axis of bqplot has a tick at every place, whatever its ``tick_values``.
    """
    labelled = set(_spread_ticks(count))
    return {str(n): str(n) if n in labelled else "" for n in range(1, count + 1)}


def _spread_ticks(count: int) -> list[int]:
    """Return as many layer numbers as have room, the first and the last among them."""
    room = _DIGIT * len(str(count)) + _BETWEEN
    most = _NARROWEST // room
    stride = 1
    for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000):
        stride = step
        if count / step <= most:
            break
    ticks = [1, *range(stride, count + 1, stride)] if stride > 1 else list(range(1, count + 1))
    if (count - ticks[-1]) * _NARROWEST < room * count:
        ticks.pop()
    return [*ticks, count]


def _thinned(texts: list[str], *, words_alone: bool) -> list[str]:
    """Leave of each run of equal texts its ends, or of words those that have room."""
    kept, first, apart = [""] * len(texts), 0, math.ceil(len(texts) / _WORDS)
    for text, run in itertools.groupby(texts):
        last = first + len(list(run)) - 1
        if len(text) > 1:
            inset = min(apart, last - first) // 2
            for place in range(first + inset, last + 1, apart):
                kept[place] = text
        elif words_alone:
            kept[first : last + 1] = [text] * (last + 1 - first)
        else:
            kept[first] = kept[last] = text
        first = last + 1
    return kept

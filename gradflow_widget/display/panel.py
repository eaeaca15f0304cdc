"""The widgets with a front end of our own: status panel and layer table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from .bars import Measure, stand_ins
from .frame import FrameFed, FrameWriter

if TYPE_CHECKING:
    from ..measurement.reading import Reading

STATIC = Path(__file__).parent / "static"
TABLE_COLUMNS = [
    "weight gradient",
    "before clipping",
    "signal gradient",
    "update ratio",
    "weight norm",
    "activation RMS",
    "dead share",
    "saturated share",
]


class Panel(FrameFed, anywidget.AnyWidget):
    """Status line, verdict and notice; applies and confirms the frames (js/src/panel.ts).

    ``is_current`` is true in a page that has got a whole frame. In the kernel it is not: a page
    that reconnects loads all traits anew, as they are here, and asks for another.
    """

    _esm = STATIC / "panel.js"
    _css = STATIC / "panel.css"

    frame_targets = traitlets.Dict().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    verdict = traitlets.Unicode().tag(sync=True)
    verdict_problem = traitlets.Unicode().tag(sync=True)
    verdict_severity = traitlets.Unicode().tag(sync=True)
    notice = traitlets.Unicode().tag(sync=True)
    notice_is_error = traitlets.Bool(False).tag(sync=True)
    is_current = traitlets.Bool(False).tag(sync=True)
    changes: traitlets.List[str] = traitlets.List().tag(sync=True)


class LayerTable(FrameFed, anywidget.AnyWidget):
    """The bars' numbers, as a table and as tooltips, and the turns of knobs (js/src/table.ts).

    ``states`` tells for each number what stands in for it, "" where nothing does, and
    ``problems`` each layer's own verdict. A layer's notes are quantities of its own, such as
    BatchNorm's: their names, and for each of them mean, lowest and highest value in a row of
    ``note_values``. A turn is a step and what was turned
    there.
    """

    _esm = STATIC / "table.js"

    layers: traitlets.List[dict[str, str]] = traitlets.List().tag(sync=True)
    columns: traitlets.List[str] = traitlets.List().tag(sync=True)
    values = traitlets.Bytes().tag(sync=True)
    states: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    problems: traitlets.List[str] = traitlets.List().tag(sync=True)
    note_names: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    note_values = traitlets.Bytes().tag(sync=True)
    bars_show = traitlets.Unicode("layers").tag(sync=True)
    time_layers: traitlets.List[str] = traitlets.List().tag(sync=True)
    time_values = traitlets.Bytes().tag(sync=True)
    turns: traitlets.List[list[str]] = traitlets.List().tag(sync=True)


def draw_table(
    writer: FrameWriter,
    reading: Reading,
    problems: Sequence[str],
    measure: Measure = "weight gradient",
) -> None:
    """Write a reading's numbers, by layer and by time step, into the next frame.

    ``problems`` holds each layer's own verdict. ``measure`` is what the bars show, so that a
    tooltip tells of what stands under it.
    """
    nothing = np.full(len(reading.described), np.nan)
    columns = (
        reading.weight_grad_norm,
        reading.unclipped_grad_norm,
        reading.signal_grad_norm,
        reading.update_ratio,
        reading.weight_norm,
        reading.activation_rms,
        reading.dead_fraction,
        reading.saturated_fraction,
    )
    values = np.stack([nothing if column is None else column for column in columns], axis=1)
    notes = [of_layer or () for of_layer in _notes(reading)]
    through_time = reading.signal_grad_through_time or {}
    writer.set(
        "table",
        layers=[
            {
                "name": d.name or "(model)",
                "kind": d.kind,
                "shape": " × ".join(map(str, d.shape)) or "scalar",
            }
            for d in reading.described
        ],
        columns=TABLE_COLUMNS,
        values=_as_bytes(values),
        states=_states(reading),
        problems=list(problems),
        note_names=[[name for name, _ in of_layer] for of_layer in notes],
        note_values=_as_bytes(np.array([v for of_layer in notes for _, v in of_layer])),
        bars_show="time steps" if measure == "through time" else "layers",
        time_layers=list(through_time),
        time_values=_as_bytes(_side_by_side(list(through_time.values()))),
    )


def _states(reading: Reading) -> list[list[str]]:
    """Return for each layer what stands in for its numbers, in the order of the columns."""
    gradients = reading.gradient_states
    nothing = [""] * len(gradients)
    before, signal, ratio = (
        nothing if values is None else stand_ins(values.tolist(), gradients)
        for values in (
            reading.unclipped_grad_norm,
            reading.signal_grad_norm,
            reading.update_ratio,
        )
    )
    # Weights always have a norm. An output that no hook saw is no NaN, nor is a share of dead units
    # where no activation follows: these have no number.
    norm, activation = (
        nothing if values is None else ["nan" if one else "" for one in np.isnan(values) & seen]
        for values, seen in ((reading.weight_norm, True), (reading.activation_rms, ~reading.unseen))
    )
    columns = (gradients, before, signal, ratio, norm, activation, nothing, nothing)
    return [list(row) for row in zip(*columns, strict=True)]


def _notes(reading: Reading) -> Sequence[Any]:
    return getattr(reading, "layer_notes", None) or ()


def _as_bytes(values: NDArray[np.float64]) -> bytes:
    return values.astype("<f8").tobytes()


def _side_by_side(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return arrays of any lengths as columns, NaN where one has ended."""
    joined = np.full((max(map(len, columns), default=0), len(columns)), np.nan)
    for number, column in enumerate(columns):
        joined[: len(column), number] = column
    return joined

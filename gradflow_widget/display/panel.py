"""The widgets with a front end of our own: status panel and layer table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anywidget
import numpy as np
import traitlets

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
    """Status line, verdict and notice; applies and confirms the frames (js/src/panel.ts)."""

    _esm = STATIC / "panel.js"
    _css = STATIC / "panel.css"

    frame_targets = traitlets.Dict().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    verdict = traitlets.Unicode().tag(sync=True)
    verdict_problem = traitlets.Unicode().tag(sync=True)
    verdict_severity = traitlets.Unicode().tag(sync=True)
    notice = traitlets.Unicode().tag(sync=True)
    notice_is_error = traitlets.Bool(False).tag(sync=True)


class LayerTable(FrameFed, anywidget.AnyWidget):
    """The bars as a table, for keyboards and screen readers (js/src/table.ts)."""

    _esm = STATIC / "table.js"

    layers: traitlets.List[dict[str, str]] = traitlets.List().tag(sync=True)
    columns: traitlets.List[str] = traitlets.List().tag(sync=True)
    values = traitlets.Bytes().tag(sync=True)
    marks: traitlets.List[str] = traitlets.List().tag(sync=True)


def draw_table(writer: FrameWriter, reading: Reading) -> None:
    """Write a reading's numbers, layer by layer, into the next frame."""
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
    writer.set(
        "table",
        layers=[
            {"name": d.name, "kind": d.kind, "shape": " × ".join(map(str, d.shape)) or "scalar"}
            for d in reading.described
        ],
        columns=TABLE_COLUMNS,
        values=values.astype("<f8").tobytes(),
        marks=list(reading.gradient_states),
    )

"""The legend of the charts' colours and marks."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets


def _swatch(colour: str, sign: str = "■") -> str:
    return f'<span class="gradflow-swatch-{colour}">{sign}</span>'


_ENTRIES = (
    f"{_swatch('healthy')} healthy",
    f"{_swatch('vanishing')} ▼ vanishing",
    f"{_swatch('exploding')} ▲ exploding",
    f"{_swatch('severed')} ✕ severed",
    f"{_swatch('unjudged')} not judged (norms, layers unlike any other)",
    "outline: before clipping",
    "dashed: previous run",
    f"{_swatch('validation', '●')} dash-dotted: validation accuracy",
    "upright: a knob was turned (all turns: layer table)",
    "0 exactly zero",
    "∅ no gradient",
    "? no number to tell",
    "∥ frozen",
    "NaN",
    "∞ infinite",
)
# No line ends between a mark and what it means.
LEGEND = " ".join(f'<span class="gradflow-entry">{entry}</span>' for entry in _ENTRIES)


def legend() -> Any:
    """Return the legend of the marks."""
    row = widgets.HTML(LEGEND)
    row.add_class("gradflow-legend")
    return row

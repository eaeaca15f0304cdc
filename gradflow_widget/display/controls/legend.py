"""The legend of the charts' colours and marks."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

LEGEND = (
    '<span class="gradflow-swatch-healthy">■</span> healthy '
    '<span class="gradflow-swatch-vanishing">■</span> ▼ vanishing '
    '<span class="gradflow-swatch-exploding">■</span> ▲ exploding '
    '<span class="gradflow-swatch-severed">■</span> ✕ severed '
    '<span class="gradflow-swatch-unjudged">■</span> not judged (norms, layers unlike any other) '
    "· outline: before clipping · dashed: previous run "
    "· 0 exactly zero · ∅ no gradient · ∥ frozen · NaN · ∞ infinite"
)


def legend() -> Any:
    """Return the legend of the marks."""
    row = widgets.HTML(LEGEND)
    row.add_class("gradflow-legend")
    return row

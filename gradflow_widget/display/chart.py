"""What both charts are made of: bqplot's parts, fed by frames, and a figure around them."""

from __future__ import annotations

from typing import Any

import bqplot as bq

from .frame import FrameFed

# A mark that answers the pointer would send its whole state back to the kernel.
DEAF: dict[str, Any] = {"interactions": {}, "enable_hover": False}


class Bars(FrameFed, bq.Bars):
    """Bars, fed by frames."""


class Lines(FrameFed, bq.Lines):
    """Lines, fed by frames."""


class Label(FrameFed, bq.Label):
    """Texts, fed by frames."""


class OrdinalScale(FrameFed, bq.OrdinalScale):
    """A scale of places, fed by frames."""


class LinearScale(FrameFed, bq.LinearScale):
    """A scale of numbers, fed by frames."""


class Axis(FrameFed, bq.Axis):
    """An axis, fed by frames."""


def chart(title: str, name: str, marks: list[Any], axes: list[Any]) -> bq.Figure:
    """Return a figure of the CSS class ``gradflow-chart-NAME`` that redraws without delay."""
    figure = bq.Figure(
        title=title,
        marks=marks,
        axes=axes,
        fig_margin={"top": 34, "bottom": 40, "left": 56, "right": 14},
        animation_duration=0,
        display_toolbar=False,
        padding_x=0.0,
        padding_y=0.0,
        background_style={"fill": "transparent"},
    )
    figure.add_class(f"gradflow-chart-{name}")
    return figure

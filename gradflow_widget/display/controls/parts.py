"""What all controls have in common: labels at their own width, boxes of a class, rest."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets as widgets

from .offers import Offer

LABEL = {"description_width": "initial"}
# The class of sliders that go from place to place, beside which nobody can type.
PLACES = "gradflow-places"


def box(children: Sequence[Any], *classes: str) -> Any:
    """Return a box of these CSS classes."""
    made = widgets.Box(list(children))
    for name in classes:
        made.add_class(name)
    return made


def rest(control: Any, reason: str) -> None:
    """Disable a control that is not offered, and say why where it is pointed at."""
    control.disabled, control.tooltip = True, reason


def reasons_line(offers: Iterable[Offer]) -> Any:
    """Return a line with the reasons of knobs that rest, each once; hidden without any."""
    reasons = dict.fromkeys(offer.reason for offer in offers if offer.reason)
    line = widgets.HTML(html.escape(" ".join(reasons)))
    line.add_class("gradflow-reasons")
    line.layout.display = "" if reasons else "none"
    return line

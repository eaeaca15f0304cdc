"""What all controls have in common: labels at their own width, boxes of a class, rest."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
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


def reasons_line(offers: Mapping[str, Offer]) -> Any:
    """Return the reasons of knobs that rest, by their labels, each once; hidden without any."""
    reasons: dict[str, list[str]] = {}
    for label, offer in offers.items():
        if offer.reason:
            reasons.setdefault(offer.reason, []).append(label)
    said = [f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items()]
    line = widgets.HTML("<br>".join(map(html.escape, said)))
    line.add_class("gradflow-reasons")
    line.layout.display = "" if reasons else "none"
    return line

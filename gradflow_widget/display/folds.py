"""Folds: headings that open and close what stands below them."""

from __future__ import annotations

from collections.abc import Mapping

import anywidget
import traitlets

from .panel import STATIC


class Folds(anywidget.AnyWidget):
    """A row of headings; the page remembers which are open (js/src/folds.ts).

    What a heading opens is the box of the CSS class ``gradflow-folded-NAME`` in the same
    ``gradflow-knobs``.

    Args:
        titles: the headings' titles by name, in their order.
        tooltips: what to say of the controls around the headings, by their labels; the page
            gives it to pointers and to screen readers, which ipywidgets leaves out.
    """

    _esm = STATIC / "folds.js"

    # Pairs, for a notebook that keeps its widgets' state sorts what stands by name.
    headings: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    in_short: traitlets.Dict[str, str] = traitlets.Dict().tag(sync=True)
    tooltips: traitlets.Dict[str, str] = traitlets.Dict().tag(sync=True)

    def __init__(self, titles: Mapping[str, str], tooltips: Mapping[str, str]) -> None:
        super().__init__(headings=[list(pair) for pair in titles.items()], tooltips=dict(tooltips))

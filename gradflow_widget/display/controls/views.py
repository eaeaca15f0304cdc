"""The views: which quantity the bars show, and on which axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ..bars import MEASURES
from .parts import box


class Views:
    """Toggles that choose what is looked at; they turn nothing in the training."""

    def __init__(self, look_at: Callable[..., None]) -> None:
        def choice(
            name: str, options: list[Any], tooltips: list[str], chosen: Callable[[Any], None]
        ) -> Any:
            # The name is for screen readers alone: in sight, the buttons speak for themselves.
            buttons = widgets.ToggleButtons(
                description=name,
                options=options,
                tooltips=tooltips,
                style={"button_width": "auto"},
            )
            buttons.observe(lambda change: chosen(change["new"]), "value")
            return buttons

        self.measure_choice = choice(
            "what the bars show",
            list(MEASURES),
            [f"The bars show {quantity}" for quantity in MEASURES.values()],
            lambda measure: look_at(measure=measure),
        )
        # The page shows "through time" where the model has steps in time.
        self.measure_choice.add_class("gradflow-measures")
        self.relative_choice = choice(
            "values of the bars",
            [("absolute", False), ("relative to last", True)],
            ["The values themselves", "Their ratio to the last one's"],
            lambda relative: look_at(relative=relative),
        )
        self.loss_choice = choice(
            "axis of the loss",
            [("log loss", True), ("linear loss", False)],
            ["Logarithmic axis of the loss", "Linear axis of the loss"],
            lambda logarithmic: look_at(logarithmic_loss=logarithmic),
        )
        self.row = box(
            [self.measure_choice, self.relative_choice, self.loss_choice], "gradflow-views"
        )

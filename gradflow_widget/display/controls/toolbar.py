"""The toolbar: play, step, reset, another seed, and which steps are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ..stage import SPEEDS
from .binding import Binding
from .choice import Choice
from .offers import Actions, Offer
from .parts import rest

_PLAY, _STEP = "Play or pause (space)", "One step (s)"
_OWN_LOOP = "Your own loop trains this model: use run(loop) to play and pause it."


class Toolbar:
    """The row of buttons."""

    def __init__(self, binding: Binding, actions: Actions, *, can_train: bool) -> None:
        def button(text: str, icon: str, tooltip: str, action: Callable[[], None]) -> Any:
            made = widgets.Button(description=text, icon=icon, tooltip=tooltip)

            def clicked(_: object) -> None:
                with binding.asked_by_page():
                    action()

            made.on_click(clicked)
            return made

        self.play_button = button("Play", "play", _PLAY, actions.toggle)
        self.play_button.button_style = "primary"
        self.step_button = button("Step", "step-forward", _STEP, actions.step)
        self.reset_button = button(
            "Reset", "rotate-left", "Back to the first step, same seed (r)", actions.reset
        )
        self.seed_button = button(
            "New seed", "random", "Another run: new weights and batches", actions.new_seed
        )
        self.offer_playing(can_train)
        listed = [(_every(n), n) for n in SPEEDS if isinstance(n, int)]
        self.speed_menu = Choice(
            binding,
            "speed",
            Offer(1, options=(*listed, ("what fits (max)", "max"))),
            description="draw",
            tooltip="Which steps are drawn",
            in_words=_every,
            last_stays=True,
        ).menu
        self.row = widgets.HBox(
            [
                self.play_button,
                self.step_button,
                self.reset_button,
                self.seed_button,
                self.speed_menu,
            ]
        )
        self.row.add_class("gradflow-toolbar")
        binding.bind("playing", self._show_playing)

    def offer_playing(self, can_train: bool) -> None:
        """Enable play and step where there is something to train with now."""
        for pressed, tooltip in ((self.play_button, _PLAY), (self.step_button, _STEP)):
            if can_train:
                pressed.disabled, pressed.tooltip = False, tooltip
            else:
                rest(pressed, _OWN_LOOP)

    def _show_playing(self, playing: bool) -> None:
        self.play_button.description = "Pause" if playing else "Play"
        self.play_button.icon = "pause" if playing else "play"


def _every(number: int) -> str:
    if number == 1:
        return "every step"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"every {number}{'th' if number % 100 in (11, 12, 13) else ending}"

"""The toolbar: play, step, reset, another seed, and which steps are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from ..stage import SPEEDS
from .binding import Binding
from .choice import Choice
from .offers import Actions, Offer
from .parts import rest

_PLAY, _STEP = "Play or pause (space)", "One step (s)"
_RESET, _SEED = "Back to the first step, same seed (r)", "Another run: new weights and batches"
_IN_CELL = "Your own loop is running in a cell: reset when it has ended."
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
        self.reset_button = button("Reset", "rotate-left", _RESET, actions.reset)
        self.seed_button = button("New seed", "random", _SEED, actions.new_seed)
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
        _offer({self.play_button: _PLAY, self.step_button: _STEP}, "" if can_train else _OWN_LOOP)

    def offer_resetting(self, can_reset: bool) -> None:
        """Enable what begins another run, unless a press would be heard only after a cell."""
        _offer({self.reset_button: _RESET, self.seed_button: _SEED}, "" if can_reset else _IN_CELL)

    def _show_playing(self, playing: bool) -> None:
        self.play_button.description = "Pause" if playing else "Play"
        self.play_button.icon = "pause" if playing else "play"


def _offer(buttons: Mapping[Any, str], reason: str) -> None:
    """Enable buttons, with their tooltips, or let them rest for a reason."""
    for button, tooltip in buttons.items():
        if reason:
            rest(button, reason)
        else:
            button.disabled, button.tooltip = False, tooltip


def _every(number: int) -> str:
    if number == 1:
        return "every step"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"every {number}{'th' if number % 100 in (11, 12, 13) else ending}"

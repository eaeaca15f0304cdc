"""The presets: a button for each story, and what to watch in the one that was loaded last."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .offers import Actions

_LOADED = "gradflow-loaded"
_HOW = "A button puts its network, data and knobs in the place of what is trained; Play runs it."


class Presets:
    """A button that loads each preset; below them what to watch when the loaded one runs.

    Args:
        binding: tells of a preset that could not be loaded; its owner's trait
            ``loaded_preset`` names the one that was loaded last.
        actions: ``load_preset`` is called with a preset's name.
        presets: pairs of name and what to watch, in the order in which they stand.

    Raises:
        ValueError: there are presets and no ``load_preset``.
    """

    def __init__(
        self, binding: Binding, actions: Actions, presets: Sequence[tuple[str, str]]
    ) -> None:
        load = actions.load_preset
        if presets and load is None:
            raise ValueError("presets are given without an action load_preset(name) to load them.")
        self._binding = binding
        self._watch = dict(presets)
        self.buttons: dict[str, Any] = {}
        self.children: list[Any] = []
        if not presets:
            return
        for name, what_to_watch in presets:
            button = self.buttons[name] = widgets.Button(description=name, tooltip=what_to_watch)
            button.add_class("gradflow-preset")

            def clicked(_: object, name: str = name) -> None:
                assert load is not None
                with binding.asked_by_page():
                    load(name)

            button.on_click(clicked)
        self.words = widgets.HTML()
        self.words.add_class("gradflow-watch")
        self.children = [*self.buttons.values(), self.words]
        binding.bind("loaded_preset", self._show)

    def in_short(self) -> str:
        """Return the name of the preset that was loaded last; "" where none was."""
        loaded: str = self._binding.owner.loaded_preset
        return loaded if loaded in self._watch else ""

    def _show(self, loaded: str) -> None:
        for name, button in self.buttons.items():
            (button.add_class if name == loaded else button.remove_class)(_LOADED)
        told = self._watch.get(loaded)
        self.words.value = _HOW if told is None else f"<b>What to watch.</b> {html.escape(told)}"

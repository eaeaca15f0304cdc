"""The presets: a button for each story, and what it promises in words."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .offers import Actions
from .parts import box


class Presets:
    """A button that loads each preset, beside what to watch when it runs.

    Args:
        binding: tells of a preset that could not be loaded.
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
        self.buttons: dict[str, Any] = {}
        self.children: list[Any] = []
        for name, what_to_watch in presets:
            button = self.buttons[name] = widgets.Button(description=name, tooltip=what_to_watch)

            def clicked(_: object, name: str = name) -> None:
                assert load is not None
                with binding.asked_by_page():
                    load(name)

            button.on_click(clicked)
            words = widgets.HTML(html.escape(what_to_watch))
            self.children.append(box([button, words], "gradflow-preset"))

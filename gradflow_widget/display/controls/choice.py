"""Choice: a menu over a trait of any values, None among them."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .offers import Offer
from .parts import LABEL, rest

NOT_OFFERED = "–"


def value_in_words(value: Any) -> str:
    """Return a short label for a value that a menu does not list."""
    if isinstance(value, Number) and not isinstance(value, (bool, complex)):
        return f"{value:.4g}"
    return "off" if value is None else str(value)


class Choice:
    """A menu whose entries are labels, each for one value of a trait.

    A menu of ipywidgets takes None for "nothing is chosen", so its own values are the
    labels. A value that code sets and that is not listed gets an entry of its own.

    Args:
        binding: what binds it.
        trait: the trait's name on the owner.
        offer: what is listed; with a reason the menu rests and shows no name.
        description: the label beside the menu.
        tooltip: what it does.
        in_words: makes a label for a value that is not listed.
        last_stays: put such an entry before the last one, which stays the last.
    """

    def __init__(
        self,
        binding: Binding,
        trait: str,
        offer: Offer,
        *,
        description: str,
        tooltip: str,
        in_words: Callable[[Any], str] = value_in_words,
        last_stays: bool = False,
    ) -> None:
        self._binding, self._trait = binding, trait
        self._in_words, self._last_stays = in_words, last_stays
        self._values: dict[str, Any] = dict(offer.options)
        self.offered = not offer.reason
        self.menu = widgets.Dropdown(
            options=list(self._values) if self.offered else [NOT_OFFERED],
            description=description,
            style=LABEL,
            tooltip=tooltip,
        )
        if not self.offered:
            rest(self.menu, offer.reason)
            return
        binding.on_move(self.menu, self._moved)
        binding.bind(trait, self._show)

    @property
    def is_neutral(self) -> bool:
        """Whether the menu rests, or stands on its first entry."""
        return not self.offered or self.menu.index == 0

    def _moved(self, label: str | None) -> None:
        if label is None or _same(self._values[label], getattr(self._binding.owner, self._trait)):
            return
        with self._binding.asked_by_page():
            setattr(self._binding.owner, self._trait, self._values[label])
        self._show(getattr(self._binding.owner, self._trait))  # a refused value is taken back

    def _show(self, value: Any) -> None:
        label = next((name for name, listed in self._values.items() if _same(listed, value)), None)
        if label is None:
            label = self._in_words(value)
            listed = list(self._values.items())
            listed.insert(len(listed) - self._last_stays, (label, value))
            self._values = dict(listed)
        with self._binding.following():
            if len(self.menu.options) != len(self._values):
                self.menu.options = tuple(self._values)
            self.menu.value = label


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one: 1 and 1.0 are, True and 1 are not."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return one is other or bool(one == other)

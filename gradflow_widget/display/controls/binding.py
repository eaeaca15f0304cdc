"""Binding: controls and the owner's traits follow each other, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Showing = Callable[[Callable[[Any], object], Any], None]


class Binding:
    """Two-way bindings between controls and traits of ``owner``.

    What the page sets goes to the trait, which checks it; a refused value is told by
    ``failed`` and taken back. What code sets goes to the control; ``showing`` calls what moves
    it, with the trait's value.
    """

    def __init__(
        self, owner: Any, failed: Callable[[Exception], None], showing: Showing | None = None
    ) -> None:
        self.owner = owner
        self._failed = failed
        self._showing = showing or _call
        self._unbind: list[Callable[[], None]] = []
        # Of one thread: a person may move a control while another shows what code has set.
        self._here = threading.local()

    def close(self) -> None:
        """Let go of the owner's traits."""
        for unbind in self._unbind:
            unbind()
        self._unbind.clear()

    @contextmanager
    def asked_by_page(self) -> Iterator[None]:
        """Tell of an error in what the page has asked for."""
        try:
            yield
        except Exception as error:
            self._failed(error)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Move controls in here because a trait has changed, not because a person moved them."""
        self._here.following = True
        try:
            yield
        finally:
            self._here.following = False

    def on_move(self, control: Any, moved: Callable[[Any], None]) -> None:
        """Call ``moved`` with the control's value when a person has moved it."""

        def follow(change: Any) -> None:
            if not getattr(self._here, "following", False):
                moved(change["new"])

        control.observe(follow, "value")

    def bind(self, trait: str, show: Callable[[Any], None]) -> None:
        """Call ``show`` with the trait's value, now and whenever it changes."""

        def observer(_: object) -> None:
            # Not the change's own value: two threads may tell of two changes in any order.
            self._showing(show, getattr(self.owner, trait))

        self.owner.observe(observer, trait)
        self._unbind.append(lambda: self.owner.unobserve(observer, trait))
        show(getattr(self.owner, trait))

    def link(self, control: Any, trait: str, to_control: Callable[[Any], None]) -> None:
        """Bind ``control.value`` and a trait of the same value; None is not shown."""

        def moved(value: Any) -> None:
            if value == getattr(self.owner, trait):
                return
            with self.asked_by_page():
                setattr(self.owner, trait, value)
            show(getattr(self.owner, trait))  # a refused value is taken back

        def show(value: Any) -> None:
            if value is None or control.value == value:
                return
            with self.following():
                to_control(value)

        self.on_move(control, moved)
        self.bind(trait, show)


def _call(show: Callable[[Any], object], value: Any) -> None:
    show(value)

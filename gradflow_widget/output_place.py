"""Below which cell of a notebook stands what the user's code prints on the widget's thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import jupyter

Message = Mapping[str, Any]
"""By which the kernel was told to run a cell."""


class OutputPlace:
    """Has output stand below the cell under way, else below the loop's or the widget's.

    That is the cell that has handed over the user's own loop, while it is not over, or the one that
    has made the widget. Below the latter stands only what is printed: the widget may be displayed
    there, and who clears what was displayed means his own.
    """

    def __init__(self) -> None:
        self._cell: Message | None = None
        self._made_in: Message | None = None
        self._loop_from: Message | None = None
        self._chosen: tuple[Message, bool] | None = None

    def cell_begins(self) -> None:
        """Take in that a cell is under way."""
        self._cell = jupyter.message()

    def cell_ended(self) -> None:
        """Take in that it is over."""
        self._cell = None

    def made(self) -> None:
        """Take in that the widget is made, by the cell under way if there is one."""
        self._made_in = self._cell

    def loop_handed_over(self) -> None:
        """Take in that a loop was handed over, likewise."""
        self._loop_from = self._cell

    def choose(self, *, has_loop: bool) -> None:
        """Choose the place for the calling thread, the widget's own, from now on.

        ``has_loop``: a loop was handed over and is not over.
        """
        under_way = self._cell  # which another thread may change
        cell = under_way or (self._loop_from if has_loop else None) or self._made_in
        if cell is None:
            return
        chosen = cell, cell is under_way or cell is not self._made_in
        if chosen != self._chosen:
            self._chosen = chosen
            jupyter.output_goes_to(cell, displays=chosen[1])

"""Where in the kernel the page is heard: on the main shell, or on a subshell while a cell runs.

JupyterLab (4.4) names a subshell in what a page says of widgets: a thread of the kernel that no
cell keeps. ipykernel (7.4) does not heed that: it brings what the page says to the shell whose
message was being answered when something was last sent by the same comm. For what is sent in a
cell that is the main shell, and for what a thread sends the shell that happened to be last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from ipywidgets import Button, ValueWidget, Widget

from .. import jupyter
from .reached import reached_from


class Hearing:
    """Keeps to the subshell that the page names, whichever thread speaks to the page."""

    def __init__(self) -> None:
        # The latest message of the page, where it named a subshell, and which.
        self._answered: Context | None = None
        self._named: str | None = None
        self._of_controls: str | None = None

    @property
    def controls_are_beside(self) -> bool:
        """Whether the controls are heard on a subshell, though a cell runs."""
        return self._of_controls is not None

    @property
    def controls_are_elsewhere(self) -> bool:
        """Whether the controls are not heard where the page was heard last asks for it."""
        return self._of_controls != self._named

    def heard(self) -> None:
        """Take in that the calling thread is answering a message of the page."""
        named = jupyter.message().get("header", {}).get("subshell_id")
        self._answered = None if named is None else copy_context()
        self._named = named

    def answering(self, send: Callable[..., object], *args: Any) -> None:
        """Call what sends something, as if it answered the page's latest message."""
        context = self._answered
        if context is None:
            send(*args)
        else:
            # A context can be entered by one thread at a time.
            context.copy().run(send, *args)

    def keeping(self, send: Callable[..., object], *args: Any) -> None:
        """Call what sends something by the controls, which stay to be heard where they are."""
        if self.controls_are_beside:
            self.answering(send, *args)
        else:
            send(*args)

    def hear_beside(self, root: Widget) -> None:
        """Have the controls in ``root`` heard where the page asks for it."""
        if self._named is None and self._of_controls is None:
            return
        self._of_controls = self._named
        self.answering(_hear_here, root)

    def hear_in_turn(self, root: Widget) -> None:
        """Have the controls in ``root`` wait for the cell that runs, which calls this."""
        self._of_controls = None
        _hear_here(root)

    def controls_made(self) -> None:
        """Take in that there are other controls, heard where the calling thread was asked."""
        self._of_controls = None


def _hear_here(root: Widget) -> None:
    """Let the controls in ``root`` be heard by the shell whose message is being answered."""
    for widget in reached_from(root):
        if isinstance(widget, (Button, ValueWidget)) and widget.comm is not None:
            widget.send({})  # a custom message, which no control listens to

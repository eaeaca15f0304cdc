"""Where in the kernel the page is heard: on the main shell, or on a subshell while a cell runs.

JupyterLab (4.4) names a subshell in what a page says of widgets: a thread of the kernel that no
cell keeps. ipykernel (7.4) does not heed that: it brings what the page says to the shell whose
message was being answered when something was last sent by the same comm. For what is sent in a
cell that is the main shell, and for what a thread sends the shell that happened to be last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from ipywidgets import Button, ValueWidget, Widget

from .. import jupyter
from .reached import reached_from


class Hearing:
    """Keeps to the subshell that the page names, whichever thread speaks to the page.

    Until the page is heard, and where its subshell has ended, what is sent answers the message
    in which this was made. A thread of our own would answer the latest of all, which may be of a
    page whose subshell is about to end: from then on nothing that the page says would be heard.
    """

    def __init__(self) -> None:
        self._at_first = _Answered.now()
        # The latest message of the page.
        self._latest: _Answered | None = None
        self._of_controls: str | None = None

    @property
    def is_beside(self) -> bool:
        """Whether the page is heard on a subshell, though a cell runs."""
        return self._named is not None

    @property
    def controls_are_beside(self) -> bool:
        """Whether the controls are heard on a subshell, though a cell runs."""
        return self._of_controls in jupyter.subshells()

    @property
    def controls_are_elsewhere(self) -> bool:
        """Whether the controls are not heard where the page was heard last asks for it."""
        return self._of_controls != self._named

    @property
    def _named(self) -> str | None:
        """The subshell that the page was heard on last, where that has not ended."""
        latest = self._latest
        return latest.subshell if latest is not None and latest.subshell_lives else None

    def heard(self) -> None:
        """Take in that the calling thread is answering a message of the page."""
        self._latest = _Answered.now()

    def answering(self, send: Callable[..., object], *args: Any) -> None:
        """Call what sends something, as if it answered the page's latest message."""
        latest = self._latest
        if latest is not None and latest.subshell_lives:
            latest.by(send, *args)
        else:
            self.answering_the_first(send, *args)

    def answering_the_first(self, send: Callable[..., object], *args: Any) -> None:
        """Call what sends something, as if no page had been heard yet."""
        # Where there are no subshells the latest message is as good, and the one that hosts expect.
        if jupyter.subshell() is not None or jupyter.subshells():
            self._at_first.by(send, *args)
        else:
            send(*args)

    def keeping(self, send: Callable[..., object], *args: Any) -> None:
        """Call what sends something by the controls, which stay to be heard where they are."""
        answering = self.answering if self.controls_are_beside else self.answering_the_first
        answering(send, *args)

    def hear_beside(self, root: Widget) -> None:
        """Have the controls in ``root`` heard where the page asks for it."""
        named = self._named
        if named is None and self._of_controls is None:
            return
        self._of_controls = named
        self.answering(_hear_here, root)

    def hear_in_turn(self, root: Widget) -> None:
        """Have the controls in ``root`` wait for the cell that runs, which calls this."""
        self._of_controls = None
        _hear_here(root)

    def controls_made(self) -> None:
        """Take in that there are other controls, heard where the calling thread was asked."""
        self._of_controls = None


@dataclass(frozen=True)
class _Answered:
    """A message that a thread of the kernel has answered.

    Attributes:
        subshell: which one it named; None for the main shell.
        context: what makes other threads answer it, too.
    """

    subshell: str | None
    context: Context

    @classmethod
    def now(cls) -> _Answered:
        """Return the one that the calling thread answers."""
        return cls(jupyter.subshell(), copy_context())

    @property
    def subshell_lives(self) -> bool:
        """Whether it named a subshell, and that has not ended."""
        return self.subshell in jupyter.subshells()

    def by(self, send: Callable[..., object], *args: Any) -> None:
        """Call what sends something."""
        # A context can be entered by one thread at a time.
        self.context.copy().run(send, *args)


def _hear_here(root: Widget) -> None:
    """Let the controls in ``root`` be heard by the shell whose message is being answered."""
    for widget in reached_from(root):
        if isinstance(widget, (Button, ValueWidget)) and widget.comm is not None:
            widget.send({})  # a custom message, which no control listens to

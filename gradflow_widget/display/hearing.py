"""Where in the kernel the page is heard: on the main shell, or on a subshell while a cell runs."""

from __future__ import annotations

from ipywidgets import DOMWidget, Widget

from .reached import reached_from


def hear_here(root: Widget) -> None:
    """Let the controls in ``root`` be heard by the thread that calls this.

    ipykernel (7.4) brings what the page says to the thread that was last to send something by the
    same comm. A control made in a cell is heard on the main shell, so not while a cell runs,
    though the panel beside it may be heard on a subshell already.
    """
    for widget in reached_from(root):
        if isinstance(widget, DOMWidget) and widget.comm is not None:
            widget.send({})  # a custom message, which no control listens to

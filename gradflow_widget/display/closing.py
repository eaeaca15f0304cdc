"""Closing a widget with everything that it is made of."""

from __future__ import annotations

from collections.abc import Collection

from ipywidgets import Widget

from .reached import reached_from


def close_tree(root: Widget, but: Collection[Widget] = ()) -> None:
    """Close a widget and all widgets that it reaches: children, layout, style, marks, axes.

    Args:
        root: the widget.
        but: those to leave open, with what they alone reach.
    """
    for widget in reached_from(root, but):
        Widget.close(widget)

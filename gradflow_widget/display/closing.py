"""Closing a widget with everything that it is made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ipywidgets import Widget


def close_tree(root: Widget, but: Collection[Widget] = ()) -> None:
    """Close a widget and all widgets that it reaches: children, layout, style, marks, axes.

    Args:
        root: the widget.
        but: those to leave open, with what they alone reach.
    """
    kept = set(map(id, but))
    reached: dict[int, Widget] = {}
    queue: list[Widget] = [root]
    while queue:
        widget = queue.pop()
        if id(widget) in reached or id(widget) in kept:
            continue
        reached[id(widget)] = widget
        for name in widget.keys:
            queue.extend(_widgets_in(getattr(widget, name, None)))
    for widget in reached.values():
        Widget.close(widget)


def _widgets_in(value: Any) -> Iterable[Widget]:
    if isinstance(value, Widget):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _widgets_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _widgets_in(item)

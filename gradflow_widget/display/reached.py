"""Which widgets a widget is made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ipywidgets import Widget


def reached_from(root: Widget, but: Collection[Widget] = ()) -> list[Widget]:
    """Return a widget and all that it reaches: children, layout, style, marks, axes; each once.

    Args:
        root: the widget.
        but: those to leave out, with what they alone reach.
    """
    left_out = set(map(id, but))
    reached: dict[int, Widget] = {}
    queue: list[Widget] = [root]
    while queue:
        widget = queue.pop()
        if id(widget) in reached or id(widget) in left_out:
            continue
        reached[id(widget)] = widget
        for name in widget.keys:
            queue.extend(_widgets_in(getattr(widget, name, None)))
    return list(reached.values())


def _widgets_in(value: Any) -> Iterable[Widget]:
    if isinstance(value, Widget):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _widgets_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _widgets_in(item)

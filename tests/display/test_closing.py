"""A closed widget leaves nothing in ipywidgets' registry."""

from __future__ import annotations

import ipywidgets as widgets

from gradflow_widget.display.bars import FlowChart
from gradflow_widget.display.closing import close_tree
from gradflow_widget.display.loss import LossChart
from gradflow_widget.display.panel import LayerTable, Panel


def registered() -> set[str]:
    return set(widgets.widget._instances)


def test_children_layouts_styles_marks_scales_and_axes_are_closed() -> None:
    before = registered()
    tree = widgets.VBox(
        [
            widgets.HBox([widgets.IntSlider(), widgets.Button()]),
            FlowChart().figure,
            LossChart().figure,
            Panel(),
            LayerTable(),
        ]
    )
    assert len(registered()) > len(before) + 30

    close_tree(tree)

    assert registered() <= before


def test_a_widget_that_stands_in_two_places_is_closed() -> None:
    inner = widgets.HTML()

    close_tree(widgets.VBox([widgets.HBox([inner]), widgets.HBox([inner])]))

    assert inner.comm is None

"""Validation accuracy: a curve of its own on the loss chart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradflow_widget.display.controls import legend
from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.display.loss import LossChart


class DrawnChart:
    """A loss chart and what it has last been told to show."""

    def __init__(self) -> None:
        self.chart = LossChart()
        self.writer = FrameWriter(self.chart.targets)

    def draw(self, **accuracies: float) -> None:
        for step, accuracy in accuracies.items():
            self.chart.validation.append(int(step[1:]), accuracy)
        self.chart.draw(self.writer)
        self.writer.settle()

    def __getitem__(self, target: str) -> Any:
        return self.chart.targets[target]


@pytest.fixture
def drawn() -> DrawnChart:
    return DrawnChart()


def test_without_a_validation_there_is_no_second_curve_and_no_second_axis(
    drawn: DrawnChart,
) -> None:
    drawn.chart.curve.append(1, 2.0)
    drawn.draw()
    for part in ("validation", "validation_axis"):
        assert not drawn[part].visible
    assert drawn["loss_figure"].fig_margin["right"] == 14


def test_accuracies_stand_in_percent_on_an_axis_of_their_own(drawn: DrawnChart) -> None:
    drawn.draw(s10=0.125, s20=0.5, s30=0.875)

    line = drawn["validation"]
    assert line.visible
    assert line.x.tolist() == [10, 20, 30]
    assert line.y.tolist() == [12.5, 50.0, 87.5]
    assert line.scales["x"] is drawn["loss"].scales["x"]
    assert line.scales["y"] is not drawn["loss"].scales["y"]
    assert (line.scales["y"].min, line.scales["y"].max) == (0, 100)
    axis = drawn["validation_axis"]
    assert axis.visible
    assert axis.side == "right"
    assert axis.tick_labels["100"] == "100 %"
    # There is room for the labels on the right.
    assert drawn["loss_figure"].fig_margin["right"] > 40


def test_not_its_colour_alone_tells_it_from_the_loss(drawn: DrawnChart) -> None:
    drawn.draw(s10=0.125, s20=0.9316)
    styles = {drawn[name].line_style for name in ("loss", "loss_ghost", "validation")}
    assert len(styles) == 3
    assert drawn["validation"].marker == "circle"
    (colour,) = drawn["validation"].colors
    assert drawn["validation_axis"].label_color == colour
    assert colour == "var(--gradflow-validation)"  # that of no verdict
    assert drawn["validation_axis"].label == "validation accuracy: 93.2 %"


def test_the_legend_tells_what_the_loss_chart_has() -> None:
    words = legend().value
    assert "gradflow-swatch-validation" in words
    assert "dash-dotted: validation accuracy" in words
    assert "a knob was turned" in words


def test_a_single_point_is_seen(drawn: DrawnChart) -> None:
    drawn.draw(s10=0.5)
    assert drawn["validation"].visible
    assert drawn["validation"].y.tolist() == [50, 50]


def test_a_new_run_begins_without_one(drawn: DrawnChart) -> None:
    drawn.chart.curve.append(10, 1.0)
    drawn.draw(s10=0.5)
    drawn.chart.begin_run()
    drawn.draw()
    assert not drawn["validation"].visible
    assert drawn["loss_figure"].fig_margin["right"] > 40  # the chart keeps its place meanwhile
    assert drawn.chart.validation.latest is None


def test_a_long_run_stays_bounded_and_keeps_its_first_and_its_latest_point(
    drawn: DrawnChart,
) -> None:
    for step in range(1, 5001):
        drawn.chart.validation.append(step, step / 5000)
    drawn.draw()
    steps, percents = drawn["validation"].x, drawn["validation"].y
    assert len(steps) <= 500
    assert (steps[0], steps[-1]) == (1, 5000)
    assert np.all(np.diff(steps) > 0)
    np.testing.assert_allclose(percents, steps / 50, rtol=1e-5)


@pytest.mark.parametrize("accuracy", [-0.01, 1.01, 93.0, float("nan")])
def test_what_is_no_share_is_refused(drawn: DrawnChart, accuracy: float) -> None:
    with pytest.raises(ValueError, match="share from 0 to 1"):
        drawn.chart.validation.append(1, accuracy)
    assert drawn.chart.validation.latest is None

"""The view "through time": a bar for each time step of a recurrent layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradflow_widget.display.bars import FlowChart
from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.display.panel import LayerTable, draw_table
from gradflow_widget.measurement.reading import Reading
from tests.display.readings import reading


class DrawnChart:
    """The chart, looked at through time."""

    def __init__(self) -> None:
        self.chart = FlowChart()
        self.chart.measure = "through time"
        self.writer = FrameWriter(self.chart.targets)

    def draw(self, shown: Reading) -> None:
        recurrent = self.chart.recurrent(shown)
        bars = shown.layers if recurrent is None else shown.signal_grad_through_time[recurrent]
        self.chart.draw(self.writer, shown, ["vanishing", *["healthy"] * (len(bars) - 1)])
        self.writer.settle()

    def __getitem__(self, target: str) -> Any:
        return self.chart.targets[target]


@pytest.fixture
def drawn() -> DrawnChart:
    return DrawnChart()


def recurrent(**layers: list[float]) -> Reading:
    return reading([1.0, 1.0], signal_grad_norm=[0.1, 1.0], signal_grad_through_time=layers)


def test_a_bar_for_each_time_step_in_decades(drawn: DrawnChart) -> None:
    drawn.draw(recurrent(rnn=[1e-4, 1e-3, 1e-2, 1e-1, 1.0]))

    assert drawn["bars"].x.tolist() == [1, 2, 3, 4, 5]
    assert drawn["bars"].y == pytest.approx([-4, -3, -2, -1, 0])
    assert drawn["bars_x"].domain == [1, 2, 3, 4, 5]
    assert drawn["bars_x_axis"].label == "time step, first → last"
    assert drawn["bars_figure"].title == "Signal gradient through time · rnn"
    assert "vanishing" in drawn["bars"].colors[0]
    assert all("healthy" in colour for colour in drawn["bars"].colors[1:])
    assert drawn["bars_glyphs"].text == ["▼"]


def test_of_several_layers_the_first_is_drawn_and_the_title_says_so(drawn: DrawnChart) -> None:
    drawn.draw(recurrent(**{"rnn.l0": [1e-2, 1.0], "rnn.l1": [1e-1, 1.0]}))
    assert drawn["bars"].y == pytest.approx([-2, 0])
    assert drawn["bars_figure"].title == "Signal gradient through time · rnn.l0 (first of 2)"


def test_a_long_name_keeps_its_end(drawn: DrawnChart) -> None:
    name = "encoder.recurrent_part_of_the_whole_model.rnn"
    drawn.draw(recurrent(**{name: [1.0]}))
    title = drawn["bars_figure"].title
    assert title.endswith(".rnn")
    assert "…" in title
    assert len(title) < 65


def test_relative_to_the_last_time_step(drawn: DrawnChart) -> None:
    drawn.chart.relative = True
    drawn.draw(recurrent(rnn=[1e-3, 1e-2]))
    assert drawn["bars"].y == pytest.approx([-1, 0])


def test_zero_nan_and_infinite_have_marks_of_their_own(drawn: DrawnChart) -> None:
    drawn.draw(recurrent(rnn=[0.0, np.nan, np.inf, 1.0]))
    glyphs = drawn["bars_glyphs"]
    assert dict(zip(glyphs.x.tolist(), glyphs.text, strict=True)) == {1: "0", 2: "NaN", 3: "∞"}


def test_a_model_without_time_steps_shows_its_layers(drawn: DrawnChart) -> None:
    drawn.draw(reading([1.0, 1.0], signal_grad_norm=[1e-2, 1.0]))

    assert drawn["bars"].y == pytest.approx([-2, 0])
    assert "through time" not in drawn["bars_figure"].title
    assert drawn["bars_x_axis"].label == "layer, input → output"
    assert "vanishing" in drawn["bars"].colors[0]


def test_the_run_before_is_its_ghost(drawn: DrawnChart) -> None:
    drawn.draw(recurrent(rnn=[1e-4, 1.0]))
    drawn.chart.begin_run(recurrent(rnn=[1e-4, 1.0]))
    drawn.draw(recurrent(rnn=[1e-2, 1e-1, 1.0]))
    assert drawn["bars_ghost"].y == pytest.approx([-4, 0])
    assert drawn["bars_x"].domain == [1, 2, 3]

    drawn.chart.begin_run(reading([1.0, 1.0], signal_grad_norm=[0.1, 1.0]))
    drawn.draw(recurrent(rnn=[1e-2, 1e-1, 1.0]))
    assert not drawn["bars_ghost"].visible


def table_of(shown: Reading, **given: Any) -> LayerTable:
    table = LayerTable()
    writer = FrameWriter({"table": table})
    draw_table(writer, shown, ["healthy"] * len(shown.layers), **given)
    writer.settle()
    return table


def numbers(values: bytes, columns: int) -> Any:
    return np.frombuffer(values, dtype="<f8").reshape(-1, columns)


def test_the_table_has_every_layer_at_every_time_step() -> None:
    table = table_of(recurrent(a=[1e-2, 0.1, 1.0], b=[5.0]), measure="through time")

    assert table.time_layers == ["a", "b"]
    expected = [[1e-2, 5.0], [0.1, np.nan], [1.0, np.nan]]
    np.testing.assert_array_equal(numbers(table.time_values, 2), expected)
    assert table.bars_show == "time steps"


def test_without_recurrent_layers_the_table_has_no_time_steps() -> None:
    table = table_of(reading([1.0]))
    assert (table.time_layers, table.time_values, table.bars_show) == ([], b"", "layers")


def test_notes_are_named_for_each_layer_with_mean_and_range() -> None:
    table = table_of(
        reading(
            [1.0, 1.0, 1.0],
            layer_notes=(None, (("scale", (1.0, 0.5, 2.0)), ("shift", (0.0, -1.0, np.inf))), None),
        )
    )
    assert table.note_names == [[], ["scale", "shift"], []]
    assert numbers(table.note_values, 3).tolist() == [[1.0, 0.5, 2.0], [0.0, -1.0, np.inf]]


def test_without_notes_the_table_has_none() -> None:
    table = table_of(reading([1.0, 1.0]))
    assert table.note_values == b""
    assert not any(table.note_names)

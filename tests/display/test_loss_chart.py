"""The loss chart, as the page would be told to draw it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.display.held_range import label_room
from gradflow_widget.display.loss import LossChart


class DrawnChart:
    """A chart and what it has last been told to show."""

    def __init__(self, losses: list[float]) -> None:
        self.chart = LossChart()
        self.writer = FrameWriter(self.chart.targets)
        self.train(losses)

    def train(self, losses: list[float]) -> None:
        start = self.chart.curve.last_step + 1
        for step, loss in enumerate(losses, start=start):
            self.chart.curve.append(step, loss)
        self.draw()

    def draw(self) -> None:
        self.chart.draw(self.writer)
        self.writer.settle()

    def __getitem__(self, target: str) -> Any:
        return self.chart.targets[target]

    def labels(self) -> list[str]:
        return list(self["loss_labels"].text) if self["loss_labels"].visible else []

    def rules(self) -> list[list[list[float]]]:
        """Each rule as its places and its heights; bqplot keeps a single one flat."""
        rules = self["loss_rules"]
        return [
            [x.tolist(), y.tolist()]
            for x, y in zip(np.atleast_2d(rules.x), np.atleast_2d(rules.y), strict=True)
        ]

    def y_labels(self) -> list[str]:
        return list(self["loss_y_axis"].tick_labels.values())


def test_loss_by_step_on_a_logarithmic_axis() -> None:
    drawn = DrawnChart([10.0, 1.0, 0.1])

    assert drawn["loss"].x.tolist() == [1, 2, 3]
    assert drawn["loss"].y == pytest.approx([1, 0, -1])
    assert drawn.y_labels() == ["0.1", "1", "10"]


def test_on_a_linear_axis_zero_is_always_in_sight() -> None:
    drawn = DrawnChart([2.3, 2.2])
    drawn.chart.logarithmic = False
    drawn.draw()

    assert drawn["loss"].y == pytest.approx([2.3, 2.2])
    assert drawn["loss_y"].min == 0
    assert drawn["loss_y"].max >= 2.3
    assert drawn.y_labels()[0] == "0"


@pytest.mark.parametrize("logarithmic", [True, False])
def test_the_axes_hold_every_point(logarithmic: bool) -> None:
    drawn = DrawnChart([1.0])
    drawn.chart.logarithmic = logarithmic
    for loss in (0.9, 3.0, 1e-9, 1e12, 5.0):
        drawn.train([loss])
        line = drawn["loss"]
        assert drawn["loss_y"].min <= line.y.min()
        assert line.y.max() <= np.float32(drawn["loss_y"].max)
        assert drawn["loss_x"].max >= line.x.max()


def test_a_loss_that_is_not_positive_turns_the_axis_linear_and_says_so() -> None:
    drawn = DrawnChart([1.0, -0.5])

    assert drawn["loss"].y == pytest.approx([1.0, -0.5])
    assert "not every loss is positive" in drawn["loss_figure"].title
    assert drawn["loss_y_axis"].label == ""  # the numbers stand there


def test_before_the_first_step_there_is_no_line() -> None:
    assert not DrawnChart([])["loss"].visible


def test_one_step_is_a_short_line() -> None:
    line = DrawnChart([1.0])["loss"]

    assert line.visible
    assert line.x == pytest.approx([0.9, 1.1])  # a hundredth of the axis


def test_the_step_axis_rests_between_leaps() -> None:
    drawn = DrawnChart([1.0] * 25)
    end = drawn["loss_x"].max
    drawn.train([1.0] * 4)

    assert drawn["loss_x"].max == end


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.0, math.nan], "NaN at step 2"),
        ([1.0, math.nan, math.nan, math.nan], "NaN since step 2"),
        ([1.0, math.nan, 1.0, math.inf, 1.0], "NaN, ∞ at 2 steps, 2 to 4"),
        ([1.0, math.inf, math.nan], "∞, NaN since step 2"),
    ],
)
def test_what_is_not_finite_is_told_and_ruins_no_axis(losses: list[float], told: str) -> None:
    drawn = DrawnChart(losses)

    assert drawn["loss_wrong"].visible
    assert drawn["loss_wrong"].text == [told]
    assert np.isfinite([drawn["loss_y"].min, drawn["loss_y"].max]).all()


@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize("stretch", [1, 40])
def test_line_and_ghost_have_a_gap_where_the_loss_was_not_finite(
    logarithmic: bool, stretch: int
) -> None:
    losses = [4.0] * 60 * stretch + [math.nan] * 199 * stretch + [2.0] * 41 * stretch
    drawn = DrawnChart(losses)
    drawn.chart.logarithmic = logarithmic
    drawn.draw()

    def breaks(target: str) -> list[float]:
        line = drawn[target]
        assert line.visible
        return list(line.x[np.isnan(line.y)])

    (gap,) = breaks("loss")
    assert 60 * stretch < gap <= 259 * stretch
    drawn.chart.begin_run()
    drawn.train([3.0])
    assert breaks("loss_ghost") == [gap]
    assert np.isfinite([drawn["loss_y"].min, drawn["loss_y"].max]).all()


def test_a_label_finds_its_place_beside_a_gap() -> None:
    drawn = DrawnChart([1.0] * 60 + [math.nan] * 20 + [1.0] * 20)
    drawn.chart.mark(70, "lr 0.1")
    drawn.draw()

    assert drawn["loss_y"].min <= drawn["loss_labels"].y[0] <= drawn["loss_y"].max


def test_nothing_but_nan_still_has_an_axis() -> None:
    drawn = DrawnChart([math.nan, math.nan])

    assert not drawn["loss"].visible
    assert drawn["loss_y"].min < drawn["loss_y"].max


def test_the_run_before_stays_as_a_ghost_within_the_axes() -> None:
    drawn = DrawnChart([100.0] * 40)
    drawn.chart.begin_run()
    drawn.train([1.0, 1.0])

    ghost = drawn["loss_ghost"]
    assert ghost.visible
    assert ghost.y == pytest.approx([2.0] * 40)
    assert drawn["loss_x"].max >= 40
    assert drawn["loss_y"].max >= 2
    assert drawn["loss"].x.tolist() == [1, 2]


@pytest.mark.parametrize(("logarithmic", "most"), [(True, 3.0), (False, 25.0)])
def test_a_ghost_that_exploded_leaves_the_curve_its_height(logarithmic: bool, most: float) -> None:
    drawn = DrawnChart([2.0, 2.0, 2.0, 1e9, 1e30])
    drawn.chart.logarithmic = logarithmic
    drawn.chart.begin_run()
    drawn.draw()
    drawn.train([2.5, 2.0, 1.0])
    assert drawn["loss_ghost"].visible
    assert drawn["loss_y"].max <= most
    assert drawn["loss_y"].min <= drawn["loss"].y.min()


@pytest.mark.parametrize("logarithmic", [True, False])
def test_before_its_first_step_a_run_leaves_the_ghost_all_the_room(logarithmic: bool) -> None:
    drawn = DrawnChart([1e4] + [1.0] * 40)
    drawn.chart.logarithmic = logarithmic
    drawn.draw()
    drawn.chart.begin_run()
    drawn.draw()
    assert drawn["loss_y"].max >= drawn["loss_ghost"].y.max()

    drawn.train([1.0, 1.1])
    assert drawn["loss_y"].max < drawn["loss_ghost"].y.max()


def test_a_long_ghost_leaves_the_curve_its_width_and_says_where_it_ends() -> None:
    drawn = DrawnChart([float(10.0 ** (-step / 1000)) for step in range(1, 2501)])
    drawn.chart.begin_run()
    drawn.draw()
    assert drawn["loss_x"].max >= 2500
    assert drawn["loss_x_axis"].label == "step"

    drawn.train([0.7])
    assert 300 <= drawn["loss_x"].max <= 450
    ends, bottoms = {drawn["loss_x"].max}, {drawn["loss_y"].min}
    for _ in range(1, 1000):
        drawn.train([0.7])
        assert drawn["loss_x_axis"].label == "step · dashed: on to 2,500 (0.0032)"
        ends.add(drawn["loss_x"].max)
        bottoms.add(drawn["loss_y"].min)
    assert len(ends) <= 4  # it rests between its leaps
    assert len(bottoms) <= 4
    assert 1000 <= drawn["loss_x"].max <= 1500

    drawn.train([0.7] * 1600)
    assert drawn["loss_x_axis"].label == "step · dashed: on to 2,500 (0.0032)"  # below
    drawn.train([0.1])
    assert drawn["loss_x_axis"].label == "step"


def test_a_short_ghost_is_seen_whole() -> None:
    drawn = DrawnChart([1.0] * 250)
    drawn.chart.begin_run()
    drawn.train([1.0])

    assert drawn["loss_x"].max >= 250
    assert drawn["loss_x_axis"].label == "step"


def test_a_ghost_that_ended_above_the_chart_says_so() -> None:
    drawn = DrawnChart([2.0, 1e9, 1e30, math.nan])
    drawn.chart.begin_run()
    drawn.train([2.5, 2.0])
    assert drawn["loss_x_axis"].label == "step · dashed: on to 3 (10³⁰)"

    drawn.chart.forget_ghost()
    drawn.draw()
    assert drawn["loss_x_axis"].label == "step"


def test_the_first_step_beside_a_long_ghost_is_seen() -> None:
    drawn = DrawnChart([1.0] * 4000)
    drawn.chart.begin_run()
    drawn.train([1.0])

    places = drawn["loss"].x
    assert places[1] - places[0] == pytest.approx(0.01 * drawn["loss_x"].max, rel=0.01)


def test_a_label_stands_where_the_curve_leaves_it_room() -> None:
    steps = np.arange(100)
    drawn = DrawnChart([float(10.0 ** (-step / 25)) for step in steps])
    drawn.chart.mark(10, "lr 0.1")
    drawn.chart.mark(90, "batch 32")
    drawn.draw()

    span = drawn["loss_y"].max - drawn["loss_y"].min
    at = {
        text: (y - drawn["loss_y"].min) / span
        for text, y in zip(drawn["loss_labels"].text, drawn["loss_labels"].y, strict=True)
    }
    assert at["lr 0.1"] < 0.1  # under the curve, which begins at the top
    assert at["batch 32"] > 0.5


def test_a_label_stands_where_neither_curve_runs_through_it() -> None:
    def place(loss: float, accuracy: float) -> float:
        drawn = DrawnChart([1.0] * 100)
        drawn.chart.logarithmic = False
        drawn.train([loss] * 100)
        for step in (1, 180):  # between them the line is straight
            drawn.chart.validation.append(step, accuracy)
        drawn.chart.mark(150, "lr 0.1")
        drawn.draw()
        low, high = drawn["loss_y"].min, drawn["loss_y"].max
        return float((drawn["loss_labels"].y[0] - low) / (high - low))

    assert place(0.9, 0.95) < 0.1
    assert place(0.9, 0.1) == pytest.approx(0.4, abs=0.1)  # one below, one above
    assert place(0.1, 0.1) > 0.7
    assert place(0.1, 0.5) > 0.7
    assert place(0.5, 0.1) > 0.7


def test_a_label_stands_at_any_height_that_the_curves_leave_free() -> None:
    drawn = DrawnChart([1.0] * 100)
    drawn.chart.logarithmic = False
    drawn.train([0.65] * 100)
    for step in (1, 180):
        drawn.chart.validation.append(step, 0.1)
    drawn.chart.mark(150, "lr 0.1 → 0.2")
    drawn.draw()

    low, high = drawn["loss_y"].min, drawn["loss_y"].max
    begin = (drawn["loss_labels"].y[0] - low) / (high - low)
    assert 0.12 < begin < 0.3  # it ends 0.3 above that, under 0.65


def test_a_curve_of_few_points_is_avoided_between_them_too() -> None:
    drawn = DrawnChart([1.0] * 10)
    drawn.chart.logarithmic = False
    drawn.chart.validation.append(1, 0.01)
    drawn.chart.validation.append(10, 0.01)
    drawn.chart.validation.append(200, 0.3)
    drawn.train([1.0] * 190)
    drawn.chart.mark(100, "lr 0.1")
    drawn.draw()

    assert drawn["loss_labels"].y[0] > 0.2 * drawn["loss_y"].max  # at the bottom it runs through


def test_where_a_curve_runs_over_a_label_the_words_are_on_top() -> None:
    drawn = DrawnChart([1.0, 2.0])

    marks = drawn.chart.figure.marks
    words = marks.index(drawn["loss_labels"])
    assert all(marks.index(drawn[curve]) < words for curve in ("loss", "loss_ghost", "validation"))


@pytest.mark.parametrize("loss", [-5.2, -8193.0, -1_234_567.0, -1e12, 0.0, 1e-30, 1e30, 2.5])
@pytest.mark.parametrize("count", [1, 30])
def test_the_axis_of_a_loss_that_stands_still_can_be_read(loss: float, count: int) -> None:
    for logarithmic in (True, False):
        drawn = DrawnChart([])
        drawn.chart.logarithmic = logarithmic
        drawn.train([loss] * count)
        low, high = drawn["loss_y"].min, drawn["loss_y"].max
        shown = math.log10(loss) if loss > 0 and logarithmic else loss
        assert low <= shown <= high
        assert high - low > 1e-6 * abs(shown)
        labels = drawn.y_labels()
        assert len(set(labels)) == len(labels) >= 2
        assert all(len(label) <= 12 for label in labels), labels


@pytest.mark.parametrize(
    "losses",
    [
        [-123_433.0, -123_440.0, -123_452.0],
        [-2.3e-7, -2.1e-7, -1.9e-7],
        [-1.62e-12, -1.51e-12, -1.43e-12],
        [-1_234_567.0],
    ],
)
def test_numbers_that_need_it_get_a_wider_margin(losses: list[float]) -> None:
    drawn = DrawnChart([2.3, 0.02])
    usual = drawn["loss_figure"].fig_margin["left"]
    drawn.chart.begin_run()
    drawn.chart.forget_ghost()
    drawn.train(losses)

    margin = drawn["loss_figure"].fig_margin
    assert margin["left"] >= label_room(drawn.y_labels())
    assert margin["left"] > usual
    drawn.chart.begin_run()
    drawn.chart.forget_ghost()
    drawn.train([2.3])
    assert drawn["loss_figure"].fig_margin == margin  # it does not go to and fro


@pytest.mark.parametrize("loss", [10_000.0, 2.3, 0.0002, 1e-9, 3e30, 0.0, -5.2])
def test_usual_numbers_leave_the_plot_its_width(loss: float) -> None:
    for logarithmic in (True, False):
        drawn = DrawnChart([])
        usual = drawn["loss_figure"].fig_margin
        drawn.chart.logarithmic = logarithmic
        drawn.train([loss, 0.6 * loss])
        assert drawn["loss_figure"].fig_margin == usual, drawn.y_labels()


def test_the_label_of_an_early_marker_stands_where_the_axis_does_not_cut_it() -> None:
    drawn = DrawnChart([1.0] * 400)
    drawn.chart.mark(3, "lr 0.1")
    drawn.chart.mark(200, "batch 32")
    drawn.draw()

    early, late = drawn["loss_labels"].x.tolist()
    room = 0.05 * drawn["loss_x"].max
    assert early > 3 + room  # to the right of its rule
    assert late == 200
    assert [x for (x, _), _ in drawn.rules()] == [3, 200]


def test_early_markers_that_would_stand_on_one_label_share_it() -> None:
    drawn = DrawnChart([1.0] * 400)
    drawn.chart.mark(3, "lr 0.1")
    drawn.chart.mark(45, "batch 32")
    drawn.draw()

    assert drawn.labels() == ["lr 0.1, batch 32"]


def test_a_marker_has_a_rule_from_top_to_bottom_and_a_label() -> None:
    drawn = DrawnChart([1.0] * 10)
    drawn.chart.mark(5, "lr 0.1")
    drawn.draw()

    assert drawn.rules() == [[[5, 5], [drawn["loss_y"].min, drawn["loss_y"].max]]]
    assert drawn.labels() == ["lr 0.1"]


def test_turns_of_knobs_at_one_step_share_a_marker_and_the_last_turn_counts() -> None:
    drawn = DrawnChart([1.0] * 10)
    for text in ("lr 0.1", "batch 32", "lr 0.2"):
        drawn.chart.mark(5, text)
    drawn.draw()

    assert drawn.labels() == ["batch 32, lr 0.2"]
    assert len(drawn.rules()) == 1


def test_markers_too_close_for_two_labels_share_one() -> None:
    drawn = DrawnChart([1.0] * 1000)
    for step in range(500, 520):
        drawn.chart.mark(step, f"lr {step}")
    drawn.chart.mark(900, "batch 8")
    drawn.draw()

    assert drawn.labels() == ["lr 519", "batch 8"]
    assert len(drawn.rules()) == 21


def test_a_shared_label_fits_into_the_chart() -> None:
    drawn = DrawnChart([1.0] * 10)
    for text in ("clip value 0.000123", "batch 1024", "lr 0.000123", "depth 12"):
        drawn.chart.mark(5, text)
    drawn.draw()

    assert drawn.labels() == ["…, batch 1024, lr 0.000123, depth 12"]


def test_turns_whose_labels_have_no_room_are_told_all_the_same() -> None:
    drawn = DrawnChart([1.0] * 1000)
    turned = [(500 + n, f"lr {n}" if n % 2 else f"clip norm {n}") for n in range(12)]
    for step, text in turned:
        drawn.chart.mark(step, text)
    drawn.draw()

    assert len(drawn.labels()) == 1
    assert drawn.chart.turns == [[str(step), text] for step, text in turned]


@pytest.mark.parametrize(("turned", "told"), [(70, 70), (1100, 1000)])
def test_the_table_tells_of_many_more_turns_than_the_chart_has_markers(
    turned: int, told: int
) -> None:
    drawn = DrawnChart([1.0] * 2000)
    for step in range(1, turned + 1):
        drawn.chart.mark(step, f"lr {step}")
    drawn.draw()

    steps = range(turned - told + 1, turned + 1)
    assert drawn.chart.turns == [[f"{step:,}", f"lr {step}"] for step in steps]
    assert [x[0] for x, _ in drawn.rules()] == list(steps)[-60:]


def test_a_new_run_begins_without_markers() -> None:
    drawn = DrawnChart([1.0] * 10)
    drawn.chart.mark(5, "lr 0.1")
    drawn.chart.begin_run()
    drawn.draw()

    assert drawn.chart.turns == []

    assert drawn.labels() == []
    assert not drawn["loss_rules"].visible


def test_a_frame_costs_the_same_after_many_steps() -> None:
    drawn = DrawnChart([1.0] * 1000)
    drawn.train([1.0 + 0.5 * (step % 3) for step in range(20_000)])
    updates, buffers = drawn.writer.message(whole=True)

    assert updates
    assert sum(buffer.nbytes for buffer in buffers) < 12_000

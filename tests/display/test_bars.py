"""The gradient-flow chart, as the page would be told to draw it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradflow_widget.display.bars import STATE_GLYPHS, FlowChart
from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.measurement.reading import Reading
from tests.display.readings import reading


class DrawnChart:
    """A chart and what it has last been told to show."""

    def __init__(self) -> None:
        self.chart = FlowChart()
        self.writer = FrameWriter(self.chart.targets)

    def draw(self, shown: Reading, problems: list[str] | None = None) -> None:
        self.chart.draw(self.writer, shown, problems or ["healthy"] * len(shown.layers))
        self.writer.settle()

    def __getitem__(self, target: str) -> Any:
        return self.chart.targets[target]

    def glyphs(self) -> dict[int, str]:
        labels = self["bars_glyphs"]
        if not labels.visible:
            return {}
        return dict(zip(labels.x.astype(int).tolist(), labels.text, strict=True))


@pytest.fixture
def drawn() -> DrawnChart:
    return DrawnChart()


def test_a_bar_for_each_layer_in_decades(drawn: DrawnChart) -> None:
    drawn.draw(reading([1e-3, 1e-2, 1.0]))

    assert drawn["bars"].x.tolist() == [1, 2, 3]
    assert drawn["bars"].y == pytest.approx([-3, -2, 0])
    assert drawn["bars"].base == drawn["bars_y"].min
    assert drawn["bars_x"].domain == [1, 2, 3]


def test_every_value_stands_inside_the_axis_and_above_its_floor(drawn: DrawnChart) -> None:
    for norms in ([1e-3, 1.0], [1e-9, 5.0], [1e-30, 1e30], [2.0, 2.0]):
        drawn.draw(reading(norms))
        heights = drawn["bars"].y
        assert np.all(heights > drawn["bars_y"].min)
        assert np.all(heights <= drawn["bars_y"].max)


@pytest.mark.parametrize("measure", ["weight gradient", "signal gradient", "update ratio"])
def test_the_measure_chooses_the_numbers_and_the_title(drawn: DrawnChart, measure: str) -> None:
    shown = reading([1e-1, 1e-1], signal_grad_norm=[1e-2, 1e-2], update_ratio=[1e-3, 1e-3])
    drawn.chart.measure = measure  # type: ignore[assignment]
    drawn.draw(shown)

    height = {"weight gradient": -1, "signal gradient": -2, "update ratio": -3}[measure]
    assert drawn["bars"].y == pytest.approx([height, height])
    assert measure in drawn["bars_figure"].title


def test_relative_to_the_last_layer_the_last_bar_is_one(drawn: DrawnChart) -> None:
    drawn.chart.relative = True
    drawn.draw(reading([1e-5, 1e-3, 1e-2]))

    assert drawn["bars"].y == pytest.approx([-3, -1, 0])
    assert "relative to last" in drawn["bars_figure"].title


def test_relative_to_another_layer_than_the_last_says_so(drawn: DrawnChart) -> None:
    drawn.chart.relative = True
    drawn.draw(reading([1e-5, 1e-3, np.nan], frozen=[2]))

    assert drawn["bars"].y[:2] == pytest.approx([-2, 0])
    assert "relative to layer 2" in drawn["bars_figure"].title


def test_before_the_first_step_there_is_no_update_and_no_mark_for_it(drawn: DrawnChart) -> None:
    drawn.chart.measure = "update ratio"
    drawn.draw(reading([1e-5, 1e-3], signal_grad_norm=[1e-2, 1e-2]))

    assert drawn.chart.states_of(reading([1e-5, 1e-3], signal_grad_norm=[1.0, 1.0])) == ["", ""]
    assert drawn.glyphs().get(1, "") != STATE_GLYPHS["none"]


def test_relative_goes_by_the_last_layer_that_has_a_number(drawn: DrawnChart) -> None:
    drawn.chart.relative = True
    drawn.draw(reading([1e-5, 1e-3, np.nan]))

    assert drawn["bars"].y[:2] == pytest.approx([-2, 0])


def test_zero_none_frozen_nan_and_infinite_have_a_mark_each_and_no_bar(drawn: DrawnChart) -> None:
    shown = reading([0.0, np.nan, np.nan, np.nan, np.inf, 1.0], missing=[1], frozen=[2])
    drawn.draw(shown, [""] * 6)

    assert shown.gradient_states == ("zero", "none", "frozen", "nan", "inf", "")
    assert drawn.glyphs() == {
        1: STATE_GLYPHS["zero"],
        2: STATE_GLYPHS["none"],
        3: STATE_GLYPHS["frozen"],
        4: STATE_GLYPHS["nan"],
        5: STATE_GLYPHS["inf"],
    }
    assert len(set(drawn.glyphs().values())) == 5
    assert drawn["bars"].y[:5].tolist() == [drawn["bars_y"].min] * 5
    places = dict(
        zip(drawn["bars_glyphs"].x.tolist(), drawn["bars_glyphs"].y.tolist(), strict=True)
    )
    assert places[5] > places[1]


def test_a_signal_that_is_zero_is_told_from_one_that_was_not_read(drawn: DrawnChart) -> None:
    drawn.chart.measure = "signal gradient"
    drawn.draw(reading([1.0, 1.0, 1.0], signal_grad_norm=[0.0, np.nan, 1.0]), [""] * 3)

    assert drawn.glyphs() == {1: STATE_GLYPHS["zero"], 2: STATE_GLYPHS["unknown"]}


def test_a_ratio_to_a_weight_of_zero_is_not_said_to_have_no_gradient(drawn: DrawnChart) -> None:
    drawn.chart.measure = "update ratio"
    drawn.draw(reading([1.0, 1.0, 1.0], update_ratio=[0.1, np.nan, 0.0]), [""] * 3)

    assert drawn.glyphs() == {2: STATE_GLYPHS["unknown"], 3: STATE_GLYPHS["zero"]}


@pytest.mark.parametrize(
    ("count", "marks"),
    [
        (12, range(1, 13)),
        (13, range(2, 14, 2)),
        (30, range(2, 31, 3)),
        (61, range(4, 62, 6)),
    ],
)
def test_words_over_narrow_bars_do_not_run_into_each_other(
    drawn: DrawnChart, count: int, marks: Any
) -> None:
    drawn.draw(reading([np.nan] * count), [""] * count)

    assert drawn.glyphs() == dict.fromkeys(marks, STATE_GLYPHS["nan"])


def test_beside_words_single_signs_stay_over_every_bar(drawn: DrawnChart) -> None:
    drawn.draw(reading([0.0] * 10 + [np.nan] * 10), [""] * 20)

    zero, nan = STATE_GLYPHS["zero"], STATE_GLYPHS["nan"]
    assert drawn.glyphs() == {
        **dict.fromkeys(range(1, 11), zero),
        **dict.fromkeys(range(12, 21, 2), nan),
    }


def test_nothing_but_nan_leaves_the_axis_finite(drawn: DrawnChart) -> None:
    drawn.draw(reading([np.nan, np.nan]))

    assert np.isfinite([drawn["bars_y"].min, drawn["bars_y"].max]).all()
    assert np.isfinite(drawn["bars"].y).all()


def test_colour_and_mark_follow_each_layers_own_verdict(drawn: DrawnChart) -> None:
    problems = ["vanishing", "exploding", "healthy", ""]
    drawn.draw(reading([1.0] * 4), problems)

    assert drawn["bars"].colors == [
        f"var(--gradflow-{name})" for name in ("vanishing", "exploding", "healthy", "unjudged")
    ]
    assert drawn.glyphs() == {1: "▼", 2: "▲"}


def test_marks_stand_still_while_the_bars_move(drawn: DrawnChart) -> None:
    problems = ["vanishing", "exploding", "", ""]
    drawn.draw(reading([1e-3, 2.0, 1.0, 0.0]), problems)
    before = drawn["bars_glyphs"].y.tolist()
    drawn.draw(reading([4e-3, 1.0, 2.0, 0.0]), problems)

    assert drawn["bars_glyphs"].y.tolist() == before


def test_among_many_layers_only_the_ends_of_a_run_are_marked(drawn: DrawnChart) -> None:
    drawn.draw(reading([1.0] * 200), ["vanishing"] * 150 + ["healthy"] * 50)

    assert drawn.glyphs() == {1: "▼", 150: "▼"}


def test_a_word_that_is_wider_than_its_bar_stands_above_the_axis_lowest_number(
    drawn: DrawnChart,
) -> None:
    floor = []
    for count in (8, 200):
        drawn.draw(reading([np.nan] + [1.0] * (count - 1)), [""] * count)
        low, high = drawn["bars_y"].min, drawn["bars_y"].max
        floor.append((drawn["bars_glyphs"].y[0] - low) / (high - low))

    assert floor == [0, pytest.approx(0.03)]


def test_the_outline_stands_only_where_the_clip_bound(drawn: DrawnChart) -> None:
    drawn.draw(reading([1e-2, 1e-2]))
    assert not drawn["bars_outline"].visible

    drawn.draw(reading([1e-3, 1e-3], unclipped=[1e-1, 1e-2]))
    assert drawn["bars_outline"].visible
    assert drawn["bars_outline"].y == pytest.approx([-1, -2])
    assert drawn["bars"].y == pytest.approx([-3, -3])
    assert drawn["bars_y"].max >= -1

    drawn.draw(reading([1e-2, 1e-2]))
    assert not drawn["bars_outline"].visible


def test_the_outline_is_for_the_weight_gradient_alone(drawn: DrawnChart) -> None:
    drawn.chart.measure = "signal gradient"
    drawn.draw(reading([1e-3], unclipped=[1e-1], signal_grad_norm=[1.0]))

    assert not drawn["bars_outline"].visible


def test_the_last_reading_of_the_run_before_is_the_ghost(drawn: DrawnChart) -> None:
    drawn.draw(reading([1e-3, 1e-2, 1e-1]))
    assert not drawn["bars_ghost"].visible

    drawn.chart.begin_run(reading([1e-3, 1e-2, 1e-1]))
    drawn.draw(reading([1.0, 1.0]))

    assert drawn["bars_ghost"].visible
    assert drawn["bars_ghost"].y == pytest.approx([-3, -2, -1])
    assert drawn["bars_x"].domain == [1, 2, 3]  # room for the deeper of the two
    assert drawn["bars_y"].min <= -3


def test_the_ghost_lies_on_a_line_of_the_background_over_the_bars(drawn: DrawnChart) -> None:
    drawn.chart.begin_run(reading([1e-3, np.nan, 1e-1]))
    drawn.draw(reading([1.0, 1.0, 1.0]))

    casing, ghost = drawn["bars_casing"], drawn["bars_ghost"]
    assert casing.visible
    assert casing.x.tolist() == ghost.x.tolist() == [1, 3]
    assert casing.y.tolist() == ghost.y.tolist()
    assert casing.stroke_width > ghost.stroke_width
    marks = drawn.chart.figure.marks
    assert marks.index(drawn["bars"]) < marks.index(casing) < marks.index(ghost)

    drawn.chart.forget_ghost()
    drawn.draw(reading([1.0, 1.0, 1.0]))
    assert not casing.visible


def with_norms(norms: list[float], names: list[str]) -> Reading:
    """A reading of these layers; those whose name ends in "norm" have no weight matrix."""
    made = reading(norms)
    described = tuple(
        replace(layer, name=name, is_weight_layer=not name.endswith("norm"))
        for layer, name in zip(made.described, names, strict=True)
    )
    return replace(made, described=described)


def test_a_ghost_stays_over_its_layers_where_norms_come_between_them(drawn: DrawnChart) -> None:
    drawn.chart.begin_run(with_norms([1e-3, 1e-2, 1e-1], ["0", "2", "4"]))
    drawn.draw(with_norms([1.0] * 5, ["0.layer", "0.norm", "2.layer", "2.norm", "4"]))

    assert drawn["bars_ghost"].x.tolist() == [1, 3, 5]
    assert drawn["bars_ghost"].y == pytest.approx([-3, -2, -1])


def test_a_ghost_of_norms_that_are_gone_tells_of_the_layers_that_are_left(
    drawn: DrawnChart,
) -> None:
    names = ["in_norm", "0", "a_norm", "2", "b_norm"]
    drawn.chart.begin_run(with_norms([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], names))
    drawn.draw(with_norms([1.0] * 3, ["in_norm", "0", "2"]))

    assert drawn["bars_ghost"].x.tolist() == [1, 2, 3]
    assert drawn["bars_ghost"].y == pytest.approx([-5, -4, -2])
    assert drawn["bars_x"].domain == [1, 2, 3]


def test_no_mark_is_ever_without_a_place(drawn: DrawnChart) -> None:
    # The page sets one target after the other, and draws all marks, also those that are hidden,
    # at each change of a scale.
    placed: dict[str, list[int]] = {}
    domain: list[int] = []
    before: list[float] = []
    for depth, value in ((3, 1.0), (6, 1.0), (5, np.nan), (2, 1.0), (2, 0.0), (60, 1.0), (5, 1.0)):
        if before:
            drawn.chart.begin_run(reading(before))
        before = [value] * depth
        unclipped = [10.0] * depth if depth == 6 else None
        problem = "vanishing" if depth == 60 else "healthy"
        drawn.chart.draw(drawn.writer, reading(before, unclipped=unclipped), [problem] * depth)
        for update in drawn.writer.message(whole=False)[0]:
            name, state = update["target"], update["state"]
            if name.startswith("bars_x") and "domain" in state:
                domain = state["domain"]
            if "x" in state:
                placed[name] = drawn.writer._state[name]["x"].tolist()
            assert all(set(places) <= set(domain) for places in placed.values()), (depth, name)
    assert set(placed) == {"bars", "bars_outline", "bars_casing", "bars_ghost", "bars_glyphs"}
    assert domain == [1, 2, 3, 4, 5]


def test_a_ghost_of_a_much_deeper_network_leaves_the_bars_their_room(drawn: DrawnChart) -> None:
    drawn.chart.begin_run(reading([1e-9] * 9))
    drawn.draw(reading([1.0, 1.0]))
    assert not drawn["bars_ghost"].visible
    assert drawn["bars_x"].domain == [1, 2]
    assert drawn["bars_y"].min > -9
    drawn.draw(reading([1.0, 1.0, 1.0]))
    assert drawn["bars_ghost"].visible


def test_a_ghost_leaves_out_what_has_no_number(drawn: DrawnChart) -> None:
    drawn.chart.begin_run(reading([0.0, 1e-2, np.nan]))
    drawn.draw(reading([1.0, 1.0, 1.0]))

    assert drawn["bars_ghost"].x.tolist() == [2]


def test_a_run_that_never_trained_leaves_the_older_ghost(drawn: DrawnChart) -> None:
    drawn.chart.begin_run(reading([1e-3]))
    drawn.chart.begin_run(None)
    drawn.draw(reading([1.0]))

    assert drawn["bars_ghost"].y == pytest.approx([-3])


def test_the_axis_rests_while_bars_move_within_it(drawn: DrawnChart) -> None:
    drawn.draw(reading([1e-3, 0.3]))
    limits = drawn["bars_y"].min, drawn["bars_y"].max

    for scale in (1.1, 0.9, 1.5, 2.0):
        drawn.draw(reading([1e-3 * scale, 0.3 * scale]))
        assert (drawn["bars_y"].min, drawn["bars_y"].max) == limits


@pytest.mark.parametrize("count", [1, 2, 20, 21, 48, 64, 101, 200, 999])
def test_layer_numbers_stay_few_and_tell_the_first_and_the_last(
    drawn: DrawnChart, count: int
) -> None:
    drawn.draw(reading([1.0] * count))

    labels = drawn["bars_x_axis"].tick_labels
    shown = [name for name in labels.values() if name]
    assert len(labels) == count
    assert 1 <= len(shown) <= 22
    assert [shown[0], shown[-1]] == ["1", str(count)]
    assert all(name in ("", place) for place, name in labels.items())


@pytest.mark.parametrize("count", range(1, 300))
def test_layer_numbers_lie_apart_in_a_window_of_400_pixels(drawn: DrawnChart, count: int) -> None:
    plot, digit = 198, 7  # measured in JupyterLab

    drawn.draw(reading([1.0] * count))

    shown = [int(name) for name in drawn["bars_x_axis"].tick_labels.values() if name]
    for left, right in itertools.pairwise(shown):
        apart = (right - left) * plot / count
        assert apart >= digit * (len(str(left)) + len(str(right))) / 2 + 2, (left, right)

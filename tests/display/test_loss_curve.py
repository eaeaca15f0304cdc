"""A loss curve of any length in a bounded number of points."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradflow_widget.display.loss_curve import MOST_BUCKETS, MOST_POINTS, LossCurve


def curve_of(losses: list[float]) -> LossCurve:
    curve = LossCurve()
    for step, loss in enumerate(losses, start=1):
        curve.append(step, loss)
    return curve


LOSSES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(LOSSES, st.integers(1, 12))
def test_every_point_is_a_step_that_was_and_they_stand_in_order(
    losses: list[float], stretch: int
) -> None:
    losses = losses * stretch
    steps, values = curve_of(losses).points()

    assert len(steps) <= MOST_POINTS
    assert np.all(np.diff(steps) > 0)
    assert values.tolist() == [losses[int(step) - 1] for step in steps]


@given(LOSSES, st.integers(1, 12))
def test_the_extremes_are_kept(losses: list[float], stretch: int) -> None:
    losses = losses * stretch
    _, values = curve_of(losses).points()

    assert values.min() == min(losses)
    assert values.max() == max(losses)


@given(st.integers(0, 4000), st.integers(1, 4000))
def test_a_single_spike_is_never_thinned_away(place: int, after: int) -> None:
    losses = [1.0] * place + [9.0] + [1.0] * after
    steps, values = curve_of(losses).points()

    assert steps[values == 9.0].tolist() == [place + 1]


@given(st.integers(1, 6000), st.integers(0, 2**32 - 1))
def test_a_bucket_holds_the_extremes_of_its_steps(count: int, seed: int) -> None:
    losses = np.random.default_rng(seed).normal(size=count)
    curve = curve_of(losses.tolist())
    steps, values = curve.points()

    # Brute force: buckets of a power of two, of which at most MOST_BUCKETS are in use.
    each = 1
    while math.ceil(count / each) > MOST_BUCKETS:
        each *= 2
    for start in range(0, count, each):
        bucket = losses[start : start + each]
        shown = values[(steps > start) & (steps <= start + each)]
        assert set(shown.tolist()) == {bucket.min(), bucket.max()}


def test_a_million_steps_take_no_more_memory_than_a_thousand() -> None:
    curve = LossCurve()
    for step in range(1, 1001):
        curve.append(step, 1.0)
    tracemalloc.start()
    for step in range(1001, 1_000_001):
        curve.append(step, 1.0 + step % 7)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert grown < 100_000
    steps, _ = curve.points()
    assert len(steps) <= 1000
    assert steps[-1] > 990_000


@pytest.mark.parametrize(("loss", "kind"), [(math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "−∞")])
def test_what_is_not_finite_is_a_gap_and_told(loss: float, kind: str) -> None:
    curve = curve_of([1.0, loss, 2.0, loss])

    steps, values = curve.points()
    assert steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(values, [1.0, math.nan, 2.0])
    assert curve.first_nonfinite == (2, kind)
    assert curve.last_nonfinite == (4, kind)
    assert curve.nonfinite_count == 2
    assert curve.last_step == 4


# Whether the losses are finite, and of how many steps; and how often all that comes again.
LONG_RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 700)), min_size=1, max_size=12)
SHORT_RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=6)


@given(
    st.one_of(st.tuples(LONG_RUNS, st.just(1)), st.tuples(SHORT_RUNS, st.integers(1, 2500 // 6))),
    st.integers(0, 2**32 - 1),
)
@example(([(True, 1), (False, 1), (True, 2)], 500), 0)
@example(([(True, 1), (False, 1)], 2000), 0)
def test_no_line_is_drawn_through_losses_that_are_not_finite(
    runs: tuple[list[tuple[bool, int]], int], seed: int
) -> None:
    lengths, times = runs
    finite = np.tile(np.concatenate([[is_finite] * n for is_finite, n in lengths]), times)
    losses = np.where(finite, np.random.default_rng(seed).normal(size=len(finite)), math.nan)
    steps, values = curve_of(losses.tolist()).points()

    is_loss = np.isfinite(values)
    assert len(steps) <= MOST_POINTS
    assert np.all(np.diff(steps) > 0)
    np.testing.assert_array_equal(values, losses[steps.astype(int) - 1])
    for place in np.flatnonzero(is_loss[:-1] & is_loss[1:]):
        first, last = steps[place : place + 2].astype(int)
        assert not np.isnan(losses[first : last - 1]).any()
    # A gap is one NaN, with losses on both sides.
    assert not np.any(~is_loss[:-1] & ~is_loss[1:])
    if finite.any():
        assert is_loss[[0, -1]].all()
        assert np.nanmin(values) == np.nanmin(losses)
        assert np.nanmax(values) == np.nanmax(losses)
    else:
        assert not len(steps)


@pytest.mark.parametrize(
    "finite", [[True, False], [True, False, True, True], [True] * 999 + [False]]
)
def test_gaps_leave_a_curve_as_fine_as_its_points_allow(finite: list[bool]) -> None:
    losses = [1.0 + step % 7 if finite[step % len(finite)] else math.nan for step in range(8000)]
    steps, _ = curve_of(losses).points()

    assert MOST_POINTS / 4 <= len(steps) <= MOST_POINTS


def test_a_gap_is_kept_however_long_the_run() -> None:
    losses = [1.0 + step % 7 for step in range(30_000)]
    losses[60:259] = [math.nan] * 199
    losses[20_000] = math.inf
    steps, values = curve_of(losses).points()

    gaps = steps[np.isnan(values)]
    assert len(gaps) == 2
    assert 61 <= gaps[0] <= 259
    assert gaps[1] == 20_001


@pytest.mark.parametrize(("losses", "positive"), [([1.0, 2.0], True), ([1.0, 0.0], False)])
def test_it_knows_whether_a_logarithm_can_be_taken(losses: list[float], positive: bool) -> None:
    assert curve_of(losses).positive is positive


def test_cleared_it_is_as_new() -> None:
    curve = curve_of([1.0, -2.0, math.nan])
    curve.clear()

    assert curve.points()[0].size == 0
    assert curve.positive
    assert curve.first_nonfinite is None
    assert curve.last_step == 0

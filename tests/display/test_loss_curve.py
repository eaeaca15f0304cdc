"""A loss curve of any length in a bounded number of points."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradflow_widget.display.loss_curve import MOST_BUCKETS, LossCurve


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

    assert len(steps) <= 2 * MOST_BUCKETS
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


# Whether the losses are finite, and of how many steps.
RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 700)), min_size=1, max_size=12)


@given(RUNS, st.integers(0, 2**32 - 1))
def test_no_line_is_drawn_through_losses_that_are_not_finite(
    runs: list[tuple[bool, int]], seed: int
) -> None:
    losses = np.random.default_rng(seed).normal(size=sum(length for _, length in runs))
    begin = 0
    for finite, length in runs:
        if not finite:
            losses[begin : begin + length] = math.nan
        begin += length
    steps, values = curve_of(losses.tolist()).points()

    each = 1  # steps to a bucket
    while math.ceil(len(losses) / each) > MOST_BUCKETS:
        each *= 2
    is_loss = np.isfinite(values)
    assert is_loss.sum() <= 2 * MOST_BUCKETS
    assert values[is_loss].tolist() == losses[steps[is_loss].astype(int) - 1].tolist()
    assert np.all(np.diff(steps) > 0)
    for place in np.flatnonzero(is_loss[:-1] & is_loss[1:]):
        first, last = steps[place : place + 2].astype(int)
        assert np.isnan(losses[first : last - 1]).sum() < each
    # A gap is one NaN, with losses on both sides.
    assert not np.any(~is_loss[:-1] & ~is_loss[1:])
    assert is_loss[[0, -1]].all() if len(steps) else np.isnan(losses).all()


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

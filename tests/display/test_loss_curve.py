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
def test_what_is_not_finite_is_kept_apart(loss: float, kind: str) -> None:
    curve = curve_of([1.0, loss, 2.0, loss])

    assert curve.points()[1].tolist() == [1.0, 2.0]
    assert curve.first_nonfinite == (2, kind)
    assert curve.last_nonfinite == (4, kind)
    assert curve.nonfinite_count == 2
    assert curve.last_step == 4


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

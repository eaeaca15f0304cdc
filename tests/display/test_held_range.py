"""Limits that hold still, and ticks whose labels are right."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradflow_widget.display.held_range import (
    HeldRange,
    decade_ticks,
    label_room,
    linear_labels,
    linear_ticks,
    log_ticks,
    number_key,
    plain_number,
    step_labels,
)

VALUES = st.floats(-40, 40)
SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"


def fresh(patience: int = 3) -> HeldRange:
    return HeldRange(grain=1.0, least=2.0, loose=0.45, patience=patience)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30))
def test_the_limits_always_hold_the_values(spans: list[tuple[float, float]]) -> None:
    held = fresh()
    for one, other in spans:
        low, high = min(one, other), max(one, other)
        bottom, top = held.fit(low, high)
        assert bottom <= low <= high <= top
        assert top - bottom >= 2


def test_they_hold_still_while_the_values_fit() -> None:
    held = fresh()
    first = held.fit(-3.5, 0.5)

    assert all(held.fit(-3.5 + wobble, 0.5 - wobble) == first for wobble in (0.0, 0.4, 0.9, 0.2))


def test_they_widen_at_once() -> None:
    held = fresh()
    held.fit(-3.5, 0.5)

    assert held.fit(-6.2, 0.5) == (-7.0, 1.0)


def test_room_that_the_values_do_not_fill_is_where_they_are_bound_to_go() -> None:
    assert fresh().fit(0.2, 0.7) == (0.0, 2.0)
    assert HeldRange(grain=1.0, least=2.0, falling=True).fit(0.2, 0.7) == (-1.0, 1.0)


def test_they_narrow_only_after_the_values_have_rested_small_for_a_while() -> None:
    held = fresh(patience=3)
    wide = held.fit(-9.5, 0.5)

    assert [held.fit(-1.5, 0.5) for _ in range(2)] == [wide, wide]
    assert held.fit(-1.5, 0.5) == (-2.0, 1.0)


def test_one_wide_look_begins_the_wait_anew() -> None:
    held = fresh(patience=3)
    wide = held.fit(-9.5, 0.5)
    for _ in range(2):
        held.fit(-1.5, 0.5)
    held.fit(-9.5, 0.5)

    assert [held.fit(-1.5, 0.5) for _ in range(2)] == [wide, wide]


# -- ticks -------------------------------------------------------------------------------


def number_in(label: str) -> float:
    """The number that a label tells a person."""
    label = label.replace("−", "-")
    if label[-1] not in SUPERSCRIPTS:
        return float(label)
    mantissa, _, power = label.rpartition("10")
    factor = {"": 1.0, "-": -1.0}.get(mantissa) or float(mantissa.removesuffix("×"))
    return factor * 10.0 ** int(power.translate(str.maketrans(SUPERSCRIPTS, "-0123456789")))


@given(st.floats(-30, 30), st.floats(0.001, 60))
def test_ticks_of_any_logarithmic_span_are_labelled_with_their_values(
    low: float, span: float
) -> None:
    ticks, labels = log_ticks(low, low + span)

    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in ticks)
    told = [number_in(labels[number_key(tick)]) for tick in ticks]
    assert told == pytest.approx([10.0**tick for tick in ticks], rel=0.01 * span)
    assert len(set(told)) == len(told)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e9))
def test_ticks_of_any_linear_span_are_labelled_with_their_values(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    ticks = linear_ticks(low, high)
    labels = linear_labels(ticks)

    assert 2 <= len(ticks) <= 8
    step = ticks[1] - ticks[0]
    told = [number_in(labels[number_key(tick)]) for tick in ticks]
    assert told == pytest.approx(ticks, abs=0.02 * step)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-4, 0, ["10⁻⁴", "0.001", "0.01", "0.1", "1"]),
        (-1, 1, ["0.1", "1", "10"]),
        (0.25, 0.75, ["2", "3", "4", "5"]),
        (-42, 0, ["10⁻⁴²", "10⁻³⁵", "10⁻²⁸", "10⁻²¹", "10⁻¹⁴", "10⁻⁷", "1"]),
        (6, 6.5, ["10⁶", "2×10⁶", "3×10⁶"]),
    ],
)
def test_logarithmic_labels(low: float, high: float, labels: list[str]) -> None:
    ticks, names = log_ticks(low, high)
    assert [names[number_key(tick)] for tick in ticks] == labels


def test_decades_are_whole_and_few() -> None:
    ticks, _ = decade_ticks(-42.3, 1.2)
    assert len(ticks) <= 7
    assert all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.02, "0.02"), (2.5, "2.5"), (1500, "1500"), (3e6, "3×10⁶"), (-1e-7, "−10⁻⁷")],
)
def test_plain_numbers(value: float, text: str) -> None:
    assert plain_number(value) == text


def test_a_number_is_written_out_where_all_its_digits_count() -> None:
    assert plain_number(-123_455.0, digits=6) == "−123455"
    assert plain_number(123_456.5, digits=7) == "123456.5"
    assert plain_number(1.234567e9, digits=7) == "1.234567×10⁹"


@pytest.mark.parametrize("low", [-123_456.0, -2e-7, -1_234_567.0, -5e12])
def test_wider_numbers_need_more_room_beside_the_plot(low: float) -> None:
    ticks = linear_ticks(low, low * 0.9999)
    labels = linear_labels(ticks).values()
    assert label_room(labels) > label_room(["10000", "0.0002"])
    assert label_room(labels) >= 9 + 6 * max(map(len, labels))


def test_steps_are_told_in_thousands_and_millions() -> None:
    labels = step_labels([0.0, 500.0, 20_000.0, 1_500_000.0])
    assert list(labels.values()) == ["0", "500", "20k", "1.5M"]


def test_keys_are_numbers_as_javascript_writes_them() -> None:
    node = shutil.which(
        "node", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert node is not None
    numbers = [0.0, -0.0, 1.0, -2.0, 0.1, 0.1 + 0.2, 2.5e-5, 1e-6, 9.9e-7, 1.5e-7, -3e-12]
    numbers += [123456.789, 1e15, 1e16, 1e20, 123e18, 1e21, 2.5e22, math.pi * 1e-6, math.log10(2)]
    numbers += [tick for low in (-30.2, -0.4, 3.7) for tick in log_ticks(low, low + 0.7)[0]]

    script = f"console.log(JSON.stringify({json.dumps(numbers)}.map(String)))"
    written = subprocess.run([node, "-e", script], capture_output=True, check=True, text=True)

    assert [number_key(number) for number in numbers] == json.loads(written.stdout)

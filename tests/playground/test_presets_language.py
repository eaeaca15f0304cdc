"""The expressions that promises are written in."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradflow_widget.playground.presets import Promise

NAMES = ("loss", "accuracy", "decades", "finite")


def promise(text: Any) -> Promise:
    return Promise(text, numbers=NAMES, flags=("finite",))


RUN = {"loss": 2.0, "accuracy": 0.25, "decades": -6.0, "finite": 1.0}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("decades < -5 and accuracy < 0.3", True),
        ("decades < -5 and accuracy < 0.2", False),
        ("decades > -5 or loss == 2", True),
        ("1 < loss < 3", True),
        ("1 < loss < 1.5", False),
        ("loss / accuracy >= 8", True),
        ("loss * 2 - 1 <= 2 + 1", True),
        ("-decades > 5.9", True),
        ("loss > 1 and (accuracy > 1 or decades < 0)", True),
        ("finite", True),
        ("not finite", False),
        ("not finite or loss > 1", True),
        ("  loss > 1e0  ", True),
    ],
)
def test_an_expression_means_what_it_says(text, holds):
    assert promise(text).holds(RUN) is holds


def test_another_run_is_spoken_of_as_other():
    compared = promise("loss < other.loss / 3 and not other.finite")
    assert compared.compares
    assert compared.holds(RUN, {**RUN, "loss": 9.0, "finite": 0.0})
    assert not compared.holds(RUN, {**RUN, "loss": 9.0, "finite": 1.0})
    assert not compared.holds(RUN, {**RUN, "loss": 5.0, "finite": 0.0})
    with pytest.raises(ValueError, match="compares two runs"):
        compared.holds(RUN)
    assert not promise("loss < 3").compares


@pytest.mark.parametrize("text", ["loss < 1", "loss > 1", "loss >= 1", "loss == loss", "1 < loss"])
def test_no_comparison_holds_for_want_of_a_number(text):
    assert not promise(text).holds({**RUN, "loss": math.nan})


def test_a_division_by_zero_is_no_number():
    assert not promise("1 / loss > 0").holds({**RUN, "loss": 0.0})
    assert not promise("1 / loss <= 0").holds({**RUN, "loss": 0.0})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "1 to 500 characters"),
        (None, "1 to 500 characters"),
        ("loss < 1 and " * 60, "1 to 500 characters"),
        ("loss <", "can't be read"),
        ("loss = 1", "can't be read"),
        ("loss < \0", "can't be read"),
        ("(" * 240 + "loss" + ")" * 240, "can't be read|write comparisons"),
        ("los < 1", "no number 'los': choose among loss"),
        ("other.los < 1", "no number 'los'"),
        ("loss", "write comparisons"),
        ("1", "write comparisons"),
        ("True", "write comparisons"),
        ("loss < True", "write comparisons"),
        ("loss < 1e999", "write comparisons"),
        ("loss < " + "9" * 400, "write comparisons"),
        ("loss < 'a'", "write comparisons"),
        ("loss < 1j", "write comparisons"),
        ("loss ** 9 > 1", "write comparisons"),
        ("loss != 1", "choose <"),
        ("loss is 1", "choose <"),
        ("loss in [1]", "choose <"),
        ("not loss < 1", "turn the comparison round"),
        ("not (finite and loss < 1)", "turn the comparison round"),
        ("finite == 1", "write finite or not finite"),
        ("loss < (accuracy < 1)", "write comparisons"),
        ("abs(loss) < 1", "write comparisons"),
        ("__import__('os').system('ls') < 1", "write comparisons"),
        ("loss.real < 1", "write comparisons"),
        ("run.loss < 1", "write comparisons"),
        ("other.loss.real < 1", "write comparisons"),
        ("(lambda: 1)() < 1", "write comparisons"),
        ("[loss for loss in loss] < 1", "write comparisons"),
        ("loss[0] < 1", "write comparisons"),
        ("(loss := 1) < 1", "write comparisons"),
        ("loss if finite else accuracy", "write comparisons"),
    ],
)
def test_nothing_else_can_be_written(text, says):
    with pytest.raises(ValueError, match=says):
        promise(text)


NUMBERS = st.recursive(
    st.sampled_from(["loss", "accuracy", "decades", "1", "0.5", "2e-3"]),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*/"), part).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        part.map(lambda text: f"(-{text})"),
    ),
    max_leaves=6,
)
COMPARISONS = st.tuples(NUMBERS, st.sampled_from(["<", "<=", ">", ">=", "=="]), NUMBERS).map(
    " ".join
)
CONDITIONS = st.recursive(
    st.one_of(COMPARISONS, st.just("finite"), st.just("not finite")),
    lambda part: st.tuples(part, st.sampled_from(["and", "or"]), part).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=4,
)
VALUES = st.floats(allow_nan=False, allow_infinity=False, width=32).filter(lambda v: v != 0)


@given(CONDITIONS, VALUES, VALUES, VALUES, st.booleans())
def test_an_expression_says_what_python_says(text, loss, accuracy, decades, finite):
    numbers = {"loss": loss, "accuracy": accuracy, "decades": decades, "finite": float(finite)}
    try:
        expected = bool(eval(text, {"__builtins__": {}}, numbers))  # drawn above, no input
    except ZeroDivisionError:
        return
    assert promise(text).holds(numbers) is expected

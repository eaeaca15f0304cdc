"""The layer table's numbers, and what stands in for those that are missing."""

from __future__ import annotations

import math
from typing import Any

from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.display.panel import LayerTable, draw_table
from gradflow_widget.measurement.reading import Reading
from tests.display.readings import reading


def drawn(shown: Reading) -> dict[str, list[str]]:
    """What stands in for numbers, for each column from the first layer to the last."""
    table = LayerTable()
    writer = FrameWriter({"table": table})
    draw_table(writer, shown, [""] * len(shown.layers))
    writer.settle()
    return dict(zip(table.columns, map(list, zip(*table.states, strict=True)), strict=True))


def odd(**full: Any) -> Reading:
    """A reading of a frozen layer, one without a gradient, a zero, a NaN and an infinite one."""
    norms = [math.nan, math.nan, 0.0, math.nan, math.inf, 1.0]
    return reading(norms, missing=[1], frozen=[0], **full)


def test_what_stands_in_for_a_gradient_is_told_before_clipping_too() -> None:
    columns = drawn(odd())

    states = ["frozen", "none", "zero", "nan", "inf", ""]
    assert columns["weight gradient"] == columns["before clipping"] == states


def test_a_weight_that_does_not_move_for_want_of_a_gradient_has_no_update_of_zero() -> None:
    columns = drawn(odd(update_ratio=[0.0, 0.0, 0.0, math.nan, math.nan, 0.1]))

    assert columns["update ratio"] == ["frozen", "none", "zero", "nan", "nan", ""]


def test_nothing_stands_in_for_numbers_that_nobody_has_measured_yet() -> None:
    columns = drawn(odd())

    for name in ("signal gradient", "update ratio", "weight norm", "activation RMS"):
        assert columns[name] == [""] * 6


def test_a_number_that_cannot_be_told_is_no_nan() -> None:
    columns = drawn(
        reading([0.0, 1.0], update_ratio=[0.1, math.nan], signal_grad_norm=[math.nan, 1.0])
    )

    assert columns["update ratio"] == ["", "unknown"]
    assert columns["signal gradient"] == ["unknown", ""]


def test_weights_and_outputs_that_are_nan_are_told_as_such() -> None:
    nan = math.nan
    nothing = [nan] * 4
    # Of the second no hook saw the output, nor of the third, which has no gradient; that of the
    # last has a NaN where the loss does not look.
    columns = drawn(
        reading(
            [nan, 1.0, nan, 1.0],
            missing=[2],
            signal_grad_norm=[nan, nan, nan, 1.0],
            weight_norm=[nan, 1.0, 1.0, 1.0],
            activation_rms=nothing,
            dead_fraction=nothing,
        )
    )

    assert columns["weight norm"] == ["nan", "", "", ""]
    assert columns["activation RMS"] == ["nan", "", "", "nan"]
    assert columns["dead share"] == [""] * 4


def test_each_layer_has_its_verdict() -> None:
    table = LayerTable()
    writer = FrameWriter({"table": table})

    draw_table(writer, odd(), ["vanishing", "", "", "", "", "healthy"])
    writer.settle()

    assert table.problems == ["vanishing", "", "", "", "", "healthy"]

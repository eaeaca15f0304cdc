"""Frames: what has changed since the last one, in one message."""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np
import pytest

from gradflow_widget.display.frame import FrameWriter


@pytest.fixture
def writer() -> FrameWriter:
    return FrameWriter({"text": widgets.Text(), "box": widgets.HTML()})


def test_only_what_has_changed_is_sent(writer: FrameWriter) -> None:
    writer.set("text", value="a", placeholder="b")
    assert writer.message(whole=False) == (
        [{"target": "text", "state": {"value": "a", "placeholder": "b"}}],
        [],
    )

    writer.set("text", value="a", placeholder="c")
    assert writer.message(whole=False)[0] == [{"target": "text", "state": {"placeholder": "c"}}]
    assert writer.message(whole=False) == ([], [])


def test_a_whole_frame_sends_everything_that_was_ever_set(writer: FrameWriter) -> None:
    writer.set("text", value="a")
    writer.set("box", value="b")
    writer.message(whole=False)

    assert writer.message(whole=True)[0] == [
        {"target": "text", "state": {"value": "a"}},
        {"target": "box", "state": {"value": "b"}},
    ]


def test_traits_are_sent_in_the_order_in_which_they_were_first_set(writer: FrameWriter) -> None:
    names = ["placeholder", "value", "description", "disabled", "continuous_update", "tooltip"]
    for name in names:
        writer.set("text", **{name: f"first {name}"})
    writer.message(whole=False)

    for name in reversed(names):
        writer.set("text", **{name: f"second {name}"})

    assert list(writer.message(whole=False)[0][0]["state"]) == names


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([1.0, 2.0], np.float32), "float32"),
        (np.array([1.0, np.nan]), "float64"),
        (np.array([1, 2]), "float64"),
        (np.array([1, 2], np.int32), "int32"),
    ],
)
def test_arrays_travel_as_buffers(writer: FrameWriter, values: np.ndarray, dtype: str) -> None:
    writer.set("text", value=values)
    updates, buffers = writer.message(whole=False)

    assert updates[0]["state"]["value"] == {"buffer": 0, "dtype": dtype}
    sent = np.frombuffer(buffers[0], dtype)
    assert np.array_equal(sent, values, equal_nan=True)


def test_bytes_and_arrays_have_buffers_of_their_own(writer: FrameWriter) -> None:
    writer.set("text", value=np.zeros(2, np.float32), placeholder=b"abc")
    updates, buffers = writer.message(whole=False)

    assert updates[0]["state"]["placeholder"] == {"buffer": 1, "dtype": "dataview"}
    assert bytes(buffers[1]) == b"abc"


def test_equal_arrays_are_not_sent_again_and_nan_equals_nan(writer: FrameWriter) -> None:
    writer.set("text", value=np.array([1.0, np.nan]))
    writer.message(whole=False)

    writer.set("text", value=np.array([1.0, np.nan]))
    assert writer.message(whole=False) == ([], [])
    writer.set("text", value=np.array([1.0, 2.0]))
    assert writer.message(whole=False)[0]


def test_one_and_true_are_not_the_same(writer: FrameWriter) -> None:
    writer.set("text", disabled=True)
    writer.message(whole=False)
    writer.set("text", disabled=1)

    assert writer.message(whole=False)[0] == [{"target": "text", "state": {"disabled": 1}}]


def test_settling_brings_the_widgets_to_what_was_sent(writer: FrameWriter) -> None:
    text = widgets.Text()
    writer = FrameWriter({"text": text})
    writer.set("text", value="a")
    writer.settle()

    assert text.value == "a"
    assert writer.ids == {"text": f"IPY_MODEL_{text.model_id}"}

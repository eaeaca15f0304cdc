"""Controls and traits follow each other, and a refused value is taken back."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gradflow_widget.display.controls import Offer
from tests.display.desk import Desk, Owner
from tests.waiting import join, started


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_controls_begin_where_the_traits_are(desk: Desk) -> None:
    controls = desk.controls
    assert controls.rate_slider.value == 0.1
    assert controls.depth_slider.value == 8
    assert controls.activation_menu.value == "tanh"
    assert controls.batch_slider.value == 64
    assert controls.speed_menu.value == "every step"
    assert controls.clip_menu.value == "off"
    assert controls.clip_slider.disabled
    assert desk.done == []


@pytest.mark.parametrize(
    ("control", "trait", "value"),
    [
        ("depth_slider", "depth", 12),
        ("activation_menu", "activation", "relu"),
        ("batch_slider", "batch_size", 128),
        ("rate_slider", "learning_rate", 0.01),
    ],
)
def test_both_ways(desk: Desk, control: str, trait: str, value: Any) -> None:
    first = getattr(desk.owner, trait)
    getattr(desk.controls, control).value = value
    assert getattr(desk.owner, trait) == value

    setattr(desk.owner, trait, first)
    assert getattr(desk.controls, control).value == first


@pytest.mark.parametrize(
    ("control", "trait", "refused"),
    [("depth_slider", "depth", 13), ("rate_slider", "learning_rate", 10.0)],
)
def test_a_refused_value_is_told_and_taken_back(
    desk: Desk, control: str, trait: str, refused: float
) -> None:
    before = getattr(desk.owner, trait)
    getattr(desk.controls, control).value = refused

    assert desk.errors == [f"{refused} is refused"]
    assert getattr(desk.owner, trait) == before
    assert getattr(desk.controls, control).value == pytest.approx(before)


# -- logarithmic sliders -----------------------------------------------------------------


def test_a_slider_moved_gives_the_roundest_number_at_its_place(desk: Desk) -> None:
    desk.controls.rate_slider.value = 10**-1.30  # 0.0501…
    assert desk.owner.learning_rate == 0.05

    desk.controls.rate_slider.value = 10**-1.29
    assert desk.owner.learning_rate == 0.051


def test_only_a_logarithmic_slider_tells_the_page_that_its_limits_are_exponents(desk: Desk) -> None:
    # By them js/src/typed.ts judges what is typed.
    controls = desk.controls
    for slider in (controls.rate_slider, controls.clip_slider):
        assert "gradflow-logarithmic" in slider._dom_classes
    assert "gradflow-logarithmic" not in controls.depth_slider._dom_classes


def test_what_the_page_rounds_a_value_to_is_no_move(desk: Desk) -> None:
    desk.owner.learning_rate = 0.03
    assert desk.controls.rate_slider.value == 0.03

    desk.controls.rate_slider.value = 10**-1.52  # the page's nearest place
    assert desk.owner.learning_rate == 0.03


def test_a_late_echo_does_not_bring_an_older_value_back(desk: Desk) -> None:
    desk.owner.learning_rate = 0.3
    desk.owner.learning_rate = 0.02

    desk.controls.rate_slider.value = 10**-0.52  # what the page made of 0.3
    assert desk.owner.learning_rate == 0.02
    assert desk.controls.rate_slider.value == 0.02

    desk.controls.rate_slider.value = 10**-1.70  # what it made of 0.02
    assert desk.owner.learning_rate == 0.02


def test_after_its_echo_a_person_may_move_there(desk: Desk) -> None:
    desk.owner.learning_rate = 0.3
    desk.owner.learning_rate = 0.02
    desk.controls.rate_slider.value = 10**-0.52

    desk.controls.rate_slider.value = 10**-0.52
    assert desk.owner.learning_rate == 0.3


def test_after_another_move_a_person_may_move_where_no_echo_has_come_from(desk: Desk) -> None:
    desk.owner.learning_rate = 0.3  # of two values set in a row, a page may be told the last only
    desk.owner.learning_rate = 0.02
    desk.controls.rate_slider.value = 10**-1.0

    desk.controls.rate_slider.value = 10**-0.52
    assert desk.owner.learning_rate == 0.3


@pytest.mark.parametrize("rate", [1e-12, 3e7])
def test_a_value_beyond_the_slider_widens_it(desk: Desk, rate: float) -> None:
    desk.owner.learning_rate = rate

    assert desk.controls.rate_slider.value == rate
    assert 10**desk.controls.rate_slider.min <= rate <= 10**desk.controls.rate_slider.max


def test_a_value_of_0_stands_at_the_left_end_and_reads_0(desk: Desk) -> None:
    slider = desk.controls.rate_slider
    desk.owner.learning_rate = 0.0
    assert (slider.value, slider.readout_format) == (1e-6, ".0f")
    assert desk.owner.learning_rate == 0.0

    desk.owner.learning_rate = 0.3
    assert (slider.value, slider.readout_format) == (0.3, ".2g")

    desk.owner.learning_rate = 0.0
    slider.value = 10**-0.52  # what the page made of 0.3
    assert (desk.owner.learning_rate, slider.value) == (0.0, 1e-6)

    slider.value = 10**-2.0
    assert (desk.owner.learning_rate, slider.readout_format) == (0.01, ".2g")


def test_where_0_stands_a_refused_value_is_taken_back(desk: Desk) -> None:
    slider = desk.controls.rate_slider
    desk.owner.learning_rate = 0.0
    slider.value = 10.0
    assert desk.errors == ["10.0 is refused"]
    assert (slider.value, slider.readout_format) == (1e-6, ".0f")

    desk.owner.learning_rate = 1e-6
    assert (slider.value, slider.readout_format) == (1e-6, ".2g")


# -- clipping ----------------------------------------------------------------------------


def test_the_menu_says_how_to_clip_and_the_slider_at_what(desk: Desk) -> None:
    controls, owner = desk.controls, desk.owner
    controls.clip_menu.value = "by norm"
    assert (owner.clip_norm, owner.clip_value) == (1.0, None)
    assert not controls.clip_slider.disabled

    controls.clip_slider.value = 0.01
    assert (owner.clip_norm, owner.clip_value) == (0.01, None)

    controls.clip_menu.value = "by value"
    assert (owner.clip_norm, owner.clip_value) == (None, 0.01)

    controls.clip_menu.value = "off"
    assert (owner.clip_norm, owner.clip_value) == (None, None)
    assert controls.clip_slider.disabled


def test_clipping_set_in_code_moves_menu_and_slider(desk: Desk) -> None:
    desk.owner.clip_value = 0.003
    assert desk.controls.clip_menu.value == "by value"
    assert desk.controls.clip_slider.value == 0.003

    desk.owner.clip_norm = 5.0
    assert desk.controls.clip_menu.value == "by norm"
    assert desk.controls.clip_slider.value == 5.0
    assert (desk.owner.clip_norm, desk.owner.clip_value) == (5.0, None)

    desk.owner.clip_norm = None
    assert desk.controls.clip_menu.value == "off"


# -- batch size --------------------------------------------------------------------------


def test_batch_sizes_are_powers_of_two_and_the_whole_of_the_data(desk: Desk) -> None:
    assert list(desk.controls.batch_slider.options) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]


def test_the_speed_menu_lists_any_speed_and_keeps_the_greatest_last(desk: Desk) -> None:
    menu = desk.controls.speed_menu
    menu.value = "what fits (max)"
    assert desk.owner.speed == "max"

    for speed, label in ((3, "every 3rd"), (11, "every 11th"), (1, "every step")):
        desk.owner.speed = speed
        assert menu.value == label
    assert menu.options[-1] == "what fits (max)"
    assert desk.owner.speed == 1


def test_another_batch_size_set_in_code_joins_the_slider(desk: Desk) -> None:
    desk.owner.batch_size = 100

    assert desk.controls.batch_slider.value == 100
    assert desk.owner.batch_size == 100
    assert 64 in desk.controls.batch_slider.options


def test_where_the_data_come_in_batches_there_is_no_slider() -> None:
    desk = Desk(samples=None)
    assert desk.controls.batch_slider is None
    assert desk.controls.batch_choice is None


# -- buttons, views, offers --------------------------------------------------------------


def test_buttons_do_what_they_say(desk: Desk) -> None:
    controls = desk.controls
    for button in (
        controls.play_button,
        controls.step_button,
        controls.reset_button,
        controls.seed_button,
    ):
        button.click()

    assert desk.done == ["toggle", "step", "reset", "new seed"]


def test_an_error_behind_a_button_is_told(desk: Desk) -> None:
    desk.refuses = True
    desk.controls.step_button.click()

    assert desk.done == []
    assert desk.errors == ["step is refused"]


def test_the_play_button_says_what_it_would_do(desk: Desk) -> None:
    assert desk.controls.play_button.description == "Play"
    desk.owner.playing = True
    assert desk.controls.play_button.description == "Pause"


def test_views_ask_for_another_look(desk: Desk) -> None:
    desk.controls.measure_choice.value = "signal gradient"
    desk.controls.relative_choice.value = True
    desk.controls.loss_choice.value = False

    assert desk.done == [
        ("look at", {"measure": "signal gradient"}),
        ("look at", {"relative": True}),
        ("look at", {"logarithmic_loss": False}),
    ]


def test_a_knob_that_is_not_offered_rests_and_says_why() -> None:
    reason = "This model was given <ready made>."
    desk = Desk(
        Owner(depth=None, activation=None),
        cold={"depth": Offer(None, reason), "activation": Offer(None, reason)},
    )
    controls = desk.controls

    assert controls.depth_slider.disabled
    assert controls.activation_menu.disabled
    assert controls.depth_slider.tooltip == reason
    assert controls.reasons.value == ("depth, activation: This model was given &lt;ready made&gt;.")
    # No number and no name that would not be the model's.
    assert controls.depth_slider.readout is False
    assert controls.activation_menu.value == "–"


def test_each_reason_names_its_knob() -> None:
    desk = Desk(
        Owner(depth=None, activation=None),
        cold={"depth": Offer(None, "No blocks."), "activation": Offer(None, "No activation.")},
    )
    assert desk.controls.reasons.value == "depth: No blocks.<br>activation: No activation."


def test_without_a_way_to_train_play_and_step_rest_until_there_is_one() -> None:
    controls = Desk(can_train=False).controls
    assert controls.play_button.disabled
    assert controls.step_button.disabled
    assert "run(loop)" in controls.play_button.tooltip

    controls.offer_playing(True)
    assert not controls.play_button.disabled
    assert not controls.step_button.disabled


def test_closed_they_follow_the_traits_no_more(desk: Desk) -> None:
    desk.controls.close()
    desk.owner.learning_rate = 0.7
    desk.owner.playing = True

    assert desk.controls.rate_slider.value == 0.1
    assert desk.controls.play_button.description == "Play"


def test_a_person_is_heard_while_another_thread_shows_a_value(desk: Desk) -> None:
    showing, heard = threading.Event(), threading.Event()

    def show() -> None:
        with desk.controls._binding.following():
            showing.set()
            heard.wait(30)

    thread = started(show)
    assert showing.wait(30)
    desk.controls.depth_slider.value = 12
    heard.set()
    join(thread)
    assert desk.owner.depth == 12

"""What folds under the headings: network, optimizer and data, presets."""

from __future__ import annotations

from typing import Any

import pytest

from gradflow_widget.display.controls import Offer
from tests.display.desk import COLD, HOT, Desk, Owner


def names_of(desk: Desk) -> list[str]:
    return [name for name, _ in desk.controls.folds.headings]


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- menus -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trait", "label", "value"),
    [
        ("initialization", "he", "he"),
        ("normalization", "none", None),
        ("normalization", "batch", "batch"),
        ("skips", "1", 1.0),
        ("skips", "1/√(2L)", "1/sqrt(2L)"),
        ("orthogonality", "0.01", 0.01),
        ("orthogonality", "hard", "hard"),
    ],
)
def test_a_menu_sets_its_trait_and_follows_it(
    desk: Desk, trait: str, label: str, value: Any
) -> None:
    menu = desk.controls.network_menus[trait]
    first, first_label = getattr(desk.owner, trait), menu.value
    menu.value = label
    assert getattr(desk.owner, trait) == value

    setattr(desk.owner, trait, first)
    assert menu.value == first_label
    setattr(desk.owner, trait, value)
    assert menu.value == label
    assert desk.errors == []


def test_a_refused_choice_is_told_and_taken_back(desk: Desk) -> None:
    desk.owner.skips = 1.0
    desk.controls.network_menus["skips"].value = "learned"

    assert desk.errors == ["learned is refused"]
    assert desk.owner.skips == 1.0
    assert desk.controls.network_menus["skips"].value == "1"


@pytest.mark.parametrize(
    ("trait", "value", "label"),
    [("skips", 0.3, "0.3"), ("orthogonality", 1e-5, "1e-05"), ("initialization", "zeros", "zeros")],
)
def test_a_value_that_is_not_listed_gets_an_entry_of_its_own(
    desk: Desk, trait: str, value: Any, label: str
) -> None:
    menu = desk.controls.network_menus[trait]
    before = menu.options
    setattr(desk.owner, trait, value)

    assert menu.value == label
    assert menu.options == (*before, label)
    assert getattr(desk.owner, trait) == value
    menu.value = before[0]
    menu.value = label
    assert getattr(desk.owner, trait) == value


def test_the_optimizer_is_chosen_by_name(desk: Desk) -> None:
    desk.controls.optimizer_menu.value = "Adam"
    assert desk.owner.optimizer_kind == "Adam"
    desk.owner.optimizer_kind = "SGD"
    assert desk.controls.optimizer_menu.value == "SGD"


def test_knobs_that_are_not_offered_rest_and_say_why() -> None:
    reason = "The model repeats no block."
    desk = Desk(
        Owner(weight_decay=None),
        cold={**COLD, "skips": Offer(None, reason), "orthogonality": Offer(None, reason)},
        hot={**HOT, "weight_decay": Offer(None, "LBFGS has no weight decay.")},
    )
    for trait in ("skips", "orthogonality"):
        menu = desk.controls.network_menus[trait]
        assert menu.disabled
        assert menu.tooltip == reason
        assert menu.value == "–"
    assert desk.controls.decay_slider.disabled
    assert desk.controls.decay_slider.tooltip == "LBFGS has no weight decay."
    assert not desk.controls.network_menus["initialization"].disabled
    # The page gives these to pointers and screen readers.
    told = desk.controls.folds.tooltips
    assert told["skips"] == told["orthogonality"] == reason
    assert told["weight decay"] == "LBFGS has no weight decay."
    assert told["learning rate"].startswith("Of the first parameter group")
    assert "from the same seed" in told["initialisation"]
    assert told["draw"] == "Which steps are drawn"
    # Each reason once, and also where no pointer is needed to read it.
    assert [line.value for line in lines(desk)] == [
        "",
        f"skips, orthogonality: {reason}",
        "weight decay: LBFGS has no weight decay.",
    ]


def lines(desk: Desk) -> list[Any]:
    """The lines of reasons, from top to bottom."""
    boxes = [desk.controls.knobs, *desk.controls.knobs.children]
    return [
        part
        for each in boxes
        for part in getattr(each, "children", ())
        if "gradflow-reasons" in part._dom_classes
    ]


def test_only_headings_with_something_below_them_are_there() -> None:
    few = {name: COLD[name] for name in ("depth", "activation")}
    assert names_of(Desk(cold=few, hot={}, samples=None)) == []
    assert names_of(Desk(cold=few, hot={})) == ["training"]
    assert names_of(Desk()) == ["network", "training"]


def test_a_heading_says_what_is_turned_below_it(desk: Desk) -> None:
    folds = desk.controls.folds
    assert folds.in_short == {"network": "", "training": ""}

    desk.owner.skips = 1.0
    desk.owner.initialization = "he"
    desk.owner.weight_decay = 0.01
    desk.owner.batch_size = 1
    assert folds.in_short == {
        "network": "initialisation he, skips 1",
        "training": "weight decay 0.01, stochastic (1)",
    }
    desk.controls.network_menus["skips"].value = "off"
    assert folds.in_short["network"] == "initialisation he"


# -- weight decay ------------------------------------------------------------------------


def test_weight_decay_has_a_place_for_off(desk: Desk) -> None:
    slider = desk.controls.decay_slider
    assert slider.options[slider.index] == ("off", 0.0)
    assert [label for label, _ in slider.options][:4] == ["off", "1e-06", "2e-06", "5e-06"]
    assert [label for label, _ in slider.options][-2:] == ["0.5", "1"]

    slider.value = 0.01
    assert desk.owner.weight_decay == 0.01
    slider.value = 0.0
    assert desk.owner.weight_decay == 0.0


def test_any_weight_decay_set_in_code_joins_the_slider(desk: Desk) -> None:
    desk.owner.weight_decay = 0.037
    slider = desk.controls.decay_slider
    assert slider.value == 0.037
    values = [value for _, value in slider.options]
    assert values == sorted(values)
    desk.owner.weight_decay = None
    assert slider.options[slider.index][0] == "off"
    assert desk.owner.weight_decay is None
    assert desk.errors == []


def test_a_refused_weight_decay_is_taken_back(desk: Desk) -> None:
    desk.controls.decay_slider.value = 0.5
    assert desk.errors == ["0.5 is refused"]
    assert desk.controls.decay_slider.value == desk.owner.weight_decay == 0.0


# -- how much data a step sees -----------------------------------------------------------


def test_a_step_sees_one_sample_a_mini_batch_or_all(desk: Desk) -> None:
    choice, owner = desk.controls.batch_choice, desk.owner
    assert choice.value == "mini-batch"

    desk.controls.batch_slider.value = 16
    choice.value = "stochastic (1)"
    assert owner.batch_size == desk.controls.batch_slider.value == 1
    choice.value = "full batch"
    assert owner.batch_size == desk.controls.batch_slider.value == 1000
    choice.value = "mini-batch"  # the size that was used last
    assert owner.batch_size == desk.controls.batch_slider.value == 16


def test_the_choice_follows_the_batch_size(desk: Desk) -> None:
    for size, kind in ((1, "stochastic (1)"), (1000, "full batch"), (2, "mini-batch")):
        desk.owner.batch_size = size
        assert desk.controls.batch_choice.value == kind
        assert desk.owner.batch_size == size


def test_a_refused_batch_is_taken_back() -> None:
    desk = Desk(samples=777)
    desk.controls.batch_choice.value = "full batch"
    assert desk.errors == ["777 is refused"]
    assert desk.owner.batch_size == 64
    assert desk.controls.batch_choice.value == "mini-batch"


@pytest.mark.parametrize(
    ("samples", "kinds"),
    [(2, ("stochastic (1)", "full batch")), (3, ("stochastic (1)", "mini-batch", "full batch"))],
)
def test_few_samples_offer_what_there_is(samples: int, kinds: tuple[str, ...]) -> None:
    desk = Desk(Owner(batch_size=samples), samples=samples)
    assert desk.controls.batch_choice.options == kinds
    assert desk.controls.batch_choice.value == "full batch"
    desk.controls.batch_choice.value = kinds[0]
    assert desk.owner.batch_size == 1
    desk.controls.batch_choice.value = kinds[-2]
    assert desk.owner.batch_size == samples - 1


def test_a_single_sample_offers_no_choice() -> None:
    controls = Desk(Owner(batch_size=1), samples=1).controls
    assert controls.batch_choice is None
    assert controls.batch_slider.value == 1


# -- presets -----------------------------------------------------------------------------


STORIES = [("one", "Bars fall <below> 1e-5."), ("two", "Bars are level.")]


def loaded(desk: Desk) -> list[str]:
    buttons = desk.controls.preset_buttons
    return [name for name, button in buttons.items() if "gradflow-loaded" in button._dom_classes]


def words(desk: Desk) -> str:
    said: str = desk.controls.knobs.children[-1].children[-1].value
    return said


def test_a_preset_is_loaded_by_its_button_which_is_marked_then_and_says_what_to_watch() -> None:
    desk = Desk(presets=STORIES)
    assert names_of(desk) == ["network", "training", "presets"]
    assert desk.controls.preset_buttons["two"].tooltip == "Bars are level."
    assert loaded(desk) == []
    assert "Play runs it" in words(desk)

    desk.controls.preset_buttons["one"].click()

    assert desk.done == [("load preset", "one")]
    assert loaded(desk) == ["one"]
    assert words(desk).endswith("Bars fall &lt;below&gt; 1e-5.")
    assert desk.controls.folds.in_short["presets"] == "one"

    # The controls that take their place for the new network say so too.
    other = Desk(desk.owner, presets=STORIES)
    assert loaded(other) == ["one"]
    assert "Bars fall" in words(other)
    desk.owner.loaded_preset = ""
    assert loaded(other) == []
    assert other.controls.folds.in_short["presets"] == ""


def test_a_preset_that_fails_is_told_and_not_marked() -> None:
    desk = Desk(presets=STORIES)
    desk.refuses = True
    desk.controls.preset_buttons["two"].click()
    assert desk.errors == ["load preset is refused"]
    assert loaded(desk) == []


def test_closed_the_folded_controls_follow_no_more(desk: Desk) -> None:
    desk.controls.close()
    desk.owner.skips = 1.0
    desk.owner.batch_size = 1
    assert desk.controls.network_menus["skips"].value == "off"
    assert desk.controls.batch_choice.value == "mini-batch"
    assert desk.controls.folds.in_short["training"] == ""

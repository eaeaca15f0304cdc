"""What folds under "Training regime": a menu for each switch, one trait behind them all."""

from __future__ import annotations

from typing import Any

import pytest
import traitlets

from gradflow_widget import GradientFlow, Regime
from gradflow_widget.display.controls import Offer
from gradflow_widget.training.regimes.regime import regime_from
from tests.display.desk import Desk, Owner


class UnderRegime(Owner):
    """An owner that takes what a GradientFlow takes, and refuses dropout of 0.9."""

    regime = traitlets.Any(Regime())

    @traitlets.validate("regime")
    def _check_regime(self, proposal: Any) -> Any:
        value = proposal["value"]
        regime = value if isinstance(value, Regime) else regime_from(value)
        if regime.dropout == 0.9:
            raise ValueError("dropout of 0.9 is refused")
        return regime


@pytest.fixture
def desk() -> Desk:
    return Desk(UnderRegime(), regime=Offer(Regime()))


@pytest.mark.parametrize(
    ("name", "label", "mapping"),
    [
        ("adversarial", "FGSM", {"adversarial": {"method": "fgsm", "epsilon": 0.1}}),
        ("adversarial", "PGD", {"adversarial": {"method": "pgd", "epsilon": 0.1}}),
        ("curriculum", "by loss", {"curriculum": {"by": "loss"}}),
        ("curriculum", "by length", {"curriculum": {"by": "length"}}),
        ("freeze", "first 2", {"transfer": {"freeze": 2}}),
        ("accumulation", "4 batches", {"accumulation": 4}),
        ("label_noise", "30 %", {"label_noise": 0.3}),
        ("dropout", "0.5", {"dropout": 0.5}),
        ("dropout", "0", {"dropout": 0.0}),
    ],
)
def test_a_menu_turns_its_switch_alone_and_follows_it(
    desk: Desk, name: str, label: str, mapping: dict[str, Any]
) -> None:
    menu = desk.controls.regime_menus[name]
    off = menu.value
    menu.value = label
    assert desk.owner.regime == regime_from(mapping)
    menu.value = off
    assert desk.owner.regime == Regime()

    desk.owner.regime = mapping
    assert menu.value == label
    others = [one for key, one in desk.controls.regime_menus.items() if key != name]
    assert all(one.index == 0 for one in others)
    desk.owner.regime = Regime()
    assert menu.value == off
    assert desk.errors == []


def test_only_so_many_layers_are_offered_to_be_frozen_that_one_still_learns() -> None:
    layers = 8
    desk = Desk(UnderRegime(), regime=Offer(Regime()), layers=lambda: layers)
    menu = desk.controls.regime_menus["freeze"]
    assert menu.options[-1] == "first 6"
    layers = 9
    desk.owner.depth = 9
    assert menu.options[-1] == "first 8"
    menu.value = "first 3"
    layers = 3
    desk.owner.depth = 3
    assert menu.options == ("off", "first 1", "first 2", "first 3")  # the present one stays
    menu.value = "off"
    assert menu.options == ("off", "first 1", "first 2")
    assert desk.errors == []


def test_a_playground_offers_no_more_layers_to_be_frozen_than_it_can_freeze() -> None:
    flow = GradientFlow.playground(depth=8)
    try:
        menu = flow._controls.regime_menus["freeze"]
        assert menu.options[-1] == "first 6"
        flow.depth = 9
        assert menu.options[-1] == "first 8"
        menu.value = "first 8"
        assert flow.regime.transfer.freeze == 8
    finally:
        flow.close()


def test_switches_keep_what_the_others_and_their_own_other_numbers_say(desk: Desk) -> None:
    desk.owner.regime = {
        "curriculum": {"by": "loss", "steps": 77},
        "transfer": {"state": "weights.pt", "freeze": 1, "strict": False},
        "label_noise": 0.2,
        "noise_seed": 5,
    }
    menus = desk.controls.regime_menus
    menus["curriculum"].value = "by length"
    menus["freeze"].value = "off"
    menus["dropout"].value = "0.3"
    assert desk.owner.regime == regime_from(
        {
            "curriculum": {"by": "length", "steps": 77},
            "transfer": {"state": "weights.pt", "freeze": 0, "strict": False},
            "label_noise": 0.2,
            "noise_seed": 5,
            "dropout": 0.3,
        }
    )


def test_epsilon_is_there_with_an_attack_and_moves_it(desk: Desk) -> None:
    slider, menu = desk.controls.epsilon_slider, desk.controls.regime_menus["adversarial"]
    assert slider.layout.display == "none"
    menu.value = "FGSM"
    assert slider.layout.display == ""
    slider.value = 0.3
    assert desk.owner.regime.adversarial.epsilon == pytest.approx(0.3)
    menu.value = "PGD"
    assert desk.owner.regime.adversarial.method == "pgd"
    assert desk.owner.regime.adversarial.epsilon == pytest.approx(0.3)
    assert desk.owner.regime.adversarial.steps == 7
    desk.owner.regime = {"adversarial": {"method": "fgsm", "epsilon": 0.02}}
    assert slider.value == pytest.approx(0.02)
    desk.owner.regime = Regime()
    assert slider.layout.display == "none"


def test_a_refused_switch_is_told_and_taken_back(desk: Desk) -> None:
    menu = desk.controls.regime_menus["dropout"]
    menu.value = "0.9"
    assert desk.errors == ["dropout of 0.9 is refused"]
    assert menu.value == "as given"


def test_a_value_that_is_not_listed_gets_an_entry(desk: Desk) -> None:
    desk.owner.regime = {"label_noise": 0.37}
    menu = desk.controls.regime_menus["label_noise"]
    assert menu.value == "0.37"
    menu.value = "off"
    menu.value = "0.37"
    assert desk.owner.regime == Regime(label_noise=0.37)


def test_the_heading_tells_what_is_on_and_each_label_has_its_sentence(desk: Desk) -> None:
    folds = desk.controls.folds
    assert dict(folds.headings)["regime"] == "Training regime"
    assert folds.in_short["regime"] == ""
    desk.owner.regime = {"adversarial": {"method": "fgsm", "epsilon": 0.1}, "accumulation": 4}
    assert folds.in_short["regime"] == "attack FGSM, accumulation 4 batches"
    labels = ["attack", "ε", "curriculum", "freeze", "accumulation", "label noise", "dropout"]
    assert all(folds.tooltips[label] for label in labels)


def test_without_our_own_steps_they_rest_with_the_reason() -> None:
    desk = Desk(UnderRegime(), regime=Offer(Regime(), "Your own loop trains this model."))
    for menu in (*desk.controls.regime_menus.values(), desk.controls.epsilon_slider):
        assert menu.disabled
        assert menu.tooltip == "Your own loop trains this model."
    assert desk.controls.folds.in_short["regime"] == ""
    assert "regime" not in dict(Desk().controls.folds.headings)


def test_they_turn_a_whole_widget_s_regime() -> None:
    flow = GradientFlow.playground(depth=3)
    try:
        flow.step(2)
        menus = flow._controls.regime_menus
        menus["adversarial"].value = "PGD"
        assert flow.step_number == 2
        menus["curriculum"].value = "by length"
        assert "needs inputs that are sequences" in flow.status
        assert menus["curriculum"].value == "off"
        assert flow.step_number == 2
        menus["freeze"].value = "first 2"
        assert flow.step_number == 0
        flow.step()
        assert flow.history.latest.gradient_states == ("frozen", "frozen", "")
        assert flow.regime == regime_from(
            {"adversarial": {"method": "pgd", "epsilon": 0.1}, "transfer": {"freeze": 2}}
        )
    finally:
        flow.close()

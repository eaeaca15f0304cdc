"""Presets in a widget: made from one, and loaded into one that has been training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import ipywidgets.widgets.widget as ipywidgets_registry
import pytest
import torch
import traitlets
from torch import nn

from gradflow_widget import GradientFlow
from gradflow_widget.playground.assembly import PlaygroundNetwork
from gradflow_widget.playground.presets import presets
from tests.waiting import wait_for


@pytest.fixture
def preset() -> Iterator[Callable[..., GradientFlow]]:
    """Make widgets from presets that are closed when the test is over."""
    made: list[GradientFlow] = []

    def make(name: str, seed: int | None = None) -> GradientFlow:
        made.append(GradientFlow.preset(name, seed))
        return made[-1]

    yield make
    for flow in made:
        flow.close()


def losses(flow: GradientFlow, steps: int) -> list[float]:
    flow.step(steps)
    return flow.history.loss.tolist()


def press(flow: GradientFlow, name: str) -> None:
    assert flow._controls is not None
    flow._controls.preset_buttons[name].click()


def test_a_widget_is_made_from_a_preset_with_its_seed_or_another(nothing_is_left, preset):
    first, again, other = (
        preset("vanishing sigmoid", seed) for seed in (None, presets()["vanishing sigmoid"].seed, 5)
    )
    assert (first.depth, first.activation) == (12, "sigmoid")
    assert losses(first, 3) == losses(again, 3) != losses(other, 3)
    for flow in (first, again, other):
        flow.close()


def test_which_preset_was_loaded_can_only_be_read(preset):
    flow = preset("vanishing sigmoid")
    with pytest.raises(traitlets.TraitError, match='"loaded_preset" trait is read-only'):
        flow.loaded_preset = "dead ReLUs"
    assert flow.loaded_preset == "vanishing sigmoid"


def test_what_was_pressed_while_a_preset_was_loading_is_done_when_it_is(nothing_is_left, preset):
    """The page sends it to the buttons that it still shows."""
    flow = preset("frozen backbone")
    before = flow._controls
    flow.load_preset("exploding RNN")
    before.preset_buttons["mended by clipping"].click()
    assert flow.loaded_preset == "mended by clipping"

    before = flow._controls
    flow.load_preset("vanishing sigmoid")
    before.play_button.click()
    assert flow.playing
    flow.pause()
    flow.wait()
    assert flow.loaded_preset == "vanishing sigmoid"
    flow.close()


def test_no_network_is_shown_before_its_knobs_are_turned(nothing_is_left, preset, monkeypatch):
    flow = preset("frozen backbone")
    publisher, shown = flow._stage.publisher, []
    compose = publisher._compose
    monkeypatch.setattr(
        publisher, "_compose", lambda whole: (shown.append(flow.normalization), compose(whole))[1]
    )
    turn = flow._turn_first

    def turn_late(*arguments):
        threading.Event().wait(0.1)
        turn(*arguments)

    monkeypatch.setattr(flow, "_turn_first", turn_late)
    publisher.receive({"type": "view", "page": "a", "visible": True})
    wait_for(lambda: shown)
    shown.clear()
    flow.load_preset("mended by BatchNorm")
    wait_for(lambda: shown)
    assert set(shown) == {"batch"}
    flow.close()


def test_what_to_watch_is_told_for_each():
    told = GradientFlow.presets()
    assert list(told) == list(presets())
    assert "sigmoid" in told["vanishing sigmoid"]


@pytest.mark.parametrize("name", presets())
def test_a_button_loads_a_preset_as_if_it_had_been_made_so(nothing_is_left, preset, name):
    flow = preset("frozen backbone")
    flow.step(2)
    press(flow, name)
    assert flow.step_number == 0
    assert len(flow.history) == 0
    made = preset(name)
    assert flow.loaded_preset == made.loaded_preset == name
    assert losses(flow, 3) == losses(made, 3)
    for knob in ("depth", "activation", "initialization", "normalization", "skips", "batch_size"):
        assert getattr(flow, knob) == getattr(made, knob), knob
    assert (flow.learning_rate, flow.clip_norm) == (made.learning_rate, made.clip_norm)
    assert (flow.optimizer_kind, flow.regime) == (made.optimizer_kind, made.regime)
    flow.close()
    made.close()


def test_a_click_is_heard_that_comes_when_other_presets_were_loaded_since(preset):
    flow = preset("vanishing sigmoid")
    late = flow._controls.preset_buttons["dead ReLUs"]
    for name in ("frozen backbone", "vanishing sigmoid", "learning rate too high"):
        press(flow, name)
    assert late.comm is not None  # it is open
    late.click()
    assert flow.loaded_preset == "dead ReLUs"


def test_loading_again_and_again_leaves_no_widget_behind(preset, monkeypatch):
    monkeypatch.setattr("gradflow_widget.widget._LATEST", 1)
    flow = preset("vanishing sigmoid")
    press(flow, "frozen backbone")  # from here on the buttons before the last ones are there too
    before = set(ipywidgets_registry._instances)
    for name in ("exploding RNN", "pre-LN transformer", "vanishing sigmoid"):
        press(flow, name)
        flow.step()
    assert len(ipywidgets_registry._instances) == len(before)


def test_the_controls_follow_the_preset_and_turn_its_network(preset):
    flow = preset("vanishing sigmoid")
    press(flow, "exploding RNN")
    controls = flow._controls
    assert controls is not None
    assert (controls.toolbar,) in [getattr(part, "children", ()) for part in flow.children]
    assert controls.activation_menu.value == "relu"
    controls.depth_slider.value = 2
    assert len(flow.model.layers) == 2
    press(flow, "learning rate too low")
    assert flow.learning_rate == 1e-4
    flow._controls.depth_slider.value = 5
    assert len([m for m in flow.model if isinstance(m, nn.Linear)]) == 5


def test_what_is_looked_at_and_the_speed_stay(preset):
    flow = preset("vanishing sigmoid")
    flow.speed = 5
    flow._controls.measure_choice.value = "signal gradient"
    flow._controls.loss_choice.value = False
    press(flow, "dead ReLUs")
    assert flow.speed == 5
    assert flow._controls.speed_menu.value == "every 5th"
    assert flow._stage.speed == 5
    assert flow._controls.measure_choice.value == "signal gradient"
    assert flow._controls.loss_choice.value is False
    assert flow._stage.bars.measure == "signal gradient"


def test_the_run_before_is_the_ghost_of_a_preset_of_the_same_task(preset):
    flow = preset("RNN on the adding problem")
    ghosts = flow._stage.bars.targets["bars_ghost"], flow._stage.loss.targets["loss_ghost"]
    seen = []
    for name in ("LSTM on the adding problem", "dead ReLUs", "mended by skips", "exploding RNN"):
        flow.step()
        press(flow, name)
        flow._stage.settle()
        seen.append([ghost.visible for ghost in ghosts])
    assert seen == [[True, True], [False, False], [True, True], [False, False]]


def test_a_preset_is_loaded_while_another_plays(preset):
    flow = preset("vanishing sigmoid")
    flow.play()
    flow.wait(steps=3, timeout=60)
    flow.load_preset("dead ReLUs", seed=3)
    assert (flow.playing, flow.step_number) == (False, 0)
    assert losses(flow, 3) == losses(preset("dead ReLUs", 3), 3)


def test_an_unknown_preset_leaves_everything_as_it_is(preset):
    flow = preset("dead ReLUs")
    flow.step(2)
    model, controls = flow.model, flow._controls
    with pytest.raises(ValueError, match="preset 'dead' is unknown"):
        flow.load_preset("dead")
    with pytest.raises(ValueError, match="seed"):
        flow.load_preset("full batch", seed=-1)
    assert (flow.model, flow._controls, flow.step_number) == (model, controls, 2)
    flow.step()


def no_room(*_: object, **__: object) -> None:
    raise MemoryError("no room for another network")


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (PlaygroundNetwork, "__call__", MemoryError),  # the network can't be made
        (nn.CrossEntropyLoss, "forward", RuntimeError),  # or its first batch fails
    ],
)
def test_a_preset_that_can_not_be_made_leaves_everything_going_on(
    nothing_is_left, preset, monkeypatch, place, name, error
):
    flow = preset("vanishing sigmoid")
    flow.step(2)
    before = flow.model, flow._controls, flow.children, flow._construction, flow.tweaks
    with monkeypatch.context() as broken:
        broken.setattr(place, name, no_room, raising=False)
        with pytest.raises(error, match="no room"):
            flow.load_preset("exploding RNN")
    assert (flow.model, flow._controls, flow.children, flow._construction, flow.tweaks) == before
    assert (flow.step_number, flow.depth, flow.activation) == (2, 12, "sigmoid")
    assert losses(flow, 3) == losses(preset("vanishing sigmoid"), 5)
    flow._controls.depth_slider.value = 3
    assert (flow.depth, len(flow.history)) == (3, 0)
    flow.load_preset("exploding RNN")
    assert losses(flow, 2) == losses(preset("exploding RNN"), 2)


def test_one_that_plays_plays_on_when_a_preset_can_not_be_made(preset, monkeypatch):
    flow = preset("vanishing sigmoid")
    flow.play()
    with monkeypatch.context() as broken:
        broken.setattr(PlaygroundNetwork, "__call__", no_room, raising=False)
        press(flow, "exploding RNN")
        assert "no room for another network" in flow.status
    assert flow.playing
    assert flow.wait(steps=3, timeout=60)


def test_a_closed_widget_loads_no_preset(preset):
    flow = preset("dead ReLUs")
    flow.close()
    with pytest.raises(RuntimeError, match="closed"):
        flow.load_preset("full batch")


def test_a_model_of_one_s_own_is_offered_no_preset_and_keeps_its_weights(make_flow):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    data = torch.randn(64, 4), torch.randn(64, 1)
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), data)
    assert flow._controls.preset_buttons == {}
    flow.step(2)
    learned = {name: value.clone() for name, value in model.state_dict().items()}
    flow.load_preset("full batch")
    flow.step()
    assert flow.model is not model
    assert all(torch.equal(value, learned[name]) for name, value in model.state_dict().items())
    assert "full batch" in flow._controls.preset_buttons

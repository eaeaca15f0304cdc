"""The presets as data: read, checked, looked up, and handed to a playground."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradflow_widget import GradientFlow
from gradflow_widget.playground.presets import (
    NUMBERS,
    Preset,
    kept,
    preset_from,
    preset_of,
    presets,
    read_presets,
)
from gradflow_widget.training.regimes.regime import NOTHING, regime_from

ENTRY: dict[str, Any] = {
    "network": "mlp",
    "data": "digits",
    "steps": 3,
    "watch": "The bars.",
    "promise": "finite",
}


def entry(**changes: Any) -> dict[str, Any]:
    return {**ENTRY, **changes}


STORIES = (
    "vanishing sigmoid",
    "mended by skips",
    "mended by ReLU + He",
    "mended by BatchNorm",
    "mended by orthogonal tanh",
    "exploding RNN",
    "mended by clipping",
    "LSTM on the adding problem",
    "batch norm explodes",
    "dead ReLUs",
    "learning rate too high",
    "learning rate too low",
    "pre-LN transformer",
    "post-LN transformer",
    "frozen backbone",
    "SGD against full batch",
    "full batch",
)


def test_the_stories_of_the_field_are_told():
    assert set(STORIES) <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_made_of_what_there_is(name):
    preset = preset_of(name)
    parts = preset.parts()
    assert len(parts.data[0]) >= parts.hot.get("batch_size", 1)
    assert (regime_from(preset.regime) != NOTHING) == bool(preset.regime)
    assert len(preset.watch.split()) >= 25


def test_a_preset_that_is_compared_names_one_that_stands_before_it():
    names = list(presets())
    for preset in presets().values():
        if preset.against is not None:
            assert names.index(preset.against) < names.index(preset.name)
            assert presets()[preset.against].data == preset.data


def test_an_unknown_preset_is_told_with_those_there_are():
    with pytest.raises(ValueError, match="preset 'vanishing' is unknown: choose one of vanishing"):
        preset_of("vanishing")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"step": 3}, "key 'step' is unknown: did you mean 'steps'"),
        ({"network": "mpl"}, "network 'mpl' is unknown: did you mean 'mlp'"),
        ({"data": ["digits"]}, "data .'digits'. is unknown"),
        ({"network": "cnn", "data": "adding"}, "takes image, but data 'adding' come as sequence"),
        ({"steps": 0}, "steps must be a whole number from 1 to 100,000, not 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"watch": ""}, "watch must say in sentences"),
        ({"watch": 3}, "watch must say in sentences"),
        ({"knobs": ["depth"]}, "knobs must be a mapping"),
        ({"knobs": {"dept": 3}}, "knob 'dept' is unknown: did you mean 'depth'"),
        ({"knobs": {"depth": 0}}, "depth"),
        ({"knobs": {"activation": "sigmoidal"}}, "activation 'sigmoidal' is unknown"),
        ({"knobs": {"regime": {}}}, "knob 'regime' is unknown"),
        ({"regime": 3}, "regime must be a mapping"),
        ({"promise": "decade < 1"}, "promise has no number 'decade'"),
        ({"promise": "other.loss < 1"}, "against names none"),
        ({"against": "b"}, "the promise says nothing of it"),
        ({"against": "a"}, "against must be the name of another preset"),
        ({"against": 3}, "against must be the name of another preset"),
    ],
)
def test_what_is_wrong_with_a_preset_is_told_with_its_name(changes, says):
    with pytest.raises(ValueError, match=f"^preset 'a': .*{says}"):
        preset_from("a", entry(**changes))


@pytest.mark.parametrize("key", ENTRY)
def test_what_is_missing_is_named(key):
    with pytest.raises(ValueError, match=f"^preset 'a': {key} must be given"):
        preset_from("a", {name: value for name, value in ENTRY.items() if name != key})


def test_what_only_the_building_refuses_is_told_with_the_preset_s_name():
    preset = preset_from("a", entry(network="rnn", data="adding", knobs={"length": 1}))
    with pytest.raises(ValueError, match=r"^preset 'a': length must be a whole number"):
        preset.parts()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "presets are no JSON"),
        ("[]", "must be one object"),
        ('{"a": 3}', "preset 'a': it must be a mapping"),
        (json.dumps({"a": ENTRY})[:-1] + ', "a": {}}', "have 'a' twice"),
        (
            json.dumps({"a": entry(against="c", promise="loss < other.loss")}),
            "against 'c' is unknown: choose among a",
        ),
    ],
)
def test_a_file_that_can_t_be_read_is_told_why(text, says):
    with pytest.raises(ValueError, match=says):
        read_presets(text)


def test_presets_keep_their_order():
    assert list(read_presets(json.dumps({"b": ENTRY, "a": ENTRY}))) == ["b", "a"]


def test_arguments_make_the_playground_that_the_preset_describes():
    preset = preset_from(
        "a",
        entry(
            knobs={"depth": 4, "width": 8, "optimizer_kind": "Adam", "skips": 1, "clip_norm": 2},
            regime={"accumulation": 2},
            seed=7,
        ),
    )
    flow = GradientFlow.playground(**preset.arguments())
    try:
        flow.step()
        settings = flow.history.latest.settings
        assert (settings.depth, settings.optimizer_kind, settings.skips) == (4, "Adam", 1.0)
        assert (settings.clip_norm, settings.seed) == (2.0, 7)
        assert settings.regime.accumulation == 2
        assert preset.arguments(11)["seed"] == 11
        assert "regime" not in preset_from("a", ENTRY).arguments()
        with pytest.raises(ValueError, match="seed"):
            preset.arguments(-1)
    finally:
        flow.close()


def tiny(**changes: Any) -> Preset:
    return preset_from("tiny", entry(knobs={"depth": 2, "width": 4}, **changes))


def test_the_promise_is_judged_after_the_preset_s_steps_and_with_its_numbers():
    flow = GradientFlow.playground(**tiny().arguments())
    try:
        with pytest.raises(RuntimeError, match="no recorded run"):
            kept(tiny(), flow)
        flow.step(2)
        with pytest.raises(RuntimeError, match=r"has done 2: call step\(1\)"):
            kept(tiny(), flow)
        flow.step()
        holds, numbers = kept(tiny(), flow)
        assert holds
        assert set(numbers) == set(NUMBERS)
        assert not kept(tiny(promise="steps > 3"), flow)[0]
    finally:
        flow.close()


def test_a_comparison_needs_the_other_run_and_tells_its_numbers():
    preset = preset_of("SGD against full batch")
    flow = GradientFlow.playground(**preset.arguments())
    try:
        with pytest.raises(ValueError, match="compared with a run of 'full batch'"):
            kept(preset, flow)
    finally:
        flow.close()

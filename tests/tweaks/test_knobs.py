"""Which cold knobs a factory offers, and what values they take."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradflow_widget.tweaks.activation import ACTIVATIONS, activation_module, checked_activation
from gradflow_widget.tweaks.depth import checked_depth
from gradflow_widget.tweaks.knobs import (
    COLD_KNOBS,
    checked_knob,
    completed,
    knobs_of_factory,
    knobs_of_module,
    without_training,
)
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.skips import with_skips
from tests.models.zoo import Cnn, fingerprint, made, mlp


def both(depth: int = 3, activation: str = "relu") -> None: ...


def without_defaults(depth: int, activation: str) -> None: ...


def keyword_only(*, depth: int = 4) -> None: ...


def only_activation(width: int = 3, activation: str = "selu") -> None: ...


def positional_only(depth: int = 3, /) -> None: ...


def anything(*args: Any, **knobs: Any) -> None: ...


class Network(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("factory", "depth", "activation"),
    [
        (both, 3, "relu"),
        (without_defaults, 8, "tanh"),
        (keyword_only, 4, None),
        (only_activation, None, "selu"),
        (positional_only, None, None),
        (anything, None, None),
        (Network, 2, None),
        (functools.partial(both, depth=5), 5, "relu"),
        (lambda: None, None, None),
    ],
)
def test_a_factory_names_the_knobs_that_it_takes(
    factory: Any, depth: int | None, activation: str | None
) -> None:
    knobs = knobs_of_factory(factory)
    assert tuple(knobs) == COLD_KNOBS
    assert knobs["depth"].value == depth
    assert knobs["activation"].value == activation
    for name, knob in knobs.items():
        assert knob.offered == knob.is_named == (knob.value is not None)
        assert knob.offered or (name in knob.reason and knob.reason.endswith("."))


def test_a_factory_s_defaults_are_the_first_values_of_every_knob() -> None:
    def build(
        initialization: Any = None,
        normalization: Any = None,
        skips: Any = "learned",
        orthogonality: Any = 0.5,
    ) -> None: ...

    knobs = knobs_of_factory(build)
    assert [knobs[name].value for name in COLD_KNOBS[2:]] == ["as given", None, "learned", 0.5]
    assert [knobs[name].argument for name in COLD_KNOBS[2:]] == [None, None, "learned", 0.5]
    assert all(knobs[name].offered for name in COLD_KNOBS[2:])

    def wrong(skips: Any = -1) -> None: ...

    knob = knobs_of_factory(wrong)["skips"]
    assert (knob.offered, knob.is_named) == (False, True)
    assert knob.reason == (
        "The factory's own default, skips=-1, is none of the known ones: off, 1, 1/√(2L), learned."
    )


def test_what_a_factory_does_not_name_is_found_in_its_product() -> None:
    knobs = completed(knobs_of_factory(only_activation), mlp(3))
    assert {name: knob.is_named for name, knob in knobs.items()} == {
        name: name == "activation" for name in COLD_KNOBS
    }
    assert [knob.value for knob in knobs.values()] == [3, "selu", "as given", None, None, None]
    alone = without_training(knobs)
    assert [name for name, knob in alone.items() if knob.offered] == ["activation"]
    assert all(knob.reason.endswith(".") for knob in alone.values() if not knob.offered)


def test_the_knobs_of_a_model_stand_on_what_it_has() -> None:
    found = {name: knob.value for name, knob in knobs_of_module(Cnn()).items()}
    assert found == {
        "depth": 3,
        "activation": "relu",
        "initialization": "as given",
        "normalization": "as given",
        "skips": None,
        "orthogonality": None,
    }


def test_a_model_that_was_tweaked_before_stands_on_that() -> None:
    model = with_orthogonality(with_skips(with_normalization(mlp(3), "rms"), 0.5), "hard")
    knobs = knobs_of_module(model)
    assert [knobs[name].value for name in COLD_KNOBS[3:]] == ["rms", 0.5, "hard"]


def test_looking_for_knobs_leaves_the_model_as_it_is() -> None:
    for name in ("CNN", "GPT-2", "BERT", "compiled MLP", "LSTM tagger", "ConvNeXT"):
        model, _ = made(name)
        before = fingerprint(model)
        knobs_of_module(model)
        assert fingerprint(model) == before


class Mixed(nn.Module):
    """Two activations, which have no one name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)
        )

    def forward(self, x: Any) -> Any:
        return self.net(x)


def test_several_activations_are_as_given() -> None:
    knob = knobs_of_module(Mixed())["activation"]
    assert knob.value == "as given"
    assert knob.options[0] == ("as given", "as given")
    assert len(knob.options) == 1 + len(ACTIVATIONS)


def test_more_blocks_than_the_knob_reaches_are_told() -> None:
    deep = nn.Sequential(*[nn.Linear(2, 2) for _ in range(70)])
    knob = knobs_of_module(deep)["depth"]
    assert not knob.offered
    assert "70 blocks" in knob.reason


def test_a_model_that_can_t_be_looked_into_offers_nothing_and_harms_nobody() -> None:
    class Odd(nn.Module):
        def named_modules(self, *_: Any, **__: Any) -> Any:
            raise ArithmeticError("no names here")

        def modules(self) -> Any:
            raise ArithmeticError("no modules here")

    knobs = knobs_of_module(Odd())
    assert not any(knob.offered for knob in knobs.values())
    assert "can't be looked into" in knobs["depth"].reason


@pytest.mark.parametrize("name", COLD_KNOBS[2:])
def test_the_neutral_option_stands_first(name: str) -> None:
    for model in (mlp(3), Cnn()):
        knob = knobs_of_module(model)[name]
        assert knob.options[0][1] == knob.value
        values = [value for _, value in knob.options]
        assert len(set(values)) == len(values)
        for value in values:
            assert checked_knob(name, value) == value


@given(st.integers())
def test_depth_goes_from_1_to_64(depth: int) -> None:
    if 1 <= depth <= 64:
        assert checked_depth(depth) == depth
    else:
        with pytest.raises(ValueError, match=r"from 1 to 64, not -?\d+\.$"):
            checked_depth(depth)


@given(st.text())
def test_an_unknown_activation_is_answered_with_the_known_ones(name: str) -> None:
    if name in ACTIVATIONS:
        return
    with pytest.raises(ValueError, match="unknown") as caught:
        checked_activation(name)
    assert str(caught.value).endswith(", ".join(ACTIVATIONS) + ".")


def test_every_call_makes_an_activation_of_its_own() -> None:
    assert len(ACTIVATIONS) == 10
    for name in ACTIVATIONS:
        assert activation_module(name) is not activation_module(name)

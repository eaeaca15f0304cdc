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
from gradflow_widget.tweaks.knobs import knobs_of_factory, knobs_of_module


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
def test_a_factory_offers_the_knobs_that_it_names(
    factory: Any, depth: int | None, activation: str | None
) -> None:
    knobs = knobs_of_factory(factory)
    assert knobs["depth"].value == depth
    assert knobs["activation"].value == activation
    for name, knob in knobs.items():
        assert knob.offered == (knob.value is not None)
        assert knob.offered or (name in knob.reason and knob.reason.endswith("."))


def test_a_ready_made_model_offers_none_and_says_why() -> None:
    for name, knob in knobs_of_module().items():
        assert not knob.offered
        assert name in knob.reason


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

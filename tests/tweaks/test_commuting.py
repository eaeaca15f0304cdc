"""Laws of all tweaks together: tweak and undo is the identity, two knobs commute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.depth import with_depth
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.record import tweaks_of
from gradflow_widget.tweaks.skips import with_skips
from tests.models.zoo import fingerprint

Tweak = partial[nn.Module]

ACTIVATION_ALIKE = ("default", "normal", "xavier", "lecun")
"""Schemes that draw the same whatever the activation."""

TWEAKS: dict[str, list[Tweak]] = {
    "activation": [partial(with_activation, name=name) for name in ("relu", "gelu", "identity")],
    "depth": [partial(with_depth, n=depth) for depth in (1, 2, 6)],
    "initialization": [partial(with_initialization, scheme=one) for one in ACTIVATION_ALIKE],
    "normalization": [
        partial(with_normalization, kind=kind)
        for kind in ("batch", "layer", "group", "rms", "weight", "spectral")
    ],
    "skips": [partial(with_skips, scale=scale) for scale in (1.0, "1/sqrt(2L)", "learned")],
    "orthogonality": [partial(with_orthogonality, strength=one) for one in (0.1, "hard")],
}
UNDO: dict[str, Tweak] = {
    "activation": partial(with_activation, name=None),
    "depth": partial(with_depth, n=4),
    "normalization": partial(with_normalization, kind=None),
    "skips": partial(with_skips, scale=None),
    "orthogonality": partial(with_orthogonality, strength=None),
}
# A scheme draws all weights anew: new blocks by it, if it comes last, else by their class.
ORDER_MATTERS = {"depth", "initialization"}


def refuse_each_other(tweaks: tuple[Tweak, Tweak]) -> bool:
    """Whether the second says that weights are computed already: see test_orthogonality."""
    values = {value for tweak in tweaks for value in tweak.keywords.values()}
    return "hard" in values and bool(values & {"weight", "spectral"})


def flat() -> nn.Module:
    """Blocks of two modules in one Sequential."""
    torch.manual_seed(0)
    layers = [module for _ in range(4) for module in (nn.Linear(6, 6), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def nested() -> nn.Module:
    """Blocks with two weights each."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6), nn.Tanh()) for _ in range(4)
    ]
    return nn.Sequential(*blocks, nn.Linear(6, 3))


def spread() -> nn.Module:
    """The same blocks, their modules side by side."""
    return nn.Sequential(*[part for block in nested()[:-1] for part in block], nn.Linear(6, 3))


@st.composite
def two_tweaks(draw: st.DrawFn) -> tuple[Tweak, Tweak]:
    """Two tweaks by different knobs, of those that commute."""
    first, second = draw(
        st.lists(st.sampled_from(sorted(TWEAKS)), min_size=2, max_size=2, unique=True).filter(
            lambda knobs: set(knobs) != ORDER_MATTERS
        )
    )
    tweaks = draw(st.sampled_from(TWEAKS[first])), draw(st.sampled_from(TWEAKS[second]))
    assume(not refuse_each_other(tweaks))
    return tweaks


@pytest.mark.parametrize("build", [flat, nested, spread])
@given(tweaks=two_tweaks())
@settings(max_examples=40)
def test_two_knobs_commute(build: Callable[[], nn.Module], tweaks: tuple[Tweak, Tweak]) -> None:
    model, x = build(), torch.linspace(-2, 2, 42).reshape(7, 6)
    one, other = tweaks
    torch.testing.assert_close(one(other(model))(x), other(one(model))(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [flat, nested, spread])
@given(
    knobs=st.lists(st.sampled_from(sorted(UNDO)), min_size=1, max_size=3, unique=True).filter(
        lambda knobs: not {"normalization", "orthogonality"} <= set(knobs)
    ),
    data=st.data(),
)
@settings(max_examples=25)
def test_tweaks_undone_leave_the_model_as_it_was(
    build: Callable[[], nn.Module], knobs: list[str], data: st.DataObject
) -> None:
    model, x = build(), torch.linspace(-2, 2, 42).reshape(7, 6)
    before, changed = fingerprint(model), model
    for knob in knobs:
        changed = data.draw(st.sampled_from(TWEAKS[knob]))(changed)
    # Blocks that were taken off come back only where they still fit: what has been put into the
    # others since has to come out first.
    order = [*reversed(knobs)] if "depth" in knobs else data.draw(st.permutations(knobs))
    for knob in order:
        changed = UNDO[knob](changed)
    assert torch.equal(changed(x), model(x))
    assert list(changed.state_dict()) == list(model.state_dict())
    assert tweaks_of(changed) == ()
    assert fingerprint(model) == before

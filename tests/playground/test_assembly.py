"""Networks and data put together by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from gradflow_widget.playground.assembly import assemble, fitting_data, fitting_networks
from gradflow_widget.playground.data import DATA, from_arrays
from gradflow_widget.playground.networks import NETWORKS
from gradflow_widget.tweaks.knobs import knobs_of_factory

KIND_ON_DIGITS = {
    "mlp": (64,),
    "cnn": (1, 8, 8),
    "gru": (8, 8),
    "transformer": (8, 8),
}


@pytest.mark.parametrize(("network", "shape"), KIND_ON_DIGITS.items())
def test_data_come_in_the_form_that_the_network_takes(network, shape):
    playground = assemble(network, "digits", {})
    assert playground.data[0].shape[1:] == shape
    assert playground.loaded.validation_inputs.shape[1:] == shape


def test_every_network_fits_some_data_and_the_other_way_round():
    assert all(fitting_data(network) for network in NETWORKS.values())
    assert all(fitting_networks(source.kinds) for source in DATA.values())


def test_what_doesn_t_fit_is_told_with_what_does():
    with pytest.raises(ValueError, match="network 'cnn'") as raised:
        assemble("cnn", "adding", {})
    assert str(raised.value) == (
        "network 'cnn' takes images, but data 'adding' come as sequences: choose data among "
        "digits, or network among rnn, lstm, gru, transformer."
    )


def test_own_data_are_taken_as_they_are():
    inputs, targets = torch.randn(50, 6), torch.randint(3, (50,))
    data = from_arrays(inputs, targets)
    playground = assemble("mlp", data, {"width": 5})
    assert playground.loaded is data
    assert playground.build()(inputs).shape == (50, 3)
    with pytest.raises(ValueError, match=r"the data given come as vectors: .* among mlp, linear"):
        assemble("lstm", data, {})


@pytest.mark.parametrize("network", NETWORKS)
def test_the_factory_names_the_cold_knobs_that_the_network_has(network):
    data = fitting_data(NETWORKS[network])[0]
    knobs = knobs_of_factory(assemble(network, data, {"depth": 3}).build)
    named = {name for name, knob in knobs.items() if knob.is_named}
    assert knobs["depth"].value == 3
    assert named == {"depth", "activation", "skips"} & set(NETWORKS[network].parameters)


def test_knobs_go_where_they_belong():
    playground = assemble(
        "lstm",
        "adding",
        {
            "depth": 2,
            "width": 5,
            "length": 7,
            "samples": 40,
            "learning_rate": 0.25,
            "clip_norm": 2.0,
            "initialization": "orthogonal",
        },
    )
    assert playground.data[0].shape[1:] == (7, 2)
    model = playground.build()
    assert [layer.hidden_size for layer in model.layers] == [5, 5]
    assert playground.optimize(model.parameters()).param_groups[0]["lr"] == 0.25
    assert playground.hot == {"initialization": "orthogonal", "clip_norm": 2.0}


def test_pieces_of_text_come_fewer_at_a_time_unless_asked_for():
    assert assemble("gru", "text", {}).hot == {"batch_size": 16}
    assert assemble("gru", "text", {"batch_size": 64}).hot == {"batch_size": 64}
    assert assemble("gru", "digits", {}).hot == {}


def test_the_usual_playground_is_what_it_was():
    playground = assemble("mlp", "digits", {})
    torch.manual_seed(3)
    model = playground.build()
    torch.manual_seed(3)
    sizes = [*[64] * 8, 10]
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.parameters(), (p for layer in layers for p in layer.parameters()), strict=True
        )
    )
    optimizer = playground.optimize(model.parameters())
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["lr"] == 0.1
    assert optimizer.defaults["momentum"] == 0


BAD: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "network": ("perceptron", "digits", {}, "network 'perceptron' is unknown: choose one of mlp,"),
    "network of no name": (3, "digits", {}, "network 3 is unknown"),
    "data": ("mlp", "mnist", {}, "data 'mnist' is unknown: choose one of digits,"),
    "knob": ("mlp", "digits", {"lr": 1}, "knob 'lr' is unknown: choose among depth, activation,"),
    "another's parameter": ("mlp", "digits", {"norm": "pre"}, "knob 'norm' .* width"),
    "other data's parameter": ("mlp", "digits", {"noise": 1}, "knob 'noise' is unknown"),
    "depth": ("gru", "digits", {"depth": 0}, "depth must be a whole number"),
    "clips": ("mlp", "digits", {"clip_norm": 1, "clip_value": 1}, "choose one"),
    "noise": ("mlp", "moons", {"noise": -1}, "noise"),
}


@pytest.mark.parametrize(("network", "data", "knobs", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told_in_one_sentence(network, data, knobs, says):
    with pytest.raises(ValueError, match=says):
        assemble(network, data, knobs)


@pytest.mark.parametrize("width", [0, -3, 2.5, True, "wide", 10**400])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_width_that_can_t_be_is_told(network, width):
    with pytest.raises(ValueError, match="width must be a whole number from 1 to 10,000"):
        NETWORKS[network].make(2, width=width)


@pytest.mark.parametrize("rate", [None, "fast", True])
def test_a_learning_rate_that_is_no_number_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="learning_rate must be a positive, finite number, not"):
        assemble("mlp", "digits", {"learning_rate": rate})

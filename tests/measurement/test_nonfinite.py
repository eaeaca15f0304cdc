"""The first tensor that was not finite, as a reading shows it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradflow_widget import GradientProbe, take_reading
from gradflow_widget.diagnosis.rules import judge
from gradflow_widget.measurement.nonfinite import first_nonfinite


def spoilt_by_nan(model: nn.Sequential) -> None:
    model[0].weight.grad.mul_(math.nan)


def spoilt_in_a_bias(model: nn.Sequential) -> None:
    model[0].bias.grad[0] = math.nan


def spoilt_by_inf_and_clipped(model: nn.Sequential) -> None:
    model[0].weight.grad[0, 0] = math.inf
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def clipped_by_hand_at_a_norm_of_zero(model: nn.Sequential) -> None:
    for parameter in model.parameters():
        parameter.grad.zero_()
        parameter.grad.mul_(1.0 / torch.zeros(()))


@pytest.mark.parametrize("full", [False, True], ids=["light", "full"])
@pytest.mark.parametrize(
    "spoil",
    [
        spoilt_by_nan,
        spoilt_in_a_bias,
        spoilt_by_inf_and_clipped,
        clipped_by_hand_at_a_norm_of_zero,
    ],
)
def test_a_gradient_spoilt_between_backward_pass_and_step_is_not_finite(spoil, full):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=full) as probe:
        for step in range(1, 4):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).sum().backward()
            if step == 3:
                spoil(model)
            optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    assert not reading.is_finite
    found = first_nonfinite(reading)
    assert found is not None
    layer = "2" if spoil is clipped_by_hand_at_a_norm_of_zero else "0"
    assert found == (3, layer, "gradient")


@pytest.mark.parametrize("full", [False, True], ids=["light", "full"])
@pytest.mark.parametrize("clips", [False, True], ids=["as it is", "clipped"])
def test_a_backward_pass_that_spoils_a_bias_alone_names_its_layer(full, clips):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2))
    model[2].bias.register_hook(lambda gradient: gradient * math.nan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=full) as probe:
        model(torch.randn(5, 4)).sum().backward()
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    assert math.isnan(reading.clip_scale) if clips else reading.clip_scale == 1.0
    assert first_nonfinite(reading) == (1, "2", "gradient")
    assert judge([reading]).sentence == (
        "Not finite: the gradient of layer 2 (2) was first, at step 1."
    )


def test_a_look_at_a_network_of_nan_names_its_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    reading = take_reading(model, lambda o, _: o.sum(), torch.randn(5, 4), None)
    assert first_nonfinite(reading) == (0, "2", "output")
    sentence = judge([reading]).sentence
    assert sentence == "Not finite: the output of layer 2 (2) was first, before the first step."


def test_a_look_names_the_layer_of_which_only_a_bias_has_a_gradient_of_nan():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2))
    model[2].bias.register_hook(lambda gradient: gradient * math.nan)
    reading = take_reading(model, lambda o, _: o.sum(), torch.randn(5, 4), None)
    assert reading.spoilt.tolist() == [False, True, False]
    assert first_nonfinite(reading) == (0, "2", "gradient")
    assert judge([reading]).sentence == (
        "Not finite: the gradient of layer 2 (2) was first, before the first step."
    )


def test_a_look_at_finite_gradients_has_no_layer_that_is_spoilt():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    assert take_reading(model, lambda o, _: o.sum(), torch.randn(5, 4), None).spoilt is None

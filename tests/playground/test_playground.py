"""Networks and data for those who bring none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow
from gradflow_widget.playground.data import digits
from gradflow_widget.playground.networks import mlp


def test_digits_are_the_same_each_time_scaled_and_shuffled() -> None:
    inputs, targets = digits()
    assert inputs.shape == (1797, 64)
    assert targets.shape == (1797,)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert float(inputs.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(1.0, abs=1e-5)
    assert torch.bincount(targets).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert targets[:10].tolist() != list(range(10))  # the source is sorted
    again = digits()
    assert torch.equal(again[0], inputs)
    assert torch.equal(again[1], targets)


def test_digits_leave_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    digits()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("depth", [1, 2, 7, 64])
def test_an_mlp_has_depth_linear_layers_with_the_activation_between(depth: int) -> None:
    network = mlp(depth, "gelu", inputs=5, width=9, outputs=2)
    linear = [m for m in network if isinstance(m, nn.Linear)]
    assert len(linear) == depth
    assert [m for m in network if isinstance(m, nn.GELU)] == list(network)[1::2]
    assert isinstance(network[-1], nn.Linear)
    assert network(torch.randn(4, 5)).shape == (4, 2)


@pytest.mark.parametrize(
    ("arguments", "says"), [((0,), "depth"), ((65,), "depth"), ((2, "swish"), "activation")]
)
def test_an_mlp_refuses_what_it_can_t_be(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mlp(*arguments)


def test_the_playground_takes_the_first_values_of_the_knobs() -> None:
    flow = GradientFlow.playground(
        depth=3,
        activation="relu",
        learning_rate=0.05,
        clip_norm=1.0,
        batch_size=32,
        speed=5,
        seed=9,
    )
    assert (flow.depth, flow.activation, flow.learning_rate) == (3, "relu", 0.05)
    assert (flow.clip_norm, flow.batch_size, flow.speed) == (1.0, 32, 5)
    flow.step()
    latest = flow.history.latest
    assert latest is not None
    assert latest.learning_rate == 0.05
    assert latest.settings.seed == 9
    assert latest.settings.batch_size == 32
    flow.close()


def test_the_playground_learns_to_read_digits() -> None:
    flow = GradientFlow.playground(depth=3, activation="relu")
    flow.speed = "max"
    flow.step(300)
    inputs, targets = digits()
    with torch.no_grad():
        right = (flow.model(inputs).argmax(dim=1) == targets).float().mean()
    assert right > 0.9
    flow.close()

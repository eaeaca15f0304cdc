"""Dead and saturated shares, for activations as modules, functions and in place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradflow_widget import take_reading
from gradflow_widget.measurement.activations import FLAT
from gradflow_widget.measurement.shelf import LARGEST

from .networks import one_reading


class Activated(nn.Module):
    """A layer that passes its input through, an activation, and a layer to see it."""

    def __init__(self, activation, units: int) -> None:
        super().__init__()
        self.first = nn.Linear(units, units, bias=False)
        self.activation = activation
        self.last = nn.Linear(units, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.activation(self.first(x)))
        return out


# Units: silent for all samples, silent for some, never silent.
Z = torch.tensor([[-1.0, -1.0, 1.0, 2.0], [-3.0, 2.0, 1.0, 3.0], [0.0, -2.0, 3.0, 1.0]])


def _name(activation: object) -> str:
    return getattr(activation, "__name__", type(activation).__name__)


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        F.relu,
        F.relu_,
        torch.relu,
        torch.relu_,
        lambda z: z.clamp(min=0),
        lambda z: z.clamp_min(0),
        nn.Threshold(0.0, 0.0),
        lambda z: z.relu_().reshape(3, 4),
        nn.Sequential(nn.Flatten(), nn.ReLU()),
        nn.Sequential(nn.ReLU(), nn.Dropout(0.5)),
    ],
    ids=_name,
)
def test_a_unit_is_dead_where_relu_is_flat_for_the_whole_batch(activation):
    reading = take_reading(Activated(activation, 4), lambda o, _: o.sum(), Z, None)
    np.testing.assert_array_equal(reading.dead_fraction, [0.25, np.nan])
    np.testing.assert_allclose(reading.activation_rms[0], Z.square().mean().sqrt().item())
    assert reading.saturated_fraction[0] == 0


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
        (torch.sigmoid, lambda z: 4 * torch.sigmoid(z) * (1 - torch.sigmoid(z))),
        (nn.Tanh(), lambda z: 1 - torch.tanh(z) ** 2),
        (F.softplus, torch.sigmoid),
        (nn.Softplus(beta=3.0), lambda z: torch.sigmoid(3 * z)),
        (F.elu, lambda z: torch.where(z > 0, 1.0, z.exp())),
        (nn.ELU(alpha=2.0), lambda z: torch.where(z > 0, 1.0, 2 * z.exp()) / 2),
        (F.selu, lambda z: torch.where(z > 0, 1.0, 1.6732632 * z.exp()) / 1.6732632),
        (nn.CELU(alpha=2.0), lambda z: torch.where(z > 0, 1.0, (z / 2).exp())),
        (F.hardtanh, lambda z: (z.abs() < 1).double()),
        (lambda z: z.clamp(-1, 1), lambda z: (z.abs() < 1).double()),
        (F.logsigmoid, lambda z: torch.sigmoid(-z)),
        (nn.ReLU6(), lambda z: torch.where(z > 6, 0.0, 1.0)),
        (F.hardsigmoid, lambda z: (z.abs() < 3).double()),
        (F.leaky_relu, lambda z: torch.ones_like(z)),
    ],
    ids=_name,
)
def test_an_output_is_saturated_where_the_slope_is_a_twentieth_of_the_steepest(activation, slope):
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64)[:, None]
    # ReLU6's own zero counts as dead, not as saturated below.
    if isinstance(activation, nn.ReLU6):
        z = z.abs()
    model = Activated(activation, 1).double()
    reading = take_reading(model, lambda o, _: o.sum(), z, None)
    expected = (slope(z) < FLAT).double().mean().item()
    assert reading.saturated_fraction[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    "activation",
    [
        nn.ELU(0.04),
        nn.ELU(0.04, inplace=True),
        nn.ELU(0.01),
        nn.ELU(0.01, inplace=True),
        nn.ELU(0.05),
        nn.ELU(10.0),
        nn.ELU(-2.0),
        nn.CELU(0.01),
        nn.CELU(0.01, inplace=True),
        nn.Softplus(beta=-1.5),
        nn.Softplus(beta=10.0),
        nn.Softplus(beta=2.0, threshold=-5.0),
        nn.Hardtanh(1.0, 2.0),
        nn.Hardtanh(-2.0, -1.0, inplace=True),
        pytest.param(lambda z: z.clamp(2.0, 1.0), id="clamp"),
    ],
    ids=str,
)
def test_saturation_follows_the_slope_at_unusual_parameters_too(activation):
    z = torch.linspace(-12, 12, 480, dtype=torch.float64)[:, None]
    model = Activated(activation, 1).double()
    reading = take_reading(model, lambda o, _: o.sum(), z.clone(), None)
    slope = _slope(activation, z)
    # In 480 samples the steepest place may lie between two.
    expected = (slope < FLAT * max(1.0, slope.max().item())).double().mean().item()
    assert reading.saturated_fraction[0] == pytest.approx(expected, abs=1.5 / 480)


@pytest.mark.parametrize(
    "activation",
    [
        nn.LeakyReLU(0.0),
        nn.LeakyReLU(0.0, inplace=True),
        nn.LeakyReLU(1e-6),
        nn.RReLU(0.0, 0.0),
        nn.RReLU(0.0, 0.0, inplace=True),
        nn.RReLU(0.0, 0.5),
        nn.ELU(0.0),
        nn.ELU(0.0, inplace=True),
        nn.ELU(0.01),
        nn.CELU(0.5),
        nn.Threshold(1.0, 5.0),
        nn.Threshold(-1.0, 5.0),
        nn.Hardtanh(1.0, 2.0),
        nn.Hardtanh(-2.0, -1.0, inplace=True),
        pytest.param(lambda z: z.clamp(2.0, 1.0), id="clamp"),
    ],
    ids=str,
)
def test_a_unit_is_dead_where_the_slope_is_zero_at_unusual_parameters_too(activation):
    z = torch.linspace(-5, 5, 100, dtype=torch.float64)[None]  # every sample is a unit
    model = Activated(activation, 100).double()
    reading = take_reading(model, lambda o, _: o.sum(), z.clone(), None)
    assert reading.dead_fraction[0] == (_slope(activation, z) == 0).double().mean()


def test_an_activation_whose_slope_grows_without_end_is_flat_nowhere():
    reading = take_reading(Activated(nn.CELU(-1.0), 4), lambda o, _: o.sum(), Z, None)
    assert reading.saturated_fraction[0] == reading.dead_fraction[0] == 0


def _slope(activation, z: torch.Tensor) -> torch.Tensor:
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(activation(z.clone()).sum(), z)
    return slope.abs()


@pytest.mark.parametrize("activation", [F.gelu, F.silu, F.mish, F.hardswish], ids=_name)
def test_gates_saturate_only_far_below_zero(activation):
    z = torch.linspace(-12, 12, 2401, dtype=torch.float64)[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(activation(z).sum(), z)
    beyond = slope.detach().abs() < FLAT
    # The last crossing from the left: right of it a zero slope is only passed through.
    edge = z.detach()[beyond & (z.detach() < -2)].max().item()
    reading = take_reading(
        Activated(activation, 1).double(), lambda o, _: o.sum(), z.detach(), None
    )
    assert reading.saturated_fraction[0] == pytest.approx((edge + 12) / 24, abs=0.03)


@pytest.mark.parametrize(
    "activation",
    [nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.PReLU()],
    ids=_name,
)
def test_shares_of_what_is_not_known_are_no_numbers(activation):
    reading = take_reading(Activated(activation, 4), lambda o, _: o.sum(), Z, None)
    assert math.isnan(reading.dead_fraction[0])
    assert math.isnan(reading.saturated_fraction[0])


def test_channels_are_the_units_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor([-10.0, 0.0, 0.0, 10.0]))
    torch.manual_seed(0)
    reading = take_reading(model, lambda o, _: o.sum(), torch.randn(5, 1, 3, 3), None)
    assert reading.dead_fraction[0] == 0.25


class Pooled(nn.Module):
    """A convolution of four channels that passes on what it is given, a pooling, an activation."""

    def __init__(self, pooling, activation) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(4).reshape(4, 4, 1, 1))
        self.pooling, self.activation = pooling, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activation(self.pooling(self.first(x)))
        return out


def _channels(size: int) -> torch.Tensor:
    """Channels below zero, below zero but for the last corner of one sample, mixed, above zero."""
    torch.manual_seed(0)
    z = torch.randn(3, 4, size, size)
    z[:, :2] = -z[:, :2].abs()
    z[1, 1, -1, -1] = 2.0
    z[:, 3] = z[:, 3].abs()
    return z


@pytest.mark.parametrize("size", [6, 120], ids=["small", "large"])
@pytest.mark.parametrize(
    "activation",
    [F.relu, nn.Threshold(0.0, 0.0), lambda z: z.clamp(min=0), F.leaky_relu],
    ids=_name,
)
@pytest.mark.parametrize(
    "pooling",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.AdaptiveMaxPool2d(5),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
        lambda z: F.max_pool1d(z.flatten(2), 4),
        lambda z: F.max_pool3d(z.unsqueeze(2), (1, 2, 2)),
    ],
    ids=["2d", "overlapping", "adaptive", "flattened", "1d", "3d"],
)
def test_a_channel_is_dead_behind_max_pooling_where_no_gradient_passes(pooling, activation, size):
    z = _channels(size)
    reading = take_reading(Pooled(pooling, activation), lambda o, _: o.sum(), z, None)

    z.requires_grad_()
    activation(pooling(z)).sum().backward()
    passed = z.grad.abs().sum((0, 2, 3)) > 0
    assert reading.dead_fraction[0] == (~passed).double().mean()
    assert reading.saturated_fraction[0] == 0


@pytest.mark.parametrize("size", [6, 120], ids=["small", "large"])
def test_an_activation_in_place_behind_max_pooling_counts_as_one_that_is_not(size):
    model = Pooled(nn.MaxPool2d(2), F.relu_)
    reading = take_reading(model, lambda o, _: o.sum(), _channels(size), None)
    assert reading.dead_fraction[0] == 0.25


@pytest.mark.parametrize(
    ("pooling", "activation"),
    [
        (nn.MaxPool2d(2), F.relu),  # leaves out the last row and column of seven
        (nn.MaxPool2d(1, stride=2), F.relu),
        (nn.MaxPool2d(2, stride=1, dilation=2), F.relu),
        (nn.AvgPool2d(7), F.relu),
        (nn.MaxPool2d(7), torch.tanh),
        (nn.MaxPool2d(7), F.silu),
        (nn.MaxPool2d(7), F.relu6),
    ],
)
def test_a_pooling_that_does_not_show_every_element_hides_the_activation(pooling, activation):
    reading = take_reading(Pooled(pooling, activation), lambda o, _: o.sum(), _channels(7), None)
    assert np.isnan(reading.dead_fraction[0])
    assert np.isnan(reading.saturated_fraction[0])


def test_units_that_are_pooled_among_each_other_have_no_activation_of_their_own():
    maxout = nn.Sequential(nn.MaxPool1d(2), nn.ReLU(), nn.Linear(2, 4))
    reading = take_reading(Activated(maxout, 4), lambda o, _: o.sum(), Z, None)
    assert np.isnan(reading.dead_fraction[0])


def test_an_activation_behind_batch_norm_is_told_of_the_norm_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-100.0, 0.0, 0.0, 0.0]))
    reading = take_reading(model, lambda o, _: o.sum(), torch.randn(8, 3), None)
    assert np.isnan(reading.dead_fraction[0])
    assert reading.dead_fraction[1] == 0.25


def test_an_activation_after_the_last_layer_is_seen_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    inputs = torch.tensor([[0.0, 100.0], [0.1, 0.2]])
    reading = take_reading(model, lambda o, _: o.sum(), inputs, None)
    assert reading.saturated_fraction[0] == 0.25


def test_no_activation_is_no_number():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    reading = one_reading(model, lambda: model(torch.ones(3, 2)).sum())
    assert np.isnan(reading.dead_fraction).all()
    assert np.isnan(reading.saturated_fraction).all()


def test_what_stands_between_layer_and_activation_must_not_move_a_value():
    class Shifted(Activated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(torch.relu(self.first(x) + 5))
            return out

    reading = take_reading(Shifted(None, 4), lambda o, _: o.sum(), Z, None)
    assert math.isnan(reading.dead_fraction[0])


def test_an_output_changed_in_place_by_something_else_is_not_judged_by_what_it_became():
    class Shifted(Activated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.first(x)
            z += 5
            out: torch.Tensor = self.last(torch.relu(z))
            return out

    reading = take_reading(Shifted(None, 4), lambda o, _: o.sum(), Z, None)
    assert math.isnan(reading.dead_fraction[0])


def test_branches_of_a_residual_stream_are_each_seen_once():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(4, 4)
            self.out = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            moved: torch.Tensor = x + self.out(torch.relu(self.into(x)))
            return moved

    model = nn.Sequential(*[Block() for _ in range(60)])
    with torch.no_grad():
        for block in model:
            block.into.bias.copy_(torch.tensor([-1e6, 1e6, 1e6, 1e6]))
            block.out.weight.mul_(1e-9)
    reading = take_reading(model, lambda o, _: o.sum(), torch.randn(3, 4), None)
    np.testing.assert_array_equal(reading.dead_fraction[::2], np.full(60, 0.25))
    assert np.isnan(reading.dead_fraction[1::2]).all()


def test_a_unit_is_dead_where_it_is_in_every_micro_batch():
    model = Activated(torch.relu, 4)
    # Unit 0 of Z is silent; of −Z the last two are, and together no one is.
    reading = one_reading(model, lambda: model(Z).sum() + model(-Z).sum(), rate=0.0)
    assert reading.dead_fraction[0] == 0
    reading = one_reading(model, lambda: model(Z).sum() + model(Z[:2]).sum(), rate=0.0)
    assert reading.dead_fraction[0] == 0.25
    reading = one_reading(model, lambda: sum(model(z[None]).sum() for z in Z), rate=0.0)
    assert reading.dead_fraction[0] == 0.25


def test_dead_units_of_large_outputs_are_joined_too():
    model = Activated(torch.relu, 4)
    rows = LARGEST // 4 // len(Z) + 1
    reading = one_reading(
        model, lambda: model(Z.repeat(rows, 1)).sum() + model(-Z.repeat(rows, 1)).sum(), rate=0.0
    )
    assert reading.dead_fraction[0] == 0
    reading = one_reading(model, lambda: model(Z.repeat(rows, 1)).sum() + model(Z).sum(), rate=0.0)
    assert reading.dead_fraction[0] == 0.25


def test_saturated_outputs_add_up_over_micro_batches():
    model = Activated(torch.tanh, 4)
    reading = one_reading(model, lambda: model(Z).sum() + model(Z / 10).sum())
    share = (torch.tanh(Z) ** 2 > 1 - FLAT).double().mean().item()
    assert reading.saturated_fraction[0] == pytest.approx(share / 2)
    assert reading.dead_fraction[0] == 0


IN_PLACE = {
    "relu": lambda inplace: nn.ReLU(inplace),
    "relu6": lambda inplace: nn.ReLU6(inplace),
    "hardtanh": lambda inplace: nn.Hardtanh(-1, 2, inplace=inplace),
    "clamp": lambda inplace: lambda z: z.clamp_(-1, 2) if inplace else z.clamp(-1, 2),
    "elu": lambda inplace: nn.ELU(1.5, inplace),
    "selu": lambda inplace: nn.SELU(inplace),
    "celu": lambda inplace: nn.CELU(1.5, inplace),
    "leaky relu": lambda inplace: nn.LeakyReLU(0.1, inplace),
    "tanh": lambda inplace: lambda z: z.tanh_() if inplace else z.tanh(),
    "sigmoid": lambda inplace: lambda z: z.sigmoid_() if inplace else z.sigmoid(),
    "hardsigmoid": lambda inplace: nn.Hardsigmoid(inplace),
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_an_activation_in_place_counts_as_one_that_is_not(name, large):
    z = 3 * torch.randn(LARGEST // 8 + 1 if large else 50, 8, generator=torch.manual_seed(0))
    z[:, 0] = -10 - z[:, 0].abs()
    readings = [
        take_reading(Activated(IN_PLACE[name](inplace), 8), lambda o, _: o.sum(), z.clone(), None)
        for inplace in (False, True)
    ]
    plain, in_place = readings
    np.testing.assert_array_equal(in_place.dead_fraction, plain.dead_fraction)
    np.testing.assert_array_equal(in_place.saturated_fraction, plain.saturated_fraction)
    assert not np.isnan(plain.saturated_fraction[0])


@pytest.mark.parametrize(
    "activation", [F.silu, F.mish, F.hardswish], ids=["silu", "mish", "hardswish"]
)
def test_what_can_not_be_told_from_an_overwritten_output_is_no_number(activation):
    z = torch.randn(LARGEST // 8 + 1, 8)
    model = Activated(lambda z: activation(z, inplace=True), 8)
    reading = take_reading(model, lambda o, _: o.sum(), z, None)
    assert np.isnan(reading.saturated_fraction[0])


def test_an_output_overwritten_after_its_activation_is_not_taken_for_one_in_place():
    def activation(z: torch.Tensor) -> torch.Tensor:
        activated = torch.relu(z)
        z.add_(10.0)
        return activated

    z = torch.randn(LARGEST // 8 + 1, 8)
    reading = take_reading(Activated(activation, 8), lambda o, _: o.sum(), z, None)
    assert np.isnan(reading.dead_fraction[0])


def test_activations_on_every_output_of_the_model_are_seen():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"first": self.first(x), "second": torch.tanh(self.second(x))}

    reading = take_reading(TwoHeads(), lambda o, _: o["first"].sum() + o["second"].sum(), Z, None)
    assert np.isnan(reading.saturated_fraction[0])
    assert not np.isnan(reading.saturated_fraction[1])


def test_a_backward_hook_of_the_layer_hides_no_activation():
    model = Activated(torch.relu, 4)
    model.first.register_full_backward_hook(lambda *_: None)
    assert take_reading(model, lambda o, _: o.sum(), Z, None).dead_fraction[0] == 0.25


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(
    "activation",
    [
        lambda z: z * torch.sigmoid(z),
        lambda z: z * torch.tanh(F.softplus(z)),
        nn.Tanhshrink(),
        lambda z: F.silu(z) * z,
        lambda z: torch.relu(z) + z,
        lambda z: z + torch.relu(z),
        lambda z: torch.relu(z) - torch.relu(-z),
        lambda z: torch.relu(z) + torch.tanh(z),
        lambda z: torch.relu(z).sum() + z,
        lambda z: torch.relu(z) + z.reshape(z.shape),
    ],
    ids=[
        "swish",
        "mish",
        "tanhshrink",
        "silu times z",
        "relu plus z",
        "z plus relu",
        "both signs",
        "relu and tanh",
        "a sum too",
        "a view too",
    ],
)
def test_an_output_that_goes_elsewhere_too_has_no_share(activation, large):
    z = Z.repeat(LARGEST // 4, 1) if large else Z
    reading = take_reading(Activated(activation, 4), lambda o, _: o.sum(), z, None)
    assert np.isnan(reading.dead_fraction[0])
    assert np.isnan(reading.saturated_fraction[0])


def test_a_skip_around_an_activation_keeps_its_units_alive():
    class Skipped(Activated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.first(x)
            out: torch.Tensor = self.last(z + self.second(torch.relu(z)))
            return out

    model = Skipped(None, 4)
    model.second = nn.Linear(4, 4)
    reading = take_reading(model, lambda o, _: o.sum(), Z, None)
    assert np.isnan(reading.dead_fraction).all()


def test_an_activation_that_is_used_twice_and_returned_is_one_use():
    class Returned(Activated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.first(x))
            return self.last(y), y, y + self.second(y)

    model = Returned(None, 4)
    model.second = nn.Linear(4, 4)
    reading = take_reading(model, lambda o, _: o[0].sum() + o[1].sum() + o[2].sum(), Z, None)
    assert reading.dead_fraction[0] == 0.25


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_channels_are_the_units_of_a_convolution_of_one_s_own(large):
    class Equalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 1, 1, 1))
            self.bias = nn.Parameter(torch.tensor([-10.0, 0.0, 0.0, 10.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(x, self.weight * 0.5, self.bias)

    model = nn.Sequential(Equalised(), nn.ReLU())
    torch.manual_seed(0)
    inputs = torch.randn(5, 1, *((60, 60) if large else (3, 3)))
    reading = take_reading(model, lambda o, _: o.sum(), inputs, None)
    assert reading.dead_fraction[0] == 0.25


class NormOfChannels(nn.Module):
    """The norm over channels that ConvNeXt brings along."""

    def __init__(self, channels: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels).reshape(shape))
        self.bias = nn.Parameter(torch.tensor([-9.0] + [9.0] * (channels - 1)).reshape(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
        rest = (1,) * (x.dim() - 2)
        return x * self.weight.reshape(-1, *rest) + self.bias.reshape(-1, *rest)


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [
        ((-1,), (5, 4, 6, 6)),
        ((-1,), (5, 4, 6)),
        ((1, -1, 1, 1), (5, 4, 4, 4)),
        ((-1, 1, 1), (5, 4, 4, 4)),
    ],
)
def test_channels_are_the_units_of_a_norm_of_one_s_own(shape, inputs):
    norm = NormOfChannels(4, shape)
    model = nn.Sequential(norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(1))
    x = torch.randn(inputs, generator=torch.Generator().manual_seed(0))
    model(x)
    reading = one_reading(model, lambda: model(x).sum())
    assert reading.dead_fraction[0] == 0.25


def test_places_are_the_units_of_a_sequence_whatever_its_length():
    """A weight of as many elements as there are steps is none for channels."""
    for first, length in ((nn.Linear(2, 8, bias=False), 16), (nn.LayerNorm(8), 8)):
        model = nn.Sequential(first, nn.ReLU(), nn.Linear(8, 1))
        x = torch.randn(3, length, first.weight.shape[-1])
        with torch.no_grad():
            first.weight[:2] = 0.0
        reading = one_reading(model, lambda model=model, x=x: model(x).sum())
        assert reading.dead_fraction[0] == 0.25


def test_channels_are_the_units_of_a_layer_norm_over_whole_pictures():
    norm = nn.LayerNorm([4, 5, 6])
    with torch.no_grad():
        norm.bias[0], norm.bias[1:] = -9.0, 9.0
    model = nn.Sequential(norm, nn.ReLU(), nn.Flatten(), nn.Linear(120, 1))
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert one_reading(model, lambda: model(x).sum()).dead_fraction[0] == 0.25

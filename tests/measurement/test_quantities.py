"""Each quantity of a reading against autograd in float64, or computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradflow_widget import GradientProbe, take_reading
from gradflow_widget.measurement.norms import NormPlan

from .networks import batch, one_reading, small


def mse(model: nn.Module) -> torch.Tensor:
    inputs, targets = batch()
    return F.mse_loss(model(inputs), targets)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients of :func:`mse` by parameter name, computed aside."""
    named = dict(model.named_parameters())
    values = torch.autograd.grad(mse(model), list(named.values()))
    return dict(zip(named, values, strict=True))


def test_weight_grad_norm_is_of_the_weights_alone():
    model = small()
    expected = gradients(model)
    reading = one_reading(model, lambda: mse(model), full=False)
    assert reading.layers == ("0", "2", "4")
    np.testing.assert_allclose(
        reading.weight_grad_norm,
        [expected[f"{name}.weight"].norm().item() for name in reading.layers],
        rtol=1e-12,
    )


def test_the_scale_of_a_norm_layer_counts_as_its_weight_and_its_shift_does_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    expected = gradients(model)
    reading = one_reading(model, lambda: mse(model), full=False)
    assert reading.weight_grad_norm[1] == pytest.approx(expected["1.weight"].norm().item())
    assert [layer.is_weight_layer for layer in reading.described] == [True, False, True]


def test_a_layer_with_several_weights_joins_their_norms():
    torch.manual_seed(0)
    model = nn.LSTM(5, 3, num_layers=2).double()
    inputs, _ = batch()

    def loss() -> torch.Tensor:
        return model(inputs)[0].square().mean()

    names = [name for name, p in model.named_parameters() if p.dim() == 2]
    values = torch.autograd.grad(loss(), [p for p in model.parameters() if p.dim() == 2])
    reading = one_reading(model, loss)
    assert len(names) == 4
    assert reading.weight_grad_norm[0] == pytest.approx(
        math.sqrt(sum(v.square().sum().item() for v in values)), rel=1e-12
    )
    assert reading.weight_grad_max is not None
    assert reading.weight_grad_max[0] == max(v.abs().max().item() for v in values)


def test_total_norm_is_what_clip_grad_norm_returns():
    model = small(dtype=torch.float32)
    inputs, targets = batch(dtype=torch.float32)
    reading = one_reading(model, lambda: F.mse_loss(model(inputs), targets), full=False, rate=0.0)
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert reading.total_norm == pytest.approx(total.item(), rel=1e-6)


def test_total_norm_is_before_the_users_clip_and_the_weight_grad_norm_after():
    model = small()
    expected = gradients(model)
    total = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer) as probe:
        mse(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), total / 4)
        optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    assert reading.total_norm == pytest.approx(total)
    assert reading.clip_scale == pytest.approx(0.25, rel=1e-5)
    before = [expected[f"{name}.weight"].norm().item() for name in reading.layers]
    np.testing.assert_allclose(reading.unclipped_grad_norm, before, rtol=1e-10)
    np.testing.assert_allclose(reading.weight_grad_norm, np.array(before) / 4, rtol=1e-5)


def test_clip_marks_only_the_steps_where_it_bound():
    """Also the first of them, in a loop that never clipped before."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    limits = [None, None, 1e-2, None, 1e3, 1e-2, None]
    with GradientProbe(model, optimizer) as probe:
        for limit in limits:
            optimizer.zero_grad()
            mse(model).backward()
            if limit is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
        history = probe.history
    bound = [limit == 1e-2 for limit in limits]
    np.testing.assert_array_equal(history.clip_scale < 1, bound)
    np.testing.assert_array_equal(history.clip_scale == 1, np.logical_not(bound))
    np.testing.assert_allclose(history.total_norm, history.total_norm[0], rtol=1e-6)


def test_a_clip_through_data_shows_though_no_version_tells_of_it():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer) as probe:
        for limit in (1e3, 1e-2, 1e3, 1e-3):
            optimizer.zero_grad()
            mse(model).backward()
            for parameter in model.parameters():
                parameter.grad.data.clamp_(-limit, limit)
            optimizer.step()
            reading = probe.history.latest
            np.testing.assert_allclose(
                reading.weight_grad_norm,
                [model.get_submodule(n).weight.grad.norm().item() for n in reading.layers],
            )
    np.testing.assert_array_equal(probe.history.clip_scale < 1, [False, True, False, True])


def test_a_clip_by_value_shows_as_well():
    model = small()
    expected = gradients(model)
    limit = 0.5 * max(g.abs().max().item() for g in expected.values())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer) as probe:
        mse(model).backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), limit)
        optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    clipped = {name: g.clamp(-limit, limit) for name, g in expected.items()}
    after = math.sqrt(sum(g.square().sum().item() for g in clipped.values()))
    assert reading.clip_scale == pytest.approx(after / reading.total_norm)
    np.testing.assert_allclose(
        reading.weight_grad_norm,
        [clipped[f"{name}.weight"].norm().item() for name in reading.layers],
    )


def test_a_clip_in_the_first_step_is_told_by_layer_in_forward_order():
    """The order becomes known in the same step."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(7, 3)
            self.first = nn.Linear(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.first(x).tanh())
            return out

    torch.manual_seed(0)
    model = Backwards().double()
    expected = gradients(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        mse(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    assert reading.layers == ("first", "last")
    np.testing.assert_allclose(
        reading.unclipped_grad_norm,
        [expected[f"{name}.weight"].norm().item() for name in reading.layers],
    )


class TestClippingBetweenTheReadingAndTheStep:
    """By a pre-hook behind the probe's, as a session clips."""

    @staticmethod
    def clipped_reading(model: nn.Module, optimizer: torch.optim.Optimizer, how: str, limit: float):
        probe = GradientProbe(model, optimizer, full=True)

        def clip(*_: object) -> None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if how == "norm":
                torch.nn.utils.clip_grad_norm_(parameters, limit)
                probe.clipped_by_norm(limit)
            else:
                torch.nn.utils.clip_grad_value_(parameters, limit)
                probe.clipped_otherwise()

        handle = optimizer.register_step_pre_hook(clip)
        mse(model).backward()
        optimizer.step()
        handle.remove()
        probe.close()
        assert probe.history.latest is not None
        return probe.history.latest

    @pytest.mark.parametrize("how", ["norm", "value"])
    def test_both_norms_are_known(self, how):
        model = small()
        before = {n: g.norm().item() for n, g in gradients(model).items()}
        total = math.sqrt(sum(norm**2 for norm in before.values()))
        limit = total / 3 if how == "norm" else total / 30
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        reading = self.clipped_reading(model, optimizer, how, limit)
        after = {n: p.grad.norm().item() for n, p in model.named_parameters()}
        total_after = math.sqrt(sum(norm**2 for norm in after.values()))
        assert reading.total_norm == pytest.approx(total)
        assert reading.clip_scale == pytest.approx(total_after / total, rel=1e-9)
        np.testing.assert_allclose(
            reading.unclipped_grad_norm, [before[f"{n}.weight"] for n in reading.layers]
        )
        np.testing.assert_allclose(
            reading.weight_grad_norm, [after[f"{n}.weight"] for n in reading.layers]
        )
        np.testing.assert_allclose(
            reading.weight_grad_max,
            [model.get_submodule(n).weight.grad.abs().max().item() for n in reading.layers],
        )

    def test_a_clip_over_a_part_of_the_model_leaves_the_rest(self):
        model = small()
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.0)
        reading = self.clipped_reading(model, optimizer, "norm", 1e-2)
        np.testing.assert_allclose(
            reading.weight_grad_norm,
            [model.get_submodule(n).weight.grad.norm().item() for n in reading.layers],
        )
        assert reading.weight_grad_norm[0] < 1e-2 < reading.weight_grad_norm[2]

    def test_a_clip_over_more_than_the_model_counts_the_rest(self):
        model, other = small(), nn.Linear(2, 2).double()
        other.weight.grad = torch.full((2, 2), 100.0, dtype=torch.float64)
        optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.0)
        reading = self.clipped_reading(model, optimizer, "norm", 1.0)
        np.testing.assert_allclose(
            reading.weight_grad_norm,
            [model.get_submodule(n).weight.grad.norm().item() for n in reading.layers],
        )
        assert reading.clip_scale < 0.01

    def test_a_clip_that_does_not_bind_is_none(self):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        assert self.clipped_reading(model, optimizer, "norm", 1e4).clip_scale == 1.0
        assert self.clipped_reading(model, optimizer, "value", 1e4).clip_scale == 1.0

    def test_nothing_to_clip_is_no_division_by_zero(self):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.no_grad():
            model[4].weight.zero_()
            model[4].bias.copy_(torch.zeros(3))
        probe = GradientProbe(model, optimizer)
        handle = optimizer.register_step_pre_hook(lambda *_: probe.clipped_by_norm(1e-9))
        (model(batch()[0]).sum() * 0).backward()
        optimizer.step()
        handle.remove()
        probe.close()
        assert probe.history.latest.total_norm == 0


def test_largest_magnitude_and_weight_norm():
    model = small()
    expected = gradients(model)
    norms = [model[int(n)].weight.norm().item() for n in ("0", "2", "4")]
    reading = one_reading(model, lambda: mse(model))
    np.testing.assert_allclose(reading.weight_norm, norms, rtol=1e-12)
    np.testing.assert_array_equal(
        reading.weight_grad_max,
        [expected[f"{name}.weight"].abs().max().item() for name in reading.layers],
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
        lambda p: torch.optim.RMSprop(p, lr=1e-2),
    ],
)
def test_update_ratio_is_taken_from_the_actual_change(make):
    model = small()
    optimizer = make(model.parameters())
    with GradientProbe(model, optimizer, full=True) as probe:
        for _ in range(3):
            before = [model[i].weight.detach().clone() for i in (0, 2, 4)]
            optimizer.zero_grad()
            mse(model).backward()
            optimizer.step()
            expected = [
                ((model[i].weight - w).norm() / w.norm()).item()
                for i, w in zip((0, 2, 4), before, strict=True)
            ]
            np.testing.assert_allclose(probe.history.latest.update_ratio, expected, rtol=1e-9)


def test_sgd_moves_the_weights_by_the_rate_times_the_gradient():
    model = small()
    reading = one_reading(model, lambda: mse(model), rate=0.1)
    np.testing.assert_allclose(
        reading.update_ratio, 0.1 * reading.weight_grad_norm / reading.weight_norm, rtol=1e-9
    )


def signals_aside(model: nn.Sequential) -> tuple[list[float], list[float]]:
    """Signal gradients and activations by autograd on the activations themselves."""
    inputs, targets = batch()
    outputs, x = [], inputs
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            outputs.append(x)
    values = torch.autograd.grad(F.mse_loss(x, targets), outputs)
    signals = [g.norm(dim=1).square().mean().sqrt().item() for g in values]
    return signals, [h.square().mean().sqrt().item() for h in outputs]


@pytest.mark.parametrize("how", ["probe", "take_reading"])
def test_signal_grad_norm_is_the_samples_l2_norm_in_root_mean_square(how):
    model = small()
    signals, activations = signals_aside(model)
    if how == "probe":
        reading = one_reading(model, lambda: mse(model))
    else:
        reading = take_reading(model, F.mse_loss, *batch())
    np.testing.assert_allclose(reading.signal_grad_norm, signals, rtol=1e-12)
    np.testing.assert_allclose(reading.activation_rms, activations, rtol=1e-12)


def test_take_reading_agrees_with_the_probe_but_for_the_update_ratio():
    model = small()
    single = take_reading(model, F.mse_loss, *batch())
    probed = one_reading(model, lambda: mse(model))
    assert single.step == 0
    assert single.update_ratio is None
    assert math.isnan(single.learning_rate)
    for name in (
        "loss", "total_norm", "clip_scale", "weight_grad_norm", "unclipped_grad_norm",
        "weight_grad_max", "weight_norm", "signal_grad_norm", "activation_rms",
        "dead_fraction", "saturated_fraction", "slope", "decades",
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(single, name), getattr(probed, name), rtol=1e-12)


def test_a_cheap_reading_has_none_where_a_full_one_has_numbers():
    model = small()
    cheap = one_reading(model, lambda: mse(model), full=False)
    full = one_reading(model, lambda: mse(model), full=True)
    assert not cheap.is_full
    assert full.is_full
    for name in (
        "weight_grad_max", "weight_norm", "update_ratio", "signal_grad_norm",
        "activation_rms", "dead_fraction", "saturated_fraction", "slope", "decades",
    ):  # fmt: skip
        assert getattr(cheap, name) is None
        assert getattr(full, name) is not None


def test_every_learning_rate_is_recorded_as_the_step_used_it():
    model = small()
    optimizer = torch.optim.SGD(
        [
            {"params": model[0].parameters(), "lr": 0.3},
            {"params": model[2].parameters(), "lr": torch.tensor(0.2)},
            {"params": model[4].parameters()},
        ],
        lr=0.1,
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with GradientProbe(model, optimizer) as probe:
        readings = []
        for _ in range(2):
            mse(model).backward()
            optimizer.step()
            scheduler.step()
            readings.append(probe.history.latest)
    assert readings[0].learning_rates == pytest.approx((0.3, 0.2, 0.1))
    assert readings[1].learning_rates == pytest.approx((0.15, 0.1, 0.05))
    assert readings[1].learning_rate == pytest.approx(0.15)


class TestNumbersBeyondFloat32Squares:
    @pytest.mark.parametrize("magnitude", [1e-37, 1e-30, 1e-20, 1e20, 1e25, 1e37])
    def test_a_norm_is_right_far_outside_the_range_of_squares(self, magnitude):
        tensors = [torch.ones(4, 4), torch.full((4, 4), magnitude)]
        values = NormPlan(tensors).norms(tensors).array()
        np.testing.assert_allclose(values, [4.0, 4 * magnitude], rtol=1e-6)

    def test_zero_stays_zero_and_what_is_not_finite_stays_so(self):
        tensors = [torch.tensor([v]) for v in (0.0, math.inf, math.nan, 1e-30, 1e-44)]
        values = NormPlan(tensors).norms(tensors).array()
        np.testing.assert_array_equal(values[:3], [0, math.inf, math.nan])
        assert values[3] == pytest.approx(1e-30, rel=1e-6)
        assert values[4] > 0

    def test_small_tensors_measured_together_come_back_in_their_order(self):
        generator = torch.Generator().manual_seed(0)
        shapes = [(3, 4), (4,), (3, 4), (200, 200), (4,), (3, 4), (4,), (1,), (3, 4), (4,)] * 5
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        tensors[2] *= 1e-30
        plan = NormPlan(tensors)
        for chosen in (tensors, tensors[1:]):
            expected = [tensor.double().norm().item() for tensor in chosen]
            np.testing.assert_allclose(plan.norms(chosen).array(), expected, rtol=1e-6)

    def test_gradients_with_a_graph_are_measured_without_one(self):
        tensors = [torch.full((2, 2), 3.0, requires_grad=True) * 1 for _ in range(40)]
        plan = NormPlan(tensors)
        for _ in range(2):
            np.testing.assert_allclose(plan.norms(tensors).array(), np.full(40, 6.0))

    def test_a_norm_of_many_elements_does_not_drift(self):
        tensors = [torch.ones(20_000_000)]
        values = NormPlan(tensors).norms(tensors).array()
        assert values[0] == pytest.approx(20_000_000**0.5, rel=1e-7)

    @pytest.mark.parametrize("scale", [1e-30, 1e25])
    def test_gradients_beyond_the_squares_read_as_they_are(self, scale):
        model = small(dtype=torch.float32)
        inputs, targets = batch(dtype=torch.float32)

        def loss() -> torch.Tensor:
            return F.mse_loss(model(inputs), targets)

        usual = take_reading(model, lambda o, t: F.mse_loss(o, t), inputs, targets)
        scaled = one_reading(model, lambda: loss() * scale, rate=0.0)
        for name in ("weight_grad_norm", "weight_grad_max", "signal_grad_norm"):
            np.testing.assert_allclose(
                getattr(scaled, name), scale * getattr(usual, name), rtol=1e-5
            )
        assert scaled.total_norm == pytest.approx(scale * usual.total_norm, rel=1e-5)
        assert scaled.gradient_states == ("", "", "")
        assert scaled.is_finite

    def test_a_net_that_vanishes_to_1e_minus_30_shows_it_and_not_zero(self):
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.Linear(16, 16, bias=False) for _ in range(31)])
        with torch.no_grad():
            for module in model:
                module.weight.copy_(torch.eye(16) * 0.1)
        reading = take_reading(model, lambda o, _: o.sum(), torch.ones(4, 16), None)
        np.testing.assert_allclose(
            reading.signal_grad_norm, 4 * 0.1 ** np.arange(30, -1, -1.0), rtol=1e-4
        )
        assert reading.decades == pytest.approx(-30, abs=1e-3)
        assert reading.slope == pytest.approx(math.log(0.1), abs=1e-3)


def test_the_five_states_of_a_gradient_are_told_apart():
    class Five(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("usual", "zero", "unused", "frozen", "broken", "huge"):
                setattr(self, name, nn.Linear(4, 4, dtype=torch.float64))
            self.frozen.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.frozen(x)
            broken = self.broken(x) * math.nan
            huge = self.huge(x) * math.inf
            return self.usual(x).sum() + 0 * self.zero(x).sum() + broken.sum() + huge.sum()

    model = Five()
    reading = one_reading(model, lambda: model(torch.ones(2, 4, dtype=torch.float64)))
    states = dict(zip(reading.layers, reading.gradient_states, strict=True))
    assert states == {
        "usual": "", "zero": "zero", "unused": "none", "frozen": "frozen",
        "broken": "nan", "huge": "inf",
    }  # fmt: skip
    by_name = dict(zip(reading.layers, reading.weight_grad_norm.tolist(), strict=True))
    assert by_name["zero"] == 0
    assert math.isinf(by_name["huge"])
    assert all(math.isnan(by_name[name]) for name in ("unused", "frozen", "broken"))
    assert not reading.is_finite

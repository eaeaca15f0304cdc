"""Numbers of several devices in one vector, and norms of any magnitude."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientProbe, Reading, take_reading
from gradflow_widget.measurement.norms import (
    NormPlan,
    Norms,
    joined,
    joined_norms,
    norm_of,
    norms_of_rows,
    stacked,
)

HERE, AWAY = torch.ones(()), torch.ones((), device="meta")


@pytest.mark.parametrize("scalars", [[HERE, AWAY], [AWAY, HERE], [2.0, HERE, AWAY]])
def test_scalars_go_away_from_the_cpu_and_never_to_it(scalars: list[torch.Tensor | float]) -> None:
    """On the way to the CPU they would be read before they have arrived."""
    vector = stacked(scalars)
    assert vector.device.type == "meta"
    assert vector.shape == (len(scalars),)


@pytest.mark.parametrize("vectors", [[HERE[None], AWAY[None]], [AWAY[None], HERE[None]]])
def test_vectors_do_so_too(vectors: list[torch.Tensor]) -> None:
    assert joined(vectors).device.type == "meta"


def test_numbers_alone_stay_on_the_cpu() -> None:
    assert stacked([1.0, 2.5]).tolist() == [1.0, 2.5]
    assert stacked([HERE, 2.5]).tolist() == [1.0, 2.5]
    half = torch.tensor([3.0], dtype=torch.bfloat16)
    assert joined([HERE[None], half]).tolist() == [1.0, 3.0]


def ones(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    return [torch.ones(shape) for shape in shapes]


def norms_of(plan: NormPlan, tensors: list[torch.Tensor]) -> list[float]:
    norms = plan.norms(tensors)
    assert isinstance(norms, Norms)
    return norms.array().tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("cast", [1, 2])
@pytest.mark.parametrize("stacked_too", [0, 20])
def test_a_tensor_cast_alone_is_summed_in_more_than_its_own_precision(
    dtype: torch.dtype, cast: int, stacked_too: int
) -> None:
    tensors = ones([(3, 3), (100, 101), (3, 5)] + [(3, 3)] * stacked_too)
    plan = NormPlan(tensors)
    expected = pytest.approx([tensor.numel() ** 0.5 for tensor in tensors], rel=1e-7)
    assert norms_of(plan, tensors) == expected
    tensors[cast] = tensors[cast].to(dtype)
    assert norms_of(plan, tensors) == expected
    assert plan.norm(tensors[cast]) == pytest.approx(tensors[cast].numel() ** 0.5, rel=1e-7)


def test_a_plan_made_for_fewer_gradients_takes_the_norms_of_all() -> None:
    tensors = [tensor.double() for tensor in ones([(2, 2), (3, 3), (4, 4)])]
    plan = NormPlan(tensors)
    assert norms_of(plan, [tensors[0].float()]) == [2.0]
    assert norms_of(plan, [tensor.float() for tensor in tensors]) == [2.0, 3.0, 4.0]


def test_a_layer_cast_while_it_is_watched_has_the_norms_that_it_has() -> None:
    model = nn.Sequential(nn.Linear(64, 65), nn.Linear(65, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer) as probe:
        for step in range(3):
            optimizer.zero_grad()
            hidden = model[0](torch.ones(1, 64))
            model[1](hidden.to(model[1].weight.dtype)).float().sum().backward()
            expected = [layer.weight.grad.double().norm().item() for layer in model]
            optimizer.step()
            assert probe.history.weight_grad_norm[-1].tolist() == pytest.approx(expected, rel=1e-5)
            if step == 0:
                model[1].to(torch.bfloat16)


# Squares of doubles this small are 0, and of doubles this large they are infinite.
EXTREMES = [5e-324, 1e-300, 1e-200, 1e200, 1e300]


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_norm_of_doubles_is_right_at_any_magnitude(scale: float, dtype: torch.dtype) -> None:
    tensors = [torch.full((2, 2), scale, dtype=dtype), torch.full((3, 3), scale, dtype=dtype)]
    expected = pytest.approx([2 * scale, 3 * scale], rel=1e-12, abs=0)
    assert norms_of(NormPlan(tensors), tensors) == expected
    assert [norm_of(tensor).item() for tensor in tensors] == expected
    rows = torch.stack([tensors[0], torch.ones(2, 2, dtype=dtype)])
    assert norms_of_rows(rows).tolist() == pytest.approx([2 * scale, 2.0], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("values", "norm"),
    [([0.0, 0.0], 0.0), ([math.inf, 1e200], math.inf), ([math.nan, 1e-200], math.nan), ([], 0.0)],
)
def test_zero_inf_and_nan_stay_what_they_are(values: list[float], norm: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    np.testing.assert_equal(norm_of(tensor).item(), norm)
    np.testing.assert_equal(float(joined_norms(tensor.numpy())), norm)


@pytest.mark.parametrize("scale", EXTREMES)
def test_norms_join_at_any_magnitude(scale: float) -> None:
    assert joined_norms(np.array([2, 2, 2, 2]) * scale) == pytest.approx(
        4 * scale, rel=1e-12, abs=0
    )


def test_infinity_and_nan_join_to_nan() -> None:
    assert np.isnan(joined_norms(np.array([math.inf, math.nan])))


QUANTITIES = ("weight_grad_norm", "unclipped_grad_norm", "signal_grad_norm", "weight_grad_max")


def assert_scaled(reading: Reading, plain: Reading, scale: float) -> None:
    """Assert that all that is measured of gradients is ``scale`` times what it was."""
    for name in QUANTITIES:
        times = getattr(reading, name) / scale
        np.testing.assert_allclose(times, getattr(plain, name), rtol=1e-9, err_msg=name)
    assert reading.total_norm / scale == pytest.approx(plain.total_norm, rel=1e-9)
    assert reading.clip_scale == 1.0
    assert reading.gradient_states == plain.gradient_states
    assert reading.decades == pytest.approx(plain.decades, abs=1e-9)
    for name, norms in (plain.signal_grad_through_time or {}).items():
        found = (reading.signal_grad_through_time or {})[name]
        np.testing.assert_allclose(found / scale, norms, rtol=1e-9)


class Recurrent(nn.Module):
    """Layers with one weight and with several, one of them called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)
        self.cell = nn.RNNCell(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        state = None
        for here in self.rnn(inputs)[0].unbind(1):
            state = self.cell(here, state)
        return self.head(state)


def squared(output: torch.Tensor, _: object) -> torch.Tensor:
    return output.square().mean()


@pytest.fixture
def in_double() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Recurrent().double(), torch.randn(5, 6, 3, dtype=torch.float64)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-290, 1e-200, 1e200, 1e290])
def test_a_reading_in_double_scales_with_the_loss(
    in_double: tuple[nn.Module, torch.Tensor], scale: float
) -> None:
    model, inputs = in_double
    plain = take_reading(model, squared, inputs, None)
    scaled = take_reading(model, lambda o, t: squared(o, t) * scale, inputs, None)
    assert_scaled(scaled, plain, scale)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("scale", [1e-290, 1e-200, 1e200, 1e290])
def test_a_recorded_step_in_double_scales_with_the_loss(
    in_double: tuple[nn.Module, torch.Tensor], scale: float, full: bool
) -> None:
    model, inputs = in_double
    plain = take_reading(model, squared, inputs, None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer, full=full) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            (squared(model(inputs), None) * scale).backward()
            optimizer.step()
        history = probe.history
        if full:
            assert history.latest is not None
            assert_scaled(history.latest, plain, scale)
        norms = history.weight_grad_norm / scale
        np.testing.assert_allclose(norms, [plain.weight_grad_norm] * 5, rtol=1e-9)
        totals = history.total_norm / scale
        np.testing.assert_allclose(totals, [plain.total_norm] * 5, rtol=1e-9)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_weights_in_double_have_their_norm_and_update_ratio(scale: float) -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    model[0].weight.data = torch.full((3, 4), scale, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5 * scale)
    with GradientProbe(model, optimizer, full=True) as probe:
        # A gradient of 1 in every element of the first weight.
        sum(parameter.sum() for parameter in model.parameters()).backward()
        optimizer.step()
        reading = probe.history.latest
    assert reading is not None
    assert reading.weight_norm is not None
    assert reading.update_ratio is not None
    assert reading.weight_norm[0] == pytest.approx(12**0.5 * scale, rel=1e-12, abs=0)
    assert reading.update_ratio[0] == pytest.approx(0.5, rel=1e-12, abs=0)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_outputs_in_double_have_their_root_mean_square(scale: float) -> None:
    model = nn.Sequential(nn.Linear(1, 3, bias=False)).double()
    model[0].weight.data = torch.full((3, 1), scale, dtype=torch.float64)
    reading = take_reading(model, lambda o, _: o.sum(), torch.ones(4, 1, dtype=torch.float64), None)
    assert reading.activation_rms == pytest.approx([scale], rel=1e-12, abs=0)

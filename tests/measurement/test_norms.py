"""Numbers of several devices in one vector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradflow_widget import GradientProbe
from gradflow_widget.measurement.norms import NormPlan, Norms, joined, stacked

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
            assert probe.history.weight_grad_norm[-1].tolist() == pytest.approx(expected, rel=1e-6)
            if step == 0:
                model[1].to(torch.bfloat16)

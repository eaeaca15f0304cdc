"""Sessions on a GPU: the user's model stays where it is, and a run repeats itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow, with_normalization
from gradflow_widget.measurement.single import read_objective
from tests.training.own_models import OWN, Own
from tests.training.parts import CROSS_ENTROPY, losses_of, plain_network, samples, small_network

from .networks import DEVICE

MakeFlow = Callable[..., GradientFlow]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def flow_of(make_flow: MakeFlow, data: Any = None, **arguments: Any) -> GradientFlow:
    model = small_network().to(DEVICE)
    flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, data or samples(), **arguments)
    flow.batch_size = 32
    return flow


@pytest.mark.parametrize("where", ["cpu", DEVICE])
def test_a_model_on_the_device_trains_on_data_from_anywhere(
    make_flow: MakeFlow, where: str
) -> None:
    inputs, targets = samples()
    flow = flow_of(make_flow, (inputs.to(where), targets.to(where)))
    losses = losses_of(flow, 30)
    assert len(losses) == 30
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("full", [False, True])
def test_a_model_on_the_cpu_trains_on_data_from_the_device(make_flow: MakeFlow, full: bool) -> None:
    """A batch is read only when it has arrived."""
    inputs, targets = samples()
    losses = []
    for where in ("cpu", DEVICE):
        model = small_network()
        data = (inputs.to(where), targets.to(where))
        flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, data)
        flow.batch_size = len(inputs) if full else 32
        losses.append(losses_of(flow, 30))
    assert losses[0] == losses[1]


def test_after_a_reset_the_same_losses_come_again(make_flow: MakeFlow) -> None:
    """With dropout, whose masks are drawn on the device."""
    flow = flow_of(make_flow)
    first = losses_of(flow, 10)
    flow.reset()
    assert losses_of(flow, 10) == pytest.approx(first, rel=1e-5)


def test_what_others_draw_on_the_device_does_not_disturb_a_run(make_flow: MakeFlow) -> None:
    flow = flow_of(make_flow)
    first = losses_of(flow, 6)
    flow.reset()
    torch.cuda.manual_seed(7)
    undisturbed = torch.rand(3, device=DEVICE)
    torch.cuda.manual_seed(7)
    again = losses_of(flow, 3)
    assert torch.equal(torch.rand(3, device=DEVICE), undisturbed)
    torch.rand(100, device=DEVICE)
    again += losses_of(flow, 3)
    assert again == pytest.approx(first, rel=1e-5)


def test_the_thread_trains_and_every_step_is_recorded(make_flow: MakeFlow) -> None:
    flow = flow_of(make_flow, validation=samples())
    flow.play()
    flow.wait(40, timeout=60)
    flow.pause()
    history = flow.history
    assert len(history) >= 40
    assert list(history.step) == list(range(1, len(history) + 1))
    assert np.isfinite(history.loss).all()


@pytest.mark.parametrize("clip", [{"clip_norm": 1e-3}, {"clip_value": 1e-4}], ids=["norm", "value"])
def test_clipping_binds(make_flow: MakeFlow, clip: dict[str, float]) -> None:
    flow = flow_of(make_flow)
    for name, value in clip.items():
        setattr(flow, name, value)
    losses_of(flow, 3)
    gradients = [p.grad for group in flow.optimizer.param_groups for p in group["params"]]
    if "clip_norm" in clip:
        total = float(torch.cat([g.flatten() for g in gradients]).norm())
        assert total == pytest.approx(1e-3, rel=1e-3)
        assert (np.asarray(flow.history.clip_scale) < 1).all()
    else:
        assert max(float(g.abs().max()) for g in gradients) <= 1e-4


@pytest.mark.parametrize("name", list(OWN))
@pytest.mark.parametrize(
    "knob",
    [
        {"initialization": "orthogonal"},
        {"initialization": "lsuv"},
        {"orthogonality": "hard"},
        {"activation": "silu"},
        {"skips": 1.0},
        {"depth": 3},
        {"normalization": "batch"},
        {"normalization": "spectral"},
        {"optimizer_kind": "AdamW"},
        {"regime": {"adversarial": {"method": "pgd", "epsilon": 0.1}}},
        {"regime": {"dropout": 0.3, "accumulation": 2}},
    ],
    ids=str,
)
def test_a_cold_knob_leaves_the_model_on_the_device_and_trains(
    make_flow: MakeFlow, name: str, knob: dict[str, Any]
) -> None:
    own: Own = OWN[name]
    model = own.model().to(DEVICE)
    data = own.data()
    flow = make_flow(model, sgd(model.parameters()), data=data, objective=own.objective)
    flow.batch_size = len(data[0])
    random_before = torch.cuda.get_rng_state()
    try:
        for key, value in knob.items():
            setattr(flow, key, value)
    except (ValueError, TypeError) as refusal:
        pytest.skip(str(refusal))  # not every model offers every knob
    assert torch.equal(torch.cuda.get_rng_state(), random_before)
    assert {p.device.type for p in flow.model.parameters()} == {DEVICE}
    losses = losses_of(flow, 4)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", list(OWN))
def test_the_first_bars_are_those_of_the_cpu(name: str) -> None:
    own: Own = OWN[name]
    batch = own.first_batch()
    # Without dropout; but cuDNN goes back through a recurrent layer in training only.
    trains = name == "LSTM tagger"
    on_cpu = read_objective(own.model().train(trains), own.objective, batch)
    moved = tuple(part.to(DEVICE) for part in batch)
    on_device = read_objective(own.model().train(trains).to(DEVICE), own.objective, moved)
    assert on_device.layers == on_cpu.layers
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=1e-3)
    np.testing.assert_allclose(
        on_device.weight_grad_norm, on_cpu.weight_grad_norm, rtol=2e-2, atol=1e-6
    )
    np.testing.assert_allclose(
        on_device.signal_grad_norm, on_cpu.signal_grad_norm, rtol=2e-2, atol=1e-6
    )


def test_a_loop_of_ones_own_on_the_device_is_watched(make_flow: MakeFlow) -> None:
    model = small_network().to(DEVICE)
    optimizer = sgd(model.parameters())
    flow = make_flow(model, optimizer)
    inputs, targets = (part.to(DEVICE) for part in samples())
    for _ in range(12):
        optimizer.zero_grad()
        CROSS_ENTROPY(model(inputs), targets).backward()
        optimizer.step()
    assert len(flow.history) == 12
    assert np.isfinite(flow.history.loss).all()


def test_where_torch_makes_new_tensors_on_the_device(make_flow: MakeFlow) -> None:
    torch.set_default_device(DEVICE)
    try:
        model = small_network()
        data = samples_on_the_cpu()
        optimizer = sgd(model.parameters())
        flow = make_flow(model, optimizer, CROSS_ENTROPY, data, validation=data)
        flow.initialization = "orthogonal"
        losses = losses_of(flow, 10)
        flow.reset()
        assert losses_of(flow, 10) == pytest.approx(losses, rel=1e-5)
    finally:
        torch.set_default_device(None)


def samples_on_the_cpu() -> Any:
    with torch.device("cpu"):
        return samples()


@pytest.mark.parametrize("kind", ["spectral", "weight"])
def test_computed_weights_are_those_of_the_cpu(kind: str) -> None:
    on_cpu = with_normalization(plain_network(), kind)
    on_device = with_normalization(plain_network().to(DEVICE), kind)
    pairs = zip(on_cpu.modules(), on_device.modules(), strict=True)
    for here, there in pairs:
        if isinstance(here, nn.Linear):
            assert torch.allclose(there.weight.cpu(), here.weight, atol=1e-5)


@pytest.mark.parametrize("knob", [{"initialization": "orthogonal"}, {"depth": 3}], ids=str)
def test_the_weights_of_a_changed_lstm_lie_in_one_piece(
    make_flow: MakeFlow, knob: dict[str, Any]
) -> None:
    """Else cuDNN puts them together at every step, and warns of it."""
    own = OWN["LSTM tagger"]
    model = own.model().to(DEVICE)
    flow = make_flow(model, sgd(model.parameters()), data=own.data(), objective=own.objective)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for key, value in knob.items():
            setattr(flow, key, value)
        losses_of(flow, 3)
        flow.reset()
        losses_of(flow, 3)

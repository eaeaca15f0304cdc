"""Where torch makes new tensors elsewhere by default, everything stays where the model is.

The device "meta" stands for a GPU here: what lands on it by mistake can't be computed with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow, GradientProbe, take_reading
from tests.models.zoo import mlp

from .own_models import OWN, Own

KNOBS: list[dict[str, Any]] = [
    {},
    {"batch_size": 3},
    {"clip_norm": 0.1},
    {"clip_value": 0.1},
    {"optimizer_kind": "AdamW"},
    {"initialization": "he"},
    {"initialization": "orthogonal"},
    {"initialization": "lsuv"},
    {"orthogonality": "hard"},
    {"orthogonality": 1e-3},
    {"activation": "silu"},
    {"normalization": "weight"},
    {"skips": 1.0},
    {"depth": 3},
    {"regime": {"adversarial": {"method": "pgd", "epsilon": 0.1}}},
    {"regime": {"curriculum": {"by": "loss", "start": 0.5, "steps": 10}}},
    {"regime": {"label_noise": 0.3}},
    {"regime": {"dropout": 0.5, "accumulation": 2}},
]
# What is drawn or made anew depends on the kind of layer, the other knobs do not.
OF_EVERY_MODEL: list[dict[str, Any]] = [
    {"initialization": "orthogonal"},
    {"initialization": "lsuv"},
    {"orthogonality": "hard"},
    {"depth": 3},
]


@pytest.fixture
def new_tensors_lie_elsewhere() -> Iterator[None]:
    # As torch.set_default_device does; once that was called with None to undo it, torch 2.6 can't
    # tell its default device any more, which transformers asks for.
    with torch.device("meta"):
        yield


def adam_counts_its_steps_elsewhere() -> bool:
    """Whether this torch's own AdamW can't make a second step here, as that of 2.6 can't."""
    parameter = nn.Parameter(torch.zeros(2, device="cpu"))
    parameter.grad = torch.ones(2, device="cpu")
    optimizer = torch.optim.AdamW([parameter])
    try:
        optimizer.step()
    except RuntimeError:
        return True
    return bool(optimizer.state[parameter]["step"].is_meta)


@pytest.mark.parametrize(
    ("name", "knob"),
    [("MLP", knob) for knob in KNOBS]
    + [(name, knob) for name in OWN if name != "MLP" for knob in OF_EVERY_MODEL],
    ids=str,
)
def test_knobs_and_steps(
    make_flow: Any, name: str, knob: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    own: Own = OWN[name]
    model, data = own.model(), own.data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    request.getfixturevalue("new_tensors_lie_elsewhere")
    if "optimizer_kind" in knob and adam_counts_its_steps_elsewhere():
        pytest.skip("this torch's AdamW counts its steps on the default device")
    flow: GradientFlow = make_flow(
        model, optimizer, data=data, objective=own.objective, validation=data
    )
    try:
        for key, value in knob.items():
            setattr(flow, key, value)
    except (ValueError, TypeError) as refusal:
        if "meta" in str(refusal):
            raise
        pytest.skip(str(refusal))  # not every model offers every knob
    losses = [reading.loss for reading in flow.steps(3)]
    assert np.isfinite(losses).all()
    flow.reset()
    assert [reading.loss for reading in flow.steps(3)] == losses


@pytest.mark.usefixtures("new_tensors_lie_elsewhere")
def test_arrays_as_data(make_flow: Any) -> None:
    with torch.device("cpu"):
        model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = np.random.default_rng(0)
    inputs, targets = generator.normal(size=(20, 5)), generator.integers(0, 3, 20)
    flow = make_flow(model, optimizer, nn.CrossEntropyLoss(), (inputs, targets))
    assert np.isfinite([reading.loss for reading in flow.steps(3)]).all()


@pytest.mark.usefixtures("new_tensors_lie_elsewhere")
@pytest.mark.parametrize("full", [False, True])
def test_a_loop_of_ones_own(full: bool) -> None:
    with torch.device("cpu"):
        modules = [m for _ in range(20) for m in (nn.Linear(6, 6), nn.Tanh())]
        model = nn.Sequential(*modules)
        inputs = torch.randn(8, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with GradientProbe(model, optimizer, full=full) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
        assert (probe.history.weight_grad_norm > 0).all()
    reading = take_reading(model, lambda output, _: output.square().mean(), inputs, inputs)
    assert (reading.signal_grad_norm > 0).all()

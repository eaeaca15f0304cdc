"""A model that is watched can be copied and saved, and its copy is not watched."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from gradflow_widget import GradientFlow, GradientProbe
from gradflow_widget.measurement.history import LAYER_COLUMNS, STEP_COLUMNS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
        nn.Linear(6, 2),
    )


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "torch.save": saved_and_loaded,
    "AveragedModel": lambda model: AveragedModel(model).module,
}


@pytest.fixture(params=COPIES, ids=str)
def copied(request):
    return COPIES[request.param]


def trained(copied=None):
    """Train three steps, with copies made and used between forward, backward and step."""
    model, (inputs, targets) = network(), torch.randn(2, 8, 4)
    targets = targets[:, :2]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    copies = []

    def use_a_copy() -> None:
        if copied is not None:
            twin = copied(model)
            random = torch.get_rng_state()
            F.mse_loss(twin(inputs), targets).backward()
            torch.set_rng_state(random)
            copies.append(twin)

    with GradientProbe(model, optimizer) as probe:
        for step in range(3):
            probe.full = step != 1
            optimizer.zero_grad()
            use_a_copy()
            loss = F.mse_loss(model(inputs), targets)
            use_a_copy()
            loss.backward()
            use_a_copy()
            optimizer.step()
    return probe.history, copies


def test_a_copy_s_passes_are_in_no_reading(copied):
    alone, _ = trained()
    history, copies = trained(copied)
    assert len(copies) == 9
    for name in (*STEP_COLUMNS, *LAYER_COLUMNS):
        np.testing.assert_array_equal(history.column(name), alone.column(name))


def test_a_copy_is_the_model(copied):
    model, inputs = network().eval(), torch.randn(5, 4)
    with GradientProbe(model, torch.optim.SGD(model.parameters(), lr=0.1), full=True):
        twin = copied(model)
    assert twin is not model
    assert torch.equal(twin(inputs), model(inputs))


def test_a_loop_of_one_s_own_keeps_its_best_model(copied):
    model, (inputs, targets) = network(), torch.randn(2, 8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer)
    best = []

    def loop() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets[:, :2]).backward()
            optimizer.step()
            best.append(copied(model))

    flow.run(loop)
    flow.wait()
    assert len(best) == len(flow.history) == 3
    flow.close()


def test_a_saved_model_loads_where_this_package_is_not(copied):
    with GradientProbe(model := network(), torch.optim.SGD(model.parameters(), lr=0.1), full=True):
        saved = pickle.dumps(copied(model)), pickle.dumps(model)
    assert not any(b"gradflow" in one for one in saved)

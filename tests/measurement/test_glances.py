"""Steps that are told of by a glance, their readings made later."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradflow_widget import GradientProbe
from gradflow_widget.measurement.history import LAYER_COLUMNS, STEP_COLUMNS, History
from gradflow_widget.measurement.reading import Glance, Reading

from .networks import batch, small

STEPS = 200
FULL, CLIPPED, UNUSED, INFINITE = (7, 150), (20, 90), (33,), (170,)


def told_of(*, glances: bool, history: History | None = None):
    """Train with unusual steps among ordinary ones; return what was told, and the history."""
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probe = GradientProbe(model, optimizer, history=history)
    told: list[Glance | Reading] = []
    probe.on_reading = told.append
    if glances:
        probe.on_glance = told.append
    last = model[-1] if isinstance(model, nn.Sequential) else list(model.modules())[-1]
    for step in range(1, STEPS + 1):
        probe.full = step in FULL
        probe.settings = f"settings of step {step}"
        optimizer.param_groups[0]["lr"] = 0.01 / step
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        (loss * (math.inf if step in INFINITE else 1.0)).backward()
        if step in CLIPPED:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        if step in UNUSED:
            last.weight.grad = None
        if step in INFINITE:
            optimizer.param_groups[0]["lr"] = 0.0
            for parameter in model.parameters():
                parameter.grad.nan_to_num_(0.0, math.inf, math.inf)
        else:
            optimizer.step()
            continue
        with torch.no_grad():
            kept = [parameter.clone() for parameter in model.parameters()]
            optimizer.step()
            for parameter, before in zip(model.parameters(), kept, strict=True):
                parameter.copy_(before)
    probe.close()
    return told, probe


def test_ordinary_steps_are_told_by_glances_and_the_others_by_readings():
    told, _ = told_of(glances=True)
    assert [one.step for one in told] == list(range(1, STEPS + 1))
    read = {one.step for one in told if isinstance(one, Reading)}
    assert read == {*FULL, *CLIPPED, *UNUSED, *INFINITE}


def test_a_glance_says_what_the_reading_would():
    readings, _ = told_of(glances=False)
    told, _ = told_of(glances=True)
    for one, reading in zip(told, readings, strict=True):
        for name in ("step", "learning_rate", "loss_seen", "settings", "is_full"):
            assert getattr(one, name) == getattr(reading, name)
        assert one.loss == reading.loss or (math.isinf(one.loss) and one.step in INFINITE)


def test_the_history_is_the_same():
    _, plainly = told_of(glances=False)
    _, probe = told_of(glances=True)
    assert probe.history.steps_recorded == plainly.history.steps_recorded == STEPS
    for name in (*STEP_COLUMNS, *LAYER_COLUMNS):
        np.testing.assert_array_equal(probe.history.column(name), plainly.history.column(name))


def test_the_history_asked_for_between_two_steps_is_up_to_date():
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with GradientProbe(model, optimizer) as probe:
        probe.on_glance = lambda _: None
        for step in range(1, 131):
            optimizer.zero_grad()
            loss = F.mse_loss(model(inputs), targets)
            loss.backward()
            probe.settings = step
            optimizer.step()
            assert probe.steps == step
            if step % 13 == 0:
                latest = probe.history.latest
                assert probe.history.step.tolist() == list(range(1, step + 1))
                assert (latest.step, latest.loss, latest.settings) == (step, loss.item(), step)


@pytest.mark.parametrize("glances", [False, True])
def test_a_history_of_one_s_own_has_every_step_at_once(glances: bool):
    told, _ = told_of(glances=glances, history=History())
    assert all(isinstance(one, Reading) for one in told)


@pytest.mark.parametrize("glances", [False, True])
def test_a_history_that_was_kept_is_up_to_date_whenever_it_is_read(glances: bool):
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with GradientProbe(model, optimizer) as probe:
        if glances:
            probe.on_reading = probe.on_glance = lambda _: None
        kept = probe.history
        for step in range(1, 150):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            if step % 7 == 0:
                look = (len, lambda h: h.latest.step, lambda h: h.steps_recorded)
                look += (lambda h: len(h.loss), lambda h: len(h.columns("loss")[0]))
                look += (lambda h: int(h.steps_per_row.sum()), lambda h: len(h.to_dataframe()))
                assert look[step // 7 % len(look)](kept) == step
    assert len(kept) == 149

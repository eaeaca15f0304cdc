"""Two sessions that train at the same time do not draw from each other's random numbers."""

from __future__ import annotations

import torch
from torch import nn

from gradflow_widget import GradientFlow

STEPS = 150


def dropping_out(seed: int) -> GradientFlow:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 60), nn.Dropout(0.5), nn.ReLU(), nn.Linear(60, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(96, 20), torch.randint(3, (96,))
    flow = GradientFlow(model, optimizer, nn.CrossEntropyLoss(), data, seed=seed)
    flow.speed = "max"
    return flow


def test_each_has_the_losses_that_it_has_alone() -> None:
    flows = [dropping_out(1), dropping_out(2)]
    alone = []
    for flow in flows:
        flow.step(STEPS)
        alone.append(flow.history.loss[:STEPS].tolist())
        flow.reset()
    for flow in flows:
        flow.play()
    for flow in flows:
        while flow.step_number < STEPS:
            flow.wait(steps=1)
    for flow, losses in zip(flows, alone, strict=True):
        flow.pause()
        flow.wait()
        assert flow.history.loss[:STEPS].tolist() == losses
        flow.close()

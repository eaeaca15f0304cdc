"""Optimizers: class, options and parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget.source_code.writing import recipe_of

from .fresh import assert_same_groups, run


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 2))


def matrices_decay(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]


def backbone_slow(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {"params": model[0].parameters(), "lr": 0.001},
        {"params": model[3].parameters(), "momentum": 0.5, "mine": "own"},
    ]


OPTIMIZERS: dict[str, tuple[Callable[[nn.Module], torch.optim.Optimizer], str]] = {
    "SGD": (
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)",
    ),
    "Adam": (
        lambda m: torch.optim.Adam(m.parameters(), betas=(0.8, 0.99)),
        "optimizer = torch.optim.Adam(model.parameters(), betas=(0.8, 0.99))",
    ),
    "AdamW": (
        lambda m: torch.optim.AdamW(matrices_decay(m), lr=3e-4),
        '{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1}',
    ),
    "groups": (
        lambda m: torch.optim.SGD(backbone_slow(m), lr=0.1),
        '{"params": model[3].parameters(), "momentum": 0.5, "mine": "own", "lr": 0.1},',
    ),
    "frozen left out": (
        lambda m: torch.optim.RMSprop([m[2].bias, m[0].weight], lr=0.1),
        'model.get_parameter(name) for name in ("2.bias", "0.weight",)',
    ),
    "names": (
        lambda m: torch.optim.SGD(m.named_parameters(), lr=0.1),
        "model.named_parameters()",
    ),
    "tensor learning rate": (
        lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(0.25)),
        "optimizer = torch.optim.Adam(model.parameters(), lr=0.25)",
    ),
    "LBFGS": (
        lambda m: torch.optim.LBFGS(m.parameters(), lr=0.5, max_iter=3),
        "optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3, max_eval=3)",
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_come_out_with_their_options(name: str) -> None:
    make, line = OPTIMIZERS[name]
    model = network()
    optimizer = make(model)
    text = recipe_of(model, optimizer, loss_fn=nn.MSELoss())
    assert line in text
    made = run(text)
    if name == "tensor learning rate":
        optimizer.param_groups[0]["lr"] = 0.25
    assert_same_groups(optimizer, model, made)


def test_what_a_scheduler_has_left_is_kept() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert_same_groups(optimizer, model, run(recipe_of(model, optimizer)))


@pytest.mark.parametrize("kind", ["SGD", "LBFGS"])
def test_a_step_clips_and_goes_where_the_models_own_would(kind: str) -> None:
    inputs, targets = torch.randn(8, 3), torch.randn(8, 2)
    model = network()
    optimizer = OPTIMIZERS[kind][0](model)
    made = run(recipe_of(model, optimizer, loss_fn=nn.MSELoss(), clip_norm=0.01))
    loss = made["training_step"](inputs, targets)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        return loss

    assert torch.equal(optimizer.step(closure), loss)
    for one, other in zip(model.parameters(), made["model"].parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_what_is_optimized_is_clipped() -> None:
    model = network()
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)
    text = recipe_of(model, optimizer, loss_fn=nn.MSELoss(), clip_value=0.5)
    assert '[p for group in optimizer.param_groups for p in group["params"]], 0.5' in text


def test_a_parameter_that_is_not_the_models_is_named() -> None:
    model = network()
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(()))], lr=0.1)
    with pytest.raises(ValueError, match="a parameter that is not the model's"):
        recipe_of(model, optimizer)

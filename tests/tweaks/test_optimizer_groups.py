"""Where the parameters of computed weights stand in a rebuilt optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import SGD, AdamW, Optimizer

from gradflow_widget import GradientFlow, recipe
from gradflow_widget.tweaks.depth import with_depth
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.optimizer import rebuilt_optimizer
from gradflow_widget.tweaks.orthogonality import with_orthogonality

from .computing_tweaks import TWEAKS, UNDO


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 1)
    )


def split(model: nn.Module) -> list[dict[str, Any]]:
    """Biases last, without decay."""
    every = list(model.parameters())
    return [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": 0.03},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
    ]


def trained(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    for _ in range(2):
        optimizer.zero_grad()
        (model(torch.ones(4, 10)) ** 2).sum().backward()
        optimizer.step()
    return optimizer


def names_by_group(optimizer: Optimizer, model: nn.Module) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


@pytest.mark.parametrize("kind", TWEAKS)
def test_what_a_weight_is_computed_from_is_in_its_group(kind: str) -> None:
    model = net()
    optimizer = AdamW(split(model), lr=1e-3)
    changed = TWEAKS[kind](model)
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    every = {name for name, _ in changed.named_parameters()}
    biases = {"0.bias", "2.bias", "4.bias"}
    assert any("parametrizations" in name for name in every)
    assert names_by_group(rebuilt, changed) == [every - biases, biases]
    back = UNDO[kind](changed)
    again = rebuilt_optimizer(rebuilt, changed, back)
    assert names_by_group(again, back) == [{"0.weight", "2.weight", "4.weight"}, biases]


@pytest.mark.parametrize("depth_first", [True, False])
@pytest.mark.parametrize("kind", TWEAKS)
def test_new_blocks_of_computed_weights_join_the_weights_group(
    kind: str, depth_first: bool
) -> None:
    torch.manual_seed(0)
    blocks = [module for _ in range(3) for module in (nn.Linear(10, 10), nn.Tanh())]
    model = nn.Sequential(*blocks, nn.Linear(10, 1))
    optimizer = trained(model, AdamW(split(model), lr=1e-3))
    tweak = TWEAKS[kind]
    changed = tweak(with_depth(model, 5)) if depth_first else with_depth(tweak(model), 5)
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    every = {name for name, _ in changed.named_parameters()}
    biases = {name for name in every if name.endswith("bias")}
    assert len(biases) == 6
    assert names_by_group(rebuilt, changed) == [every - biases, biases]
    # The state of what moved goes with it, and nothing new has any.
    last = dict(changed[10].named_parameters())["bias"]
    assert torch.equal(rebuilt.state[last]["exp_avg"], optimizer.state[model[6].bias]["exp_avg"])
    assert not any(parameter in rebuilt.state for parameter in changed[8].parameters())


def test_weights_in_no_group_stay_out_when_they_are_computed() -> None:
    model = net()
    optimizer = SGD([p for p in model.parameters() if p.dim() == 1], lr=0.1)
    changed = with_normalization(model, "weight")
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    assert names_by_group(rebuilt, changed) == [{"0.bias", "2.bias", "4.bias"}]


def test_spectral_norm_trains_the_weight_so_its_momenta_stay() -> None:
    model = net()
    optimizer = trained(model, AdamW(split(model), lr=1e-3))
    changed = with_normalization(model, "spectral")
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    original = changed.get_parameter("2.parametrizations.weight.original")
    before = optimizer.state[model[2].weight]
    assert torch.equal(rebuilt.state[original]["exp_avg"], before["exp_avg"])
    back = with_normalization(changed, None)
    again = rebuilt_optimizer(rebuilt, changed, back)
    weight = back.get_parameter("2.weight")
    assert torch.equal(again.state[weight]["exp_avg_sq"], before["exp_avg_sq"])


@pytest.mark.parametrize("kind", ["weight", "hard"])
def test_other_numbers_than_the_weight_start_without_momenta(kind: str) -> None:
    model = net()
    optimizer = trained(model, AdamW(split(model), lr=1e-3))
    changed = TWEAKS[kind](model)
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    for name, parameter in changed.named_parameters():
        assert (parameter in rebuilt.state) == ("parametrizations" not in name)
    trained(changed, rebuilt)
    twin = TWEAKS[kind](changed)
    again = rebuilt_optimizer(rebuilt, changed, twin)
    # The same numbers again, so with momenta.
    assert all(parameter in again.state for parameter in twin.parameters())


def test_magnitudes_kept_apart_stay_apart() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(10, 4)), nn.Tanh())
    g = model.get_parameter("0.parametrizations.weight.original0")
    rest = [p for p in model.parameters() if p is not g]
    optimizer = SGD([{"params": [g]}, {"params": rest}], lr=0.1)
    twin = with_orthogonality(model, 0.1)
    rebuilt = rebuilt_optimizer(optimizer, model, twin)
    assert names_by_group(rebuilt, twin)[0] == {"0.parametrizations.weight.original0"}
    plain = with_normalization(model, None)
    # The direction has the weight's shape.
    assert names_by_group(rebuilt_optimizer(optimizer, model, plain), plain) == [
        set(),
        {"0.weight", "0.bias"},
    ]


@pytest.mark.parametrize("kind", TWEAKS)
def test_the_recipe_of_a_model_with_groups_says_them(kind: str) -> None:
    model = net()
    data = (torch.randn(32, 10), torch.rand(32, 1))
    flow = GradientFlow(model, AdamW(split(model), lr=1e-3), nn.MSELoss(), data)
    try:
        if kind == "hard":
            flow.orthogonality = "hard"
        else:
            flow.normalization = kind
        text = recipe(flow)
    finally:
        flow.close()
    assert 'p.dim() >= 2], "weight_decay": 0.03}' in text
    assert 'p.dim() < 2], "weight_decay": 0.0}' in text


def test_a_recipe_writes_an_empty_group() -> None:
    model = net()
    groups = [{"params": list(model.parameters())}, {"params": [], "weight_decay": 0.0}]
    data = (torch.randn(32, 10), torch.rand(32, 1))
    flow = GradientFlow(model, AdamW(groups, lr=1e-3), nn.MSELoss(), data)
    try:
        text = recipe(flow)
    finally:
        flow.close()
    assert '{"params": [], "weight_decay": 0.0}' in text
    compile(text, "recipe", "exec")

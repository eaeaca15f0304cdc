from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.depth import with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.optimizer import rebuilt_optimizer
from tests.models.zoo import Tagger, made, mlp, output


def trained(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> Optimizer:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.ones(2, 5)) ** 2).sum().backward()
        optimizer.step()
    return optimizer


def where(optimizer: Optimizer, model: nn.Module) -> dict[str, int]:
    """By parameter name, the group that it is in."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }


def test_class_options_and_state_are_those_of_the_old_one() -> None:
    model = mlp()
    optimizer = trained(model, AdamW(model.parameters(), lr=0.3, betas=(0.8, 0.9), amsgrad=True))
    changed = with_activation(model, "relu")
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    assert type(rebuilt) is AdamW
    group, old = rebuilt.param_groups[0], optimizer.param_groups[0]
    assert {**group, "params": None} == {**old, "params": None}
    for parameter, source in zip(changed.parameters(), model.parameters(), strict=True):
        state, before = rebuilt.state[parameter], optimizer.state[source]
        assert torch.equal(state["exp_avg"], before["exp_avg"])
        assert state["exp_avg"] is not before["exp_avg"]
        assert state["step"] == 2


@pytest.mark.parametrize("cls", [SGD, Adam, torch.optim.RMSprop, torch.optim.LBFGS])
def test_an_unchanged_copy_takes_the_same_next_step(cls: type[Optimizer]) -> None:
    model = mlp()
    options: dict[str, Any] = {"momentum": 0.9} if cls is SGD else {}
    optimizer = cls(model.parameters(), lr=0.05, **options)  # type: ignore[call-arg]

    def step(of: Optimizer, on: nn.Module) -> None:
        def loss() -> torch.Tensor:
            of.zero_grad()
            value = (on(torch.ones(2, 5)) ** 2).sum()
            value.backward()
            return value

        of.step(loss)

    step(optimizer, model)
    twin = with_activation(model, None)
    rebuilt = rebuilt_optimizer(optimizer, model, twin)
    step(optimizer, model)
    step(rebuilt, twin)
    assert torch.equal(output(twin, (torch.ones(1, 5),)), output(model, (torch.ones(1, 5),)))


def test_layers_that_moved_keep_their_state() -> None:
    model = mlp(3)
    optimizer = trained(model, SGD(model.parameters(), lr=0.01, momentum=0.9))
    deep = with_depth(model, 5)
    rebuilt = rebuilt_optimizer(optimizer, model, deep)
    assert len(rebuilt.param_groups[0]["params"]) == len(list(deep.parameters()))
    old, new = model[8].weight, deep[12].weight
    buffer = rebuilt.state[new]["momentum_buffer"]
    assert torch.equal(buffer, optimizer.state[old]["momentum_buffer"])
    assert deep[8].weight not in rebuilt.state


def test_from_one_copy_to_another_state_follows_the_layers() -> None:
    model = mlp(3)
    shallow, deep = with_depth(model, 2), with_depth(model, 4)
    optimizer = trained(shallow, SGD(shallow.parameters(), lr=0.01, momentum=0.9))
    rebuilt = rebuilt_optimizer(optimizer, shallow, deep)
    assert torch.equal(
        rebuilt.state[deep[10].weight]["momentum_buffer"],
        optimizer.state[shallow[6].weight]["momentum_buffer"],
    )
    assert deep[6].weight not in rebuilt.state


def test_new_blocks_join_the_groups_of_the_block_they_are_built_after() -> None:
    model = mlp(3)
    biases = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    optimizer = SGD([{"params": biases, "lr": 0.1}, {"params": weights, "lr": 0.2}], lr=1.0)
    deep = with_depth(model, 5)
    rebuilt = rebuilt_optimizer(optimizer, model, deep)
    assert where(rebuilt, deep) == {
        name: int(name.endswith("weight")) for name, _ in deep.named_parameters()
    }
    assert [group["lr"] for group in rebuilt.param_groups] == [0.1, 0.2]


def test_new_recurrent_layers_join_their_neighbours() -> None:
    model = Tagger(layers=1)
    optimizer = SGD(
        [
            {"params": [*model.embedding.parameters(), *model.head.parameters()]},
            {"params": model.recurrent.parameters()},
        ],
        lr=0.1,
    )
    deep = with_depth(model, 3)
    groups = where(rebuilt_optimizer(optimizer, model, deep), deep)
    assert all(index == ("recurrent" in name) for name, index in groups.items())
    assert len(groups) == len(list(deep.parameters()))


def test_what_was_left_out_stays_out() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = SGD([p for p in model[:4].parameters() if p.requires_grad], lr=0.1)
    deep = with_depth(model, 4)
    names = set(where(rebuilt_optimizer(optimizer, model, deep), deep))
    assert names == {"2.weight", "2.bias"}


def test_tied_weights_are_one_parameter() -> None:
    model, _ = made("GPT-2")
    deep = with_depth(model, 5)
    rebuilt = rebuilt_optimizer(AdamW(model.parameters()), model, deep)
    assert len(rebuilt.param_groups[0]["params"]) == len(list(deep.parameters()))


def test_what_is_optimized_besides_the_model_stays() -> None:
    model, temperature = mlp(), nn.Parameter(torch.ones(()))
    optimizer = SGD([*model.parameters(), temperature], lr=0.1)
    rebuilt = rebuilt_optimizer(optimizer, model, with_depth(model, 1))
    assert any(parameter is temperature for parameter in rebuilt.param_groups[0]["params"])


def test_names_given_to_the_optimizer_are_brought_up_to_date() -> None:
    model = mlp(2)
    deep = with_depth(model, 3)
    rebuilt = rebuilt_optimizer(SGD(model.named_parameters(), lr=0.1), model, deep)
    assert rebuilt.param_groups[0]["param_names"] == [name for name, _ in deep.named_parameters()]


def test_a_schedulers_starting_rate_is_kept() -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    rebuilt = rebuilt_optimizer(optimizer, model, with_depth(model, 4))
    assert rebuilt.param_groups[0]["initial_lr"] == 0.1


class Demanding(SGD):
    """An optimizer whose constructor asks for more than its options."""

    def __init__(self, params: Any, *, horizon: int) -> None:
        super().__init__(params, lr=0.1, momentum=0.9)
        self.horizon = horizon


def test_a_class_with_a_constructor_of_its_own_is_rebuilt_too() -> None:
    model = mlp()
    optimizer = trained(model, Demanding(model.parameters(), horizon=7))
    deep = with_depth(model, 5)
    rebuilt = rebuilt_optimizer(optimizer, model, deep)
    assert isinstance(rebuilt, Demanding)
    assert rebuilt.horizon == 7
    before = deep[8].weight.clone()
    trained(deep, rebuilt)
    assert not torch.equal(deep[8].weight, before)


def test_models_and_optimizer_given_are_untouched() -> None:
    model = mlp()
    optimizer = trained(model, Adam(model.parameters()))
    before = repr(optimizer.state_dict())
    deep = with_depth(model, 5)
    trained(deep, rebuilt_optimizer(optimizer, model, deep))
    assert repr(optimizer.state_dict()) == before


def test_an_optimizer_of_something_else_is_refused() -> None:
    model = mlp()
    with pytest.raises(CannotTweak, match="None of the changed model's parameters"):
        rebuilt_optimizer(SGD(mlp().parameters(), lr=1.0), model, with_depth(model, 1))

"""A text run as elsewhere: in a namespace of its own, where this package can't be imported."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gradflow_widget.tweaks.orthogonality import penalty_of


def run(text: str) -> dict[str, Any]:
    """Return what the text defines."""

    def imported(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name.partition(".")[0] not in ("gradflow_widget", "tests"), name
        return builtins.__import__(name, *args, **kwargs)

    namespace = {"__name__": "__main__", "__builtins__": {**vars(builtins), "__import__": imported}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)  # the text must not live on the random state that it finds
        exec(compile(text, "<text>", "exec", dont_inherit=True), namespace)
    return namespace


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def assert_same_weights(model: nn.Module, made: nn.Module) -> None:
    wanted, found = model.state_dict(), made.state_dict()
    assert list(wanted) == list(found)
    for name, tensor in wanted.items():
        assert same_bits(tensor, found[name]), name
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in made.parameters()
    ]
    assert [m.training for m in model.modules()] == [m.training for m in made.modules()]


def assert_same_groups(
    optimizer: torch.optim.Optimizer, model: nn.Module, made: dict[str, Any]
) -> None:
    assert type(made["optimizer"]) is type(optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    made_names = {id(p): name for name, p in made["model"].named_parameters()}
    for group, other in zip(optimizer.param_groups, made["optimizer"].param_groups, strict=True):
        assert [names[id(p)] for p in group["params"]] == [
            made_names[id(p)] for p in other["params"]
        ]
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in other.items() if k != "params"
        }


def first_tensor(result: Any) -> torch.Tensor:
    if hasattr(result, "to_tuple"):
        result = next(part for part in result.to_tuple() if isinstance(part, torch.Tensor))
    return result[0] if isinstance(result, tuple) else result


def loss_and_gradients(
    model: nn.Module, inputs: Any, penalty: Any = None
) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
    """The loss that a first step would see, with the same dropout, and its gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    loss = first_tensor(result).square().mean()
    added = penalty_of(model)
    if added is not None:
        loss = loss + added()
    elif penalty is not None:
        loss = loss + penalty(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    return loss.detach(), torch.autograd.grad(loss, trained, allow_unused=True)


def assert_same_first_step(model: nn.Module, made: dict[str, Any], inputs: Any) -> None:
    loss, gradients = loss_and_gradients(model, inputs)
    made_loss, made_gradients = loss_and_gradients(made["model"], inputs, made.get("penalty"))
    assert same_bits(loss, made_loss)
    for one, other in zip(gradients, made_gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or same_bits(one, other)

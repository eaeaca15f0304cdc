"""A copy of a model takes no gradients along, and disturbs nobody who trains meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradflow_widget import (
    with_activation,
    with_depth,
    with_initialization,
    with_normalization,
    with_orthogonality,
    with_skips,
)

TWEAKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "activation": lambda model: with_activation(model, "relu"),
    "depth": lambda model: with_depth(model, 6),
    "initialization": lambda model: with_initialization(model, "he", seed=0),
    "normalization": lambda model: with_normalization(model, "layer"),
    "orthogonality": lambda model: with_orthogonality(model, "hard"),
    "skips": lambda model: with_skips(model, 1.0),
}


def network() -> nn.Sequential:
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)]
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *blocks, nn.Linear(8, 3))


def train_once(model: nn.Module) -> None:
    model(torch.randn(7, 5)).square().mean().backward()


@pytest.mark.parametrize("name", TWEAKS)
def test_no_gradient_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be training the model: torch crashes where both touch a gradient."""
    model = network()
    train_once(model)

    own = {id(parameter) for parameter in model.parameters()}

    def read(parameter: nn.Parameter) -> object:
        assert id(parameter) not in own, "somebody reads a gradient"
        return torch.Tensor.grad.__get__(parameter)

    def write(parameter: nn.Parameter, value: torch.Tensor | None) -> None:
        torch.Tensor.grad.__set__(parameter, value)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Parameter, "grad", property(read, write))
        twin = TWEAKS[name](model)
    assert all(parameter.grad is None for parameter in twin.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


class CopiesItsGradient(nn.Parameter):
    """A parameter that is copied as any tensor is, its gradient included."""

    copied_gradients = 0

    def __deepcopy__(self, memo: dict[int, object]) -> CopiesItsGradient:
        twin = CopiesItsGradient(self.detach().clone())
        if self.grad is not None:
            gradient = memo.get(id(self.grad), self.grad)
            type(self).copied_gradients += gradient is not None
        memo[id(self)] = twin
        return twin


def test_gradients_of_other_classes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CopiesItsGradient, "copied_gradients", 0)
    model = network()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = CopiesItsGradient(layer.weight.detach())
    train_once(model)
    twin = with_activation(model, "relu")
    assert CopiesItsGradient.copied_gradients == 0
    assert all(parameter.grad is None for parameter in twin.parameters())

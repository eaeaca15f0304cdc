"""A copy of a model takes no gradients along, and disturbs nobody who trains meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import (
    CannotTweak,
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


class Written(nn.Module):
    """minGPT's block without its attention, and its multilayer perceptron as a method."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(width, 4 * width),
                "c_proj": nn.Linear(4 * width, width),
                "act": nn.GELU(),
                "dropout": nn.Dropout(0.0),
            }
        )

    def mlpf(self, x: Tensor) -> Tensor:
        return perceptron(self.mlp, x)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlpf(self.ln_2(x))


def perceptron(mlp: Any, x: Tensor) -> Tensor:
    return mlp.dropout(mlp.c_proj(mlp.act(mlp.c_fc(x))))


class ByLambda(Written):
    """As minGPT writes it."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        m = self.mlp
        self.mlpf = lambda x: m.dropout(m.c_proj(m.act(m.c_fc(x))))


class ByDefault(Written):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.mlpf = lambda x, m=self.mlp: perceptron(m, x)


class ByPartial(Written):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.mlpf = functools.partial(perceptron, self.mlp)


class InAList(Written):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        layers = [self.mlp[name] for name in ("c_fc", "act", "c_proj")]
        self.steps = [{"mlp": lambda x: functools.reduce(lambda y, layer: layer(y), layers, x)}]

    def mlpf(self, x: Tensor) -> Tensor:
        return self.steps[0]["mlp"](x)


class Compiled:
    """Stands for what is written in another language than Python."""

    __slots__ = ("layer",)

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def __deepcopy__(self, memo: dict[int, object]) -> Compiled:
        return self


def of_blocks(block: type[Written]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), *(block(8) for _ in range(4)), nn.Linear(8, 3))


# They have skip connections already.
@pytest.mark.parametrize("name", sorted(TWEAKS.keys() - {"skips"}))
@pytest.mark.parametrize("block", [ByLambda, ByDefault, ByPartial])
def test_functions_of_a_copy_call_its_own_layers(name: str, block: type[Written]) -> None:
    model, written = of_blocks(block), of_blocks(Written)
    twin, expected = TWEAKS[name](model), TWEAKS[name](written)
    inputs = torch.randn(7, 5)
    for _ in range(2):
        twin_loss, loss = (one(inputs).square().mean() for one in (twin, expected))
        assert torch.equal(twin_loss, loss)
        twin_loss.backward()
        loss.backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        for (path, ours), other in zip(twin.named_parameters(), expected.parameters(), strict=True):
            assert ours.grad is not None, path
            assert torch.equal(ours.grad, other.grad), path
            ours.data -= ours.grad
            other.data -= other.grad


@pytest.mark.parametrize("name", ["depth", "initialization", "orthogonality"])
def test_functions_in_containers_call_the_copy_s_layers_too(name: str) -> None:
    model, written = of_blocks(InAList), of_blocks(Written)
    twin, expected = TWEAKS[name](model), TWEAKS[name](written)
    inputs = torch.randn(7, 5)
    assert torch.equal(twin(inputs), expected(inputs))
    train_once(twin)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_what_can_not_be_made_to_call_the_copy_s_layers_is_refused() -> None:
    model = network()
    model.head = Compiled(model[0])
    with pytest.raises(CannotTweak, match="a Compiled in it refers to its parts"):
        with_activation(model, "relu")

"""What a tweak puts in a module's place stands there too in lists and functions that hold it."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import with_activation, with_normalization, with_skips
from gradflow_widget.training.regimes.dropout import with_dropout

Tweak = Callable[[nn.Module], nn.Module]

TWEAKS: dict[str, tuple[Tweak, Tweak]] = {
    "activation": (lambda m: with_activation(m, "relu"), lambda m: with_activation(m, None)),
    "another norm": (
        lambda m: with_normalization(m, "rms"),
        lambda m: with_normalization(m, "layer"),
    ),
    "no norm": (lambda m: with_normalization(m, None), lambda m: with_normalization(m, "layer")),
    "skips": (lambda m: with_skips(m, 0.5), lambda m: with_skips(m, None)),
    "dropout": (lambda m: with_dropout(m, 0.5), lambda m: with_dropout(m, 0.0)),
}


class Plain(nn.Module):
    """Calls its parts by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.act = nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(self.norm(x)))


class Listed(Plain):
    """Keeps its parts in a list as well, and goes through that."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [self.norm, self.fc, self.act]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Closed(Plain):
    """Calls a function that has them in its closure."""

    def __init__(self) -> None:
        super().__init__()
        norm, fc, act = self.norm, self.fc, self.act
        self.compute = lambda x: act(fc(norm(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


class Net(nn.Module):
    def __init__(self, block: type[Plain]) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.blocks = nn.ModuleList(block() for _ in range(3))
        self.kept = {"order": list(self.blocks)} if block is Listed else {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.kept.get("order", self.blocks):
            x = block(x)
        return x


def net(block: type[Plain]) -> nn.Module:
    torch.manual_seed(0)
    return Net(block)


def output(model: nn.Module) -> Tensor:
    torch.manual_seed(1)
    return model(torch.randn(7, 5))


@pytest.mark.parametrize("name", TWEAKS)
@pytest.mark.parametrize("block", [Listed, Closed])
def test_what_holds_a_module_holds_what_came_in_its_place(name: str, block: type[Plain]) -> None:
    turn, turn_back = TWEAKS[name]
    before, plain = output(net(Plain)), output(turn(net(Plain)))
    assert not torch.equal(plain, before)
    model = net(block)
    changed = turn(model)
    assert torch.equal(output(changed), plain)
    assert torch.equal(output(turn_back(changed)), before)
    assert torch.equal(output(model), before)


def test_a_module_that_was_exchanged_before_the_normalization_stays_within_it() -> None:
    class Bare(Plain):
        def __init__(self) -> None:
            super().__init__()
            del self.norm
            self.steps = [self.fc, self.act]

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = step(x)
            return x

    model = net(Bare)
    changed = with_activation(with_normalization(model, "layer"), "relu")
    assert [type(step).__name__ for step in changed.blocks[0].steps] == ["Normalized", "ReLU"]
    assert changed.blocks[0].fc.layer.weight.shape == (8, 8)
    back = with_normalization(with_activation(changed, None), None)
    assert torch.equal(output(back), output(model))


def test_a_layer_whose_own_methods_were_exchanged_goes_on_calling_itself() -> None:
    def doubled(self: nn.Linear, x: Tensor) -> Tensor:
        return 2 * nn.functional.linear(x, self.weight, self.bias)

    model = net(Plain)
    for block in model.blocks:
        block.norm = nn.Identity()
        block.fc.forward = MethodType(doubled, block.fc)
    changed = with_normalization(model, "layer")
    layer = changed.blocks[0].fc.layer
    assert layer.forward.__self__ is layer
    output(changed).sum().backward()

"""Classes and functions of the user's own: what the text takes over, and what it can't."""

from __future__ import annotations

import itertools
import linecache
import math
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_widget import recipe, with_activation, with_depth
from gradflow_widget.source_code.writing import recipe_of

from .fresh import assert_same_first_step, assert_same_weights, run

_cells = itertools.count(1)
SCALE = 0.5


def run_cell(source: str) -> dict[str, Any]:
    """Run a notebook's cell: its source is known to linecache alone."""
    file = f"/tmp/ipykernel_1/{next(_cells)}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec", dont_inherit=True), namespace)
    return namespace


def scaled(x: Tensor) -> Tensor:
    return SCALE * x


class Base(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return scaled(F.relu(self.inner(x)))


class Derived(Base):
    """Uses what stands beside it: a function, a constant, a module."""

    def __init__(self, width: int = 4, *, bias: bool = True) -> None:
        super().__init__(width)
        self.outer = nn.Linear(width, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(super().forward(x).tanh() / math.sqrt(2))


INPUTS = (torch.linspace(-1.0, 1.0, 12).reshape(3, 4),)


def test_a_class_comes_with_all_that_it_uses() -> None:
    torch.manual_seed(0)
    model = Derived(bias=False)
    text = recipe_of(model)
    assert "import math" in text
    assert "SCALE = 0.5" in text
    assert "def scaled" in text
    assert text.index("class Base") < text.index("class Derived")
    made = run(text)
    assert_same_weights(model, made["model"])
    assert_same_first_step(model, made, INPUTS)


def test_swapped_calls_are_edited_where_they_stand() -> None:
    torch.manual_seed(0)
    cell = run_cell(
        "import torch\n"
        "from torch import nn\n"
        "from torch.nn import functional as F\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)\n"
        "    def forward(self, x):  # größer\n"
        "        y = (self.a(x)\n"
        "             + 1).relu()\n"
        "        F.relu_(y)\n"
        "        y = F.leaky_relu(input=torch.tanh(self.b(y)).sigmoid(), negative_slope=0.2)\n"
        "        return self.a(y)\n"
    )
    model = with_activation(cell["Net"](), "elu")
    text = recipe_of(model)
    assert "# größer" in text
    assert "relu_" not in text
    assert text.count("nn.functional.elu(") == 5
    made = run(text)
    assert_same_weights(model, made["model"])
    assert_same_first_step(model, made, INPUTS)


def test_an_activation_taken_out_leaves_its_argument() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)))

    torch.manual_seed(0)
    model = with_activation(Net(), "identity")
    text = recipe_of(model)
    assert "self.b((self.a(x)))" in text
    assert_same_first_step(model, run(text), INPUTS)


def test_a_class_of_which_two_versions_are_in_use_is_there_twice() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).relu()

    torch.manual_seed(0)
    swapped = with_activation(nn.Sequential(Block(), Block(), nn.Linear(4, 4)), "silu")
    model = nn.Sequential(swapped, Block())
    text = recipe_of(model)
    assert "class Block(" in text
    assert "class Block2(" in text
    assert_same_weights(model, run(text)["model"])
    assert_same_first_step(model, run(text), INPUTS)


def test_classes_of_notebook_cells_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = run_cell(
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "\n"
        "@dataclass\n"
        "class Config:\n"
        "    width: int = 8\n"
        "    layers: int = 2\n"
        "\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        self.config = config\n"
        "        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(config.layers))\n"
        "    def forward(self, x):\n"
        "        for block in self.blocks:\n"
        "            x = block(x)\n"
        "        return x\n"
    )
    notebook = types.ModuleType("__main__")
    vars(notebook).update(cell)
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    torch.manual_seed(0)
    model = cell["Net"](cell["Config"](layers=3))
    text = recipe_of(model)
    assert "model = Net(config=Config(layers=3))" in text
    assert "@dataclass" in text
    assert_same_first_step(model, run(text), INPUTS)


@dataclass
class Sizes:
    width: int = 4


class Unkept(nn.Module):
    """Keeps none of its arguments."""

    def __init__(self, inner: int, activation: str, outputs: int) -> None:
        super().__init__()
        self.a = nn.Linear(4, inner)
        self.act = {"gelu": nn.GELU, "tanh": nn.Tanh}[activation]()
        self.b = nn.Linear(inner, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


def test_arguments_that_were_not_kept_are_found_by_trying() -> None:
    torch.manual_seed(0)
    model = Unkept(7, "gelu", 3)
    text = recipe_of(model)
    assert 'Unkept(inner=7, activation="gelu", outputs=3)' in text
    assert_same_first_step(model, run(text), INPUTS)


class Untold(nn.Module):
    """Its argument leaves no trace that could be guessed."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__()
        self.factor = recipe["factor"]
        self.register_buffer("offset", torch.full((4,), recipe["offset"]))
        self.gain = nn.Parameter(torch.ones(4))
        self.act = F.relu
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x) * self.gain + self.offset) * self.factor


def test_a_module_whose_constructor_can_not_be_called_is_put_together() -> None:
    torch.manual_seed(0)
    model = Untold({"factor": 2.5, "offset": 0.25})
    text = recipe_of(model)
    assert "assembled(" in text
    assert_same_weights(model, run(text)["model"])
    assert_same_first_step(model, run(text), INPUTS)


def test_a_model_changed_by_hand_is_mended_by_statements() -> None:
    torch.manual_seed(0)
    model = Derived()
    model.inner.register_parameter("bias", None)
    model.extra = nn.Linear(4, 1)
    del model.outer
    model.outer = nn.Sequential(nn.Linear(4, 2), nn.Softplus(beta=3))
    made = run(recipe_of(model))
    assert_same_weights(model, made["model"])
    assert_same_first_step(model, made, INPUTS)


def test_blocks_put_in_and_taken_out_are_statements() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    torch.manual_seed(0)
    model = Deep()
    fewer, more = with_depth(model, 2), with_depth(model, 6)
    assert "del model.layers[2:4]" in recipe_of(fewer)
    assert "model.layers.extend([nn.Linear(4, 4), nn.Linear(4, 4)])" in recipe_of(more)
    for changed in (fewer, more):
        assert_same_weights(changed, run(recipe_of(changed))["model"])


class LazyInside(nn.Module):
    """Learns its sizes from the first batch."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv1d(3, 2), nn.LazyBatchNorm1d(), nn.ReLU())
        self.layers = nn.ModuleList(nn.LazyLinear(4) for _ in range(layers))
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.unsqueeze(1)).flatten(1)
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_that_were_lazy_are_written_with_the_sizes_that_they_have(layers: int) -> None:
    torch.manual_seed(0)
    model = LazyInside(layers)
    model(*INPUTS)
    text = recipe_of(model)
    assert "model.head = nn.Linear(4, 2)" in text
    assert_same_weights(model, run(text)["model"])
    assert_same_first_step(model, run(text), INPUTS)


def test_the_recipe_of_a_widget_has_layers_that_were_lazy(make_flow: Any) -> None:
    torch.manual_seed(0)
    model = LazyInside()
    model(*INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = make_flow(model, optimizer, nn.CrossEntropyLoss(), (INPUTS[0], torch.tensor([0, 1, 1])))
    flow.activation = "gelu"
    flow.step()
    made = run(recipe(flow))
    loss = made["training_step"](INPUTS[0], torch.tensor([0, 1, 1]))
    assert loss.item() == flow.history.loss[0]


def test_an_own_layer_that_stays_lazy_when_built_is_named() -> None:
    class Scale(nn.modules.lazy.LazyModuleMixin, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.UninitializedParameter()

        def initialize_parameters(self, x: Tensor) -> None:
            if self.has_uninitialized_params():
                self.scale.materialize(x.shape[1:])
                nn.init.ones_(self.scale)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    model = nn.Sequential(Scale(), nn.Linear(4, 2))
    model(*INPUTS)
    with pytest.raises(ValueError, match=r"its parameters can't be written as source \(0\.scale\)"):
        recipe_of(model)


def test_objectives_of_ones_own_are_taken_over() -> None:
    def objective(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean() * SCALE

    model = Derived()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    text = recipe_of(model, optimizer, objective=objective)
    loss = run(text)["training_step"](INPUTS[0])
    assert torch.equal(loss, objective(model, INPUTS[0]))
    text = recipe_of(model, optimizer, loss_fn=lambda output, target: (output - target).abs().sum())
    loss = run(text)["training_step"](INPUTS[0], 1.0)
    assert torch.equal(loss, (model(INPUTS[0]) - 1.0).abs().sum())
    text = recipe_of(model, optimizer, loss_fn=F.mse_loss)
    assert "loss_fn = nn.functional.mse_loss" in text


def test_an_objective_without_source_is_left_out_and_the_text_says_so() -> None:
    namespace: dict[str, Any] = {}
    exec("def loss(output, target): return output.sum()", namespace)
    text = recipe_of(Derived(), loss_fn=namespace["loss"])
    assert "# loss_fn is left out: the source of loss is not to be had." in text
    assert "training_step" not in text


def test_what_can_not_be_written_is_named() -> None:
    namespace: dict[str, Any] = {"nn": nn, "__name__": "nowhere"}
    exec("class Net(nn.Linear):\n  pass", namespace)
    with pytest.raises(ValueError, match="the source of Net is not to be had"):
        recipe_of(namespace["Net"](2, 2))

    class Held(nn.Module):
        def __init__(self, layer: nn.Module, things: Any) -> None:
            super().__init__()
            self.layer, self.things = layer, things

    with pytest.raises(ValueError, match=r"in Held.things, a value of class object can't be"):
        recipe_of(Held(nn.Linear(2, 2), [object()]))

    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks can't be written as source"):
        recipe_of(hooked)

    class Outside(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + tensor

    tensor = torch.ones(2)
    with pytest.raises(ValueError, match="it uses tensor from outside"):
        recipe_of(Outside(2, 2))


class Shared(nn.Module):
    """Two layers with one weight, tied in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


@pytest.mark.parametrize("in_a_file", [False, True])
def test_tied_weights_that_no_seed_gives_are_kept_once(in_a_file: bool, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = Shared()
    text = recipe_of(model, weights=tmp_path / "weights.pt" if in_a_file else None)
    assert "# The weights at the beginning of the run" in text
    made = run(text)["model"]
    assert made.second.weight is made.first.weight
    assert_same_weights(model, made)


def barred() -> float:
    if "BARRED" in os.environ:
        raise RuntimeError("not here:\n\tnor there")
    return 1.0


def weighed(output: Tensor, target: Tensor, weight: float = barred()) -> Tensor:
    return F.mse_loss(output, target) * weight


def test_what_a_text_fails_with_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setenv("BARRED", "yes")
    with pytest.raises(ValueError, match=r"does not run \(RuntimeError: not here: nor there\)\.$"):
        recipe_of(model, optimizer, loss_fn=weighed)

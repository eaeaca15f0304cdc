from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gradflow_widget.tweaks.activation import ACTIVATIONS, activation_of, with_activation
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.record import tweaks_of
from tests.models.zoo import ZOO, Gate, Residual, Tagger, fingerprint, made, mlp, output

GATED_ONLY = {"LSTM tagger", "GRU tagger", "tied blocks"}
RECURRENT = {"RNN tagger"}
# Which experts a batch reaches decides the path, but their activations are modules.
SWAPPING = sorted(set(ZOO) - GATED_ONLY)
CHEAP = ["MLP", "CNN", "residual", "U-Net", "mixture of experts", "nn.Transformer", "GPT-2"]

ELEMENTWISE = [
    nn.Threshold(0.1, 0.0),
    nn.ReLU(inplace=True),
    nn.RReLU(),
    nn.Hardtanh(),
    nn.ReLU6(),
    nn.Sigmoid(),
    nn.Hardsigmoid(),
    nn.Tanh(),
    nn.SiLU(),
    nn.Mish(),
    nn.Hardswish(),
    nn.ELU(),
    nn.CELU(),
    nn.SELU(),
    nn.GELU(),
    nn.Hardshrink(),
    nn.LeakyReLU(0.3),
    nn.LogSigmoid(),
    nn.Softplus(),
    nn.Softshrink(),
    nn.PReLU(),
    nn.Softsign(),
    nn.Tanhshrink(),
]


def target_for(name: str) -> str:
    return "relu" if name in RECURRENT else "elu"


@pytest.mark.parametrize("name", SWAPPING)
def test_the_changed_model_runs_and_differs(name: str) -> None:
    model, inputs = made(name)
    changed = with_activation(model, target_for(name))
    after = output(changed, inputs)
    assert after.isfinite().all()
    assert not torch.equal(after, output(model, inputs))
    assert activation_of(changed) == target_for(name)
    assert list(changed.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", SWAPPING)
def test_back_at_the_first_activation_outputs_are_the_same_bit_for_bit(name: str) -> None:
    model, inputs = made(name)
    before = output(model, inputs)
    changed = with_activation(with_activation(model, target_for(name)), "tanh")
    ways = {None, activation_of(model)}
    for way in ways:
        back = with_activation(changed, way)
        assert torch.equal(output(back, inputs), before)
        assert tweaks_of(back) == ()
        assert [type(module) for module in back.modules()] == [
            type(module) for module in model.modules()
        ]


@pytest.mark.parametrize("name", SWAPPING)
def test_the_model_given_and_the_random_state_are_untouched(name: str) -> None:
    model, _ = made(name)
    before = fingerprint(model)
    activation_of(model)
    with_activation(model, target_for(name))
    assert fingerprint(model) == before


@given(name=st.sampled_from(CHEAP), way=st.lists(st.sampled_from(sorted(ACTIVATIONS)), max_size=4))
@settings(max_examples=40)
def test_only_the_last_of_several_swaps_counts(name: str, way: list[str]) -> None:
    model, inputs = made(name)
    changed = model
    for activation in [*way, "silu"]:
        changed = with_activation(changed, activation)
    assert torch.equal(output(changed, inputs), output(with_activation(model, "silu"), inputs))
    assert torch.equal(output(with_activation(changed, None), inputs), output(model, inputs))


@pytest.mark.parametrize("module", ELEMENTWISE, ids=lambda module: type(module).__name__)
def test_every_elementwise_module_is_swapped(module: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module, nn.Linear(4, 2))
    changed = with_activation(model, "identity")
    assert isinstance(changed[1], nn.Identity)
    assert type(with_activation(changed, None)[1]) is type(module)


def test_weights_of_an_activation_come_back() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(init=0.7), nn.Linear(4, 2))
    changed = with_activation(model, "relu")
    assert "1.weight" not in changed.state_dict()
    assert with_activation(changed, None)[1].weight.item() == pytest.approx(0.7)


def test_the_activation_that_is_there_stays_with_its_settings() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.3), nn.Linear(4, 2))
    assert with_activation(model, "leaky_relu")[1].negative_slope == 0.3
    assert tweaks_of(with_activation(model, "leaky_relu")) == ()


@pytest.mark.parametrize("last", [nn.Softmax(-1), nn.Sigmoid(), nn.Tanh(), nn.ReLU()], ids=repr)
def test_an_output_activation_stays(last: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.Dropout(), last)
    changed = with_activation(model, "elu")
    assert [type(module) for module in changed] == [
        nn.Linear,
        nn.ELU,
        nn.Linear,
        nn.Dropout,
        type(last),
    ]


def test_gates_stay() -> None:
    model = nn.Sequential(nn.Linear(5, 5), Gate(), nn.Linear(5, 2))
    weigh = with_activation(model, "tanh")[1].weigh
    assert [type(module) for module in weigh][1::2] == [nn.Tanh, nn.Sigmoid]


def test_the_pooler_of_a_bare_bert_is_its_output() -> None:
    model, _ = made("BERT")
    assert isinstance(with_activation(model, "relu").bert.pooler.activation, nn.ReLU)
    assert isinstance(with_activation(model.bert, "relu").pooler.activation, nn.Tanh)


class Functional(nn.Module):
    """All the ways to call an activation, with a name that Python mangles."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(6))
        self.head = nn.Linear(5, 2)
        self.act = act
        self.__rate = 0.5

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        a, b, c, d, e, f = self.layers
        x = F.dropout(F.relu(a(x), inplace=True), self.__rate, self.training)
        if mask is not None:
            x = x * mask
        x = torch.tanh(b(x))
        x = c(x).relu()
        x = F.gelu(
            d(x),
            approximate="tanh",
        )
        x = self._mixed(e(x))
        x.relu_()
        x = self.act(f(x))
        return torch.sigmoid(self.head(x))

    def _mixed(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Modular(Functional):
    """The same with ELU everywhere."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = F.elu(layer(x))
            if index == 0:
                x = F.dropout(x, 0.5, self.training)
                if mask is not None:
                    x = x * mask
            if index == 4:
                x = F.elu(x)
        return torch.sigmoid(self.head(x))


def test_functions_and_methods_are_swapped_and_the_output_stays() -> None:
    model, expected = Functional(), Modular()
    expected.load_state_dict(model.state_dict())
    changed = with_activation(model, "elu")
    inputs = (torch.linspace(-2, 2, 15).reshape(3, 5),)
    assert torch.equal(output(changed, inputs), output(expected, inputs))
    mask = (torch.arange(5) % 2.0,)
    assert torch.equal(output(changed, inputs + mask), output(expected, inputs + mask))
    changed.eval()
    expected.eval()
    assert torch.equal(output(changed, inputs), output(expected, inputs))


def test_parameter_names_class_and_code_stay_with_functional_activations() -> None:
    model = Residual()
    changed = with_activation(model, "elu")
    assert isinstance(changed, Residual)
    assert str(changed) == str(model)
    assert [name for name, _ in changed.named_parameters()] == [
        name for name, _ in model.named_parameters()
    ]
    assert torch.relu is F.torch.relu
    assert type(model) is Residual


def test_a_model_with_swapped_functions_can_be_saved_and_copied() -> None:
    changed, inputs = with_activation(Residual(), "elu"), made("residual")[1]
    for twin in (copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):
        assert torch.equal(output(twin, inputs), output(changed, inputs))
        assert type(with_activation(twin, None)) is Residual


def test_an_activation_from_the_surrounding_function_is_found() -> None:
    act = torch.tanh

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(act(self.first(x)))

    model = Local()
    assert activation_of(model) == "tanh"
    changed = with_activation(model, "relu")
    x = torch.linspace(-1, 1, 4)
    assert torch.equal(changed(x), model.last(F.relu(model.first(x))))


def relu_elsewhere(x: Tensor) -> Tensor:
    return F.relu(x)


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(relu_elsewhere(self.first(x)))


class Untraceable(Elsewhere):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.last(F.silu(self.first(x)))


class UntraceableWithModule(Elsewhere):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.last(self.act(self.first(x)))


class SharedWithOutput(Elsewhere):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.last(self.act(self.first(x))))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Untraceable(),
            r"^Untraceable\.forward calls silu as a function, and Untraceable\.forward can't be "
            r"traced: make it a module, self\.act = nn\.SiLU\(\), to change it\.$",
        ),
        (Elsewhere(), r"Elsewhere calls relu in relu_elsewhere.*make it a module.*nn\.ReLU\(\)"),
        (SharedWithOutput(), r"act \(Sigmoid\) is both a hidden activation and .* the output's"),
        (Tagger(), "no activation between its layers.*gates of nn.LSTM and nn.GRU"),
        (nn.Linear(3, 3), "no activation between its layers"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_what_can_not_be_swapped_is_said_in_a_sentence(model: nn.Module, message: str) -> None:
    assert activation_of(model) is None
    with pytest.raises(CannotTweak, match=message):
        with_activation(model, "elu")


def test_modules_are_swapped_where_forward_can_not_be_traced() -> None:
    assert isinstance(with_activation(UntraceableWithModule(), "elu").act, nn.ELU)


@pytest.mark.parametrize("name", ["swish", "", 3])
def test_an_unknown_name_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(ValueError, match="unknown: choose one of identity, sigmoid, tanh, relu"):
        with_activation(mlp(), name)


def test_nn_rnn_takes_tanh_and_relu_alone() -> None:
    model, inputs = made("RNN tagger")
    changed = with_activation(model, "relu")
    assert (changed.recurrent.nonlinearity, changed.recurrent.mode) == ("relu", "RNN_RELU")
    expected = nn.RNN(6, 8, 2, nonlinearity="relu", bidirectional=True, batch_first=True)
    expected.load_state_dict(model.recurrent.state_dict())
    embedded = model.embedding(inputs[0])
    assert torch.equal(changed.recurrent(embedded)[0], expected(embedded)[0])
    with pytest.raises(CannotTweak, match="RNN takes tanh or relu, not gelu"):
        with_activation(model, "gelu")


@pytest.mark.parametrize("name", ["gelu", "elu", "relu"])
def test_the_fast_path_of_an_encoder_computes_the_same(name: str) -> None:
    model, inputs = made("nn.TransformerEncoder")
    changed = with_activation(model.eval(), name)
    with torch.no_grad():
        fast = output(changed, inputs)
    assert torch.allclose(fast, output(changed, inputs), atol=1e-6)


def test_a_hugging_face_config_says_what_is_in_use() -> None:
    model, _ = made("ViT")
    changed = with_activation(model, "relu")
    assert (changed.config.hidden_act, model.config.hidden_act) == ("relu", "gelu")
    assert with_activation(changed, None).config.hidden_act == "gelu"


def test_hooks_of_the_user_stay_on_a_swapped_module() -> None:
    model, seen = mlp(), []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    with_activation(model, "relu")(torch.ones(1, 5))
    assert seen == [1]


def test_a_module_in_several_places_is_swapped_for_one() -> None:
    act = nn.ReLU()
    changed = with_activation(nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act), "elu")
    assert isinstance(changed[1], nn.ELU)
    assert changed[3] is changed[1]


def test_modes_are_as_before() -> None:
    model = mlp()
    model[1].eval()
    assert [module.training for module in with_activation(model, "relu").modules()] == [
        module.training for module in model.modules()
    ]


def test_mixed_activations_have_no_name() -> None:
    assert activation_of(mlp()) == "tanh"
    assert activation_of(nn.Sequential(*mlp(), nn.ReLU(), nn.Linear(3, 3))) is None


def test_the_copy_says_what_changed() -> None:
    (tweak,) = tweaks_of(with_activation(mlp(3), "relu"))
    assert tweak.sentence == "4 hidden activations are relu instead of tanh."

"""The text of a model makes that model again: its weights, its first loss, its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from gradflow_widget.playground.networks import NETWORKS, mlp
from gradflow_widget.source_code.writing import recipe_of
from tests.models.zoo import made as made_of_zoo

from .fresh import assert_same_first_step, assert_same_groups, assert_same_weights, run

Tweak = Callable[[nn.Module], nn.Module]

TWEAKS: dict[str, Tweak] = {
    "as it is": lambda model: model,
    "activation": lambda model: with_activation(model, "elu"),
    "depth": lambda model: with_depth(model, 4),
    "He": lambda model: with_initialization(model, "he"),
    "batch norm": lambda model: with_normalization(model, "batch"),
    "group norm": lambda model: with_normalization(model, "group"),
    "RMS norm": lambda model: with_normalization(model, "rms"),
    "norms out": lambda model: with_normalization(model, None),
    "weight norm": lambda model: with_normalization(model, "weight"),
    "spectral norm": lambda model: with_normalization(model, "spectral"),
    "skips": lambda model: with_skips(model, "1/sqrt(2L)"),
    "learned skips": lambda model: with_skips(model, "learned"),
    "penalty": lambda model: with_orthogonality(model, 0.01),
    "orthogonal": lambda model: with_orthogonality(model, "hard"),
    "several": lambda model: with_orthogonality(
        with_activation(with_depth(with_normalization(model, "layer"), 4), "silu"), 0.1
    ),
}
EVERYWHERE = ["as it is", "depth", "He", "penalty"]
NORMS = ["batch norm", "group norm", "weight norm", "spectral norm"]
PAIRS = {
    "MLP": [*EVERYWHERE, *NORMS, "activation", "skips", "learned skips", "orthogonal", "several"],
    "bfloat16 MLP": ["as it is", "activation", "He"],
    "CNN": [*TWEAKS],
    "residual": [*EVERYWHERE, "activation", "batch norm", "RMS norm", "orthogonal", "several"],
    "U-Net": ["as it is", "skips", "batch norm", "several"],
    "mixture of experts": ["as it is", "activation", "orthogonal"],
    "Siamese": ["as it is", "skips", "several"],
    "tied blocks": ["as it is", "depth", "skips"],
    "side by side lists": ["depth", "norms out", "weight norm", "learned skips"],
    "LSTM tagger": [*EVERYWHERE, "orthogonal"],
    "GRU tagger": ["depth", "penalty"],
    "RNN tagger": ["as it is", "He"],
    "nn.Transformer": ["depth", "activation", "several"],
    "nn.TransformerEncoder": [*EVERYWHERE, "activation", "norms out", "orthogonal", "several"],
    "GPT-2": [*EVERYWHERE, "activation", "norms out", "spectral norm", "orthogonal", "several"],
    "ViT": ["activation", "norms out"],
    "ConvNeXT": ["depth", "several"],
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(
    ("name", "tweak"), [(name, tweak) for name, tweaks in PAIRS.items() for tweak in tweaks]
)
def test_the_text_makes_the_same_model(name: str, tweak: str, tmp_path: Path) -> None:
    model, inputs = made_of_zoo(name)
    model = TWEAKS[tweak](model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = run(recipe_of(model, optimizer, weights=tmp_path / "weights.pt"))
    assert_same_weights(model, made["model"])
    assert_same_groups(optimizer, model, made)
    assert_same_first_step(model, made, inputs)


@pytest.mark.parametrize(
    ("name", "tweak"),
    [
        ("CNN", "activation"),
        ("CNN", "skips"),
        ("CNN", "learned skips"),
        ("CNN", "orthogonal"),
        ("residual", "activation"),
        ("residual", "batch norm"),
        ("residual", "spectral norm"),
        ("U-Net", "skips"),
        ("U-Net", "group norm"),
        ("side by side lists", "weight norm"),
        ("GPT-2", "activation"),
        ("GPT-2", "penalty"),
        ("GPT-2", "orthogonal"),
    ],
)
def test_what_leaves_the_weights_leaves_them_to_the_seed(name: str, tweak: str) -> None:
    model, _ = made_of_zoo(name)
    text = recipe_of(TWEAKS[tweak](model), seed=0)
    assert "load_state_dict" not in text
    assert "assembled" not in text


@pytest.mark.parametrize(("depth", "activation"), [(1, "relu"), (2, "tanh"), (20, "identity")])
def test_a_plain_network_takes_ten_lines(depth: int, activation: str) -> None:
    torch.manual_seed(3)
    model = mlp(depth, activation)
    text = recipe_of(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=3)
    assert len(text.splitlines()) <= 11
    made = run(text)
    assert_same_weights(model, made["model"])
    assert_same_first_step(model, made, (torch.randn(5, 64),))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_playgrounds_networks_come_from_their_seed_alone(name: str) -> None:
    torch.manual_seed(4)
    model = NETWORKS[name].make()
    text = recipe_of(model, seed=4)
    assert "load_state_dict" not in text
    assert "assembled" not in text
    assert_same_weights(model, run(text)["model"])


def test_the_text_reads_as_one_would_write_it() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(4, 4), nn.LeakyReLU(0.2)]
    model = nn.Sequential(*layers, nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.1)
    text = recipe_of(
        model, optimizer, loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1), clip_norm=1.5
    )
    assert (
        text
        == """\
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    *[layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.LeakyReLU(negative_slope=0.2))],
    nn.Linear(4, 2, bias=False),
)

optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.1)

loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)


def training_step(inputs, targets):
    optimizer.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.5)
    optimizer.step()
    return loss
"""
    )


@pytest.mark.parametrize(
    "scheme", ["zeros", "constant", "normal", "xavier", "he", "lecun", "orthogonal", "critical"]
)
def test_weights_drawn_by_a_scheme_are_drawn_again(scheme: str) -> None:
    torch.manual_seed(0)
    model = with_initialization(mlp(6, "tanh"), scheme, seed=5)
    text = recipe_of(model, seed=5)
    assert "load_state_dict" not in text
    assert_same_weights(model, run(text)["model"])


def layers_of_every_kind() -> list[tuple[nn.Module, tuple[int, ...]]]:
    return [
        (nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), groups=2, bias=False), (2, 4, 8, 8)),
        (nn.Conv1d(4, 4, 3, padding="same", padding_mode="circular"), (2, 4, 8)),
        (nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1), (2, 4, 5, 5)),
        (nn.BatchNorm1d(4, eps=1e-3, momentum=None, affine=False), (3, 4)),
        (nn.GroupNorm(2, 4, affine=False), (2, 4, 3)),
        (nn.LayerNorm((3, 4), elementwise_affine=False), (2, 3, 4)),
        (nn.LayerNorm(4, bias=False), (2, 4)),
        (nn.InstanceNorm2d(4, affine=True), (2, 4, 3, 3)),
        (nn.PReLU(4, init=0.1), (2, 4)),
        (nn.Softplus(beta=2, threshold=10), (2, 4)),
        (nn.Hardtanh(-2.0, 3.0), (2, 4)),
        (nn.GELU(approximate="tanh"), (2, 4)),
        (nn.ELU(0.5, inplace=True), (2, 4)),
        (nn.ReLU6(inplace=True), (2, 4)),
        (nn.Dropout(0.25), (2, 4)),
        (nn.Softmax(dim=-1), (2, 4)),
        (nn.MaxPool2d(2, stride=1, ceil_mode=True), (2, 4, 5, 5)),
        (nn.AdaptiveAvgPool2d((None, 2)), (2, 4, 5, 5)),
        (nn.Flatten(0, 1), (2, 4, 5)),
        (nn.Unflatten(1, (2, 2)), (2, 4)),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (1, 4, 3, 3)),
        (nn.ZeroPad2d((1, 0, 2, 0)), (1, 4, 3, 3)),
        (nn.PixelShuffle(2), (1, 4, 3, 3)),
        (nn.LSTM(4, 6, 2, bidirectional=True, proj_size=3, dropout=0.1), (3, 2, 4)),
        (nn.GRU(4, 6, bias=False, batch_first=True), (3, 2, 4)),
        (nn.RNN(4, 6, nonlinearity="relu"), (3, 2, 4)),
        (nn.LSTMCell(4, 6), (2, 4)),
        (nn.RNNCell(4, 6, nonlinearity="relu", bias=False), (2, 4)),
        (
            nn.TransformerEncoderLayer(
                4, 2, 7, dropout=0.2, activation="gelu", norm_first=True, layer_norm_eps=1e-4
            ),
            (3, 2, 4),
        ),
    ]


@pytest.mark.parametrize("place", range(len(layers_of_every_kind())))
def test_arguments_of_layers_are_read_off_them(place: int) -> None:
    torch.manual_seed(0)
    model, shape = layers_of_every_kind()[place]
    made = run(recipe_of(model))["model"]
    assert repr(made) == repr(model)
    assert_same_weights(model, made)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = torch.randn(shape)
    for one in (model, made):
        one.eval()
    results = [one(inputs.clone()) for one in (model, made)]
    flat = [result[0] if isinstance(result, tuple) else result for result in results]
    assert torch.equal(flat[0], flat[1])


def test_embeddings_ties_freezing_modes_and_dtypes_come_out() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4, padding_idx=2)
            self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
            self.head = nn.Linear(4, 9, bias=False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.embedding(tokens)))

    torch.manual_seed(0)
    model = Language()
    model.head.weight = model.embedding.weight
    model.body[0].requires_grad_(False)
    model.body[2].bias.requires_grad_(False)
    model.body[1].eval()
    model.to(torch.float64)
    made = run(recipe_of(model))
    assert made["model"].head.weight is made["model"].embedding.weight
    assert_same_weights(model, made["model"])
    assert_same_first_step(model, made, (torch.arange(9),))


def test_a_module_at_several_places_stays_one() -> None:
    act = nn.PReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    made = run(recipe_of(model))["model"]
    assert made[1] is made[3]
    assert_same_weights(model, made)


def test_named_members_and_nested_lists_keep_their_names() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleDict({"a": nn.Linear(3, 1), "b c": nn.Linear(3, 2)})
            self.stages = nn.ModuleList(
                [nn.ModuleList([nn.Linear(3, 3) for _ in range(2)]) for _ in range(2)]
            )

    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("stem", nn.Linear(3, 3))
    model.add_module("last", nn.Linear(3, 3))
    assert_same_weights(model, run(recipe_of(model))["model"])
    many = Many()
    assert_same_weights(many, run(recipe_of(many))["model"])


def test_nothing_given_is_changed() -> None:
    model = with_normalization(mlp(4, "tanh"), "spectral")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    recipe_of(model, optimizer, weights=None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_dtype_of_the_session_does_not_matter(dtype: Any) -> None:
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        text = recipe_of(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_weights(model, run(text)["model"])

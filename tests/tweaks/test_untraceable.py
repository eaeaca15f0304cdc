"""Models whose forward decides by the values of tensors, which no tracer follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget.tweaks.following import following
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import Normalized, with_normalization
from gradflow_widget.tweaks.record import tweaks_of
from gradflow_widget.tweaks.tracing import ways_through

TWO_OF_THREE = "2 × gain 1.414 (ReLU); 1 × gain 1 (linear)"


class Deciding(nn.Module):
    """Three layers behind a condition; ``as_number`` makes it one that can't be answered."""

    def __init__(self, as_number: bool) -> None:
        super().__init__()
        self.as_number = as_number
        self.a, self.r1 = nn.Linear(6, 6), nn.ReLU()
        self.b, self.r2 = nn.Linear(6, 6), nn.ReLU()
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        total = float(x.sum()) if self.as_number else x.sum()
        if total > 1e9:
            return x
        return self.c(self.r2(self.b(self.r1(self.a(x)))))


class Block(nn.Module):
    """A residual block whose activation is registered before its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.fc1 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(self.act(self.fc1(x)))
        if y.isinf().any():
            y = y.clamp(-1, 1)
        return x + y


class Mixing(nn.Module):
    """A part that can't be traced, for it goes through a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x).reshape(*x.shape[:-1], -1)


class WithMixing(Block):
    """The block behind a part that can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = Mixing()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.mixing(x))


class Guarded(Block):
    """The block behind two conditions for errors, which want different answers."""

    def forward(self, x: Tensor) -> Tensor:
        fits = x.shape[-1] == 8
        if not fits:
            raise ValueError("another width")
        if x.isnan().any():
            raise ValueError("not a number")
        return super().forward(x)


class Settling(Block):
    """The block in a loop that ends only when its values say so."""

    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 1:
            x = super().forward(x) / 2
        while not (x < 1).all():
            x = x / 2
        return self.fc2(self.act(self.fc1(x)))


class Stack(nn.Module):
    """Three blocks between two layers."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.i = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(block() for _ in range(3))
        self.o = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        for block in self.blocks:
            x = block(x)
        return self.o(x)


class OneWay(nn.Module):
    """A nonlinearity on one of two ways alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.abs().max() > 0.5:
            x = self.act(x)
        return self.b(x)


def normed(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, Normalized)]


def said(model: nn.Module) -> str:
    return tweaks_of(model)[-1].sentence


@pytest.mark.parametrize("as_number", [False, True])
@pytest.mark.parametrize("kind", [None, "weight", "spectral", "layer"])
def test_norms_hide_no_nonlinearity(kind, as_number):
    model = Deciding(as_number)
    changed = with_normalization(model, kind) if kind else model
    assert TWO_OF_THREE in said(with_initialization(changed, "he"))


@pytest.mark.parametrize("block", [Block, WithMixing, Guarded, Settling])
def test_norms_stand_before_activations_alone(block):
    changed = with_normalization(Stack(block), "layer")
    assert normed(changed) == [f"blocks.{index}.fc1" for index in range(3)]


@pytest.mark.parametrize("block", [Block, WithMixing, Guarded, Settling])
def test_he_counts_what_follows_alone(block):
    model = Stack(block)
    assert "3 × gain 1.414 (ReLU)" in said(with_initialization(model, "he"))
    behind = following(model)
    assert behind[model.o].is_output
    assert [part for part, after in behind.items() if after.is_output] == [model.o]


def test_a_nonlinearity_on_one_way_counts():
    model = OneWay()
    behind = following(model)
    assert behind[model.a].nonlinearity.name == "Tanh"
    assert behind[model.a].is_hidden
    assert behind[model.b].is_output


class Experts(nn.Module):
    """Experts that are met on neither way: where they are chosen, forward can't be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)) for _ in range(3)
        )
        self.router = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        choice = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            if (choice == index).any():
                out[choice == index] = expert(x[choice == index])
        return out


def test_layers_that_no_way_meets_are_found_by_themselves():
    assert normed(with_normalization(Experts(), "layer")) == [f"experts.{i}.0" for i in range(3)]


def test_looking_leaves_model_and_random_numbers():
    model = Stack(Guarded)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    keys = {part: sorted(part.__dict__) for part in model.modules()}
    state = torch.random.get_rng_state()
    assert len(ways_through(model, lambda part: isinstance(part, nn.Linear | nn.ReLU))) == 2
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {part: sorted(part.__dict__) for part in model.modules()} == keys
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class TestHuggingFace:
    @pytest.mark.parametrize("family", ["T5", "OPT", "BART", "ALBERT"])
    def test_layers_behind_the_activation_get_no_norm(self, family):
        transformers = pytest.importorskip("transformers")
        heads = {"num_attention_heads": 2, "num_hidden_layers": 2}
        build = {
            "T5": lambda t: t.T5ForConditionalGeneration(
                t.T5Config(vocab_size=50, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8)
            ),
            "OPT": lambda t: t.OPTForCausalLM(
                t.OPTConfig(
                    vocab_size=50, hidden_size=16, ffn_dim=32, word_embed_proj_dim=16, **heads
                )
            ),
            "BART": lambda t: t.BartForConditionalGeneration(
                t.BartConfig(
                    vocab_size=50, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32,
                    encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
                    decoder_attention_heads=2,
                )
            ),
            "ALBERT": lambda t: t.AlbertForSequenceClassification(
                t.AlbertConfig(
                    vocab_size=50, embedding_size=8, hidden_size=16, intermediate_size=32, **heads
                )
            ),
        }  # fmt: skip
        model = build[family](transformers)
        names = {part: name for name, part in model.named_modules()}
        hidden = {
            names[part].rpartition(".")[2] for part, f in following(model).items() if f.is_hidden
        }
        expected = {"T5": {"wi"}, "OPT": {"fc1"}, "BART": {"fc1"}, "ALBERT": {"ffn", "pooler"}}
        assert hidden == expected[family]

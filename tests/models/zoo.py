"""Models to tweak, as people write them: their own, PyTorch's and Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

transformers.logging.set_verbosity_error()

Inputs = tuple[Any, ...] | dict[str, Any]


def mlp(hidden: int = 3, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(5, 8), activation()]
    for _ in range(hidden):
        layers += [nn.Linear(8, 8), activation()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            *[
                module
                for _ in range(3)
                for module in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            ],
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(torch.relu(self.first(x))))


class Residual(nn.Module):
    """Functional activations, in blocks that are walked through by a loop."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(4) for _ in range(blocks))
        self.num_blocks = blocks
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for index in range(self.num_blocks):
            x = self.blocks[index](x)
        return torch.sigmoid(self.head(x.mean((2, 3))))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.middle = nn.Sequential(
            *[module for _ in range(3) for module in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
        )
        self.up = nn.ModuleList([nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            x = F.relu(layer(x))
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for layer in self.up:
            x = layer(torch.cat([F.interpolate(x, scale_factor=2), kept.pop()], 1))
        return x


class MixtureOfExperts(nn.Module):
    """Experts that no sample of a batch may choose."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)) for _ in range(experts)
        )
        self.router = nn.Linear(5, experts)

    def forward(self, x: Tensor) -> Tensor:
        choice = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            chosen = choice == index
            if chosen.any():
                out[chosen] = expert(x[chosen])
        return out


class SoftMixture(MixtureOfExperts):
    """Every expert sees every sample: this one can be traced."""

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return (outputs * weights.unsqueeze(1)).sum(-1)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (self.encoder(left) - self.encoder(right)).norm(dim=-1)


class Tagger(nn.Module):
    def __init__(self, recurrent: type[nn.RNNBase] = nn.LSTM, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.recurrent = recurrent(
            6, 8, num_layers=layers, bidirectional=True, batch_first=True, dropout=0.0
        )
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0])


class SideBySideLists(nn.Module):
    """Two lists that a loop walks through together."""

    def __init__(self) -> None:
        super().__init__()
        self.num_layers = 3
        self.linears = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = torch.tanh(norm(linear(x)))
        return x


class TiedBlocks(nn.Module):
    """Every block has its own bias and all have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3)))
        for block in self.blocks:
            block.weight = self.blocks[0].weight
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


def gpt2(layers: int = 3) -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=layers, n_embd=16, n_head=2, vocab_size=20, n_positions=16
    )
    config.bos_token_id = config.eos_token_id = 0
    return transformers.GPT2LMHeadModel(config)


_ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **_ENCODER)
    return transformers.BertForSequenceClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=16, patch_size=8, **_ENCODER)
    return transformers.ViTForImageClassification(config)


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 4], layer_type="basic"
    )
    return transformers.ResNetForImageClassification(config)


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        hidden_sizes=[4, 8, 8, 8], depths=[2, 3, 2, 2], patch_size=1, drop_path_rate=0.1
    )
    return transformers.ConvNextForImageClassification(config)


def _tokens() -> Tensor:
    return torch.arange(12).reshape(2, 6)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "MLP": (mlp, lambda: (_normal(4, 5),)),
    "bfloat16 MLP": (lambda: mlp().bfloat16(), lambda: (_normal(4, 5).bfloat16(),)),
    "compiled MLP": (lambda: torch.compile(mlp(), backend="eager"), lambda: (_normal(4, 5),)),
    "CNN": (Cnn, lambda: (_normal(2, 3, 8, 8),)),
    "residual": (Residual, lambda: (_normal(2, 3, 8, 8),)),
    "compiled residual": (
        lambda: torch.compile(Residual(), backend="eager"),
        lambda: (_normal(2, 3, 8, 8),),
    ),
    "U-Net": (UNet, lambda: (_normal(2, 3, 8, 8),)),
    "mixture of experts": (MixtureOfExperts, lambda: (_normal(3, 5),)),
    "soft mixture": (SoftMixture, lambda: (_normal(3, 5),)),
    "Siamese": (Siamese, lambda: (_normal(4, 5), _normal(4, 5) + 1)),
    "tied blocks": (TiedBlocks, lambda: (_normal(4, 5),)),
    "side by side lists": (SideBySideLists, lambda: (_normal(4, 5),)),
    "LSTM tagger": (Tagger, lambda: (_tokens(),)),
    "GRU tagger": (lambda: Tagger(nn.GRU), lambda: (_tokens(),)),
    "RNN tagger": (lambda: Tagger(nn.RNN), lambda: (_tokens(),)),
    "nn.Transformer": (
        lambda: nn.Transformer(8, 2, 2, 3, 16, batch_first=True),
        lambda: (_normal(2, 4, 8), _normal(2, 3, 8)),
    ),
    "nn.TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        lambda: (_normal(2, 4, 8),),
    ),
    "GPT-2": (gpt2, lambda: {"input_ids": _tokens()}),
    "BERT": (bert, lambda: {"input_ids": _tokens()}),
    "ViT": (vit, lambda: {"pixel_values": _normal(2, 3, 16, 16)}),
    "ResNet": (resnet, lambda: {"pixel_values": _normal(2, 3, 16, 16)}),
    "ConvNeXT": (convnext, lambda: {"pixel_values": _normal(2, 3, 16, 16)}),
}
"""By name: how to make the model, and inputs for it."""


def made(name: str) -> tuple[nn.Module, Inputs]:
    """Return a model of the zoo, the same each time, and its inputs."""
    build, inputs = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
    return model, inputs()


def output(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the model's (first) output, with the same dropout each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    if hasattr(result, "to_tuple"):
        result = next(part for part in result.to_tuple() if isinstance(part, Tensor))
    return result[0] if isinstance(result, tuple) else result


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return all that a tweak must leave alone in the model that it is given."""
    return {
        "random state": torch.get_rng_state().tolist(),
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "classes": [type(module) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "attributes": [
            {key: id(value) for key, value in vars(module).items()} for module in model.modules()
        ],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "tensors": {name: (id(value), value._version) for name, value in model.named_parameters()},
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
    }

"""The models that people bring, with the loops that they train them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from .zoo import (
    Cnn,
    Inputs,
    MixtureOfExperts,
    ResidualBlock,
    Siamese,
    Tagger,
    UNet,
    bert,
    convnext,
    gpt2,
    mlp,
    resnet,
    vit,
)

Objective = Callable[[nn.Module, Inputs], Tensor]
Step = Callable[[nn.Module, Optimizer, Objective], Tensor]
"""Takes one step of the optimizer; returns the loss."""

BATCH = 8


@dataclass(frozen=True)
class Case:
    """A model, what it is fed with, and how it is trained.

    Attributes:
        title: what the table calls it.
        build: makes the model.
        inputs: makes what the model is called with, the first dimension that of the batch.
        step: makes the function that does one training step, anew for each training.
    """

    title: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    step: Callable[[], Step]

    def made(self) -> nn.Module:
        """Return the model, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build()

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return an optimizer with state that must survive a tweak."""
        return AdamW(model.parameters(), lr=1e-3)


def first_output(result: Any) -> Tensor:
    """Return the first tensor of whatever a model returns."""
    if hasattr(result, "to_tuple"):
        return next(part for part in result.to_tuple() if isinstance(part, Tensor))
    return result[0] if isinstance(result, tuple) else result


def objective(model: nn.Module, inputs: Inputs) -> Tensor:
    """A loss for any model: how far its output is from fixed numbers."""
    out = first_output(model(**inputs) if isinstance(inputs, dict) else model(*inputs)).float()
    targets = torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape)
    return F.mse_loss(out, targets)


# -- loops ---------------------------------------------------------------------------------


def plain(inputs: Callable[[], Inputs]) -> Callable[[], Step]:
    """As most people write it."""
    return _loop(inputs)


def autocast(inputs: Callable[[], Inputs]) -> Callable[[], Step]:
    """The forward pass in bfloat16."""
    return _loop(inputs, lambda: torch.autocast("cpu", torch.bfloat16))


def accumulated(inputs: Callable[[], Inputs]) -> Callable[[], Step]:
    """Four micro-batches to a step."""
    return _loop(inputs, parts=4)


def scaled(inputs: Callable[[], Inputs]) -> Callable[[], Step]:
    """The forward pass in float16, the loss scaled so that no gradient underflows."""

    def made() -> Step:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def step(model: nn.Module, optimizer: Optimizer, loss_of: Objective) -> Tensor:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(model, inputs())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss.detach()

        return step

    return made


def _loop(
    inputs: Callable[[], Inputs], context: Callable[[], Any] = nullcontext, parts: int = 1
) -> Callable[[], Step]:
    def step(model: nn.Module, optimizer: Optimizer, loss_of: Objective) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for part in _split(inputs(), parts):
            with context():
                loss = loss_of(model, part) / parts
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    return lambda: step


def _split(inputs: Inputs, parts: int) -> Iterator[Inputs]:
    for index in range(parts):
        if isinstance(inputs, dict):
            yield {name: value.chunk(parts)[index] for name, value in inputs.items()}
        else:
            yield tuple(value.chunk(parts)[index] for value in inputs)


# -- models --------------------------------------------------------------------------------


class ExpertBlock(nn.Module):
    """A mixture of experts around which the signal may also pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)
        self.mixture = MixtureOfExperts()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixture(self.norm(x))


def stack_of_experts() -> nn.Module:
    return nn.Sequential(*(ExpertBlock() for _ in range(3)), nn.Linear(5, 2))


def compiled() -> nn.Module:
    blocks = (ResidualBlock(4) for _ in range(3))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(256, 2))
    return torch.compile(network, backend="aot_eager")


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _tokens() -> Tensor:
    return (torch.arange(BATCH * 6) * 7 % 20).reshape(BATCH, 6)


def _images() -> Inputs:
    return (_normal(BATCH, 3, 8, 8),)


def _pixels() -> Inputs:
    return {"pixel_values": _normal(BATCH, 3, 16, 16)}


def _ids() -> Inputs:
    return {"input_ids": _tokens()}


def _vectors() -> Inputs:
    return (_normal(BATCH, 5),)


def _pairs() -> Inputs:
    return (_normal(BATCH, 5), _normal(BATCH, 5) + 1)


def _sequences() -> Inputs:
    return (_normal(BATCH, 4, 8), _normal(BATCH, 3, 8))


CASES: dict[str, Case] = {
    case.title: case
    for case in (
        Case("ResNet (transformers)", resnet, _pixels, plain(_pixels)),
        Case("ConvNeXT (transformers)", convnext, _pixels, plain(_pixels)),
        Case("ViT (transformers)", vit, _pixels, plain(_pixels)),
        Case("BERT (transformers)", bert, _ids, plain(_ids)),
        Case("GPT-2 (transformers)", gpt2, _ids, plain(_ids)),
        Case(
            "nn.Transformer",
            lambda: nn.Transformer(8, 2, 2, 3, 16, batch_first=True),
            _sequences,
            plain(_sequences),
        ),
        Case("LSTM tagger", Tagger, lambda: (_tokens(),), plain(lambda: (_tokens(),))),
        Case("U-Net, skips across", UNet, _images, plain(_images)),
        Case("mixture of experts, some unused", MixtureOfExperts, _vectors, plain(_vectors)),
        Case("blocks of experts, some unused", stack_of_experts, _vectors, plain(_vectors)),
        Case("Siamese pair, shared weights", Siamese, _pairs, plain(_pairs)),
        Case('torch.compile (backend "aot_eager")', compiled, _images, plain(_images)),
        Case("autocast to bfloat16", Cnn, _images, autocast(_images)),
        Case(
            "weights in bfloat16",
            lambda: mlp().bfloat16(),
            lambda: (_normal(BATCH, 5).bfloat16(),),
            plain(lambda: (_normal(BATCH, 5).bfloat16(),)),
        ),
        Case("GradScaler, autocast to float16", Cnn, _images, scaled(_images)),
        Case("accumulation over 4 micro-batches", mlp, _vectors, accumulated(_vectors)),
    )
}
"""By title."""

"""Models that users bring, each with data and what is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.models.zoo import Cnn, Tagger, gpt2, mlp

from .parts import CROSS_ENTROPY

Objective = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Own:
    """A user's model, made the same each time."""

    build: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    objective: Objective

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build()

    def first_batch(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """The first batch of a run with full batches."""
        inputs, targets = self.data()
        rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        return inputs[rows], targets[rows]


def classified(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = CROSS_ENTROPY(model(batch[0]), batch[1])
    return loss


def tagged(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = CROSS_ENTROPY(model(batch[0]).flatten(0, 1), batch[1].flatten())
    return loss


def predicted(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(input_ids=batch[0], labels=batch[1]).loss
    return loss


def _drawn(count: int, *shape: int) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(1))


def _whole(top: int, *shape: int) -> Tensor:
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(2))


OWN = {
    "MLP": Own(mlp, lambda: (_drawn(12, 5), _whole(3, 12)), classified),
    "CNN": Own(Cnn, lambda: (_drawn(8, 3, 8, 8), _whole(2, 8)), classified),
    "GPT-2": Own(gpt2, lambda: (_whole(20, 6, 8), _whole(20, 6, 8)), predicted),
    "LSTM tagger": Own(Tagger, lambda: (_whole(20, 6, 8), _whole(4, 6, 8)), tagged),
}

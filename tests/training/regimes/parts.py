"""Networks, data and a bare training loop that the tests of regimes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from gradflow_widget.measurement.history import History
from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.training.batches import as_batches
from gradflow_widget.training.regimes.accumulation import backward_over
from gradflow_widget.training.regimes.applied import (
    batches_of_step,
    batches_under,
    model_under,
)
from gradflow_widget.training.regimes.curriculum import losses_of_samples
from gradflow_widget.training.regimes.first_model import first_model
from gradflow_widget.training.regimes.freezing import forward_order
from gradflow_widget.training.regimes.regime import Regime

torch.set_num_threads(1)


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def samples(count: int = 60, features: int = 6, classes: int = 3) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, features, generator=generator)
    return inputs, torch.randint(0, classes, (count,), generator=generator)


def network(*, seed: int = 0) -> nn.Sequential:
    """Everything that a pass may move: running statistics, dropout."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for _ in range(2):
        modules += [nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3)]
    return nn.Sequential(*modules, nn.Linear(6, 3))


def plain(*, seed: int = 0, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3)
    )


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, targets = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32)
    return (inputs - inputs.mean()) / inputs.std(), torch.tensor(targets)


def state_of(model: nn.Module) -> list[torch.Tensor]:
    values = [value.clone() for value in model.state_dict().values()]
    return [*values, torch.get_rng_state(), *(torch.tensor(m.training) for m in model.modules())]


def all_equal(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def train(
    regime: Regime,
    model: nn.Module,
    data: Any,
    *,
    steps: int,
    batch_size: int = 16,
    seed: int = 0,
    full: bool = False,
) -> tuple[nn.Module, History]:
    """Train under a regime, as the hook-up in the session does, on a model that is left alone."""
    given = torch.optim.SGD(model.parameters(), lr=0.1)
    source = as_batches(data)

    def first_losses(batches: Any) -> Any:
        trained = first_model(
            model, given, cross_entropy, batches, steps=50, batch_size=batch_size, seed=seed
        )
        return losses_of_samples(trained, cross_entropy, batches)

    batches = batches_under(regime, source, first_losses)
    shown = source.first(seed, batch_size)
    twin = model_under(regime, model, lambda one: forward_order(one, cross_entropy, shown))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    batches.restart(seed)
    torch.manual_seed(seed)
    with GradientProbe(twin, optimizer, full=full) as probe:
        for _ in range(steps):
            parts = batches_of_step(
                regime,
                twin,
                cross_entropy,
                lambda: batches.next(batch_size),
                looking_away=probe.looking_away,
            )
            optimizer.zero_grad(set_to_none=True)
            backward_over(lambda batch: cross_entropy(twin, batch), parts)
            optimizer.step()
        return twin, probe.history

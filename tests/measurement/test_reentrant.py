"""A single look at a model whose checkpoints can be gone back through by backward() alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradflow_widget import GradientFlow, GradientProbe, take_reading


class Network(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.reentrant = reentrant

    def block(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.second(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        x = checkpoint(self.block, x, use_reentrant=True) if self.reentrant else self.block(x)
        out: torch.Tensor = self.last(x)
        return out


@pytest.fixture(autouse=True)
def _quiet():
    # Torch warns wherever it finds nothing to go back to, as in a validation.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


DATA = torch.linspace(-1, 1, 100).reshape(20, 5), torch.arange(20) % 3


def test_the_numbers_are_those_without_checkpoints_and_the_model_is_as_it_was():
    model = Network(reentrant=True)
    model.last.weight.grad = torch.full((3, 7), 5.0)
    reading = take_reading(model, nn.CrossEntropyLoss(), *DATA)
    plain = take_reading(Network(reentrant=False), nn.CrossEntropyLoss(), *DATA)
    assert reading.layers == plain.layers
    for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms", "weight_norm"):
        np.testing.assert_allclose(getattr(reading, name), getattr(plain, name), rtol=1e-6)
    assert reading.total_norm == pytest.approx(plain.total_norm)
    assert bool((model.last.weight.grad == 5.0).all())
    assert model.first.weight.grad is None


def test_the_widget_trains_it():
    losses = []
    for reentrant in (True, False):
        model = Network(reentrant=reentrant)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        flow = GradientFlow(model, optimizer, nn.CrossEntropyLoss(), DATA)
        flow.step(3)
        losses.append(flow.history.loss.tolist())
        flow.close()
    assert losses[0] == losses[1]


@pytest.mark.parametrize("reentrant", [False, True])
def test_samples_are_the_models_where_a_block_has_its_own_rows(reentrant: bool):
    """As a mixture of experts has, which takes every token for itself."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.inner, self.last = (nn.Linear(5, 5) for _ in range(3))

        def block(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.inner(x.reshape(-1, 5))).reshape(x.shape)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            x = checkpoint(self.block, x, use_reentrant=True) if reentrant else self.block(x)
            out: torch.Tensor = self.last(x)
            return out

    inputs = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0))
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=True) as probe:
        model(inputs).square().mean().backward()
        optimizer.step()
        signal = probe.history.latest.signal_grad_norm
    kept: list[torch.Tensor] = []
    twin = Tokens()
    twin.inner.register_forward_hook(lambda *a: (a[2].retain_grad(), kept.append(a[2]))[1])
    out = twin.last(twin.block(twin.first(inputs)))
    out.square().mean().backward()
    assert signal[1] == pytest.approx(float(kept[0].grad.norm()) / 2, rel=1e-5)

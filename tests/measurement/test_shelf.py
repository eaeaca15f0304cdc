"""Small outputs and gradients are measured together, and come out as measured one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget.measurement import shelf
from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.measurement.reading import Reading
from gradflow_widget.measurement.shelf import Shelf, Shelves

QUANTITIES = (
    "signal_grad_norm",
    "activation_rms",
    "dead_fraction",
    "saturated_fraction",
    "weight_grad_max",
    "update_ratio",
)


class Cells(nn.Module):
    """A cell that a loop calls, and a layer for what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x.new_zeros(len(x), 7)
        for _ in range(6):
            hidden = self.cell(x, hidden)
        return self.out(hidden)


class TanhInPlace(nn.Module):
    """Writes over the layer's output, as ``nn.ReLU(inplace=True)`` does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh_(x)


class OwnLoss(nn.Module):
    """Has parameters of its own and gives a scalar, as a model that computes its loss does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = nn.Linear(5, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(self.inner(x)) * self.weight).mean()


class Branches(nn.Module):
    """One layer used twice, with another activation each time, changed in place after it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = torch.relu_(self.inner(x))
        twice = torch.tanh(self.inner(once).mul_(2.0))
        return self.out(once + twice)


def stacked(*activations: nn.Module) -> nn.Module:
    layers = [module for activation in activations for module in (nn.Linear(5, 5), activation)]
    return nn.Sequential(*layers, nn.Linear(5, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Conv1d(4, 4, 3, padding=1),
        nn.Hardtanh(-0.2, 0.4),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu, tanh, sigmoid": lambda: stacked(nn.ReLU(), nn.Tanh(), nn.Sigmoid()),
    "in place": lambda: stacked(nn.ReLU(inplace=True), nn.Tanh(), nn.ReLU(inplace=True)),
    "flat on both sides": lambda: stacked(nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardtanh(-1.0, 0.1)),
    "convolutions": convolutions,
    "a cell in a loop": Cells,
    "a layer used twice": Branches,
    "a scalar": OwnLoss,
}


def full_reading(build: Callable[[], nn.Module], scale: float = 1.0) -> Reading:
    torch.manual_seed(3)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = 3.0 * torch.randn(16, 5)
    with GradientProbe(model, optimizer, full=True) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            (scale * model(inputs).square().mean()).backward()
            optimizer.step()
        latest = probe.history.latest
    assert latest is not None
    return latest


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_together_is_as_one_by_one(
    name: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = full_reading(NETWORKS[name], scale)
    monkeypatch.setattr(shelf, "LARGEST", 0)
    one_by_one = full_reading(NETWORKS[name], scale)

    for quantity in QUANTITIES:
        np.testing.assert_allclose(
            getattr(together, quantity), getattr(one_by_one, quantity), rtol=1e-5, err_msg=quantity
        )
    assert (together.signal_grad_through_time is None) == (name != "a cell in a loop")
    for series, values in (together.signal_grad_through_time or {}).items():
        others = (one_by_one.signal_grad_through_time or {})[series]
        np.testing.assert_allclose(values, others, rtol=1e-5)


def test_an_activation_in_place_is_counted_as_any_other() -> None:
    there = full_reading(lambda: stacked(TanhInPlace(), nn.ReLU()))
    beside = full_reading(lambda: stacked(nn.Tanh(), nn.ReLU()))

    assert beside.saturated_fraction is not None
    assert beside.saturated_fraction[0] > 0
    np.testing.assert_array_equal(there.saturated_fraction, beside.saturated_fraction)


def test_units_are_silent_in_channels_and_in_the_last_dimension_alike() -> None:
    """A bias far below zero silences a channel, or a unit, and no others."""
    model = convolutions()
    with torch.no_grad():
        model[2].bias[1] = -1e3
        model[2].bias[2] = -1e3
    reading = full_reading(lambda: model)
    norm = reading.layers.index("2")

    assert reading.dead_fraction is not None
    assert reading.dead_fraction[norm] == 0.5


def test_a_nan_is_neither_silent_nor_saturated() -> None:
    def build() -> nn.Module:
        model = stacked(nn.ReLU(), nn.Tanh())
        with torch.no_grad():
            model[0].bias[0] = torch.nan
        return model

    reading = full_reading(build)

    assert reading.dead_fraction is not None
    assert np.isnan(reading.activation_rms).all()
    assert reading.dead_fraction[0] == 0.0


def test_rows_grow_and_are_measured_in_their_order() -> None:
    kept: Shelf[int] = Shelf(torch.empty(3, 4))
    rows = torch.randn(21, 3, 4)
    for owner, row in enumerate(rows):
        kept.put(owner, row)

    assert kept.owners == list(range(21))
    assert torch.equal(kept.rows, rows)
    expected = rows.double().flatten(1).norm(dim=1)
    np.testing.assert_allclose(kept.norms(), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-30, 1e30, float("inf"), float("nan")])
def test_norms_beyond_float32_squares_are_right(magnitude: float) -> None:
    kept: Shelf[None] = Shelf(torch.empty(4))
    kept.put(None, torch.full((4,), magnitude))

    np.testing.assert_allclose(kept.norms(), [2 * float(torch.tensor(magnitude))])


def test_what_can_not_be_copied_cheaply_is_left_to_be_measured_on_the_spot() -> None:
    shelves: Shelves[int] = Shelves()
    values = torch.ones(4)

    assert shelves.put(0, values)
    assert not shelves.put(0, values.half())
    assert not shelves.put(0, values.to(torch.complex64))
    assert not shelves.put(0, values.to("meta"))
    assert not shelves.put(0, torch.empty(0))
    assert not shelves.put(0, torch.ones(shelf.LARGEST + 1))
    assert not shelves.put(0, nn.Parameter(values))
    refused: list[bool] = []
    torch.vmap(lambda row: refused.append(not shelves.put(0, row)) or row)(torch.ones(2, 4))
    assert refused == [True]


def test_memory_is_bounded_in_rows_and_in_shapes() -> None:
    shelves: Shelves[int] = Shelves()
    row = torch.ones(shelf.LARGEST)
    taken = [shelves.put(0, row) for _ in range(300)]
    assert 1 < sum(taken) < 70
    shelves.clear()
    assert not list(shelves.filled())

    for length in range(1, 200):
        shelves.put(0, torch.ones(length, 64))
        shelves.clear()
        assert sum(each.nbytes for each in shelves._shelves.values()) <= 40_000_000

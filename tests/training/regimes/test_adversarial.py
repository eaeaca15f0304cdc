"""FGSM and PGD: within ε, up the loss, and leaving no trace."""

from __future__ import annotations

import copy
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.training.regimes.adversarial import perturbed
from gradflow_widget.training.regimes.regime import Attack

from .parts import all_equal, cross_entropy, network, plain, samples, state_of

FGSM = Attack("fgsm", 0.2)
PGD = Attack("pgd", 0.2, steps=10)
PGD_FROM_THE_DATA = Attack("pgd", 0.2, steps=10, random_start=False)
ATTACKS = {"fgsm": FGSM, "pgd": PGD, "pgd from the data": PGD_FROM_THE_DATA}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("seed", range(3))
def test_inputs_stay_within_epsilon_and_the_loss_rises(attack: Attack, seed: int) -> None:
    model, batch = plain(seed=seed), samples()
    before = cross_entropy(model, batch).item()
    torch.manual_seed(seed)
    inputs, targets = perturbed(model, cross_entropy, batch, attack)
    moved = (inputs - batch[0]).abs().max().item()
    assert 0.19 < moved < 0.2 + 1e-6
    assert targets is batch[1]
    assert cross_entropy(model, (inputs, targets)).item() > before + 0.01


@pytest.mark.parametrize("seed", range(5))
def test_pgd_goes_at_least_as_high_as_fgsm(seed: int) -> None:
    model, batch = plain(seed=seed), samples()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # curved enough for one step to be too coarse
    fgsm, pgd = (
        cross_entropy(model, perturbed(model, cross_entropy, batch, attack)).item()
        for attack in (FGSM, PGD_FROM_THE_DATA)
    )
    assert pgd > fgsm


def test_fgsm_is_the_closed_form_on_a_linear_model() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3, bias=False).double()
    inputs, targets = samples()
    inputs = inputs.double()
    # ∂/∂x of cross entropy is Wᵀ(softmax(Wx) − onehot).
    off = (inputs @ model.weight.detach().T).softmax(1) - functional.one_hot(targets, 3)
    expected = inputs + 0.2 * (off @ model.weight.detach()).sign()
    moved, _ = perturbed(model, cross_entropy, (inputs, targets), FGSM)
    assert torch.equal(moved, expected)
    # In a network that is linear in x, a margin's steepest direction is the same everywhere.
    weight = torch.randn(6, dtype=torch.float64)

    def margin(_: nn.Module, batch: Any) -> torch.Tensor:
        return (batch[0] @ weight).mean()

    fgsm, _ = perturbed(model, margin, (inputs, targets), FGSM)
    pgd, _ = perturbed(model, margin, (inputs, targets), PGD)
    torch.testing.assert_close(fgsm, inputs + 0.2 * weight.sign(), rtol=0, atol=0)
    torch.testing.assert_close(pgd, fgsm)


@pytest.mark.parametrize("attack", [FGSM, PGD_FROM_THE_DATA], ids=["fgsm", "pgd"])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_or_the_random_state_is_moved(attack: Attack, training: bool) -> None:
    model, batch = network().train(training), samples()
    cross_entropy(model, batch).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    inputs, before = batch[0].clone(), state_of(model)
    perturbed(model, cross_entropy, batch, attack)
    assert all_equal(state_of(model), before)
    assert all_equal([p.grad for p in model.parameters()], gradients)
    assert torch.equal(batch[0], inputs)
    assert not batch[0].requires_grad


def test_the_attack_meets_the_dropout_of_the_step() -> None:
    """With p = 0.9 another mask would leave most of the attack without effect."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(50, 3, bias=False))
    batch = torch.randn(8, 50), torch.randint(0, 3, (8,))
    torch.manual_seed(3)
    moved, _ = perturbed(model, cross_entropy, batch, FGSM)
    kept = model[0](torch.ones(8, 50)) > 0  # what the step draws now
    assert torch.equal(moved != batch[0], kept)


def test_a_random_start_is_repeated_by_the_seed_and_differs_from_step_to_step() -> None:
    model, batch = plain(), samples()
    attack = Attack("pgd", 0.2, steps=1, step_size=1e-9)

    def start() -> torch.Tensor:
        return perturbed(model, cross_entropy, batch, attack)[0]

    torch.manual_seed(1)
    first, second = start(), start()
    torch.manual_seed(1)
    assert torch.equal(start(), first)
    assert not torch.equal(first, second)
    assert (first - batch[0]).abs().mean().item() == pytest.approx(0.1, abs=0.01)


def test_the_probe_sees_the_step_and_not_the_attack() -> None:
    """The step's reading is that of a step on inputs which were moved beforehand."""

    def step(full: bool, attack_within: bool) -> Any:
        model, batch = plain(seed=2), samples()
        moved = perturbed(copy.deepcopy(model), cross_entropy, batch, FGSM)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with GradientProbe(model, optimizer, full=full) as probe:
            calls = []
            if attack_within:
                with probe.looking_away():
                    moved = perturbed(model, cross_entropy, batch, FGSM)
                    calls = probe._capture._passes if probe._capture else []
            assert calls == []
            cross_entropy(model, moved).backward()
            optimizer.step()
            return probe.history.latest

    for full in (False, True):
        with_attack, without = step(full, True), step(full, False)
        assert with_attack.loss == without.loss
        for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms"):
            one, other = getattr(with_attack, name), getattr(without, name)
            assert (one is None and other is None) or np.array_equal(one, other)


def test_between_micro_batches_the_probe_keeps_what_it_has_seen() -> None:
    model, (inputs, targets) = plain(), samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    halves = [(inputs[:30], targets[:30]), (inputs[30:], targets[30:])]
    readings = []
    for looks_away in (False, True):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        with GradientProbe(twin, optimizer, full=True) as probe:
            for half in halves:
                (cross_entropy(twin, half) / 2).backward()
                if looks_away:
                    with probe.looking_away():
                        cross_entropy(twin, half)
                        # Even a backward pass, of which the gradients are thrown away.
                        held = [p.grad for p in twin.parameters()]
                        for p in twin.parameters():
                            p.grad = None
                        cross_entropy(twin, half).backward()
                        for p, gradient in zip(twin.parameters(), held, strict=True):
                            p.grad = gradient
            optimizer.step()
            readings.append(probe.history.latest)
    first, second = readings
    assert second.loss == first.loss
    assert np.array_equal(second.signal_grad_norm, first.signal_grad_norm)
    assert np.array_equal(second.activation_rms, first.activation_rms)
    assert np.array_equal(second.weight_grad_norm, first.weight_grad_norm)


def test_the_order_of_layers_is_not_learned_while_looking_away() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Linear(6, 3), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                return self.second(x) + self.first(x).sum()
            return self.second(self.first(x))

    model = Branching()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        model.eval()
        with probe.looking_away():
            model(samples()[0])
        model.train()
        cross_entropy(model, samples()).backward()
        optimizer.step()
        assert probe.layers == ("first", "second")


def test_batches_keep_their_form() -> None:
    model, (inputs, targets) = plain(), samples()
    pair = namedtuple("pair", "inputs targets")
    for batch in ((inputs, targets), [inputs, targets], pair(inputs, targets)):
        moved = perturbed(model, cross_entropy, batch, FGSM)
        assert type(moved) is type(batch)
    alone = perturbed(model, lambda m, x: m(x).square().mean(), inputs, FGSM)
    assert (alone - inputs).abs().max().item() == pytest.approx(0.2)


def test_a_network_that_works_in_place_is_attacked_like_another() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.Linear(8, 3)]
    batch = samples()
    one, other = (
        perturbed(
            nn.Sequential(nn.ReLU(inplace), layers[0], nn.ReLU(inplace), layers[1]),
            cross_entropy,
            batch,
            PGD_FROM_THE_DATA,
        )[0]
        for inplace in (True, False)
    )
    assert torch.equal(one, other)


def test_an_input_whose_gradient_is_nan_stays_where_it_is() -> None:
    inputs = torch.tensor([[1.0, 4.0]])

    def objective(_: nn.Module, batch: Any) -> torch.Tensor:
        x = batch[0]
        return (x * torch.tensor([float("nan"), 1.0])).sum()

    moved, _ = perturbed(plain(), objective, (inputs, torch.zeros(1)), FGSM)
    assert moved.tolist() == [[1.0, pytest.approx(4.2)]]


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((torch.ones(4, 6, dtype=torch.int64), torch.zeros(4)), TypeError, "int64: give floating"),
        (({"x": torch.ones(4, 6)}, torch.zeros(4)), TypeError, "they are dict"),
        ({"x": torch.ones(4, 6)}, TypeError, "they are dict"),
        ((), TypeError, "they are tuple"),
    ],
)
def test_inputs_that_cannot_be_moved_are_refused(batch: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        perturbed(plain(), cross_entropy, batch, FGSM)


def test_a_loss_that_does_not_depend_on_the_inputs_is_refused() -> None:
    def objective(model: nn.Module, _: Any) -> torch.Tensor:
        return model(torch.ones(1, 6)).sum()

    with pytest.raises(ValueError, match="depends on the batch's inputs"):
        perturbed(plain(), objective, samples(), FGSM)

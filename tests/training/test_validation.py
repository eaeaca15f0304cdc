"""Validation: right by hand, bounded in cost, and without a trace in the training."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.training.batches import as_batches
from gradflow_widget.training.validation import Validation, ValidationCurve, Validator, correct

from .regimes.parts import all_equal, cross_entropy, network, plain, samples, state_of


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# -- the numbers -------------------------------------------------------------------------


def test_accuracy_and_loss_are_those_of_all_samples_in_eval_mode() -> None:
    model, (inputs, targets) = network(), samples(700)
    model(inputs)
    result = Validator(cross_entropy, (inputs, targets)).evaluate(model, 30)
    model.eval()
    outputs = model(inputs)
    assert result.accuracy == (outputs.argmax(1) == targets).double().mean().item()
    assert result.loss == pytest.approx(functional.cross_entropy(outputs, targets).item())
    assert (result.step, result.samples) == (30, 700)


def test_batches_of_unequal_length_count_by_their_samples() -> None:
    model, (inputs, targets) = plain(), samples(70)
    parts = slice(60), slice(60, 70), slice(10)
    batches = [(inputs[part], targets[part]) for part in parts]
    result = Validator(cross_entropy, batches).evaluate(model, 1)
    rows = [*range(70), *range(10)]
    expected = functional.cross_entropy(model(inputs[rows]), targets[rows]).item()
    assert result.loss == pytest.approx(expected)
    assert result.samples == 80


def right(outputs: Any, targets: Any) -> tuple[int, int]:
    first, second = correct(torch.tensor(outputs), torch.tensor(targets)).tolist()
    return first, second


def test_classes_are_the_last_dimension_or_else_the_second() -> None:
    assert right([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [1, 0, 0]) == (2, 3)
    per_token = [[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]
    assert right(per_token, [[1, 2]]) == (1, 2)
    images = torch.zeros(2, 5, 3, 4)
    images[:, 2] = 1
    assert correct(images, torch.full((2, 3, 4), 2)).tolist() == [24, 24]


def test_ignored_labels_do_not_count_and_nan_is_never_right() -> None:
    nan = float("nan")
    assert right([[0.1, 0.9], [0.8, 0.2], [nan, 0.2]], [1, -100, 0]) == (1, 2)
    assert right([[[nan, nan]]], [[0]]) == (0, 1)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ([[0.1, 0.9]], [[0.3, 0.3]]),
        ([[0.1], [0.4]], [0.0, 1.0]),
        ([[0.1, 0.9]], [True]),
        ([[[0.1, 0.9]]], [1]),
    ],
    ids=["values", "one value", "bool", "one label for many outputs"],
)
def test_what_is_no_classification_has_no_accuracy(outputs: Any, targets: Any) -> None:
    assert right(outputs, targets) == (0, 0)


def test_regression_has_a_loss_and_no_accuracy() -> None:
    model, inputs = plain(), samples()[0]
    targets = torch.randn(60, 3)
    result = Validator(lambda m, b: functional.mse_loss(m(b[0]), b[1]), (inputs, targets)).evaluate(
        model, 5
    )
    assert np.isnan(result.accuracy)
    assert result.loss == pytest.approx(functional.mse_loss(model(inputs), targets).item())


def test_an_objective_of_its_own_is_validated_with_one_pass() -> None:
    model = plain()
    calls: list[None] = []
    model.register_forward_hook(lambda *_: calls.append(None))

    def objective(network: nn.Module, batch: Any) -> torch.Tensor:
        return functional.nll_loss(network(batch[0]).log_softmax(1), batch[1])

    result = Validator(objective, samples()).evaluate(model, 0)
    assert len(calls) == 1
    assert result.accuracy == (model(samples()[0]).argmax(1) == samples()[1]).double().mean()
    batches = [{"x": samples()[0]}] * 3
    own = Validator(lambda m, b: m(b["x"]).square().mean(), batches).evaluate(model, 0)
    assert np.isnan(own.accuracy)
    assert own.samples == 180


# -- without a trace ---------------------------------------------------------------------


def test_training_is_bit_identical_with_and_without_validation() -> None:
    class Drawing(nn.Module):
        """Draws from every generator, in eval mode too."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            noise = 0.1 * (torch.rand(()) + random.random() + float(np.random.rand()))
            out: torch.Tensor = self.network(x + noise)
            return out

    loader = DataLoader(TensorDataset(*samples(50)), batch_size=8, shuffle=True)

    def train(validate: bool) -> list[Any]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model = Drawing()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        batches = as_batches(samples())
        batches.restart(0)
        validators = [Validator(cross_entropy, data, every=1) for data in (samples(50), loader)]
        readings: list[Any] = []
        with GradientProbe(model, optimizer, full=True) as probe:
            for step in range(8):
                optimizer.zero_grad(set_to_none=True)
                loss = cross_entropy(model, batches.next(16))
                if validate:  # the worst place for it: between forward and backward pass
                    for validator in validators:
                        validator.evaluate(model, step, looking_away=probe.looking_away)
                loss.backward()
                optimizer.step()
            history = probe.history
        assert not model._forward_hooks
        readings += [history.loss, history.weight_grad_norm, history.signal_grad_norm]
        readings += [history.activation_rms, history.dead_fraction]
        return [
            *(np.nan_to_num(column, nan=-1.0).tobytes() for column in readings),
            *(value.numpy().tobytes() for value in state_of(model)),
            random.random(),
            float(np.random.rand()),
        ]

    assert train(True) == train(False)


def test_gradients_and_modes_are_as_before_even_where_the_model_fails() -> None:
    model = network()
    model[1].eval()
    cross_entropy(model, samples()).backward()
    before = state_of(model), [p.grad.clone() for p in model.parameters()]

    def objective(network: nn.Module, batch: Any) -> torch.Tensor:
        network(batch[0])
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        Validator(objective, samples()).evaluate(model, 1)
    Validator(cross_entropy, samples()).evaluate(model, 1)
    assert all_equal(state_of(model), before[0])
    assert all_equal([p.grad for p in model.parameters()], before[1])
    assert not model._forward_hooks


def test_making_a_validator_draws_from_nobody_s_random_state() -> None:
    before = torch.get_rng_state()
    loader = DataLoader(TensorDataset(*samples(50)), batch_size=8, shuffle=True)
    Validator(cross_entropy, loader)
    Validator(cross_entropy, samples(), samples=5)
    assert torch.equal(torch.get_rng_state(), before)


# -- the cost ----------------------------------------------------------------------------


def validated_steps(step_seconds: float, cost: float, steps: int, **options: Any) -> list[int]:
    clock, model = Clock(), plain()

    def objective(network: nn.Module, batch: Any) -> torch.Tensor:
        clock.now += cost
        return cross_entropy(network, batch)

    validator = Validator(objective, samples(), clock=clock, **options)
    done = []
    for step in range(1, steps + 1):
        with validator.timing_a_step():
            clock.now += step_seconds
        clock.now += 1000.0  # the user pauses: no training, so no allowance
        if validator.is_due(step):
            assert validator.evaluate(model, step).seconds == pytest.approx(cost)
            done.append(step)
    return done


def test_cheap_evaluations_come_every_so_many_steps() -> None:
    assert validated_steps(1.0, 0.4, 50) == [10, 20, 30, 40, 50]
    assert validated_steps(1.0, 0.01, 9, every=3) == [3, 6, 9]


def test_of_quick_steps_more_go_by_than_an_eye_could_follow() -> None:
    clock, model = Clock(), plain()
    validator = Validator(cross_entropy, samples(), interval=0.15, clock=clock)
    done = []
    for step in range(1, 401):
        with validator.timing_a_step():
            clock.now += 0.001
        if validator.is_due(step):
            validator.evaluate(model, step)
            done.append(step)
    assert done == [10, 160, 310]


@pytest.mark.parametrize("cost", [1.0, 3.0, 40.0])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_dear_evaluations_are_stretched_to_their_share(cost: float, share: float) -> None:
    steps = 4000
    done = validated_steps(1.0, cost, steps, share=share)
    assert len(done) * cost <= share * steps + cost
    assert len(done) * cost > share * steps - cost - 10 * share * len(done) - 1
    assert done[0] == 10
    assert all(step % 10 == 0 for step in done)


def test_restart_begins_a_new_account() -> None:
    clock = Clock()
    validator = Validator(cross_entropy, samples(), every=1, clock=clock)
    with validator.timing_a_step():
        clock.now += 1.0
    validator._spent = 9.0
    assert not validator.is_due(1)
    validator.restart()
    assert validator.is_due(1)


@pytest.mark.parametrize("many", [10, 300, 600])
def test_no_more_samples_are_looked_at_than_allowed_and_always_the_same(many: int) -> None:
    seen: list[torch.Tensor] = []

    def objective(network: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(batch[0])
        return cross_entropy(network, batch)

    model, data = plain(), samples(600)
    validator = Validator(objective, data, samples=many)
    assert validator.samples == many
    for _ in range(2):
        assert validator.evaluate(model, 1).samples == many
    first, second = torch.cat(seen).chunk(2)
    assert torch.equal(first, second)
    assert len(torch.unique(first, dim=0)) == many
    again = Validator(objective, data, samples=many)
    assert all(map(torch.equal, again._batches[0], validator._batches[0]))


def test_an_iterable_is_looked_at_as_far_as_allowed() -> None:
    inputs, targets = samples(600)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=100)
    assert Validator(cross_entropy, loader, samples=250).samples == 200
    assert Validator(cross_entropy, loader, samples=50).samples == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1"),
        ({"share": 0.0}, "share must be a positive"),
        ({"interval": 0.0}, "interval must be a positive"),
        ({"samples": 0}, "samples must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_numbers_get_one_sentence(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Validator(cross_entropy, samples(), **options)


def test_data_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(TypeError, match="validation must be"):
        Validator(cross_entropy, "digits")
    with pytest.raises(ValueError, match="validation is empty"):
        Validator(cross_entropy, (torch.ones(0, 2), torch.ones(0)))


# -- the curve ---------------------------------------------------------------------------


def validation(step: int, accuracy: float = 0.5, loss: float = 1.0) -> Validation:
    return Validation(step, accuracy, loss, 60, 0.01)


def test_a_curve_keeps_columns() -> None:
    curve = ValidationCurve()
    assert curve.columns()["step"].shape == (0,)
    assert curve.latest is None
    for step, accuracy in ((10, 0.2), (20, 0.9), (30, 0.7)):
        curve.append(validation(step, accuracy))
    columns = curve.columns()
    assert list(columns) == ["step", "accuracy", "loss", "samples", "seconds"]
    assert columns["step"].tolist() == [10, 20, 30]
    assert columns["accuracy"].tolist() == [0.2, 0.9, 0.7]
    assert columns["samples"].dtype == np.float64
    assert (curve.latest, curve.best) == (validation(30, 0.7), validation(20, 0.9))
    frame = curve.to_dataframe()
    assert frame["accuracy"].tolist() == [0.2, 0.9, 0.7]
    assert frame["step"].tolist() == [10, 20, 30]
    curve.clear()
    assert len(curve) == 0
    assert curve.best is None


def test_the_best_is_the_lowest_loss_where_there_is_no_accuracy() -> None:
    curve, nan = ValidationCurve(), float("nan")
    for step, loss in enumerate((nan, 3.0, 1.0, 2.0, nan)):
        curve.append(validation(step, nan, loss))
    assert curve.best is not None
    assert curve.best.step == 2


def test_memory_is_bounded_and_the_ends_are_kept() -> None:
    curve = ValidationCurve(capacity=100)
    for step in range(10_000):
        curve.append(validation(step, accuracy=1.0 if step == 77 else 0.5))
        assert len(curve) <= 100
    steps = curve.columns()["step"]
    assert steps[0] == 0
    assert steps[-1] == 9_999
    assert (np.diff(steps) > 0).all()
    assert len(steps) >= 50
    assert curve.best is not None
    assert curve.best.step == 77
    with pytest.raises(ValueError, match="capacity must be at least 2"):
        ValidationCurve(1)


@pytest.mark.parametrize(("labels", "looked_at"), [(50, 200), (100, 100), (5_000, 100)])
def test_of_samples_with_many_labels_fewer_are_looked_at(labels: int, looked_at: int) -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]).transpose(1, 2), batch[1])

    text = torch.randn(400, labels, 4), torch.randint(3, (400, labels))
    validator = Validator(objective, text)
    assert validator.samples == looked_at
    assert validator.evaluate(nn.Linear(4, 3), 1).samples == looked_at


def test_targets_that_are_no_labels_are_all_looked_at() -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    pictures = torch.randn(400, 784)
    assert Validator(objective, (pictures, pictures)).samples == 400

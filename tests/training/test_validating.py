"""Validation in the whole widget: when, on what, and without a trace in the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradflow_widget import GradientFlow
from gradflow_widget.training.validating import LONGEST_AT_REST
from gradflow_widget.training.validation import Validator

from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples, small_network

Make = Callable[..., GradientFlow]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def held_out() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)


def validated(make_flow: Make, **options: Any) -> GradientFlow:
    return make_flow(
        small_network, sgd, CROSS_ENTROPY, samples(), **{"validation": held_out(), **options}
    )


def by_hand(model: nn.Module) -> tuple[float, float]:
    """Accuracy and loss of all that is held out, in eval mode; modes are put back."""
    inputs, targets = held_out()
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        outputs = model.eval()(inputs)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    right = (outputs.argmax(1) == targets).double().mean().item()
    return right, functional.cross_entropy(outputs, targets).item()


def assert_is_of_now(flow: GradientFlow) -> None:
    accuracy, loss = by_hand(flow.model)
    latest = flow.validations.latest
    assert latest is not None
    assert latest.step == flow.step_number
    assert flow.accuracy == latest.accuracy == accuracy
    assert latest.loss == pytest.approx(loss, rel=1e-6)
    assert latest.samples == 40


# -- the numbers, wherever training rests ------------------------------------------------


def test_before_the_first_step_there_is_none(make_flow: Make) -> None:
    flow = validated(make_flow)
    assert math.isnan(flow.accuracy)
    assert len(flow.validations) == 0
    plain = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    plain.step(12)
    assert math.isnan(plain.accuracy)
    assert len(plain.validations) == 0


@pytest.mark.parametrize("speed", [1, "max"])
def test_it_is_of_the_latest_step_when_step_returns(make_flow: Make, speed: Any) -> None:
    flow = validated(make_flow)
    flow.speed = speed
    for count in (1, 13, 7):
        flow.step(count)
        # Not by being asked for it: the page shows it too.
        assert flow._stage.loss.validation.latest == pytest.approx(100 * by_hand(flow.model)[0])
        assert_is_of_now(flow)
    assert set(flow.validations.columns()["step"]) >= {1, 10, 14, 21}
    assert f"validation {100 * flow.accuracy:.1f} %" in flow.status


def test_it_is_of_the_latest_step_after_steps_play_and_an_exception_in_between(
    make_flow: Make,
) -> None:
    flow = validated(make_flow)
    losses_of(flow, 7)
    assert flow._stage.loss.validation.latest == pytest.approx(100 * by_hand(flow.model)[0])
    assert_is_of_now(flow)
    flow.play()
    flow.wait(5)
    flow.pause()
    flow.wait()
    assert_is_of_now(flow)
    for reading in flow.steps(9):
        if reading.step % 4 == 0:
            break
    assert_is_of_now(flow)


def test_it_is_not_made_anew_for_who_looks_in_each_step(make_flow: Make) -> None:
    flow = validated(make_flow)
    seen = []
    for reading in flow.steps(25):
        seen.append((reading.step, flow.accuracy))
    steps = flow.validations.columns()["step"]
    assert set(steps) <= {10, 20, 25}
    assert all(math.isnan(accuracy) for step, accuracy in seen if step < 10)


def test_reset_and_a_new_network_forget_and_repeat_it(make_flow: Make) -> None:
    flow = validated(make_flow)
    flow.step(20)
    accuracy, loss = flow.accuracy, flow.validations.latest.loss
    flow.reset()
    assert len(flow.validations) == 0
    assert math.isnan(flow.accuracy)
    assert flow._stage.loss.validation.latest is None
    flow.step(20)
    assert (flow.accuracy, flow.validations.latest.loss) == (accuracy, loss)
    flow.activation = "relu"
    assert math.isnan(flow.accuracy)
    flow.step()
    assert_is_of_now(flow)


def test_a_regime_does_not_touch_what_is_held_out(make_flow: Make) -> None:
    flow = validated(make_flow)
    flow.regime = {
        "label_noise": 0.5,
        "dropout": 0.5,
        "adversarial": {"method": "fgsm", "epsilon": 1.0},
    }
    flow.step(12)
    assert_is_of_now(flow)


def test_regression_has_a_loss_and_draws_no_accuracy(make_flow: Make) -> None:
    inputs = samples()[0]
    flow = make_flow(
        plain_network,
        sgd,
        nn.MSELoss(),
        (inputs, torch.zeros(96, 3)),
        validation=(inputs[:20], torch.zeros(20, 3)),
    )
    flow.step(10)
    assert math.isnan(flow.accuracy)
    assert flow.validations.latest.loss == pytest.approx(
        flow.model(inputs[:20]).square().mean().item(), rel=1e-5
    )
    assert flow._stage.loss.validation.latest is None


KINDS: dict[str, Callable[[], Any]] = {
    "tensors": held_out,
    "arrays": lambda: tuple(part.numpy() for part in held_out()),
    "dataset": lambda: TensorDataset(*held_out()),
    "loader": lambda: DataLoader(TensorDataset(*held_out()), batch_size=16),
    "batches": lambda: [tuple(part[i : i + 16] for part in held_out()) for i in (0, 16, 32)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind(make_flow: Make, kind: str) -> None:
    flow = validated(make_flow, validation=KINDS[kind]())
    flow.step(10)
    assert_is_of_now(flow)


def test_the_playground_validates_what_it_has_held_out() -> None:
    flow = GradientFlow.playground(depth=3, activation="relu")
    try:
        flow.speed = "max"
        flow.step(200)
        assert flow.accuracy > 0.9
        assert flow.validations.latest.samples == 1797 - flow._training._trainer.samples
        assert len(flow.validations.columns()["step"]) >= 2
    finally:
        flow.close()


# -- its cost ----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: Any) -> Any:
    """A clock that each look at moves by ``tick`` seconds."""

    class Clock:
        now, tick = 0.0, 0.0

        def __call__(self) -> float:
            self.now += self.tick
            return self.now

    clock = Clock()
    real = Validator.__init__
    monkeypatch.setattr(
        Validator,
        "__init__",
        lambda self, *args, **kwargs: real(self, *args, **{**kwargs, "clock": clock}),
    )
    return clock


def test_evaluations_take_their_share_of_the_training_and_no_more(
    make_flow: Make, clock: Any
) -> None:
    """A step takes 1 s and an evaluation 10 s: so 200 steps of training come before the next."""

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        clock.now += 1.0 if model.training else 10.0
        return CROSS_ENTROPY(model(batch[0]), batch[1])

    flow = make_flow(plain_network, sgd, data=samples(), objective=objective, validation=held_out())
    list(flow.steps(450))
    due = [10, 200, 400]
    # What is made at rest is made beside that: once, for it takes too long to be made each time.
    assert flow._training._validating.curve.columns()["step"].tolist() == due
    flow.step(3)
    assert flow._training._validating.curve.columns()["step"].tolist() == due
    assert flow._training._validating.curve.latest.seconds > LONGEST_AT_REST
    # But who asks is answered.
    assert_is_of_now(flow)


@pytest.mark.parametrize("how", ["plain", "run"])
def test_the_time_of_a_user_s_own_loop_is_that_between_its_steps(
    make_flow: Make, clock: Any, how: str
) -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        clock.now += 0.1
        return CROSS_ENTROPY(model(batch[0]), batch[1])

    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = make_flow(model, optimizer, objective=objective, validation=held_out())
    inputs, targets = samples()

    def loop() -> None:
        for _ in range(65):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(inputs), targets).backward()
            clock.now += 0.1
            optimizer.step()

    if how == "run":
        flow.run(loop)
        flow.wait()
    else:
        loop()
        flow._cell_ended()
    # An evaluation costs what 20 steps cost together: 5 %.
    assert flow._training._validating.curve.columns()["step"].tolist() == [10, 30, 50, 65]
    assert_is_of_now(flow)


# -- without a trace ---------------------------------------------------------------------


@pytest.mark.parametrize("data", ["tensors", "loader"])
def test_the_run_is_the_same_bit_for_bit_with_and_without(make_flow: Make, data: str) -> None:
    def losses(**options: Any) -> Any:
        torch.manual_seed(0)
        given = samples()
        if data == "loader":
            given = DataLoader(TensorDataset(*given), batch_size=16, shuffle=True)
        flow = make_flow(small_network, sgd, CROSS_ENTROPY, given, **options)
        flow.step(14)
        flow.step()
        assert flow.model.training
        return flow.history

    loader = DataLoader(TensorDataset(*held_out()), batch_size=7, shuffle=True)
    plain, watched = losses(), losses(validation=loader)
    for name in ("loss", "total_norm", "signal_grad_norm", "dead_fraction", "update_ratio"):
        assert same_bits(getattr(plain, name), getattr(watched, name)), name


# -- a loop of the user's own ------------------------------------------------------------


def test_a_plain_loop_is_validated_with_the_loss_alone(make_flow: Make) -> None:
    model = small_network()
    optimizer = sgd(model.parameters())
    flow = make_flow(model, optimizer, CROSS_ENTROPY, validation=held_out())
    inputs, targets = samples()
    before = torch.get_rng_state()
    for step in range(1, 13):
        optimizer.zero_grad()
        CROSS_ENTROPY(model(inputs), targets).backward()
        optimizer.step()
        if step == 9:
            assert math.isnan(flow.accuracy)
    assert flow.validations.latest.step == 10
    flow._cell_ended()
    assert_is_of_now(flow)
    assert flow.status.count("validation") == 1
    assert not torch.equal(before, torch.get_rng_state())  # dropout has drawn, nothing else
    twin = small_network()
    other = sgd(twin.parameters())
    torch.set_rng_state(before)
    for _ in range(12):
        other.zero_grad()
        CROSS_ENTROPY(twin(inputs), targets).backward()
        other.step()
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True)
    )


def test_a_handed_over_loop_is_validated_where_it_rests(make_flow: Make) -> None:
    flow = validated(make_flow)
    inputs, targets = samples()

    def loop() -> None:
        for _ in range(16):
            flow.optimizer.zero_grad()
            CROSS_ENTROPY(flow.model(inputs), targets).backward()
            flow.optimizer.step()

    flow.run(loop)
    flow.pause()
    flow.step(3)
    assert_is_of_now(flow)
    flow.reset()
    assert math.isnan(flow.accuracy)
    flow.play()
    flow.wait()
    assert flow.step_number == 16
    assert_is_of_now(flow)


# -- what can't be validated -------------------------------------------------------------

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a name": ("digits", TypeError, "validation must be a pair of tensors"),
    "lengths": ((torch.ones(4, 6), torch.ones(3)), ValueError, "validation has inputs of shape"),
    "empty": ((torch.ones(0, 6), torch.ones(0)), ValueError, "validation is empty"),
    "one pass": (iter([1]), ValueError, "validation can be gone through only once"),
    "shape": (
        (torch.ones(4, 5), torch.zeros(4, dtype=torch.int64)),
        RuntimeError,
        "validation failed on the first batch with RuntimeError",
    ),
    "classes": (
        (torch.ones(4, 6), torch.full((4,), 7)),
        RuntimeError,
        "validation failed on the first batch with IndexError",
    ),
}


@pytest.mark.parametrize(("validation", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_validation_data_are_refused_before_anything_starts(
    make_flow: Make, validation: Any, kind: type[Exception], says: str, nothing_is_left: None
) -> None:
    with pytest.raises(kind, match=says):
        validated(make_flow, validation=validation)


def test_validation_needs_a_loss(make_flow: Make) -> None:
    model = plain_network()
    with pytest.raises(ValueError, match="validation was given without loss_fn"):
        make_flow(model, sgd(model.parameters()), validation=held_out())


def test_what_fails_while_validating_stops_the_training_with_its_reason(make_flow: Make) -> None:
    spoilt: list[bool] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        if spoilt and not model.training:
            raise LookupError("no such word")
        return CROSS_ENTROPY(model(batch[0]), batch[1])

    flow = make_flow(plain_network, sgd, data=samples(), objective=objective, validation=held_out())
    flow.step(2)
    spoilt.append(True)
    with pytest.raises(LookupError, match="no such word"):
        flow.step(3)
    assert flow.step_number == 5
    assert "Training stopped: LookupError: no such word." in flow.status
    assert flow.accuracy == flow.validations.latest.accuracy
    assert flow.validations.latest.step == 2
    spoilt.clear()
    flow.step()
    assert np.isfinite(flow.history.loss).all()

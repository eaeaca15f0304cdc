"""What the knobs do to a step of the user's own loop: closures, scalers, precision, groups."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from gradflow_widget import GradientFlow, recipe
from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.training.settings import Settings
from gradflow_widget.training.steering import Steering
from tests.waiting import join, started

from .parts import CROSS_ENTROPY, plain_network, samples

INPUTS, TARGETS = samples()
Clip = Callable[[Any], Any]


def loss_of(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = CROSS_ENTROPY(model(INPUTS), TARGETS)
    return loss


def total_of(parameters: Any) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters))


def norms_of(model: nn.Module) -> list[float]:
    """Each layer's ∂L/∂W, in float64."""
    return [
        float(module.weight.grad.double().norm())
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]


# -- a closure -------------------------------------------------------------------------

CLOSED: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "LBFGS with a line search": lambda p: torch.optim.LBFGS(
        p, max_iter=3, line_search_fn="strong_wolfe"
    ),
}
# Off, by norm, by value, off: one step of each.
KNOBS: list[tuple[str, float] | None] = [None, ("clip_norm", 0.05), ("clip_value", 2e-3), None]


def clip_of(knob: tuple[str, float] | None) -> Clip:
    if knob is None:
        return lambda parameters: None
    name, value = knob
    by = nn.utils.clip_grad_norm_ if name == "clip_norm" else nn.utils.clip_grad_value_
    return lambda parameters: by(parameters, value)


@pytest.mark.parametrize("in_a_run", [False, True], ids=["in a cell", "handed to run"])
@pytest.mark.parametrize("by_name", [False, True], ids=["first argument", "by name"])
@pytest.mark.parametrize("kind", CLOSED)
def test_what_a_closure_computes_is_clipped_once_and_read_right(
    kind: str, by_name: bool, in_a_run: bool
) -> None:
    model = plain_network()
    by_hand = copy.deepcopy(model)
    optimizer, theirs = CLOSED[kind](model.parameters()), CLOSED[kind](by_hand.parameters())
    flow = GradientFlow(model, optimizer)
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    def step() -> None:
        if by_name:
            optimizer.step(closure=closure)
        else:
            optimizer.step(closure)

    their_calls = 0
    for number, knob in enumerate(KNOBS, start=1):
        flow.clip_norm = flow.clip_value = None
        if knob is not None:
            setattr(flow, *knob)
        clip, seen = clip_of(knob), {}

        def clipped(clip: Clip = clip, seen: dict[str, Any] = seen) -> torch.Tensor:
            nonlocal their_calls
            their_calls += 1
            theirs.zero_grad()
            loss = loss_of(by_hand)
            loss.backward()
            seen["before"], seen["total"] = norms_of(by_hand), total_of(by_hand.parameters())
            clip(by_hand.parameters())
            seen["after"], seen["left"] = norms_of(by_hand), total_of(by_hand.parameters())
            return loss

        theirs.step(clipped)
        if in_a_run:
            flow.run(step)
            flow.wait()
        else:
            step()
        ours = zip(model.parameters(), by_hand.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in ours)
        reading = flow.history.latest
        assert reading.step == number
        assert reading.total_norm == pytest.approx(seen["total"], rel=1e-5)
        assert reading.clip_scale == pytest.approx(seen["left"] / seen["total"], rel=1e-5)
        assert (reading.clip_scale < 0.95) == (knob is not None)  # every clip binds here
        assert reading.unclipped_grad_norm == pytest.approx(seen["before"], rel=1e-5)
        assert reading.weight_grad_norm == pytest.approx(seen["after"], rel=1e-5)
    assert calls == their_calls
    flow.close()


def test_a_step_called_with_no_closure_as_its_argument_is_clipped() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer, clip_norm=0.05)
    loss_of(model).backward()
    optimizer.step(None)
    assert total_of(model.parameters()) == pytest.approx(0.05, rel=1e-4)
    flow.close()


# -- a fused optimizer with a scaler ---------------------------------------------------


@pytest.mark.parametrize("scale", [1024.0, 2.0**-3])
@pytest.mark.parametrize("knob", ["clip_norm", "clip_value", None])
def test_a_fused_optimizer_that_unscales_by_itself_is_clipped_as_if_unscaled(
    knob: str | None, scale: float
) -> None:
    model = plain_network()
    by_hand = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    bound = {"clip_norm": 0.05, "clip_value": 2e-3}
    flow = GradientFlow(model, optimizer)
    if knob is not None:
        setattr(flow, knob, bound[knob])
    scaler.scale(loss_of(model)).backward()
    scaler.step(optimizer)
    scaler.update()

    loss_of(by_hand).backward()
    before, total = norms_of(by_hand), total_of(by_hand.parameters())
    clip_of(None if knob is None else (knob, bound[knob]))(by_hand.parameters())
    after, left = norms_of(by_hand), total_of(by_hand.parameters())
    with torch.no_grad():
        for parameter, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(parameter, other - 0.1 * other.grad, rtol=1e-5, atol=1e-7)
    reading = flow.history.latest
    assert reading.total_norm == pytest.approx(total, rel=1e-5)
    assert reading.total_norm * reading.clip_scale == pytest.approx(left, rel=1e-4)
    assert reading.unclipped_grad_norm == pytest.approx(before, rel=1e-5)
    assert reading.weight_grad_norm == pytest.approx(after, rel=1e-4)
    flow.close()


@pytest.mark.parametrize("knob", ["clip_norm", "clip_value"])
def test_a_fused_step_skipped_for_an_inf_is_still_skipped(knob: str) -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    flow = GradientFlow(model, optimizer)
    setattr(flow, knob, 0.01)
    before = copy.deepcopy(model.state_dict())
    for factor in (math.inf, 1.0):
        assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
        optimizer.zero_grad()
        scaler.scale(loss_of(model) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert flow.step_number == 1
    assert not all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    flow.close()


# -- what rounding and overflow leave --------------------------------------------------


@pytest.mark.parametrize("full", [True, False], ids=["in full", "not in full"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_read_as_clipping_left_them(
    dtype: torch.dtype, full: bool
) -> None:
    model = plain_network().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    steering = Steering(optimizer, lambda: Settings(clip_norm=0.0317))
    probe = GradientProbe(model, optimizer, full=full)
    steering.follow(probe)
    off = []
    for shift in range(4):
        optimizer.zero_grad()
        outputs = model(INPUTS.to(dtype) + shift)
        CROSS_ENTROPY(outputs.float(), TARGETS).backward()
        total = total_of(model.parameters())
        optimizer.step()
        left, reading = total_of(model.parameters()), probe.history.latest
        assert reading.total_norm == pytest.approx(total, rel=1e-5)
        assert reading.clip_scale == pytest.approx(left / total, rel=2e-5)
        assert reading.weight_grad_norm == pytest.approx(norms_of(model), rel=2e-5)
        if full:
            weights = [m.weight.grad for m in model.modules() if isinstance(m, nn.Linear)]
            largest = [float(gradient.abs().max()) for gradient in weights]
            assert reading.weight_grad_max == pytest.approx(largest)
        off.append(abs(left / 0.0317 - 1))
    assert max(off) > 1e-4, "rounding shows, or else nothing was tested"
    probe.close()
    steering.close()


def test_where_torch_s_total_overflows_the_reading_says_that_nothing_was_left() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer, clip_norm=0.05)
    before = copy.deepcopy(model.state_dict())
    (loss_of(model) * 1e22).backward()
    total = total_of(model.parameters())
    optimizer.step()
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    reading = flow.history.latest
    assert reading.total_norm == pytest.approx(total, rel=1e-5)
    assert reading.clip_scale == 0.0
    assert (reading.weight_grad_norm == 0).all()
    flow.close()


@pytest.mark.parametrize("knob", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_is_read_as_clipping_left_it(
    dtype: torch.dtype, bad: float, knob: str
) -> None:
    model = plain_network().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = GradientFlow(model, optimizer)
    setattr(flow, knob, 1e-3)
    CROSS_ENTROPY(model(INPUTS.to(dtype)).float(), TARGETS).backward()
    next(model.parameters()).grad[0, 0] = bad
    optimizer.step()
    reading = flow.history.latest
    assert reading.weight_grad_norm == pytest.approx(norms_of(model), rel=1e-4, nan_ok=True)
    flow.close()


# -- parameter groups ------------------------------------------------------------------


def grouped(*rates: float) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """A group for each linear layer, as far as there are rates."""
    model = plain_network()
    linear = [module for module in model if isinstance(module, nn.Linear)]
    groups = [
        {"params": list(module.parameters()), "lr": rate}
        for module, rate in zip(linear, rates, strict=False)
    ]
    return model, torch.optim.SGD(groups, momentum=0.9)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Take a step and return the rates that it used."""
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
    return [float(group["lr"]) for group in optimizer.param_groups]


def test_a_group_added_later_keeps_its_ratio_to_the_first_s_present_rate() -> None:
    model, optimizer = grouped(0.1, 0.2)
    flow = GradientFlow(model, optimizer)
    flow.learning_rate = 0.4
    assert stepped(model, optimizer) == pytest.approx([0.4, 0.8])
    optimizer.add_param_group({"params": list(model[4].parameters()), "lr": 0.04})
    flow.learning_rate = 0.1
    assert [rate["lr"] for rate in flow._training.coming_options] == pytest.approx([0.1, 0.2, 0.01])
    assert stepped(model, optimizer) == pytest.approx([0.1, 0.2, 0.01])
    assert flow.history.latest.learning_rates == pytest.approx((0.1, 0.2, 0.01))
    flow.close()


def test_a_group_added_later_has_its_weight_decay_steered_and_back() -> None:
    model, optimizer = grouped(0.1, 0.1)
    flow = GradientFlow(model, optimizer)
    flow.weight_decay = 0.3
    stepped(model, optimizer)
    optimizer.add_param_group({"params": list(model[4].parameters()), "weight_decay": 0.01})
    stepped(model, optimizer)
    assert optimizer.param_groups[2]["weight_decay"] == pytest.approx(0.3)
    flow.close()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0, 0.01]


def test_a_group_added_later_leaves_what_a_schedule_has_set() -> None:
    model, optimizer = grouped(0.1, 0.1)
    for group, decay in zip(optimizer.param_groups, (0.01, 0.02), strict=True):
        group["weight_decay"] = decay
    flow = GradientFlow(model, optimizer)

    def decays() -> list[float]:
        coming = [group["weight_decay"] for group in flow._training.coming_options]
        stepped(model, optimizer)
        now = [group["weight_decay"] for group in optimizer.param_groups]
        assert now == coming
        return now

    flow.weight_decay = 0.1
    assert decays() == [0.05, 0.1]
    optimizer.param_groups[1]["weight_decay"] = 0.03
    assert decays() == [0.05, 0.03]
    optimizer.add_param_group({"params": list(model[4].parameters()), "weight_decay": 0.004})
    assert decays() == [0.05, 0.03, pytest.approx(0.02)]  # the knob still has the first
    for group in (optimizer.param_groups[0], optimizer.param_groups[2]):
        group["weight_decay"] = 0.06
    further = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer.add_param_group({"params": further[:1], "weight_decay": 0.007})
    assert decays() == [0.06, 0.03, 0.06, 0.007]
    optimizer.add_param_group({"params": further[1:], "weight_decay": 0.008})
    assert decays() == decays() == [0.06, 0.03, 0.06, 0.007, 0.008]
    flow.close()
    now = [group["weight_decay"] for group in optimizer.param_groups]
    assert now == [0.06, 0.03, 0.06, 0.007, 0.008]


class TurnedMeanwhile(dict[str, Any]):
    """A parameter group whose weight decay somebody asks for, and turns, while a step sets it."""

    meanwhile: Callable[[], None] | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == "weight_decay" and self.meanwhile is not None:
            act, self.meanwhile = self.meanwhile, None
            act()


def test_a_turn_back_while_a_step_sets_the_weight_decay_is_taken() -> None:
    model = plain_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    group = optimizer.param_groups[0] = TurnedMeanwhile(optimizer.param_groups[0])
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, samples())
    own: list[float | None] = []
    turning: list[threading.Thread] = []

    def turn_back() -> None:
        own.append(flow._training.own_weight_decay)
        flow.weight_decay = None

    def act() -> None:
        turning.append(started(turn_back))
        turning[0].join(0.2)  # it may wait for the end of this

    flow.weight_decay = 0.1
    group.meanwhile = act
    flow.step()
    join(turning[0])
    flow.step()
    assert own == [0.01]
    assert flow.weight_decay == group["weight_decay"] == 0.01
    flow.close()


def test_the_knob_shows_a_weight_decay_that_the_user_has_set_and_brings_it_back() -> None:
    model, optimizer = grouped(0.1, 0.1)
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, samples())

    def decays() -> list[float]:
        return [group["weight_decay"] for group in optimizer.param_groups]

    flow.step()
    optimizer.param_groups[0]["weight_decay"] = 0.3
    flow.step()
    assert flow.weight_decay == 0.3
    assert '"weight_decay": 0.3' in recipe(flow)
    flow.weight_decay = 0.0  # what it was at first is a turn now
    flow.step()
    assert decays() == [0, 0]
    flow.weight_decay = None
    flow.step()
    assert flow.weight_decay == 0.3
    assert decays() == [0.3, 0]
    flow.reset()
    assert flow.weight_decay == 0
    flow.close()


def test_a_weight_decay_set_after_a_turn_of_the_knob_holds_until_the_next() -> None:
    model, optimizer = grouped(0.1, 0.1)
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, samples())
    flow.weight_decay = 0.2
    flow.step()
    optimizer.param_groups[0]["weight_decay"] = 0.3
    flow.step()
    assert flow.weight_decay == 0.3
    flow.weight_decay = 0.2  # what was turned last, once more
    flow.step()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0]
    flow.close()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0]


@dataclass
class Scheduled:
    """A widget whose optimizer has got another rate and decay since its knobs showed them."""

    flow: GradientFlow
    optimizer: torch.optim.Optimizer
    told: list[tuple[str, float, float]]

    def shown(self) -> list[float]:
        """What the knobs say, and what their sliders do."""
        flow, controls = self.flow, self.flow._controls
        sliders = (controls.rate_slider, controls.decay_slider)
        return [flow.learning_rate, flow.weight_decay, *(float(one.value) for one in sliders)]

    def in_force(self) -> list[float]:
        return [self.optimizer.param_groups[0][key] for key in ("lr", "weight_decay")]


@pytest.fixture
def scheduled(make_flow: Any) -> Scheduled:
    model = plain_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.step()
    optimizer.param_groups[0].update(lr=0.003, weight_decay=0.001)
    made = Scheduled(flow, optimizer, [])
    flow.observe(
        lambda change: made.told.append((change["name"], change["old"], change["new"])),
        ["learning_rate", "weight_decay"],
    )
    return made


TOLD = [("learning_rate", 0.01, 0.003), ("weight_decay", 0.01, 0.001)]


def test_knobs_set_to_what_a_schedule_has_left_say_so_everywhere(scheduled: Scheduled) -> None:
    flow = scheduled.flow
    flow.learning_rate = 0.003
    flow.weight_decay = 0.001
    assert scheduled.told == TOLD
    assert scheduled.shown() == pytest.approx([0.003, 0.001] * 2)
    flow.step()
    assert scheduled.in_force() == [0.003, 0.001]
    assert flow._stage.loss.turns == []


def test_a_refused_value_leaves_what_the_knobs_showed(scheduled: Scheduled) -> None:
    flow = scheduled.flow
    for name in ("learning_rate", "weight_decay"):
        with pytest.raises(ValueError, match=name):
            setattr(flow, name, -1.0)
    assert scheduled.shown() == pytest.approx([0.01] * 4)
    flow.step()
    assert scheduled.shown() == pytest.approx([0.003, 0.001] * 2)
    assert sorted(scheduled.told) == TOLD


@pytest.mark.parametrize("decay", [0.2, 0.01, 0.001])
def test_a_hold_that_is_refused_leaves_what_the_knobs_showed(
    scheduled: Scheduled, decay: float
) -> None:
    flow = scheduled.flow

    def set_together() -> None:
        with flow.hold_trait_notifications():
            flow.weight_decay = decay
            flow.learning_rate = -1.0

    with pytest.raises(ValueError, match="learning_rate"):
        set_together()
    assert scheduled.shown() == pytest.approx([0.01] * 4)
    assert scheduled.told == []
    flow.step()
    assert scheduled.shown() == pytest.approx([0.003, 0.001] * 2)
    assert scheduled.in_force() == [0.003, 0.001]


@pytest.mark.parametrize("held", [False, True])
def test_knobs_set_to_what_they_show_are_turned_where_a_schedule_has_left_it(
    scheduled: Scheduled, held: bool
) -> None:
    flow = scheduled.flow
    with flow.hold_trait_notifications() if held else nullcontext():
        flow.learning_rate = 0.01
        flow.weight_decay = 0.01
    assert scheduled.shown() == pytest.approx([0.01] * 4)
    flow.step()
    assert scheduled.in_force() == [0.01, 0.01]


def test_a_reset_goes_back_to_the_groups_of_the_beginning() -> None:
    model, optimizer = grouped(0.1, 0.2)
    members = [list(group["params"]) for group in optimizer.param_groups]
    flow = GradientFlow(model, optimizer)
    first = [stepped(model, optimizer) for _ in range(3)]
    weights = copy.deepcopy(model.state_dict())
    optimizer.add_param_group({"params": list(model[4].parameters()), "lr": 0.04})
    stepped(model, optimizer)
    flow.reset()
    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.1, 0.2]
    assert [[id(p) for p in group["params"]] for group in groups] == [
        [id(p) for p in one] for one in members
    ]
    assert not optimizer.state
    assert [stepped(model, optimizer) for _ in range(3)] == first
    assert all(torch.equal(weights[name], now) for name, now in model.state_dict().items())
    flow.close()


def test_a_model_built_anew_begins_with_the_groups_of_the_beginning(make_flow: Any) -> None:
    model, optimizer = grouped(0.1, 0.2)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    optimizer.add_param_group({"params": list(model[4].parameters()), "lr": 0.04})
    flow.activation = "relu"
    flow.step(1)
    assert flow.model is not model
    built = flow._training.optimizer
    assert [group["lr"] for group in built.param_groups] == [0.1, 0.2]
    weights = [next(iter(group["params"])) for group in built.param_groups]
    assert [id(one) for one in weights] == [id(flow.model[0].weight), id(flow.model[2].weight)]


def test_the_knob_keeps_the_ratio_that_a_scheduler_has_made() -> None:
    model, optimizer = grouped(0.1, 0.1, 0.2)
    scheduler = LambdaLR(optimizer, [lambda n: 1.0, lambda n: 0.5**n, lambda n: 1 + n])
    flow = GradientFlow(model, optimizer)
    for _ in range(2):
        stepped(model, optimizer)
        scheduler.step()
    flow.learning_rate = 0.4
    assert stepped(model, optimizer) == pytest.approx([0.4, 0.1, 2.4])
    scheduler.step()  # it goes on from its own
    assert stepped(model, optimizer) == pytest.approx([0.1, 0.0125, 0.8])
    flow.close()


def test_in_a_warm_up_from_0_the_knob_keeps_the_ratio_that_is_aimed_at() -> None:
    model, optimizer = grouped(0.1, 0.3, 0.2)
    LambdaLR(optimizer, lambda n: n / 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0, 0]
    flow = GradientFlow(model, optimizer)
    flow.learning_rate = 0.01
    assert stepped(model, optimizer) == pytest.approx([0.01, 0.03, 0.02])
    flow.close()


def test_in_a_warm_up_from_0_the_knob_says_0_and_then_the_rate_that_has_grown() -> None:
    model, optimizer = grouped(0.1, 0.3)
    scheduler = LambdaLR(optimizer, lambda n: min(1, n / 10))
    flow = GradientFlow(model, optimizer)
    slider = flow._controls.rate_slider

    def train() -> None:
        for _ in range(3):
            stepped(model, optimizer)
            scheduler.step()

    assert flow.learning_rate == 0
    assert (slider.value, slider.readout_format) == (1e-6, ".0f")
    flow.run(train)
    assert flow.wait()
    assert flow.learning_rate == slider.value == pytest.approx(0.03)
    assert slider.readout_format == ".2g"
    assert flow.history.learning_rate == pytest.approx([0, 0.01, 0.02])
    flow.reset()
    assert (flow.learning_rate, slider.value) == (0, 1e-6)
    flow.close()


def test_a_scheduler_that_comes_to_0_leaves_the_ratio_known() -> None:
    model, optimizer = grouped(0.1, 0.3)
    scheduler = LambdaLR(optimizer, lambda n: float(n == 0))
    flow = GradientFlow(model, optimizer)
    stepped(model, optimizer)
    scheduler.step()
    assert stepped(model, optimizer) == [0, 0]
    flow.learning_rate = 0.02
    assert stepped(model, optimizer) == pytest.approx([0.02, 0.06])
    flow.close()


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
def test_many_turns_leave_the_ratios_where_they_were(as_tensors: bool) -> None:
    model, optimizer = grouped(0.1, 0.07, 0.3)
    if as_tensors:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
    flow = GradientFlow(model, optimizer)
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        flow.learning_rate = float(10 ** -(3 * torch.rand((), generator=draw)))
        first, second, third = stepped(model, optimizer)
    assert second / first == pytest.approx(0.7, rel=3e-7)
    assert third / first == pytest.approx(3.0, rel=3e-7)
    flow.close()


def test_a_first_group_at_rest_stays_so_and_the_others_keep_their_ratio() -> None:
    model, optimizer = grouped(0.0, 0.1, 0.3)
    flow = GradientFlow(model, optimizer)
    slider = flow._controls.rate_slider
    assert flow.learning_rate == slider.value == 0.1
    flow.learning_rate = 0.2
    assert stepped(model, optimizer) == pytest.approx([0, 0.2, 0.6])
    assert flow.history.latest.learning_rates == pytest.approx((0, 0.2, 0.6))
    flow.learning_rate = 0.05
    assert stepped(model, optimizer) == pytest.approx([0, 0.05, 0.15])
    assert flow.learning_rate == slider.value == 0.05
    flow.close()


def test_a_first_group_put_to_rest_on_the_way_stays_so() -> None:
    model, optimizer = grouped(0.1, 0.1, 0.3)
    flow = GradientFlow(model, optimizer)
    flow.learning_rate = 0.2
    assert stepped(model, optimizer) == pytest.approx([0.2, 0.2, 0.6])
    optimizer.param_groups[0]["lr"] = 0.0
    flow.learning_rate = 0.1
    assert stepped(model, optimizer) == pytest.approx([0, 0.1, 0.3])
    flow.close()

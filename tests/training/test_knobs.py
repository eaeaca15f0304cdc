"""Hot knobs act at the next step; cold knobs rebuild with the same seed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradflow_widget import GradientFlow, Settings
from gradflow_widget.playground.networks import mlp
from gradflow_widget.tweaks.depth import with_depth

from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples

ACTIVATIONS = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def markers(flow: GradientFlow) -> list[tuple[int, str]]:
    return list(flow._stage.loss._turns)


# -- clipping --------------------------------------------------------------------------


def by_hand(clip: Any, steps: int, optimizer_of: Any) -> list[torch.Tensor]:
    """Train as the widget does, with torch's own clipping."""
    inputs, targets = samples()
    model = plain_network()
    optimizer = optimizer_of(model.parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(len(inputs), generator=generator)
        optimizer.zero_grad()
        CROSS_ENTROPY(model(inputs[rows]), targets[rows]).backward()
        clip(model.parameters())
        optimizer.step()
    return list(model.parameters())


CLIPS: dict[str, tuple[dict[str, float], Any]] = {
    "off": ({}, lambda p: None),
    "norm": ({"clip_norm": 0.05}, lambda p: nn.utils.clip_grad_norm_(p, 0.05)),
    "norm that never binds": ({"clip_norm": 1e6}, lambda p: nn.utils.clip_grad_norm_(p, 1e6)),
    "value": ({"clip_value": 0.01}, lambda p: nn.utils.clip_grad_value_(p, 0.01)),
}


@pytest.mark.parametrize("optimizer_of", [sgd, lambda p: torch.optim.Adam(p, lr=0.01)])
@pytest.mark.parametrize(("knobs", "clip"), CLIPS.values(), ids=CLIPS)
def test_clipping_is_torch_s_own_bit_for_bit(
    make_flow: Any, knobs: dict[str, float], clip: Any, optimizer_of: Any
) -> None:
    flow = make_flow(plain_network, optimizer_of, CROSS_ENTROPY, samples())
    flow.batch_size = 96
    for name, value in knobs.items():
        setattr(flow, name, value)
    flow.step(6)
    expected = by_hand(clip, 6, optimizer_of)
    assert all(torch.equal(p, q) for p, q in zip(flow.model.parameters(), expected, strict=True))
    binds = (flow.history.clip_scale < 1).tolist()
    assert binds == [bool(knobs) and max(knobs.values()) < 1] * 6


def test_lbfgs_is_clipped_inside_its_closure(make_flow: Any) -> None:
    flow = make_flow(
        plain_network,
        lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
        CROSS_ENTROPY,
        samples(),
        clip_norm=1e-3,
    )
    flow.step(2)
    norms = [p.grad.norm() for p in flow.model.parameters()]
    assert float(torch.stack(norms).norm()) <= 1.001e-3


def test_one_clipping_at_a_time(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples(), clip_norm=1.0)
    flow.clip_value = 0.5
    assert (flow.clip_norm, flow.clip_value) == (None, 0.5)
    flow.clip_norm = 2.0
    assert (flow.clip_norm, flow.clip_value) == (2.0, None)
    flow.clip_norm = None
    assert (flow.clip_norm, flow.clip_value) == (None, None)


def test_no_step_falls_between_two_clippings(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples(), clip_norm=1e-6)
    flow.speed = "max"
    flow.play()
    for _ in range(10):
        flow.clip_value = 1e-7
        flow.wait(2)
        flow.clip_norm = 1e-6
        flow.wait(2)
    flow.pause()
    flow.wait()
    assert (flow.history.clip_scale < 1).all()


def test_the_menu_switches_from_one_clipping_to_the_other(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    menu = flow._controls.clip_menu
    for choice in ("by value", "by norm", "by value", "off", "by norm"):
        menu.value = choice
        assert (flow.clip_norm is not None) == (choice == "by norm")
        assert (flow.clip_value is not None) == (choice == "by value")
        used = flow._training.settings
        assert (used.clip_norm, used.clip_value) == (flow.clip_norm, flow.clip_value)


# -- learning rate, batch size -----------------------------------------------------------


@settings(max_examples=15)
@given(
    rates=st.lists(st.floats(1e-5, 10.0), min_size=2, max_size=4),
    turns=st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=3),
)
def test_parameter_groups_keep_their_ratio(rates: list[float], turns: list[float]) -> None:
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in rates])
    optimizer = torch.optim.SGD(
        [
            {"params": layer.parameters(), "lr": rate}
            for layer, rate in zip(model, rates, strict=True)
        ]
    )
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, (samples()[0], samples()[1]))
    try:
        assert flow.learning_rate == rates[0]
        for turn in turns:
            flow.learning_rate = turn
            flow.step()
            expected = [turn * rate / rates[0] for rate in rates]
            assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected, rel=1e-9)
            assert flow.history.latest.learning_rates == pytest.approx(expected, rel=1e-9)
    finally:
        flow.close()


def test_a_rate_that_is_a_tensor_is_turned_in_place(make_flow: Any) -> None:
    rate = torch.tensor(0.1)
    flow = make_flow(
        plain_network,
        lambda p: torch.optim.Adam(p, lr=rate, foreach=False),
        CROSS_ENTROPY,
        samples(),
    )
    flow.learning_rate = 0.25
    flow.step()
    assert isinstance(flow.optimizer.param_groups[0]["lr"], torch.Tensor)
    assert flow.history.latest.learning_rate == pytest.approx(0.25)


def test_the_knobs_stay_where_they_are_through_a_reset(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.learning_rate, flow.clip_norm, flow.batch_size = 0.3, 0.7, 9
    first = losses_of(flow, 4)
    flow.reset()
    assert same_bits(losses_of(flow, 4), first)
    assert (flow.history.learning_rate == 0.3).all()
    flow.reset(seed=3)
    flow.step()
    assert flow.history.latest.learning_rate == 0.3


def test_every_hot_turn_leaves_a_marker_at_the_first_step_that_used_it(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.step(3)
    flow.learning_rate = 0.031
    flow.step(2)
    flow.batch_size = 32
    flow.step()
    flow.clip_norm = 0.5
    flow.clip_value = 0.25
    flow.step()
    flow.clip_value = None
    flow.step()
    assert markers(flow) == [
        (4, "lr 0.031"),
        (6, "batch 32"),
        (7, "clip value 0.25"),
        (8, "clip off"),
    ]
    flow.reset()
    assert markers(flow) == []


def test_a_rate_set_again_after_a_scheduler_has_moved_it_leaves_a_marker(make_flow: Any) -> None:
    optimizer = sgd((model := plain_network()).parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.step(2)
    for _ in range(2):
        flow.learning_rate = 0.4
        flow.step(2)
        scheduler.step()
        flow.step(2)
    assert markers(flow) == [(3, "lr 0.4"), (7, "lr 0.4")]


def test_a_rate_turned_away_and_back_leaves_no_marker(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.step(2)
    flow.learning_rate = 0.4
    flow.learning_rate = 0.1
    flow.step()
    assert markers(flow) == []
    flow.learning_rate = 0.4
    flow.step()
    flow.learning_rate = 0.2
    flow.learning_rate = 0.4
    flow.step()
    assert markers(flow) == [(4, "lr 0.4")]


def test_numpy_numbers_turn_knobs_too(make_flow: Any) -> None:
    import numpy as np

    flow = GradientFlow.playground(depth=np.int64(3), learning_rate=np.float32(0.5))
    try:
        flow.batch_size, flow.depth, flow.clip_norm = np.int32(8), np.int64(2), np.float64(1.0)
        assert (flow.batch_size, flow.depth, flow.clip_norm) == (8, 2, 1.0)
        assert type(flow.depth) is int
        flow.step(np.int64(2))
        flow.reset(seed=np.int64(3))
    finally:
        flow.close()


def test_settings_are_values() -> None:
    assert Settings(seed=1, learning_rate=1) == Settings(seed=1).replaced(learning_rate=1.0)
    assert hash(Settings(depth=3)) == hash(Settings(depth=3))


# -- cold ------------------------------------------------------------------------------


def test_a_cold_turn_shows_the_new_network_before_any_training() -> None:
    flow = GradientFlow.playground(depth=4)
    try:
        flow.step(5)
        flow.depth = 7
        assert flow.step_number == 0
        assert len(flow.history) == 0
        shown = flow._stage._shown
        assert (shown.step, len(shown.layers), shown.is_full) == (0, 7, True)
        assert "before the first step" in flow.status
        flow.activation = "relu"
        assert any(isinstance(module, nn.ReLU) for module in flow.model.modules())
    finally:
        flow.close()


def test_a_cold_turn_there_and_back_is_the_same_run() -> None:
    flow = GradientFlow.playground(depth=3, seed=5)
    try:
        first = losses_of(flow, 4)
        flow.depth = 6
        assert not same_bits(losses_of(flow, 4), first)
        flow.depth = 3
        assert same_bits(losses_of(flow, 4), first)
    finally:
        flow.close()


def test_a_cold_turn_while_playing_goes_on_with_the_new_network() -> None:
    flow = GradientFlow.playground(depth=2)
    try:
        flow.play()
        flow.wait(2)
        flow.depth = 5
        assert flow.playing
        flow.wait(3)
        assert len(flow.history.layers) == 5
    finally:
        flow.close()


def test_where_a_loop_of_one_s_own_trains_a_factory_offers_what_it_names(make_flow: Any) -> None:
    flow = make_flow(lambda depth=2: mlp(depth, "relu", inputs=6, outputs=3), sgd)
    assert (flow.depth, flow.activation) == (2, None)
    flow.depth = 3
    with pytest.raises(ValueError, match="activation can't be changed: Your own loop trains"):
        flow.activation = "tanh"
    assert flow._controls.activation_menu.disabled
    assert "Your own loop" in flow._controls.activation_menu.tooltip
    assert not flow._controls.depth_slider.disabled


def test_a_ready_made_model_says_why_its_depth_can_t_be_turned(make_flow: Any) -> None:
    model = plain_network()
    flow = make_flow(model, sgd, CROSS_ENTROPY, samples())
    with pytest.raises(ValueError, match=r"depth can't be changed: .*repeats no block.*\.$"):
        flow.depth = 4
    assert flow.depth is None
    assert flow._controls.depth_slider.disabled


@pytest.mark.parametrize("playing", [False, True])
def test_a_factory_that_fails_leaves_the_old_run_as_it_was(make_flow: Any, playing: bool) -> None:
    def build(depth: int = 2) -> nn.Module:
        if depth == 5:
            torch.rand(100)
            raise MemoryError("five is too deep")
        return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3))

    def run(*, fails: bool) -> list[float]:
        flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
        if playing:
            flow.play()
            flow.wait(3)
        else:
            flow.step(3)
        model = flow.model
        if fails:
            with pytest.raises(MemoryError, match="five is too deep"):
                flow.depth = 5
        assert flow.depth == 2
        assert flow.model is model
        assert flow.playing == playing
        flow.pause()
        flow.wait()
        flow.step(max(1, 60 - flow.step_number))
        return list(flow.history.loss[:60])

    assert same_bits(run(fails=True), run(fails=False))


def notice_of(flow: GradientFlow) -> str:
    text, is_error = flow._backstage.notice()
    assert is_error == bool(text)
    assert text in flow.status
    return text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("gelu"), "KeyError: 'gelu'."),
        (AssertionError(), "AssertionError."),
        (RuntimeError("one line\nand another"), "RuntimeError: one line and another."),
        (ValueError("x" * 500), f"ValueError: {'x' * 200}…."),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("by_page", [False, True])
def test_what_a_factory_raised_is_told_with_what_it_was_asked_for(
    make_flow: Any, error: Exception, told: str, by_page: bool
) -> None:
    def build(depth: int = 2, activation: str = "tanh") -> nn.Module:
        if activation == "gelu":
            raise error
        return mlp(depth, activation, inputs=6, width=8, outputs=3)

    flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
    flow.depth = 3
    if by_page:
        flow._controls.activation_menu.value = "gelu"
    else:
        with pytest.raises(type(error)) as caught:
            flow.activation = "gelu"
        assert caught.value is error
        assert caught.traceback[-1].name == "build"
    assert notice_of(flow) == f"The model factory failed for activation 'gelu': {told}"
    assert (flow.depth, flow.activation) == (3, "tanh")
    flow.activation = "relu"
    assert notice_of(flow) == ""


def test_what_a_factory_of_optimizers_raised_is_told_as_its_own(make_flow: Any) -> None:
    made: list[torch.optim.Optimizer] = []

    def once(parameters: Any) -> torch.optim.Optimizer:
        if made:
            raise LookupError("only one")
        made.append(sgd(parameters))
        return made[0]

    flow = make_flow(mlp, once, CROSS_ENTROPY, samples(features=64))
    with pytest.raises(LookupError):
        flow.activation = "relu"
    assert notice_of(flow) == "The optimizer factory failed: LookupError: only one."


def test_a_type_error_within_a_factory_of_optimizers_is_raised_as_it_is(make_flow: Any) -> None:
    made: list[torch.optim.Optimizer] = []

    def without_rate(parameters: Any) -> torch.optim.Optimizer:
        def inner(parameters: Any, rate: float) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=rate)

        made.append(inner(parameters, *[0.1] * (not made)))
        return made[-1]

    flow = make_flow(mlp, without_rate, CROSS_ENTROPY, samples(features=64))
    with pytest.raises(TypeError, match=r"inner\(\) missing 1 required .*: 'rate'$") as caught:
        flow.activation = "relu"
    assert caught.traceback[-1].name == "without_rate"
    assert notice_of(flow).startswith("The optimizer factory failed: TypeError: ")


def test_what_is_refused_says_so_itself(make_flow: Any) -> None:
    def build(depth: int = 2) -> nn.Module:
        plain = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
        return plain if depth == 2 else with_depth(plain, depth)

    flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
    with pytest.raises(ValueError, match="repeats no block"):
        flow.depth = 5
    assert notice_of(flow).startswith("The model repeats no block: its depth can be changed where")


def test_a_network_that_does_not_fit_the_data_leaves_the_old_run_as_it_was(make_flow: Any) -> None:
    def build(depth: int = 1) -> nn.Module:
        return nn.Linear(6, 3) if depth < 4 else nn.Linear(7, 3)

    flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
    first = losses_of(flow, 6)
    flow.reset()
    again = losses_of(flow, 3)
    with pytest.raises(RuntimeError, match="model failed on the first batch"):
        flow.depth = 4
    assert same_bits(again + losses_of(flow, 3), first)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 64])
def test_every_activation_at_every_depth_trains(name: str, depth: int) -> None:
    flow = GradientFlow.playground(depth=depth, activation=name, learning_rate=0.01)
    try:
        kinds = [type(m) for m in flow.model.modules() if type(m) in ACTIVATIONS.values()]
        assert kinds == [ACTIVATIONS[name]] * (depth - 1)
        flow.step()
        assert len(flow.history.layers) == depth
        assert flow.status
    finally:
        flow.close()


@pytest.mark.parametrize(
    ("knob", "default", "reason"),
    [
        ("activation", nn.ReLU, "activation=ReLU, is none of the known ones: identity, sigmoid"),
        ("activation", "ReLU", "activation='ReLU', is none of the known ones: identity, sigmoid"),
        ("activation", None, "activation=None, is none of the known ones: identity, sigmoid"),
        ("depth", None, "depth=None, is none of the known ones: give it a default from 1 to 64."),
        ("depth", 100, "depth=100, is none of the known ones: give it a default from 1 to 64."),
        ("skips", True, "skips=True, is none of the known ones: off, 1,"),
    ],
)
def test_a_default_of_a_factory_that_a_knob_does_not_know_leaves_the_knob_alone(
    make_flow: Any, knob: str, default: Any, reason: str
) -> None:
    seen: list[Any] = []

    def build(depth: Any = 2, activation: Any = "tanh", skips: Any = None) -> nn.Module:
        seen.append({"depth": depth, "activation": activation, "skips": skips}[knob])
        return plain_network()

    factory = functools.partial(build, **{knob: default})
    flow: GradientFlow = make_flow(factory, sgd, CROSS_ENTROPY, samples())
    flow.step(2)
    flow.normalization = "layer"
    flow.reset(seed=1)
    flow.step(2)
    assert np.isfinite(flow.history.loss).all()
    assert all(given is default for given in seen)
    assert getattr(flow, knob) is None
    with pytest.raises(ValueError, match=f"{knob} can't be changed: The factory's own") as caught:
        setattr(flow, knob, {"depth": 3, "activation": "tanh", "skips": 1.0}[knob])
    assert reason in str(caught.value)

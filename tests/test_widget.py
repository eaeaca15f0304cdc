"""GradientFlow as a whole, without a page: data of every kind, NaN, the status line, cells."""

from __future__ import annotations

import math
import threading
from itertools import pairwise
from typing import Any

import ipywidgets as widgets
import numpy as np
import pytest
import torch
import traitlets
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradflow_widget import GradientFlow
from tests.fake_shell import FakeShell
from tests.training.parts import (
    CROSS_ENTROPY,
    plain_network,
    same_bits,
    samples,
)
from tests.waiting import PATIENCE, join, started, wait_for

INPUTS, TARGETS = samples()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


# -- data of every kind ------------------------------------------------------------------


def as_dict(model: nn.Module, batch: Any) -> torch.Tensor:
    return CROSS_ENTROPY(model(batch["x"]), batch["y"])


DATA: dict[str, tuple[Any, Any]] = {
    "tensors": ((INPUTS, TARGETS), None),
    "list of two tensors": ([INPUTS, TARGETS], None),
    "float64 arrays": ((INPUTS.double().numpy(), TARGETS.numpy()), None),
    "read-only, reversed arrays": (
        (np.flip(INPUTS.numpy(), 0), np.broadcast_to(np.int64(1), (len(INPUTS),))),
        None,
    ),
    "big-endian arrays": ((INPUTS.numpy().astype(">f4"), TARGETS.numpy().astype(">i8")), None),
    "Dataset": (TensorDataset(INPUTS, TARGETS), None),
    "DataLoader": (DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=10), None),
    "list of batches": ([(INPUTS[:9], TARGETS[:9]), (INPUTS[9:12], TARGETS[9:12])], None),
    "list of arrays": ([(INPUTS[:9].numpy(), TARGETS[:9].numpy())] * 3, None),
    "dict batches": ([{"x": INPUTS[:9], "y": TARGETS[:9]}] * 3, as_dict),
    "dict Dataset": (
        [{"x": x, "y": y} for x, y in zip(INPUTS.split(8), TARGETS.split(8), strict=True)],
        as_dict,
    ),
}


@pytest.mark.parametrize(("data", "objective"), DATA.values(), ids=DATA)
# ipywidgets 8.1.0 itself uses what traitlets has deprecated.
@pytest.mark.filterwarnings("error", "ignore:Deprecated in traitlets:DeprecationWarning")
def test_data_of_every_kind_train(make_flow: Any, data: Any, objective: Any) -> None:
    flow = make_flow(
        plain_network,
        sgd,
        None if objective else CROSS_ENTROPY,
        data,
        objective=objective,
    )
    flow.step(12)
    assert np.isfinite(flow.history.loss).all()


def test_batches_are_used_in_their_order_and_again_from_the_start(make_flow: Any) -> None:
    seen: list[int] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(len(batch))
        return model(batch).square().mean()

    batches = [INPUTS[:n] for n in (3, 1, 2)]
    flow = make_flow(plain_network, sgd, data=batches, objective=objective)
    seen.clear()
    flow.step(7)
    assert seen == [3, 1, 2, 3, 1, 2, 3]


class Fixed(torch.optim.Optimizer):
    """Its groups have the options that it is given, of which it makes no use."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, options)

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(0.1 * p.grad)


@pytest.mark.parametrize("options", [{}, {"lr": None}], ids=["none named", "None"])
def test_an_optimizer_without_a_learning_rate_trains_and_says_so(
    make_flow: Any, options: Any
) -> None:
    flow = make_flow(
        plain_network(), lambda p: Fixed(p, **options), CROSS_ENTROPY, samples(), clip_norm=1.0
    )
    flow.step(2)
    assert flow.learning_rate is None
    assert np.isnan(flow.history.learning_rate).all()
    for knob, value in (("learning_rate", 0.1), ("optimizer_kind", "Adam")):
        with pytest.raises(ValueError, match="the optimizer has no learning rate"):
            setattr(flow, knob, value)
    flow.activation = "relu"
    flow.reset()
    flow.step(2)
    assert flow.history.loss.shape == (2,)


def test_a_weight_decay_of_none_is_none(make_flow: Any) -> None:
    flow = make_flow(
        plain_network, lambda p: Fixed(p, lr=0.1, weight_decay=None), CROSS_ENTROPY, samples()
    )
    flow.step(2)
    assert flow.weight_decay is None
    with pytest.raises(ValueError, match="the optimizer has no weight decay"):
        flow.weight_decay = 0.1
    flow.optimizer_kind = "AdamW"
    flow.step(2)
    assert np.isfinite(flow.history.loss).all()


def test_groups_with_a_rate_follow_the_knob_beside_one_without(make_flow: Any) -> None:
    model = plain_network()
    optimizer = Fixed(
        [
            {"params": model[0].parameters(), "lr": 0.2},
            {"params": model[2].parameters(), "lr": None},
            {"params": model[4].parameters(), "lr": 0.1},
        ]
    )
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.learning_rate = 0.4
    flow.step()
    assert flow.history.latest.learning_rates == pytest.approx((0.4, np.nan, 0.2), nan_ok=True)
    flow.optimizer_kind = "SGD"
    flow.step()
    assert flow.history.latest.learning_rates == pytest.approx((0.4, 0.4, 0.2))


# -- NaN and inf -------------------------------------------------------------------------


class Spoilt(nn.Module):
    """From its n-th training forward on, the k-th layer gives NaN or inf, or its gradient does."""

    def __init__(self, layer: int, value: float, *, backward: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [6, 8, 8, 8, 3]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.spoilt, self.value, self.backward = layer, value, backward
        self.begun = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else torch.tanh(x))
            if index == self.spoilt and self.begun:
                if self.backward:
                    x.register_hook(lambda g: g * self.value)
                else:
                    with torch.no_grad():
                        layer.bias[0] = self.value
        return x


CASES = [
    (layer, value, backward, speed)
    for layer in (0, 2, 3)
    for value in (math.nan, math.inf)
    for backward in (False, True)
    for speed in (1, 1000)
]


@pytest.mark.parametrize(("layer", "value", "backward", "speed"), CASES)
@pytest.mark.parametrize("way", ["widget", "own loop", "own loop, clipped"])
def test_the_status_says_which_layer_and_which_step_were_first(
    make_flow: Any, layer: int, value: float, backward: bool, speed: int, way: str
) -> None:
    model = Spoilt(layer, value, backward=backward)
    optimizer = sgd(model.parameters())
    own = way != "widget"
    flow = make_flow(
        model,
        optimizer,
        None if own else CROSS_ENTROPY,
        None if own else samples(),
        clip_norm=1.0 if "clipped" in way else None,
    )
    flow.speed = speed

    def train(steps: int) -> None:
        if not own:
            flow.step(steps)
            return
        for _ in range(steps):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
            optimizer.step()

    train(4)
    if backward:
        model.begun = True
    else:
        # The weights are spoilt, so that the very next forward gives it.
        with torch.no_grad():
            model.layers[layer].bias[0] = value
    train(3)
    assert flow.step_number == 7
    what = "gradient" if backward else "output"
    if not backward and value == math.inf and layer < 3:
        # tanh brings inf back to 1: forward, only this layer's output is not finite.
        assert np.isfinite(flow.history.loss).all()
        return
    assert f"the {what} of layer {layer + 1} (layers.{layer}) was first, at step 5." in flow.status
    assert flow.history.steps_recorded == 7


def test_training_goes_on_through_nan_and_a_reset_forgets_it(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.step(2)
    with torch.no_grad():
        flow.model[2].weight[0, 0] = math.nan
    flow.play()
    flow.wait(20)
    assert flow.playing
    flow.pause()
    flow.wait()
    assert "the output of layer 2 (2) was first, at step 3." in flow.status
    assert math.isnan(flow.loss)
    assert np.isfinite(flow.history.loss).tolist() == [True] * 2 + [False] * (flow.step_number - 2)
    flow.reset()
    assert "Not finite" not in flow.status
    flow.step(2)
    assert np.isfinite(flow.history.loss).all()


def test_a_nan_that_the_loss_itself_makes_is_blamed_on_no_layer(make_flow: Any) -> None:
    spoilt: list[bool] = []

    def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = CROSS_ENTROPY(output, target)
        return loss * math.nan if spoilt else loss

    flow = make_flow(plain_network, sgd, loss_fn, samples())
    flow.step(2)
    spoilt.append(True)
    flow.step(2)
    assert "the loss was first, at step 3" in flow.status


def test_a_random_nan_is_found_with_the_same_random_numbers(make_flow: Any) -> None:
    class Unlucky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            factor = math.nan if torch.rand(()) < 0.1 else 1.0
            out: torch.Tensor = self.second(self.first(x) * factor)
            return out

    flow = make_flow(Unlucky, sgd, CROSS_ENTROPY, samples(), seed=1)
    flow.speed = 1000
    flow.step(60)
    step = int(np.flatnonzero(np.isnan(flow.history.loss))[0]) + 1
    assert f"the output of layer 2 (second) was first, at step {step}." in flow.status


# -- numbers of the latest step ----------------------------------------------------------


def test_who_observes_a_number_hears_of_every_step_with_old_and_new(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.speed = "max"
    flow.step(3)  # nobody observes them
    heard: list[tuple[str, Any, Any, int]] = []

    def hear(change: Any) -> None:
        heard.append((change["name"], change["old"], change["new"], flow.step_number))

    flow.observe(hear, ["step_number", "loss"])
    flow.step(2)
    losses = flow.history.loss.tolist()
    assert heard == [
        ("step_number", 3, 4, 4),
        ("loss", losses[2], losses[3], 4),
        ("step_number", 4, 5, 5),
        ("loss", losses[3], losses[4], 5),
    ]
    heard.clear()
    flow.reset()
    assert [(name, old) for name, old, *_ in heard] == [("step_number", 5), ("loss", losses[4])]
    flow.unobserve(hear, ["step_number", "loss"])
    heard.clear()
    flow.step(2)
    assert heard == []
    assert (flow.step_number, flow.loss) == (2, losses[1])
    for name in ("step_number", "loss"):
        with pytest.raises(traitlets.TraitError, match="read-only"):
            setattr(flow, name, 3)


def test_who_observes_everything_hears_of_numbers_and_a_link_follows_them(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    heard: list[str] = []
    flow.observe(lambda change: heard.append(change["name"]))
    flow.step()
    assert {"step_number", "loss"} <= set(heard)
    flow.unobserve_all()
    text = widgets.IntText()
    link = traitlets.dlink((flow, "step_number"), (text, "value"))
    flow.step(4)
    assert text.value == 5
    link.unlink()
    flow.step()
    assert text.value == 5


# -- cells -------------------------------------------------------------------------------


def test_running_a_cell_again_stops_the_old_widget(
    shell: FakeShell, make_flow: Any, nothing_is_left: None
) -> None:
    model = plain_network()
    optimizer = sgd(model.parameters())

    def cell() -> Any:
        return make_flow(model, optimizer, CROSS_ENTROPY, samples())

    first = shell.run("a", cell)
    other = shell.run("b", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    first.play()
    first.wait(3)
    second = shell.run("a", cell)
    assert not first.playing
    with pytest.raises(RuntimeError, match="closed"):
        first.play()
    assert first.history.steps_recorded >= 3  # what it has learned is still there
    second.step()
    other.step()
    second.close()
    other.close()
    assert not any(shell.callbacks.values())


def test_running_a_cell_again_ends_the_loop_before_its_names_are_others(
    shell: FakeShell, make_flow: Any, nothing_is_left: None
) -> None:
    names: dict[str, Any] = {}
    inputs, targets = samples()

    def loop() -> None:
        while True:
            names["optimizer"].zero_grad()
            CROSS_ENTROPY(names["model"](inputs), targets).backward()
            names["optimizer"].step()

    def cell() -> None:
        model = names["model"] = plain_network()
        names["optimizer"] = sgd(model.parameters())
        first = model[0].weight.detach().clone()
        if "flow" in names:  # the loop of the run before
            assert not names["flow"].playing
            assert names["flow"].wait()
            assert torch.equal(model[0].weight, first)
        names["flow"] = flow = make_flow(model, names["optimizer"])
        flow.run(loop)
        flow.wait(3)

    for _ in range(3):
        shell.run("a", cell)
    flow = names["flow"]
    shell.run("b", lambda: None)  # another cell leaves it alone
    flow.wait(3)
    flow.pause()
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    shell.run("a", lambda: None)
    assert torch.equal(torch.rand(1), drawn)
    with pytest.raises(RuntimeError, match="nothing to train with"):
        flow.play()
    flow.close()


def test_two_widgets_of_one_cell_both_live_and_are_both_replaced(
    shell: FakeShell, make_flow: Any
) -> None:
    def cell() -> list[Any]:
        return [make_flow(plain_network, sgd, CROSS_ENTROPY, samples()) for _ in range(2)]

    old = shell.run("a", cell)
    for flow in old:
        flow.step()
    new = shell.run("a", cell)
    for flow in new:
        flow.step()
    for flow in old:
        with pytest.raises(RuntimeError, match="closed"):
            flow.step()


def test_a_cell_run_again_with_bad_input_keeps_the_old_widget(
    shell: FakeShell, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    for bad in ({"data": []}, {"clip_norm": -1}):
        with pytest.raises(ValueError, match=r"data|clip_norm"):
            shell.run(
                "a",
                lambda bad=bad: make_flow(
                    plain_network, sgd, **{"loss_fn": CROSS_ENTROPY, "data": samples(), **bad}
                ),
            )
    flow.step()


def test_the_notice_about_a_plain_loop_goes_when_the_cell_has_ended(
    shell: FakeShell, make_flow: Any
) -> None:
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = shell.run("a", lambda: make_flow(model, optimizer))
    told = []

    def cell() -> None:
        CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
        optimizer.step()
        told.append(flow.status)

    shell.run("b", cell)
    assert "the controls apply when the cell ends" in told[0]
    assert "the controls apply" not in flow.status
    assert "paused" in flow.status
    flow.reset()


# -- the page's controls -------------------------------------------------------------------


def test_the_controls_follow_the_traits_and_the_traits_the_controls() -> None:
    flow = GradientFlow.playground(depth=3)
    controls = flow._controls
    flow.depth, flow.activation, flow.learning_rate, flow.batch_size = 5, "relu", 0.01, 32
    assert controls.depth_slider.value == 5
    assert controls.activation_menu.value == "relu"
    assert controls.rate_slider.value == pytest.approx(0.01)
    assert controls.batch_slider.value == 32
    controls.depth_slider.value = 2
    controls.activation_menu.value = "gelu"
    controls.batch_slider.value = 16
    assert (flow.depth, flow.activation, flow.batch_size) == (2, "gelu", 16)
    flow.close()


def test_what_the_page_asks_in_vain_is_told_in_the_status_line(make_flow: Any) -> None:
    def build(depth: int = 2) -> nn.Module:
        if depth > 3:
            raise MemoryError("no room\nfor so many layers")
        return plain_network()

    flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
    flow._controls.depth_slider.value = 9
    assert flow.depth == flow._controls.depth_slider.value == 2
    assert "no room for so many layers" in flow.status
    flow.step()
    assert "no room" not in flow.status


def test_a_run_is_the_same_whatever_is_drawn(make_flow: Any) -> None:
    losses = []
    for speed in (1, 3, "max"):
        flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
        flow.speed = speed
        flow.step(10)
        losses.append(flow.history.loss)
    assert same_bits(losses[0], losses[1])
    assert same_bits(losses[0], losses[2])


@pytest.mark.parametrize("own_loop", [False, True])
def test_in_each_run_the_same_steps_are_read_in_full(make_flow: Any, own_loop: bool) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.speed = 5

    def loop() -> None:
        while True:
            flow.optimizer.zero_grad()
            CROSS_ENTROPY(flow.model(INPUTS), TARGETS).backward()
            flow.optimizer.step()

    if own_loop:
        flow.run(loop)
        flow.pause()
        flow.wait()
    for _ in range(3):
        flow.reset()
        flow.step(22)
        rows = flow.history.to_dataframe()
        assert rows[rows.decades.notna()].step.tolist() == [5, 10, 15, 20, 22]


def test_of_two_clippings_set_together_one_acts_and_is_shown(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    with flow.hold_trait_notifications():
        flow.clip_norm = 1.0
        flow.clip_value = 0.5
    used = next(flow.steps(1)).settings
    assert (used.clip_norm, used.clip_value) == (flow.clip_norm, flow.clip_value)
    assert (flow.clip_norm, flow.clip_value) == (None, 0.5)  # the last, as where each is told


@pytest.mark.parametrize(
    "held",
    [
        {"activation": "gelu", "learning_rate": 0.02},
        {"learning_rate": 0.02, "activation": "gelu"},
        {"optimizer_kind": "Adam", "weight_decay": 0.3, "learning_rate": 0.02},
        {"weight_decay": 0.3, "learning_rate": 0.02, "optimizer_kind": "Adam"},
        {"regime": {"label_noise": 0.1}, "weight_decay": 0.3},
    ],
    ids=", then ".join,
)
def test_values_set_together_act_whatever_their_order(make_flow: Any, held: dict[str, Any]) -> None:
    """Though a turn that begins another run shows the numbers that its steps would have."""
    flow = make_flow(plain_network(), sgd, CROSS_ENTROPY, samples())
    flow.step()
    with flow.hold_trait_notifications():
        for name, value in held.items():
            setattr(flow, name, value)
    flow.step()
    coming = flow._training.coming_options[0]
    for name, value in held.items():
        if name != "regime":
            assert getattr(flow, name) == value
    assert coming["lr"] == held.get("learning_rate", 0.1)
    assert coming["weight_decay"] == held.get("weight_decay", 0)


def test_a_rate_set_within_a_hold_that_it_had_is_followed_after_it(make_flow: Any) -> None:
    flow = make_flow(plain_network(), sgd, CROSS_ENTROPY, samples())
    with flow.hold_trait_notifications():
        flow.learning_rate = 0.1  # as it is
    flow.step()
    flow.optimizer.param_groups[0]["lr"] = 0.02
    flow.step()
    assert flow.learning_rate == 0.02


@pytest.mark.parametrize(
    ("held", "refused"),
    [
        ({"learning_rate": -1}, "learning_rate must be a positive, finite number, not -1"),
        ({"clip_norm": 1.0, "activation": "bent"}, "activation 'bent' is unknown"),
        ({"activation": "bent", "clip_norm": 1.0}, "activation 'bent' is unknown"),
        ({"learning_rate": 0.2, "batch_size": None}, "batch_size can't be set to None"),
        ({"speed": 0, "playing": True}, "speed must be a whole number"),
    ],
)
def test_of_values_set_together_none_is_taken_where_one_is_refused(
    make_flow: Any, held: dict[str, Any], refused: str
) -> None:
    flow = make_flow(plain_network(), sgd, CROSS_ENTROPY, samples())
    before = {name: getattr(flow, name) for name in held}
    settings = flow._training.settings

    def set_together() -> None:
        with flow.hold_trait_notifications():
            for name, value in held.items():
                setattr(flow, name, value)

    with pytest.raises(ValueError, match=refused):
        set_together()

    assert {name: getattr(flow, name) for name in held} == before
    assert flow._training.settings == settings
    assert not flow._training.playing


def test_a_rate_that_was_never_turned_is_back_where_its_turn_fails(
    make_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(plain_network(), sgd, CROSS_ENTROPY, samples())

    def turn(**changes: Any) -> None:
        raise RuntimeError("not now")

    monkeypatch.setattr(flow._training, "turn", turn)
    with pytest.raises(RuntimeError, match="not now"):
        flow.learning_rate = 0.7

    assert flow.learning_rate == 0.1
    assert "not now" in flow.status


@pytest.mark.parametrize(("knob", "there"), [("activation", "relu"), ("optimizer_kind", "Adam")])
def test_a_knob_turned_back_while_its_turn_waits_is_where_it_says(
    make_flow: Any, knob: str, there: Any
) -> None:
    at_step, go_on = threading.Event(), threading.Event()

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread() and flow_is_made:
            at_step.set()
            go_on.wait(PATIENCE)
        loss: torch.Tensor = CROSS_ENTROPY(model(batch[0]), batch[1])
        return loss

    flow_is_made = False
    flow = make_flow(plain_network(), sgd, objective=objective, data=samples())
    flow_is_made = True
    before = getattr(flow, knob)
    flow.play()
    assert at_step.wait(PATIENCE)
    turning = started(lambda: setattr(flow, knob, there))
    wait_for(lambda: getattr(flow, knob) == there)
    setattr(flow, knob, before)
    flow_is_made = False
    go_on.set()
    join(turning)
    flow.pause()
    flow.wait()
    assert getattr(flow, knob) == before
    assert getattr(next(flow.steps(1)).settings, knob) == before
    assert type(flow.optimizer) is torch.optim.SGD
    assert len(flow.model) == 5
    assert isinstance(flow.model[1], nn.Tanh)

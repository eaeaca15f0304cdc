"""The cold knobs on a module of the user's own: a changed copy, and the module itself again."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import (
    CannotTweak,
    GradientFlow,
    with_activation,
    with_depth,
    with_initialization,
    with_normalization,
    with_orthogonality,
    with_skips,
)
from gradflow_widget.measurement.reading import Reading
from gradflow_widget.measurement.single import read_objective
from gradflow_widget.tweaks.knobs import COLD_KNOBS
from gradflow_widget.tweaks.orthogonality import orthogonality_penalty
from tests.models.zoo import Tagger, fingerprint
from tests.waiting import wait_for

from .own_models import OWN, Own, classified
from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples

COLUMNS = (
    "weight_grad_norm",
    "weight_grad_max",
    "weight_norm",
    "signal_grad_norm",
    "activation_rms",
    "dead_fraction",
    "saturated_fraction",
)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def flow_of(make_flow: Any, own: Own, **changes: Any) -> tuple[GradientFlow, nn.Module]:
    """A widget on the user's own module and optimizer, with full batches."""
    model = own.model()
    data = own.data()
    flow = make_flow(model, sgd(model.parameters()), data=data, objective=own.objective, **changes)
    flow.batch_size = len(data[0])
    return flow, model


def shown(flow: GradientFlow) -> Reading:
    reading = flow._stage._shown
    assert isinstance(reading, Reading)
    return reading


def read(own: Own, model: nn.Module, seed: int = 0) -> Reading:
    """What the bars must show of ``model`` before any step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return read_objective(model, own.objective, own.first_batch(seed))


def assert_same_bars(flow: GradientFlow, expected: Reading) -> None:
    reading = shown(flow)
    assert reading.step == 0
    assert reading.layers == expected.layers
    assert reading.loss == expected.loss
    for column in COLUMNS:
        assert np.array_equal(
            getattr(reading, column), getattr(expected, column), equal_nan=True
        ), column


def lsuv(own: Own, model: nn.Module) -> nn.Module:
    inputs = own.first_batch()[0]
    batch = {"input_ids": inputs} if own is OWN["GPT-2"] else inputs
    if own is OWN["GPT-2"]:
        batch = {**batch, "labels": own.first_batch()[1]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for the dropout within attention
        return with_initialization(model, "lsuv", batch=batch)


TWEAKED: dict[tuple[str, Any], Any] = {
    ("depth", 5): lambda own, model: with_depth(model, 5),
    ("depth", 1): lambda own, model: with_depth(model, 1),
    ("activation", "relu"): lambda own, model: with_activation(model, "relu"),
    ("activation", "tanh"): lambda own, model: with_activation(model, "tanh"),
    ("initialization", "he"): lambda own, model: with_initialization(model, "he"),
    ("initialization", "lsuv"): lsuv,
    ("normalization", "rms"): lambda own, model: with_normalization(model, "rms"),
    ("normalization", None): lambda own, model: with_normalization(model, None),
    ("skips", "1/sqrt(2L)"): lambda own, model: with_skips(model, "1/sqrt(2L)"),
    ("skips", "learned"): lambda own, model: with_skips(model, "learned"),
    ("orthogonality", "hard"): lambda own, model: with_orthogonality(model, "hard"),
}
OFFERED = {
    "MLP": COLD_KNOBS,
    "CNN": COLD_KNOBS,
    "GPT-2": ("depth", "activation", "initialization", "normalization", "orthogonality"),
    "LSTM tagger": ("depth", "initialization", "orthogonality"),
}


@pytest.mark.parametrize("name", OWN)
def test_what_a_model_offers_and_why_not_the_rest(make_flow: Any, name: str) -> None:
    flow, _ = flow_of(make_flow, OWN[name])
    knobs = flow._construction.knobs
    assert tuple(one for one in COLD_KNOBS if knobs[one].offered) == OFFERED[name]
    for knob in knobs.values():
        assert knob.offered or (knob.reason.endswith(".") and "\n" not in knob.reason)
        if not knob.offered:
            with pytest.raises(ValueError, match=f"{knob.name} can't be"):
                setattr(flow, knob.name, {"depth": 3, "skips": 1.0}.get(knob.name, "relu"))


# What each has at first, which is no change.
FIRST = {
    "MLP": {("activation", "tanh"), ("normalization", None)},
    "CNN": {("activation", "relu")},
}
CASES = [
    (name, knob, value)
    for name in OWN
    for knob, value in TWEAKED
    if knob in OFFERED[name] and (knob, value) not in FIRST.get(name, ())
]


@pytest.mark.parametrize(("name", "knob", "value"), CASES)
def test_each_knob_shows_the_bars_of_the_tweaked_copy_and_back(
    make_flow: Any, name: str, knob: str, value: Any
) -> None:
    own = OWN[name]
    flow, model = flow_of(make_flow, own)
    first_value = getattr(flow, knob)
    assert value != first_value
    optimizer, untouched = flow.optimizer, fingerprint(own.model())
    expected = read(own, TWEAKED[knob, value](own, own.model()))

    first = losses_of(flow, 3)
    trained = [p.detach().clone() for p in model.parameters()]
    setattr(flow, knob, value)
    assert_same_bars(flow, expected)
    assert (flow.step_number, len(flow.history)) == (0, 0)
    assert flow.model is not model
    assert flow.optimizer is not optimizer
    assert [tweak.knob for tweak in flow.tweaks] == [knob]
    assert flow.tweaks[0].sentence in flow.status
    turned = losses_of(flow, 3)

    # The module that was given is as the first run has left it.
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), trained, strict=True))
    now = fingerprint(model)
    for part in ("classes", "modes", "hooks"):
        assert now[part] == untouched[part], part
    assert [n for n, _ in now["modules"]] == [n for n, _ in untouched["modules"]]

    flow.reset()
    assert same_bits(losses_of(flow, 3), turned)
    setattr(flow, knob, first_value)
    assert flow.model is model
    assert flow.optimizer is optimizer
    assert flow.tweaks == ()
    assert same_bits(losses_of(flow, 3), first)


ALL = {
    "depth": 5,
    "activation": "relu",
    "initialization": "he",
    "normalization": "layer",
    "skips": "1/sqrt(2L)",
    "orthogonality": 0.01,
}


def all_at_once(model: nn.Module, seed: int = 0) -> nn.Module:
    model = with_activation(with_depth(model, 5, seed=seed), "relu")
    model = with_skips(with_normalization(model, "layer"), "1/sqrt(2L)")
    return with_initialization(with_orthogonality(model, 0.01), "he", seed=seed)


class Counted(nn.Module):
    """Counts its copies."""

    copies = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = OWN["MLP"].build()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out

    def __deepcopy__(self, memo: Any) -> Counted:
        Counted.copies += 1
        new = Counted.__new__(Counted)
        memo[id(self)] = new
        import copy

        new.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return new


@pytest.mark.parametrize("turns", [tuple(ALL), tuple(reversed(ALL))], ids=["forth", "back"])
def test_all_knobs_together_in_whatever_order_they_are_turned(make_flow: Any, turns: Any) -> None:
    own = Own(Counted, OWN["MLP"].data, classified)
    flow, model = flow_of(make_flow, own)
    first = losses_of(flow, 2)
    for knob in turns:
        before = Counted.copies
        setattr(flow, knob, ALL[knob])
        assert Counted.copies == before + 1
    tweaked = all_at_once(own.model())
    loss = classified(tweaked, own.first_batch()).detach()
    penalty = 0.01 * orthogonality_penalty(tweaked).detach()
    assert shown(flow).loss == pytest.approx(float(loss + penalty), rel=1e-6)
    assert {tweak.knob for tweak in flow.tweaks} == set(ALL)
    assert float(penalty) > 0

    # Another seed draws what the knobs draw anew; the seed from before brings it back.
    losses = losses_of(flow, 3)
    flow.reset(seed=4)
    for p, q in zip(flow.model.parameters(), all_at_once(own.model(), 4).parameters(), strict=True):
        assert torch.equal(p, q)
    flow.reset(seed=0)
    assert same_bits(losses_of(flow, 3), losses)

    for knob in ALL:
        setattr(flow, knob, flow._construction.knobs[knob].value)
    assert flow.model is model
    assert same_bits(losses_of(flow, 2), first)


def test_as_given_is_a_way_back_for_every_knob(make_flow: Any) -> None:
    flow, model = flow_of(make_flow, OWN["CNN"])
    assert flow.normalization == "as given"
    for knob, value in ALL.items():
        first = getattr(flow, knob)
        setattr(flow, knob, value)
        setattr(flow, knob, "as given")
        assert getattr(flow, knob) == first
        assert flow.model is model


def test_soft_orthogonality_is_trained_as_by_hand(make_flow: Any) -> None:
    own = OWN["MLP"]
    flow, _ = flow_of(make_flow, own)
    flow.orthogonality = 0.05
    by_hand = own.model()
    optimizer = sgd(by_hand.parameters())
    inputs, targets = own.data()
    order, losses = torch.Generator().manual_seed(0), []
    for _ in range(4):
        rows = torch.randperm(len(inputs), generator=order)
        optimizer.zero_grad()
        loss = classified(by_hand, (inputs[rows], targets[rows]))
        loss = loss + orthogonality_penalty(by_hand) * 0.05
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert shown(flow).loss == losses[0]
    assert same_bits(losses_of(flow, 4), losses)
    pairs = zip(flow.model.parameters(), by_hand.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


# -- optimizers --------------------------------------------------------------------------


def test_the_copy_s_optimizer_has_the_groups_and_state_that_were_there_at_first(
    make_flow: Any,
) -> None:
    own = OWN["MLP"]
    model = own.model()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "lr": 0.01},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=0.001,
        betas=(0.8, 0.95),
    )
    classified(model, own.first_batch()).backward()
    optimizer.step()
    momentum = optimizer.state[model[2].weight]["exp_avg"].clone()

    flow = make_flow(model, optimizer, data=own.data(), objective=own.objective)
    flow.learning_rate = 0.3
    flow.step(3)
    assert not torch.equal(optimizer.state[model[2].weight]["exp_avg"], momentum)
    flow.depth = 6
    rebuilt = flow.optimizer
    assert type(rebuilt) is torch.optim.AdamW
    assert [group["betas"] for group in rebuilt.param_groups] == [(0.8, 0.95)] * 2
    assert [group["weight_decay"] for group in rebuilt.param_groups] == [0.01, 0.0]
    weights, rest = (group["params"] for group in rebuilt.param_groups)
    assert {p.dim() for p in weights} == {2}
    assert {p.dim() for p in rest} == {1}
    assert len(weights) == len(rest) == len(list(flow.model.parameters())) // 2
    kept = rebuilt.state[flow.model[2].weight]
    assert torch.equal(kept["exp_avg"], momentum)
    assert kept["step"] == 1
    flow.step()
    assert [group["lr"] for group in rebuilt.param_groups] == pytest.approx([0.3, 0.03])


def test_an_optimizer_s_factory_is_called_for_every_model_and_run(make_flow: Any) -> None:
    own, made = OWN["MLP"], []

    def optimize(parameters: Any) -> torch.optim.Optimizer:
        made.append(sgd(parameters))
        return made[-1]

    flow = make_flow(own.model(), optimize, data=own.data(), objective=own.objective)
    first = losses_of(flow, 3)
    flow.depth = 2
    flow.step()
    flow.depth = 3
    assert flow.optimizer is made[-1]
    assert len(made) == 3
    assert same_bits(losses_of(flow, 3), first)


# -- factories ---------------------------------------------------------------------------


def test_a_factory_s_product_is_tweaked_for_the_knobs_that_it_does_not_name(
    make_flow: Any,
) -> None:
    called: list[int] = []

    def build(depth: int = 4) -> nn.Module:
        called.append(depth)
        blocks = [m for _ in range(depth) for m in (nn.Linear(6, 6), nn.Tanh())]
        return nn.Sequential(*blocks, nn.Linear(6, 3))

    flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
    assert (flow.depth, flow.activation, flow.normalization) == (4, "tanh", None)
    first = losses_of(flow, 3)
    flow.activation, flow.skips, flow.initialization = "relu", 1.0, "lsuv"
    flow.depth = 6
    assert called[-1] == 6
    assert [tweak.knob for tweak in flow.tweaks] == ["activation", "skips", "initialization"]
    assert sum(isinstance(m, nn.ReLU) for m in flow.model.modules()) == 6
    turned = losses_of(flow, 3)
    flow.reset()
    assert same_bits(losses_of(flow, 3), turned)
    flow.depth, flow.activation, flow.skips, flow.initialization = 4, "tanh", None, "as given"
    assert flow.tweaks == ()
    assert same_bits(losses_of(flow, 3), first)


def test_a_factory_gets_every_knob_that_it_names(make_flow: Any) -> None:
    got: list[Any] = []

    def build(skips: Any = None, normalization: Any = "layer", initialization: Any = None) -> Any:
        got.append((skips, normalization, initialization))
        return plain_network()

    flow = make_flow(build, sgd, CROSS_ENTROPY, samples())
    assert (flow.skips, flow.normalization, flow.initialization) == (None, "layer", "as given")
    flow.skips, flow.normalization, flow.initialization = 0.5, None, "he"
    assert got == [
        (None, "layer", None),
        (0.5, "layer", None),
        (0.5, None, None),
        (0.5, None, "he"),
    ]
    assert flow.tweaks == ()


def test_the_playground_takes_the_tweaks_as_first_values_too() -> None:
    flow = GradientFlow.playground(depth=3, skips="learned", initialization="orthogonal")
    try:
        assert (flow.skips, flow.initialization) == ("learned", "orthogonal")
        assert [tweak.knob for tweak in flow.tweaks] == ["skips", "initialization"]
        flow.depth = 5
        flow.step()
    finally:
        flow.close()


# -- what can't be done ------------------------------------------------------------------


@pytest.mark.parametrize("given", ["module", "factory"])
def test_a_model_that_the_user_s_own_loop_trains_is_not_rebuilt(make_flow: Any, given: str) -> None:
    model = OWN["MLP"].model()
    flow = (
        make_flow(model, sgd(model.parameters()))
        if given == "module"
        else make_flow(OWN["MLP"].model, sgd)
    )
    for knob, value in ALL.items():
        with pytest.raises(ValueError, match=r"Your own loop trains this model: .*\.$"):
            setattr(flow, knob, value)
    assert flow.tweaks == ()


class Uncopyable(nn.Module):
    """Its copy is too much for the machine."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.net, self.error = OWN["MLP"].model(), error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out

    def __deepcopy__(self, memo: Any) -> nn.Module:
        raise self.error


@pytest.mark.parametrize("playing", [False, True])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "no room in memory"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB."), "no room in"),
        (RuntimeError("can't allocate memory:\nyou tried to"), "can't be copied"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_where_a_copy_does_not_fit_the_old_model_goes_on(
    make_flow: Any, error: BaseException, says: str, playing: bool
) -> None:
    own = OWN["MLP"]

    def run(*, fails: bool) -> list[float]:
        model = Uncopyable(error)
        optimizer = sgd(model.parameters())
        flow = make_flow(model, optimizer, data=own.data(), objective=own.objective)
        if playing:
            flow.play()
        flow.wait(2) if playing else flow.step(2)
        if fails:
            with pytest.raises(ValueError, match=says) as caught:
                flow.depth = 7
            text = str(caught.value)
            assert text.endswith(".")
            assert "\n" not in text
            if not playing:  # else the next step's words stand there by now
                assert text in flow.status
            assert flow.depth == flow._training.settings.depth == 3
            assert flow.playing == playing
            flow._controls.depth_slider.value = 8
            assert flow._controls.depth_slider.value == 3
        assert flow.model is model
        assert flow.optimizer is optimizer
        flow.pause()
        flow.wait()
        flow.step(max(1, 40 - flow.step_number))
        return list(flow.history.loss[:40])

    assert same_bits(run(fails=True), run(fails=False))


def test_a_change_that_can_t_be_made_is_told_when_it_is_asked_for(make_flow: Any) -> None:
    torch.manual_seed(0)
    model = Tagger(nn.RNN)
    flow = make_flow(
        model,
        sgd(model.parameters()),
        data=OWN["LSTM tagger"].data(),
        objective=OWN["LSTM tagger"].objective,
    )
    assert flow.activation == "tanh"
    first = losses_of(flow, 4)
    flow.reset()
    again = losses_of(flow, 2)
    with pytest.raises(ValueError, match="RNN takes tanh or relu, not gelu"):
        flow.activation = "gelu"
    assert flow.activation == "tanh"
    assert "RNN takes tanh or relu, not gelu." in flow.status
    assert same_bits(again + losses_of(flow, 2), first)
    flow.activation = "relu"
    assert flow.model is not model


class Parts(nn.Module):
    """Used in parts: the model itself is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = OWN["MLP"].model()


def test_lsuv_needs_an_objective_that_calls_the_model(make_flow: Any) -> None:
    model = Parts()
    flow = make_flow(
        model,
        sgd(model.parameters()),
        data=OWN["MLP"].data(),
        objective=lambda m, batch: classified(m.body, batch),
    )
    with pytest.raises(ValueError, match=r"calls only parts of it: .*\.$"):
        flow.initialization = "lsuv"
    assert flow.initialization == "as given"
    flow.initialization = "he"
    flow.step()


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        ("initialization", "glorot", "initialization 'glorot' is unknown: choose one of default"),
        ("initialization", None, "initialization can't be set to None"),
        ("normalization", "Batch", "normalization 'Batch' is unknown: choose one of batch"),
        ("skips", 0, "skips 0 is unknown: give a positive number"),
        ("skips", "1/L", "skips '1/L' is unknown"),
        ("skips", True, "skips True is unknown"),
        ("orthogonality", -1.0, "orthogonality -1.0 is unknown: give a positive number"),
        ("orthogonality", "soft", "orthogonality 'soft' is unknown"),
        ("activation", "swish", "activation 'swish' is unknown"),
        ("depth", 0, "depth must be"),
    ],
)
def test_values_out_of_range_are_refused(make_flow: Any, knob: str, value: Any, says: str) -> None:
    flow, model = flow_of(make_flow, OWN["MLP"])
    before = getattr(flow, knob)
    with pytest.raises(ValueError, match=r".*\.$") as caught:
        setattr(flow, knob, value)
    assert says in str(caught.value)
    assert getattr(flow, knob) == before
    assert flow.model is model


# -- while it trains ---------------------------------------------------------------------


def test_turns_while_it_plays(make_flow: Any) -> None:
    flow, model = flow_of(make_flow, OWN["MLP"])
    flow.speed = "max"
    flow.play()
    for knob, value in ALL.items():
        flow.wait(2)
        setattr(flow, knob, value)
        assert flow.playing
    flow.optimizer_kind = "Adam"
    flow.wait(2)
    for knob in ALL:
        setattr(flow, knob, "as given")
        flow.wait(1)
    assert flow.model is model
    flow.pause()
    flow.wait()
    assert np.isfinite(flow.history.loss).all()
    assert [len(m._forward_hooks) for m in model.modules() if isinstance(m, nn.Tanh)] == [0] * 4


@pytest.mark.parametrize("scaled", [False, True])
def test_a_loop_of_one_s_own_trains_the_changed_copy(make_flow: Any, scaled: bool) -> None:
    own = OWN["MLP"]
    flow, model = flow_of(make_flow, own)
    flow.depth = 6
    before = [p.detach().clone() for p in model.parameters()]

    def loop() -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
        for _ in range(3):
            flow.optimizer.zero_grad()
            for half in range(2):
                inputs, targets = own.data()
                part = slice(6 * half, 6 * half + 6)
                loss = classified(flow.model, (inputs[part], targets[part])) / 2
                scaler.scale(loss).backward()
            scaler.step(flow.optimizer)
            scaler.update()

    flow.run(loop)
    assert flow.wait(timeout=30)
    assert flow.step_number == 3
    expected = read_objective(with_depth(own.model(), 6), classified, own.data())
    assert flow.history.loss[0] == pytest.approx(expected.loss, rel=1e-5)
    assert flow.history.weight_grad_norm[0] == pytest.approx(expected.weight_grad_norm, rel=1e-4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_cold_turn_ends_a_loop_of_one_s_own(make_flow: Any) -> None:
    own = OWN["MLP"]
    flow, model = flow_of(make_flow, own)
    optimizer = flow.optimizer

    def loop() -> None:
        while True:
            optimizer.zero_grad()
            classified(model, own.data()).backward()
            optimizer.step()

    flow.run(loop)
    flow.wait(3)
    flow.activation = "relu"
    wait_for(lambda: not flow.playing)
    assert flow.step_number == 0
    flow.activation = "tanh"
    assert_same_bars(flow, read(own, own.model()))
    flow.step(2)


@pytest.mark.parametrize("how", ["steps", "play"])
@pytest.mark.parametrize("act", ["turn", "reset"])
def test_no_other_run_begins_within_a_step(make_flow: Any, how: str, act: str) -> None:
    own = OWN["MLP"]
    armed = []

    def objective(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if armed:
            armed.clear()
            flow.set_trait("activation", "relu") if act == "turn" else flow.reset()
        return CROSS_ENTROPY(outputs, targets)

    model = own.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    flow = make_flow(model, optimizer, objective, own.data())
    flow.step(2)
    armed.append(True)
    with pytest.raises((RuntimeError, ValueError), match="begin another run within a step"):
        list(flow.steps(2)) if how == "steps" else flow.step()
    assert flow.model is model
    assert flow.activation == "tanh"
    flow.step(2)
    assert flow.step_number == 4


@pytest.mark.parametrize(("network", "depth"), [("lstm", 3), ("vgg", 9)])
def test_a_factorys_product_offers_what_it_has_at_some_depth(network: str, depth: int) -> None:
    flow = GradientFlow.playground(network, "digits")
    with pytest.raises(CannotTweak):
        flow.skips = 1.0  # not at this depth
    flow.depth = depth
    flow.skips = 1.0
    assert any(tweak.knob == "skips" for tweak in flow.tweaks)
    flow.close()


def test_a_factorys_product_offers_nothing_that_it_has_at_no_depth() -> None:
    flow = GradientFlow.playground("lstm", "digits")
    with pytest.raises(ValueError, match=r"activation can't be changed: .* no activation"):
        flow.activation = "relu"
    flow.close()


def test_layers_that_the_optimizer_does_not_hold_show_the_gradient_of_their_own_step(
    make_flow: Any,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, targets = torch.randn(32, 6), torch.randint(0, 3, (32,))
    head_alone = torch.optim.SGD(model[2].parameters(), lr=0.1)
    flow = make_flow(model, head_alone, nn.CrossEntropyLoss(), (inputs, targets))
    flow.batch_size = 32
    flow.step(9)
    twin = copy.deepcopy(model).double()
    flow.step()
    nn.functional.cross_entropy(twin(inputs.double()), targets).backward()
    expected = [twin[i].weight.grad.norm().item() for i in (0, 2)]
    reading = flow.history.latest
    np.testing.assert_allclose(reading.weight_grad_norm, expected, rtol=1e-5)
    total = math.sqrt(sum(p.grad.square().sum().item() for p in twin.parameters()))
    assert reading.total_norm == pytest.approx(total, rel=1e-5)

"""What "works" means: each trial watches or tweaks a model in training and looks at what came.

A trial returns "" where it works, or the sentence with which it was refused; anything else is
an AssertionError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradflow_widget import GradientProbe
from gradflow_widget.display.bars import MEASURES, FlowChart
from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.measurement.reading import Reading
from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.depth import depth_of, with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import normalization_of, with_normalization
from gradflow_widget.tweaks.optimizer import rebuilt_optimizer
from gradflow_widget.tweaks.orthogonality import penalty_of, with_orthogonality
from gradflow_widget.tweaks.record import tweaks_of
from gradflow_widget.tweaks.skips import with_skips

from .cases import CASES, Case, Objective, Step, objective
from .zoo import fingerprint, output

Tweak = Callable[[nn.Module], nn.Module]
STEPS = 3


# -- watching ------------------------------------------------------------------------------


@cache
def probed(title: str) -> Sequence[Reading]:
    """Train a model under the probe, check its numbers, and return what it recorded."""
    case = CASES[title]
    watched, alone = case.made(), case.made()
    readings: list[Reading] = []
    with GradientProbe(watched, optimizer := case.optimizer(watched), full=True) as probe:
        probe.on_reading = readings.append
        step = case.step()
        losses = [_stepped(number, step, watched, optimizer) for number in range(STEPS)]
    gradients: list[dict[str, Tensor]] = []
    bare, step = case.optimizer(alone), case.step()
    bare.register_step_pre_hook(lambda *_: gradients.append(_gradients(alone)))
    assert losses == [_stepped(number, step, alone, bare) for number in range(STEPS)]
    assert len(readings) == len(gradients) == STEPS
    own = dict(alone.named_parameters())
    for reading, loss, expected in zip(readings, losses, gradients, strict=True):
        assert reading.loss == pytest.approx(loss, rel=1e-6)
        # A tied weight is one gradient.
        once = [g for name, g in expected.items() if name in map(_bare, own)]
        assert reading.total_norm == pytest.approx(_norm(once), rel=1e-5)
        assert sorted(name for layer in reading.described for name in layer.parameters) == sorted(
            map(_bare, dict(alone.named_parameters(remove_duplicate=False)))
        )
        for index, layer in enumerate(reading.described):
            there = {name: expected[name] for name in layer.parameters if name in expected}
            matrices = [g for g in there.values() if g.dim() > 1]
            scales = [g for name, g in there.items() if "bias" not in name]
            assert reading.missing[index] == (not there)
            if there:
                norm = _norm(matrices or scales or list(there.values()))
                assert reading.weight_grad_norm[index] == pytest.approx(norm, rel=1e-5)
    return readings


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


def show_bars(title: str) -> str:
    """Draw what the probe recorded: a bar of the right height for each layer."""
    chart = FlowChart()
    writer = FrameWriter(chart.targets)
    for reading in probed(title):
        for measure in MEASURES:
            chart.measure = measure
            recurrent = chart.recurrent(reading)
            steps = reading.signal_grad_through_time or {}
            bars_shown = reading.layers if recurrent is None else steps[recurrent]
            chart.draw(writer, reading, ["healthy"] * len(bars_shown))
            writer.settle()
        chart.measure = "weight gradient"
        chart.draw(writer, reading, ["healthy"] * len(reading.layers))
        writer.settle()
        bars = chart.targets["bars"]
        assert bars.x.tolist() == list(range(1, len(reading.layers) + 1))
        plain = [state == "" for state in reading.gradient_states]
        assert any(plain)
        heights = np.log10(reading.weight_grad_norm[plain])
        np.testing.assert_allclose(bars.y[plain], heights, rtol=1e-6, atol=1e-6)
    return ""


def watch(title: str) -> str:
    """Train under the probe and check what it says."""
    probed(title)
    return ""


# -- tweaking ------------------------------------------------------------------------------


def change_activation(title: str) -> str:
    def put_on(model: nn.Module) -> nn.Module:
        recurrent = any(isinstance(module, nn.RNN) for module in model.modules())
        return with_activation(model, "relu" if recurrent else "elu")

    return _tried(title, put_on, lambda model: with_activation(model, None))


def change_depth(title: str) -> str:
    def deepened(model: nn.Module) -> nn.Module:
        return with_depth(model, depth_of(model).blocks + 2)

    def back(model: nn.Module) -> nn.Module:
        return with_depth(model, depth_of(model).blocks - 2)

    refused = _tried(title, deepened, back)
    model = _trained(title)[1]
    if not refused and (blocks := depth_of(model).blocks) > 1:
        shallow = _tried(title, lambda one: with_depth(one, 1), lambda one: with_depth(one, blocks))
        assert not shallow
    return refused


def change_initialization(title: str) -> str:
    model = _trained(title)[1]
    for scheme in ("default", "he", "orthogonal"):
        draw = partial(with_initialization, scheme=scheme, seed=5)
        # There is no way back from weights drawn anew but the model that was given.
        refused = _tried(title, draw, None)
        if refused:
            return refused
        assert all(map(torch.equal, draw(model).parameters(), draw(model).parameters()))
    return ""


def change_normalization(title: str) -> str:
    own = normalization_of(_trained(title)[1])
    back = partial(with_normalization, kind=own)
    for kind in ("batch", "layer", "rms", "weight"):
        # Weight norm by itself computes the weights that were there.
        changes = kind != "weight" or own is not None
        put_in = partial(with_normalization, kind=kind)
        refused = kind != own and _tried(title, put_in, back, changes_output=changes)
        if refused:
            return refused
    return ""


def put_on_skips(title: str) -> str:
    for scale in (0.5, "learned"):
        put_on = partial(with_skips, scale=scale)
        refused = _tried(title, put_on, partial(with_skips, scale=None))
        if refused:
            return refused
    return ""


def penalise(title: str) -> str:
    return _tried(
        title,
        lambda model: with_orthogonality(model, 0.1),
        lambda model: with_orthogonality(model, None),
        changes_output=False,
    )


def keep_orthogonal(title: str) -> str:
    return _tried(
        title,
        lambda model: with_orthogonality(model, "hard"),
        lambda model: with_orthogonality(model, None),
    )


COLUMNS: dict[str, Callable[[str], str]] = {
    "probe": watch,
    "bars": show_bars,
    "activation": change_activation,
    "depth": change_depth,
    "initialisation": change_initialization,
    "normalisation": change_normalization,
    "skips": put_on_skips,
    "orthogonality, soft": penalise,
    "orthogonality, hard": keep_orthogonal,
}
"""By the table's columns, what is tried."""


@cache
def outcome(title: str, column: str) -> str:
    """Return "" where it works, else the sentence of the refusal."""
    return COLUMNS[column](title)


# -- what a tweak has to be ----------------------------------------------------------------


@cache
def _trained(title: str) -> tuple[Case, nn.Module, Optimizer]:
    """A model that has been trained for two steps, so that there is something to lose."""
    case = CASES[title]
    model = case.made()
    optimizer, step = case.optimizer(model), case.step()
    for number in range(2):
        _stepped(number, step, model, optimizer)
    return case, model, optimizer


def _tried(title: str, tweak: Tweak, undo: Tweak | None, *, changes_output: bool = True) -> str:
    case, model, optimizer = _trained(title)
    inputs = case.inputs()
    # After a few copies of one class torch.compile gives up and runs them as they are.
    torch.compiler.reset()
    expected = output(model, inputs)
    before, gradients = fingerprint(model), _gradients(model)
    try:
        changed = tweak(model)
    except CannotTweak as refusal:
        assert fingerprint(model) == before
        return str(refusal)
    assert tweaks_of(changed)
    found = output(changed, inputs)
    assert found.isfinite().all()
    assert found.shape == expected.shape
    assert not (changes_output and torch.equal(found, expected))
    if undo is not None:
        back = undo(changed)
        assert torch.equal(output(back, inputs), expected)
        assert list(back.state_dict()) == list(model.state_dict())
        assert tweaks_of(back) == ()
    _train_on(case, model, optimizer, changed)
    after = fingerprint(model)
    assert after == {**before, "random state": after["random state"]}
    assert all(torch.equal(value, gradients[name]) for name, value in _gradients(model).items())
    return ""


def _train_on(case: Case, model: nn.Module, optimizer: Optimizer, changed: nn.Module) -> None:
    """Do one step of the copy with the optimizer that was rebuilt for it."""
    rebuilt = rebuilt_optimizer(optimizer, model, changed)
    wanted = {id(p) for p in changed.parameters() if p.requires_grad}
    assert {id(p) for group in rebuilt.param_groups for p in group["params"]} == wanted
    weights = {name: p.detach().clone() for name, p in changed.named_parameters()}
    penalty = penalty_of(changed)
    loss = _stepped(2, case.step(), changed, rebuilt, penalty)
    assert math.isfinite(loss)
    stepped = output(changed, case.inputs())
    assert stepped.isfinite().all()
    assert stepped.float().std() > 0
    for layer in changed.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            assert layer.weight.any()
    for name, parameter in changed.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert parameter.grad.isfinite().all()
            # In half precision a step of a thousandth may be rounded away.
            assert not torch.equal(parameter, weights[name]) or parameter.dtype == torch.bfloat16
    assert sum(p.grad is not None and bool(p.grad.any()) for p in changed.parameters()) >= 2


def _stepped(
    number: int,
    step: Step,
    model: nn.Module,
    optimizer: Optimizer,
    penalty: Callable[[], Tensor] | None = None,
) -> float:
    """Do a training step with a random state of its own; return the loss."""

    def with_penalty(network: nn.Module, inputs: Any) -> Tensor:
        loss = objective(network, inputs)
        return loss if penalty is None else loss + penalty()

    loss_of: Objective = with_penalty
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        return float(step(model, optimizer, loss_of))


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        _bare(name): parameter.grad.detach().double().clone()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.grad is not None
    }


def _bare(name: str) -> str:
    return name.replace("_orig_mod.", "")

"""The verdict on recurrent layers: theory.md, "Recurrent nets"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import Reading, take_reading
from gradflow_widget.diagnosis.rules import judge
from gradflow_widget.diagnosis.through_time import step_problems
from tests.display.readings import reading


class Recurrent(nn.Module):
    """A linear-like network of ρ·orthogonal weights, whose loss looks at the last step or all."""

    def __init__(self, rho: float, *, reverse: bool = False, every: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.RNN(4, 32, batch_first=True, bidirectional=reverse)
        for name, weight in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(weight, rho)
            else:
                nn.init.zeros_(weight)  # no input: tanh stays where its slope is 1
        self.head = nn.Linear(64 if reverse else 32, 2)
        self.every = every

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, last = self.rnn(x)
        return self.head(states if self.every else torch.cat(list(last), dim=1))


def looked_at(model: nn.Module, steps: int = 40) -> Reading:
    return take_reading(model, lambda out, _: out.square().mean(), torch.randn(16, steps, 4), None)


def test_what_vanishes_through_time_is_worth_a_look() -> None:
    verdict = judge([looked_at(Recurrent(0.5))])
    assert (verdict.problem, verdict.severity) == ("vanishing", "watch")
    lost = -39 * math.log10(0.5)
    assert verdict.sentence.startswith(
        f"Vanishing through time: in rnn the signal falls by {lost:.1f} decades "
        "from the last of 40 time steps back to the first (×0.5 a step). From layer to layer: "
    )


def test_what_explodes_through_time_is_a_fault() -> None:
    verdict = judge([looked_at(Recurrent(1.5))])
    assert (verdict.problem, verdict.severity) == ("exploding", "fault")
    assert "grows by 6.9 decades" in verdict.sentence
    assert "(×1.5 a step)" in verdict.sentence


def test_what_keeps_its_length_through_time_is_healthy() -> None:
    assert judge([looked_at(Recurrent(1.0))]).problem == "healthy"


def test_the_direction_that_reads_from_the_end_is_judged_in_its_own_order() -> None:
    assert judge([looked_at(Recurrent(1.0, reverse=True))]).problem == "healthy"
    verdict = judge([looked_at(Recurrent(0.5, reverse=True))])
    assert "falls by 11.7 decades" in verdict.sentence


def test_losses_of_many_steps_that_add_up_do_not_explode() -> None:
    model = Recurrent(1.0, every=True)
    assert judge([looked_at(model, steps=600)]).problem == "healthy"


def test_a_signal_that_fades_to_0_through_time_is_said_to() -> None:
    verdict = judge([looked_at(Recurrent(0.05))])
    assert verdict.problem == "vanishing"
    assert "fades to exactly 0 on its way from the last of 40 time steps" in verdict.sentence


def seen(decades: float, step: int) -> Reading:
    norms = 10.0 ** np.linspace(decades, 0.0, 20)
    return reading(
        [1.0, 1.0], step=step, signal_grad_norm=[1.0, 1.0], signal_grad_through_time={"rnn": norms}
    )


def test_in_training_what_explodes_through_time_must_persist() -> None:
    wild = [seen(4.0, step) for step in range(5, 15)]
    assert judge(wild).problem == "exploding"
    assert judge(wild[1:]).problem == "healthy"
    assert judge([seen(0.0, 4), *wild[1:]]).problem == "healthy"


def test_once_later_steps_are_learned_the_loss_may_be_what_grows() -> None:
    assert judge([seen(4.0, 0)]).severity == "fault"
    verdict = judge([seen(4.0, step) for step in range(5, 15)])
    assert (verdict.problem, verdict.severity) == ("exploding", "watch")
    assert "Or the loss is far larger at the early steps." in verdict.sentence


@pytest.mark.parametrize("padding", [0, 20, 200])
def test_padding_changes_no_verdict(padding: int) -> None:
    # Losses that add up: nearly all of the growth is in the later half of the steps.
    signal = np.concatenate([10.0 ** np.array([*[2.4] * 15, *np.linspace(2.4, 0, 15)])])
    padded = np.concatenate([signal, np.zeros(padding)])
    look = reading([1.0], signal_grad_norm=[1.0], signal_grad_through_time={"rnn": padded})
    assert judge([look]).problem == ""
    rate = 10.0 ** np.linspace(4.0, 0.0, 30)
    padded = np.concatenate([rate, np.zeros(padding)])
    look = reading([1.0], signal_grad_norm=[1.0], signal_grad_through_time={"rnn": padded})
    verdict = judge([look])
    assert verdict.problem == "exploding"
    whence = f"from step 30 of {30 + padding}" if padding else "from the last of 30"
    assert f"{whence} time steps back to the first (×1.37 a step)" in verdict.sentence


def test_a_signal_that_is_cut_has_not_faded() -> None:
    signal = [0.0] * 20 + [5e-3] * 20
    look = reading([1.0], signal_grad_norm=[1.0], signal_grad_through_time={"rnn": signal})
    verdict = judge([look])
    assert (verdict.problem, verdict.severity) == ("severed", "watch")
    assert "is exactly 0 at step 20 of 40 and before, as behind detach()" in verdict.sentence


def test_what_vanishes_by_a_hair_does_not_do_so_to_and_fro() -> None:
    for less, more, problem in (
        (-2.4, -2.25, "vanishing"),
        (-2.4, -2.1, "healthy"),
        (-9.0, -2.1, "healthy"),
    ):
        run = [seen(less if step % 2 else more, step) for step in range(2, 30)]
        assert {judge(run[:end]).problem for end in range(2, 29)} == {problem}
    assert judge([seen(-2.4, 0)]).problem == "vanishing"


def test_the_number_told_is_of_what_is_judged() -> None:
    verdict = judge([*[seen(-3.0, step) for step in range(2, 12)], seen(-1.0, 12)])
    assert "Vanishing through time: in rnn the signal falls by 3.0 decades" in verdict.sentence
    growing = [seen(4.0 + step / 10, step) for step in range(2, 12)]
    assert "grows by 4.8 decades" in judge(growing).sentence
    assert (
        judge([*[seen(-1.0, step) for step in range(2, 12)], seen(-9.0, 12)]).problem == "healthy"
    )


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("place", [slice(-1, None), slice(0, 1), slice(2, 4), slice(None)], ids=str)
def test_a_signal_that_is_not_finite_is_left_out(bad: float, place: slice) -> None:
    for first in (0.0, 1e-300, 1.0):
        signal = np.array([first, *[1.0] * 9])
        signal[place] = bad
        overflowed = [
            replace(seen(0.0, step), signal_grad_through_time={"rnn": signal}) for step in range(12)
        ]
        for readings in (overflowed, overflowed[:1], overflowed[4:5]):
            assert judge(readings).problem == "healthy"
        fading = [seen(-3.0, 3), seen(-3.0, 4)]
        assert judge([*overflowed[1:3], *fading]).problem == "vanishing"
        assert judge([*fading, overflowed[5]]).problem == "vanishing"


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ([1e-3, 1e-2, 1.0], ["vanishing", "healthy", "healthy"]),
        ([1e3, 1.0, 1.0], ["exploding", "healthy", "healthy"]),
        ([0.0, 1.0, 1.0, 0.0], ["severed", "healthy", "healthy", "severed"]),
        ([0.0, 0.0], ["", ""]),
        ([math.nan, 1.0], ["", "healthy"]),
        ([math.inf, 1.0], ["exploding", "healthy"]),
        ([0.0, 1.0, math.inf], ["", "", ""]),
    ],
)
def test_each_step_is_judged_by_the_last(signal: Sequence[float], expected: list[str]) -> None:
    one = reading([1.0], signal_grad_through_time={"rnn": signal, "rnn_reverse": signal[::-1]})
    assert step_problems(one, "rnn") == tuple(expected)
    assert step_problems(one, "rnn_reverse") == tuple(expected[::-1])

"""The verdict on recurrent layers within one module."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import Reading, take_reading
from gradflow_widget.diagnosis.rules import judge
from gradflow_widget.diagnosis.stacked import judge_stacked
from tests.display.readings import reading


class Stacked(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.r = kind(8, 24, layers, batch_first=True, bidirectional=bidirectional)
        self.o = nn.Linear(48 if bidirectional else 24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.o(self.r(x)[0][:, -1])
        return out


def looked_at(model: nn.Module) -> Reading:
    torch.manual_seed(1)
    targets = torch.randint(4, (32,))
    return take_reading(model, nn.CrossEntropyLoss(), torch.randn(32, 8, 8), targets)


def cells(layers: int) -> nn.Module:
    """The same network with a cell for each layer, which the verdict on layers sees."""

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            fused = Stacked(nn.RNN, layers)
            self.c = nn.ModuleList(nn.RNNCell(24 if i else 8, 24) for i in range(layers))
            for i, cell in enumerate(self.c):
                for name, weight in cell.named_parameters():
                    weight.data = getattr(fused.r, f"{name}_l{i}").data
            self.o = fused.o

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states: list[torch.Tensor | None] = [None] * layers
            for step in range(x.shape[1]):
                below = x[:, step]
                for i, cell in enumerate(self.c):
                    below = states[i] = cell(below, states[i])
            out: torch.Tensor = self.o(below)
            return out

    return Cells()


def test_a_network_is_judged_alike_in_one_module_and_in_many() -> None:
    fused, single = looked_at(Stacked(nn.RNN, 12)), looked_at(cells(12))
    assert fused.loss == pytest.approx(single.loss, rel=1e-5)
    inside, outside = judge([fused]), judge([single])
    assert inside.problem == outside.problem == "vanishing"
    assert inside.severity == outside.severity == "fault"
    decades = f"falls by {-single.decades:.1f} decades"  # type: ignore[operator]
    assert decades in inside.sentence
    assert decades in outside.sentence
    assert inside.sentence.startswith("Vanishing within r: ")
    assert "from its layer 12 down to its layer 1" in inside.sentence


@pytest.mark.parametrize("bidirectional", [False, True])
def test_two_layers_are_healthy(bidirectional: bool) -> None:
    look = looked_at(Stacked(nn.LSTM, 2, bidirectional=bidirectional))
    assert judge_stacked([look]) is None


def grown(decades: float, step: int) -> Reading:
    signal = {f"r.l{i}": 10.0 ** (decades * (1 - i / 4)) * np.ones(6) for i in range(5)}
    return reading([1.0, 1.0], step=step, signal_grad_through_time=signal)


def test_exploding_has_to_persist_once_training_has_begun() -> None:
    at_first = judge_stacked([grown(1.5, 0)])
    assert at_first is not None
    assert (at_first.problem, at_first.severity) == ("exploding", "watch")
    later = [grown(3.0, step) for step in range(5, 20)]
    assert judge_stacked(later[:9]) is None
    lasting = judge_stacked(later)
    assert lasting is not None
    assert (lasting.problem, lasting.severity) == ("exploding", "fault")
    assert judge_stacked([*later, grown(0.0, 30)]) is None


def test_without_a_number_nothing_is_said() -> None:
    for value in (0.0, math.nan):
        signal = {"r.l0": np.full(3, value), "r.l1": np.ones(3)}
        look = reading([1.0, 1.0], signal_grad_through_time=signal)
        assert judge_stacked([look]) is None


def test_the_worse_of_two_modules_is_told_of() -> None:
    signal = {f"a.l{i}": 10.0 ** (-1.5 * (1 - i)) * np.ones(6) for i in range(2)}
    signal |= {f"b.l{i}": 10.0 ** (-6.0 * (1 - i)) * np.ones(6) for i in range(2)}
    verdict = judge_stacked([reading([1.0, 1.0], signal_grad_through_time=signal)])
    assert verdict is not None
    assert (verdict.severity, verdict.sentence[:18]) == ("fault", "Vanishing within b")


def test_what_vanishes_by_a_hair_does_not_do_so_to_and_fro() -> None:
    for less, more, vanishes in ((-1.45, -1.35, True), (-1.45, -1.2, False), (-6.0, -1.2, False)):
        run = [grown(less if step % 2 else more, step) for step in range(2, 30)]
        assert {judge_stacked(run[:end]) is not None for end in range(2, 29)} == {vanishes}


def test_the_number_told_is_of_what_is_judged() -> None:
    run = [grown(-2.0, step) for step in range(2, 12)]
    verdict = judge_stacked([*run, grown(-1.0, 12)])
    assert verdict is not None
    assert "falls by 2.0 decades" in verdict.sentence
    assert judge_stacked([*[grown(-1.0, step) for step in range(2, 12)], grown(-6.0, 12)]) is None


def test_a_watch_from_layer_to_layer_hides_no_fault_through_time() -> None:
    model = Stacked(nn.RNN, 2)
    model.r.nonlinearity, model.r.mode = "relu", "RNN_RELU"
    for layer in range(2):
        getattr(model.r, f"weight_hh_l{layer}").data = 1.5 * torch.eye(24)
    model.r.weight_ih_l1.data.mul_(0.003)
    torch.manual_seed(1)
    targets = torch.randint(4, (32,))
    look = take_reading(model, nn.CrossEntropyLoss(), torch.randn(32, 20, 8), targets)
    verdict = judge([look])
    assert (verdict.problem, verdict.severity) == ("exploding", "fault")
    assert "Vanishing within r" in verdict.sentence

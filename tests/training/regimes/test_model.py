"""What a regime does to the model: a saved state, frozen layers, dropout."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gradflow_widget.measurement.probe import GradientProbe
from gradflow_widget.training.regimes.applied import model_under
from gradflow_widget.training.regimes.dropout import with_dropout
from gradflow_widget.training.regimes.freezing import forward_order, freeze
from gradflow_widget.training.regimes.regime import Regime, regime_from
from gradflow_widget.training.regimes.transfer import load_saved, saved_state
from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.record import tweaks_of

from .parts import all_equal, cross_entropy, network, plain, samples, state_of, train

# -- a saved state -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "checkpoint", "mapping", "path"])
def test_a_saved_state_is_taken_whole(form: str, tmp_path: Path) -> None:
    saved, model = network(seed=1), network(seed=2)
    saved(samples()[0])
    path = tmp_path / "weights.pt"
    torch.save({"model": saved.state_dict()} if form == "checkpoint" else saved.state_dict(), path)
    source = saved.state_dict() if form == "mapping" else str(path)
    load_saved(model, source)
    assert all_equal(list(model.state_dict().values()), list(saved.state_dict().values()))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    path = tmp_path / "evil.pt"
    torch.save({"0.weight": Evil()}, path)
    with pytest.raises(ValueError, match="can't be loaded as weights alone"):
        saved_state(str(path))
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="can't be loaded as weights alone"):
        saved_state(str(path))
    assert not ran.exists()


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    state = plain().state_dict()
    state["0.weight"] = torch.zeros(7, 6)
    state["9.bias"] = state.pop("4.bias")
    model = plain(seed=1)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"it lacks 4\.bias; the model lacks 9\.bias; .*7×6, here"):
        load_saved(model, state)
    assert all_equal(state_of(model), before)
    load_saved(model, state, strict=False)
    before = plain(seed=1).state_dict()
    for name, tensor in model.state_dict().items():
        left = name in ("0.weight", "4.bias")
        assert torch.equal(tensor, before[name] if left else state[name]), name


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_which_nothing_fits_is_refused(strict: bool) -> None:
    with pytest.raises(ValueError, match="state does not fit"):
        load_saved(plain(), {"elsewhere": torch.ones(3)}, strict=strict)


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        saved_state(str(tmp_path / "nothing.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    for source in (str(tmp_path / "list.pt"), {"epoch": 3}):
        with pytest.raises(ValueError, match="no tensors by name"):
            saved_state(source)


# -- freezing ----------------------------------------------------------------------------


def order_of(model: nn.Module) -> tuple[nn.Module, ...]:
    return forward_order(model, cross_entropy, samples())


def test_frozen_layers_are_drawn_as_frozen_and_keep_their_weights() -> None:
    given = network()
    before = state_of(given)
    model, history = train(
        regime_from({"transfer": {"freeze": 2}}), given, samples(), steps=4, full=True
    )
    reading = history.latest
    assert reading is not None
    assert reading.layers == ("0", "1", "4", "5", "8")
    assert reading.frozen.tolist() == [True, True, False, False, False]
    assert reading.missing.tolist() == [True, True, False, False, False]
    assert np.isnan(reading.weight_grad_norm[:2]).all()
    assert (reading.weight_grad_norm[2:] > 0).all()
    assert (reading.update_ratio[:2] == 0).all()
    moved = [
        not torch.equal(one, other)
        for one, other in zip(model.parameters(), given.parameters(), strict=True)
    ]
    del moved[5]  # a bias ahead of BatchNorm, of which the norm leaves nothing
    assert moved == [False] * 4 + [True] * 5
    assert all_equal(state_of(given)[:-12], before[:-12])
    assert all(p.requires_grad for p in given.parameters())


def test_the_frozen_norm_keeps_its_statistics_and_the_learning_one_does_not() -> None:
    model, _ = train(regime_from({"transfer": {"freeze": 2}}), network(), samples(), steps=3)
    assert not model[1].training
    assert model[1].num_batches_tracked == 0
    assert model[5].num_batches_tracked == 3
    assert model[3].training  # dropout goes on


def test_a_norm_without_weights_is_frozen_with_what_stands_around_it() -> None:
    def built() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 6),
            nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3),
        )  # fmt: skip

    model = built()
    freeze(model, 1, order_of(model))
    assert [model[1].training, model[3].training] == [False, True]
    model = built()
    freeze(model, 2, order_of(model))
    assert [model[1].training, model[3].training] == [False, False]


def test_layers_are_counted_in_forward_order_whatever_their_place() -> None:
    class Backward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(6, 3), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.first(x))
            return out

    model = Backward()
    freeze(model, 1, order_of(model))
    assert [p.requires_grad for p in model.last.parameters()] == [True, True]
    assert [p.requires_grad for p in model.first.parameters()] == [False, False]


def test_gradients_of_frozen_layers_go_and_those_of_the_others_stay() -> None:
    model = network()
    model[0].bias.requires_grad_(False)
    cross_entropy(model, samples()).backward()
    freeze(model, 3, order_of(model))
    assert [p.requires_grad for p in model.parameters()] == [False] * 6 + [True] * 4
    assert model[0].weight.grad is None
    assert model[8].weight.grad is not None


def test_weight_decay_and_momentum_leave_frozen_layers_alone() -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    cross_entropy(model, samples()).backward()
    optimizer.step()
    freeze(model, 1, order_of(model))
    before = model[0].weight.clone()
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model, samples()).backward()
        optimizer.step()
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("count", [3, 9])
def test_something_must_be_left_to_learn(count: int) -> None:
    model = plain()
    with pytest.raises(ValueError, match=r"the model has 3 layers: leave at least one"):
        freeze(model, count, order_of(model))
    assert all(p.requires_grad for p in model.parameters())


def test_finding_the_order_moves_nothing() -> None:
    model = network()
    before = state_of(model)
    called = order_of(model)
    assert called[0] is model
    assert called[1:] == tuple(model)
    assert all_equal(state_of(model), before)
    assert not any(module._forward_pre_hooks for module in model.modules())


# -- dropout -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.Tanh, nn.PReLU])
def test_dropout_goes_behind_every_hidden_activation_and_off_again(activation: Any) -> None:
    model, (inputs, _) = plain(activation=activation), samples()
    before = copy.deepcopy(model.state_dict())
    dropped = with_dropout(model, 0.5)
    assert [type(module).__name__ for module in dropped] == [
        "Linear", "Dropped", "Linear", "Dropped", "Linear",
    ]  # fmt: skip
    assert tweaks_of(dropped)[0].sentence == "Dropout: behind 2 activations, at rate 0.5."
    hidden = dropped[1](torch.full((1000, 8), 1.0))
    share = (hidden == 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)
    dropped.eval()
    assert torch.equal(dropped(inputs), model(inputs))
    plain_again = with_dropout(dropped.train(), None)
    assert torch.equal(plain_again(inputs), model(inputs))
    assert [type(module) for module in plain_again] == [type(module) for module in model]
    assert tweaks_of(plain_again) == ()
    assert all_equal(list(model.state_dict().values()), list(before.values()))


def test_the_same_seed_gives_the_same_masks() -> None:
    dropped, (inputs, _) = with_dropout(plain(), 0.5), samples()
    torch.manual_seed(4)
    first, second = dropped(inputs), dropped(inputs)
    torch.manual_seed(4)
    assert torch.equal(dropped(inputs), first)
    assert not torch.equal(first, second)


def test_dropout_that_is_there_gets_the_rate_and_then_its_own_back() -> None:
    model = nn.Sequential(OrderedDict(a=network(), b=nn.Dropout1d(0.1)))
    model.c = nn.LSTM(3, 3, num_layers=2, dropout=0.2)
    dropped = with_dropout(with_dropout(model, 0.7), 0.6)
    assert [dropped.a[3].p, dropped.a[7].p, dropped.b.p, dropped.c.dropout] == [0.6] * 4
    assert [type(m) for m in dropped.modules()] == [type(m) for m in model.modules()]
    back = with_dropout(dropped, None)
    assert [back.a[3].p, back.a[7].p, back.b.p, back.c.dropout] == [0.3, 0.3, 0.1, 0.2]


@pytest.mark.parametrize("model", [plain(), with_dropout(plain(), 0.5), nn.Linear(6, 3)])
def test_a_rate_of_0_leaves_a_model_without_dropout_as_it_is(model: nn.Module) -> None:
    same = with_dropout(model, 0)
    assert tweaks_of(same) == ()
    assert not any(isinstance(module, nn.Dropout) for module in same.modules())


def test_a_swapped_activation_stays_when_the_dropout_goes() -> None:
    model, (inputs, _) = plain(), samples()
    both = with_activation(with_dropout(model, 0.5), "relu")
    other_way = with_dropout(with_activation(model, "relu"), 0.5)
    for first, second in ((both, other_way), (both.eval(), other_way.eval())):
        torch.manual_seed(0)
        one = first(inputs)
        torch.manual_seed(0)
        assert torch.equal(one, second(inputs))
    assert torch.equal(with_dropout(both, None)(inputs), with_activation(model, "relu")(inputs))


def test_the_probe_still_finds_dead_units_behind_dropout() -> None:
    model = with_dropout(plain(activation=nn.ReLU), 0.5)
    model[2].bias.data.fill_(-1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=True) as probe:
        cross_entropy(model, samples()).backward()
        optimizer.step()
        assert probe.history.latest.dead_fraction[1] == 1.0


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.two(functional.relu(self.one(x)))
        return out


@pytest.mark.parametrize(
    ("model", "message"),
    [(Functional(), "calls its activations as functions"), (nn.Linear(6, 3), "has none between")],
)
def test_a_model_without_a_place_for_dropout_says_so(model: nn.Module, message: str) -> None:
    with pytest.raises(CannotTweak, match=message):
        with_dropout(model, 0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), True, "much"])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="dropout must be a share from 0 to below 1"):
        with_dropout(plain(), rate)


# -- together ----------------------------------------------------------------------------


def test_a_model_takes_state_freeze_and_dropout_and_the_given_one_stays() -> None:
    given, saved = plain(seed=1), plain(seed=2)
    before = state_of(given)
    regime = regime_from({"transfer": {"state": saved.state_dict(), "freeze": 1}, "dropout": 0.3})
    model = model_under(regime, given, order_of)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), saved.parameters(), strict=True)
    )
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * 4
    assert {tweak.knob for tweak in tweaks_of(model)} == {"dropout", "transfer"}
    assert all_equal(state_of(given), before)
    assert all(p.requires_grad for p in given.parameters())


def test_a_model_stays_itself_where_a_regime_does_nothing_to_it() -> None:
    model = plain()
    regime = regime_from({"label_noise": 0.1, "adversarial": {"method": "fgsm", "epsilon": 0.1}})
    assert model_under(regime, model, order_of) is model
    assert model_under(Regime(), model, order_of) is model

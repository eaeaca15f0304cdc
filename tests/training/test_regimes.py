"""Regimes in the whole widget: the effect that each one's sentence states, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradflow_widget import GradientFlow, Regime
from gradflow_widget.tweaks.errors import CannotTweak

from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples, small_network

Make = Callable[..., GradientFlow]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture
def playground() -> Iterator[Make]:
    """Make playgrounds that are closed when the test is over."""
    made: list[GradientFlow] = []

    def make(**knobs: Any) -> GradientFlow:
        made.append(GradientFlow.playground(**{"depth": 3, **knobs}))
        return made[-1]

    yield make
    for flow in made:
        flow.close()


def own(make_flow: Make, model: nn.Module | None = None, **options: Any) -> GradientFlow:
    """A user's own module with a ready-made optimizer."""
    model = plain_network() if model is None else model
    return make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, samples(), **options)


def shown(flow: GradientFlow) -> str:
    """What the panel says of changes in the model and of the regime."""
    flow._stage.settle()
    return " ".join(flow._stage.panel.changes)


# -- what each sentence says, in the readings --------------------------------------------


def full_run(flow: GradientFlow, steps: int) -> Any:
    flow.speed = 1
    flow.step(steps)
    return flow.history


def late(column: Any, share: float = 0.3) -> Any:
    return column[-int(len(column) * share) :]


@pytest.mark.parametrize("given", ["playground", "own module"])
def test_an_attack_makes_the_loss_fall_slower_and_the_gradients_stay(
    playground: Make, make_flow: Make, given: str
) -> None:
    flow = playground() if given == "playground" else own(make_flow)
    plain = full_run(flow, 150)
    flow.reset()
    flow.regime = {"adversarial": {"method": "fgsm", "epsilon": 0.3}}
    assert "Adversarial training (FGSM)" in shown(flow)
    attacked = full_run(flow, 150)
    assert late(attacked.loss).mean() > 1.03 * late(plain.loss).mean()
    # Labels that were drawn can't be learnt, so there is nothing that would fade.
    if given == "playground":
        assert late(attacked.loss).mean() > 2 * late(plain.loss).mean()
        assert late(attacked.total_norm).mean() > 1.3 * late(plain.total_norm).mean()


def test_the_step_is_made_on_the_attacked_batch_to_the_last_bit(make_flow: Make) -> None:
    """Against FGSM by hand: x + ε·sign(∂L/∂x)."""
    twin = plain_network()
    flow = own(make_flow)
    flow.batch_size = 96
    flow.regime = {"adversarial": {"method": "fgsm", "epsilon": 0.25}}
    inputs, targets = samples()
    optimizer, expected = sgd(twin.parameters()), []
    order = torch.Generator().manual_seed(0)
    for _ in range(4):
        rows = torch.randperm(96, generator=order)
        x = inputs[rows].requires_grad_(True)
        (slope,) = torch.autograd.grad(functional.cross_entropy(twin(x), targets[rows]), x)
        x = (x + 0.25 * slope.sign()).detach()
        optimizer.zero_grad()
        loss = functional.cross_entropy(twin(x), targets[rows])
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses_of(flow, 4) == pytest.approx(expected, rel=1e-6)


def test_a_curriculum_begins_with_what_is_easy_and_ends_with_all(playground: Make) -> None:
    flow = playground()
    flow.speed = "max"
    flow.step(240)
    plain = flow.history
    flow.regime = {"curriculum": {"by": "loss"}}
    assert flow.step_number == 0
    flow.step(240)
    norms = flow.history.total_norm
    early = norms[40:120].mean()
    assert early < 0.7 * plain.total_norm[40:120].mean()
    assert norms[160:240].mean() > 1.3 * early
    # The bars before the first step are those of the first easy batch.
    first = flow.history.loss[0]
    flow.reset()
    assert flow._stage._shown.loss == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("given", ["playground", "own module", "own factory"])
def test_frozen_layers_keep_their_weights_and_are_drawn_as_frozen(
    playground: Make, make_flow: Make, given: str
) -> None:
    if given == "playground":
        flow = playground()
    elif given == "own module":
        flow = own(make_flow)
    else:
        flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
    flow.regime = {"transfer": {"freeze": 2}}
    assert "the first 2 layers keep their weights and are drawn as frozen" in shown(flow)
    assert flow._stage._shown.gradient_states == ("frozen", "frozen", "")
    before = [p.detach().clone() for p in flow.model.parameters()]
    flow.step(3)
    latest = flow.history.latest
    assert latest is not None
    assert latest.gradient_states == ("frozen", "frozen", "")
    assert np.isnan(latest.weight_grad_norm[:2]).all()
    assert latest.weight_grad_norm[2] > 0
    same = [torch.equal(p, q) for p, q in zip(flow.model.parameters(), before, strict=True)]
    assert same == [True] * 4 + [False] * 2
    flow.regime = None
    flow.step()
    assert flow.history.latest.gradient_states == ("", "", "")


def test_layers_are_frozen_in_forward_order_whatever_order_they_are_registered_in(
    make_flow: Make,
) -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(8, 3), nn.Linear(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(torch.tanh(self.first(x)))
            return out

    flow = own(make_flow, Backwards())
    flow.regime = {"transfer": {"freeze": 1}}
    assert not flow.model.first.weight.requires_grad
    assert flow.model.last.weight.requires_grad


def test_a_run_starts_from_a_saved_state(playground: Make, tmp_path: Path) -> None:
    flow = playground()
    flow.step(150)
    begun, trained = flow.history.loss[0], flow.history.loss[-10:].mean()
    path = tmp_path / "weights.pt"
    torch.save(flow.model.state_dict(), path)
    flow.regime = {"transfer": {"state": str(path)}}
    flow.step(5)
    assert flow.history.loss.mean() < (begun + trained) / 2
    before = flow.model
    with pytest.raises(ValueError, match="state does not fit the model"):
        flow.depth = 5
    assert flow.depth == 3
    assert flow.model is before
    path.unlink()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        flow.regime = {"transfer": {"state": str(path), "freeze": 1}}
    assert flow.regime.transfer.freeze == 0
    flow.step()


def test_accumulation_is_the_mean_over_batches_and_steadier(make_flow: Make) -> None:
    """Four batches of 24 in a permutation of 96 are the full batch."""
    flow = own(make_flow)
    flow.batch_size = 96
    flow.speed = 1
    flow.step()
    whole = flow.history.latest
    flow.reset()
    flow.batch_size, flow.regime = 24, {"accumulation": 4}
    assert flow.step_number == 0
    flow.step()
    parts = flow.history.latest
    assert whole is not None
    assert parts is not None
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.weight_grad_norm == pytest.approx(whole.weight_grad_norm, rel=1e-4)
    flow.step(30)
    accumulated = flow.history.total_norm
    flow.reset()
    flow.regime = None
    flow.step(31)
    assert accumulated.mean() < flow.history.total_norm.mean()
    assert accumulated[5:].std() < flow.history.total_norm[5:].std()


def test_label_noise_keeps_the_loss_up_and_the_gradients_large(playground: Make) -> None:
    flow = playground()
    plain = full_run(flow, 200)
    flow.regime = {"label_noise": 0.4}
    noisy = full_run(flow, 200)
    assert late(noisy.loss).min() > 2 * late(plain.loss).mean()
    assert late(noisy.total_norm).mean() > 1.5 * late(plain.total_norm).mean()
    assert flow.accuracy > 0.6  # what is held out has its own labels


@pytest.mark.parametrize("given", ["playground", "own module"])
def test_dropout_makes_the_gradients_larger(playground: Make, make_flow: Make, given: str) -> None:
    flow = playground(depth=6) if given == "playground" else own(make_flow)
    plain = full_run(flow, 120)
    flow.regime = Regime(dropout=0.5)
    assert "Dropout: every hidden unit is silent with probability 0.5" in shown(flow)
    dropped = full_run(flow, 120)
    assert late(dropped.total_norm).mean() > 1.1 * late(plain.total_norm).mean()


# -- hot and cold ------------------------------------------------------------------------


def test_attack_and_accumulation_act_at_the_next_step_with_a_marker(playground: Make) -> None:
    flow = playground()
    flow.step(5)
    model = flow.model
    flow.regime = {"adversarial": {"method": "pgd", "epsilon": 0.2, "steps": 2}, "accumulation": 2}
    assert flow.step_number == 5
    flow.step(3)
    assert flow.model is model
    assert flow.step_number == 8
    assert flow.history.latest.settings.regime == flow.regime
    markers = [text for _, text in flow._stage.loss._turns]
    assert markers == ["attack pgd ε 0.2, accumulation 2"]
    flow.regime = None
    assert shown(flow) == ""
    flow.step()
    assert flow.step_number == 9


def test_a_curriculum_is_paced_in_steps_also_when_batches_are_accumulated(
    playground: Make,
) -> None:
    flow = playground(regime={"curriculum": {"first_model_steps": 2}})
    flow.step(3)
    flow.regime = {"curriculum": {"first_model_steps": 2}, "accumulation": 2}
    assert flow.step_number == 0


# -- the same seed, the same run ---------------------------------------------------------

REPEATED: dict[str, dict[str, Any]] = {
    "pgd": {"adversarial": {"method": "pgd", "epsilon": 0.2, "steps": 2}},
    "curriculum": {"curriculum": {"steps": 6, "first_model_steps": 5}},
    "transfer": {"transfer": {"freeze": 1}},
    "accumulation": {"accumulation": 3},
    "label noise": {"label_noise": 0.3},
    "dropout": {"dropout": 0.4},
    "all": {
        "adversarial": {"method": "fgsm", "epsilon": 0.1},
        "curriculum": {"steps": 4, "first_model_steps": 5},
        "transfer": {"freeze": 1},
        "accumulation": 2,
        "label_noise": 0.2,
        "dropout": 0.3,
    },
}


@pytest.mark.parametrize("given", ["module", "factory"])
@pytest.mark.parametrize("mapping", REPEATED.values(), ids=REPEATED)
def test_reset_repeats_bit_for_bit_and_off_is_what_it_was(
    make_flow: Make, mapping: dict[str, Any], given: str
) -> None:
    def make() -> GradientFlow:
        if given == "factory":
            return make_flow(small_network, sgd, CROSS_ENTROPY, samples())
        return own(make_flow, small_network())

    flow = make()
    plain = losses_of(flow, 6)
    flow.reset()
    flow.regime = mapping
    first = losses_of(flow, 8)
    assert not same_bits(first[:6], plain)
    flow.reset()
    assert same_bits(losses_of(flow, 8), first)
    flow.reset(seed=7)
    assert not same_bits(losses_of(flow, 8), first)
    flow.reset(seed=0)
    assert same_bits(losses_of(flow, 8), first)
    flow.regime = None
    flow.reset()
    assert same_bits(losses_of(flow, 6), plain)

    anew = make()
    anew.regime = mapping
    assert same_bits(losses_of(anew, 8), first)


def test_knobs_and_regime_change_the_model_together(make_flow: Make) -> None:
    flow = own(make_flow)
    given = flow.model
    flow.regime = {"dropout": 0.2, "transfer": {"freeze": 1}}
    flow.activation = "relu"
    kinds = {type(m).__name__ for m in flow.model.modules()}
    assert {"ReLU", "Dropout"} <= kinds
    assert [tweak.knob for tweak in flow.tweaks] == ["activation", "dropout", "transfer"]
    assert shown(flow).count("Transfer:") == 1
    flow.step(2)
    flow.activation, flow.regime = "tanh", None
    assert flow.model is given
    assert flow.tweaks == ()


# -- what is refused ---------------------------------------------------------------------


def tokens(make_flow: Make) -> GradientFlow:
    data = torch.randint(5, (20, 4)), torch.randint(3, (20,))
    return make_flow(
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 3)),
        sgd,
        CROSS_ENTROPY,
        data,
    )


def regression(make_flow: Make) -> GradientFlow:
    return make_flow(plain_network, sgd, nn.MSELoss(), (samples()[0], torch.randn(96, 3)))


def batches(make_flow: Make) -> GradientFlow:
    loader = DataLoader(TensorDataset(*samples()), batch_size=16)
    return make_flow(plain_network, sgd, CROSS_ENTROPY, loader)


def functions(make_flow: Make) -> GradientFlow:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.b(torch.relu(self.a(x)))
            return out

    return own(make_flow, Functional())


def no_trainer(make_flow: Make) -> GradientFlow:
    model = plain_network()
    return make_flow(model, sgd(model.parameters()))


FGSM = {"adversarial": {"method": "fgsm", "epsilon": 0.1}}
REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "attack on tokens": (tokens, FGSM, TypeError, "small steps, but here they are int64"),
    "attack and freeze on tokens": (
        tokens,
        {**FGSM, "transfer": {"freeze": 1}},
        TypeError,
        "here they are int64",
    ),
    "noise on numbers": (regression, {"label_noise": 0.1}, ValueError, "targets are float32"),
    "noise on batches": (batches, {"label_noise": 0.1}, ValueError, "iterable of batches"),
    "curriculum on batches": (batches, {"curriculum": {}}, ValueError, "iterable of batches"),
    "lengths of vectors": (own, {"curriculum": {"by": "length"}}, ValueError, "sequences"),
    "nothing learns": (own, {"transfer": {"freeze": 3}}, ValueError, "at least one that learns"),
    "no place": (functions, {"dropout": 0.5}, CannotTweak, "no place for dropout"),
    "unknown": (own, {"noise": 1}, ValueError, "regime has no 'noise': choose from adversarial"),
    "out of range": (own, {"dropout": 1.0}, ValueError, "dropout must be a share"),
    "no mapping": (own, 3, TypeError, "regime must be a mapping"),
    "attack in own loop": (no_trainer, FGSM, ValueError, "needs ours: give data"),
    "dropout in own loop": (no_trainer, {"dropout": 0.5}, ValueError, "a changed copy"),
}


@pytest.mark.parametrize(("make", "mapping", "kind", "says"), REFUSED.values(), ids=REFUSED)
def test_what_can_t_be_had_is_refused_and_the_run_goes_on(
    make_flow: Make, make: Any, mapping: Any, kind: Any, says: str
) -> None:
    flow = make(make_flow)
    trains = make is not no_trainer
    if trains:
        flow.step(2)
    model, before = flow.model, [p.detach().clone() for p in flow.model.parameters()]
    with pytest.raises(kind, match=says):
        flow.regime = mapping
    assert flow.regime == Regime()
    assert flow.model is model
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    if trains:
        assert flow.step_number == 2
        flow.step(2)
        losses = flow.history.loss
        flow.reset()
        flow.step(4)
        assert same_bits(flow.history.loss, losses)


def test_a_refused_regime_leaves_the_one_that_is_on(playground: Make) -> None:
    flow = playground(regime={"label_noise": 0.2})
    first = losses_of(flow, 6)
    flow.reset()
    begun = losses_of(flow, 3)
    with pytest.raises(ValueError, match="sequences"):
        flow.regime = {"label_noise": 0.4, "curriculum": {"by": "length"}}
    assert flow.regime == Regime(label_noise=0.2)
    assert same_bits([*begun, *losses_of(flow, 3)], first)


def test_the_reason_of_a_refusal_is_told(make_flow: Make) -> None:
    flow = own(make_flow)
    with pytest.raises(ValueError, match="at least one that learns"):
        flow.regime = {"transfer": {"freeze": 3}}
    assert "leave at least one that learns" in flow.status


# -- a loop of the user's own ------------------------------------------------------------


def test_a_handed_over_loop_is_refused_what_needs_our_steps(make_flow: Make) -> None:
    flow = own(make_flow)
    flow.regime = {"accumulation": 2}
    with pytest.raises(RuntimeError, match="gradient accumulation needs ours"):
        flow.run(lambda: None)
    flow.regime = None
    inputs, targets = samples()

    def loop() -> None:
        for _ in range(100):
            flow.optimizer.zero_grad()
            CROSS_ENTROPY(flow.model(inputs), targets).backward()
            flow.optimizer.step()

    flow.run(loop)
    flow.wait(3)
    flow.pause()
    flow.wait()
    with pytest.raises(ValueError, match=r"adversarial training needs ours: wait\(\)"):
        flow.regime = FGSM
    # A new run ends the loop, and its steps are ours.
    flow.regime = {**FGSM, "dropout": 0.1}
    flow.step(2)
    assert flow.step_number == 2


def test_a_factory_s_model_has_dropout_and_frozen_layers_in_a_plain_loop(
    make_flow: Make,
) -> None:
    flow = make_flow(plain_network, sgd)
    flow.regime = {"dropout": 0.5, "transfer": {"freeze": 1}}
    inputs, targets = samples()
    flow.optimizer.zero_grad()
    CROSS_ENTROPY(flow.model(inputs), targets).backward()
    flow.optimizer.step()
    assert flow.history.latest.gradient_states == ("frozen", "", "")
    assert any(isinstance(m, nn.Dropout) for m in flow.model.modules())


def test_the_playground_begins_under_a_regime() -> None:
    flow = GradientFlow.playground(
        "rnn",
        "adding",
        length=6,
        samples=60,
        regime={"transfer": {"freeze": 1}},
        optimizer_kind="SGD",
        weight_decay=0.01,
    )
    try:
        assert (flow.regime.transfer.freeze, flow.optimizer_kind) == (1, "SGD")
        assert flow.weight_decay == 0.01
        flow.step(2)
    finally:
        flow.close()
    with pytest.raises(ValueError, match="regime has no 'dropuot'"):
        GradientFlow.playground(regime={"dropuot": 0.5})


@pytest.mark.parametrize("layers", [0, 2])
def test_dropout_at_rate_0_is_told_once_and_only_where_the_model_had_some(
    make_flow: Make, layers: int
) -> None:
    model = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), *[nn.Dropout(0.3) for _ in range(layers)], nn.Linear(8, 3)
    )
    flow = own(make_flow, model)
    flow.regime = {"dropout": 0.0}
    assert [type(module) for module in flow.model] == [type(module) for module in model]
    told = [text for text in flow.status.split(" · ") if text.startswith("Dropout")]
    assert told == ["Dropout: the model's 2 dropout layers, at rate 0."] * (layers > 0)
    assert len(flow.tweaks) == len(told)

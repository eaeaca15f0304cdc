"""The value, its presets' form, and that each switch does to the bars what its sentence says."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget.measurement.history import History
from gradflow_widget.training.regimes.regime import Attack, Regime, SavedState, regime_from

from .parts import digits, network, samples, train

REGIMES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "fgsm": {"adversarial": {"method": "fgsm", "epsilon": 0.3}},
    "pgd": {"adversarial": {"method": "pgd", "epsilon": 0.3, "steps": 3}},
    "curriculum": {"curriculum": {"by": "loss", "start": 0.1, "steps": 150}},
    "transfer": {"transfer": {"state": "weights.pt", "freeze": 2, "strict": False}},
    "accumulation": {"accumulation": 4},
    "label noise": {"label_noise": 0.3, "noise_seed": 2},
    "dropout": {"dropout": 0.5},
    "several": {"accumulation": 2, "dropout": 0.0, "transfer": {"freeze": 1}},
}


@pytest.mark.parametrize("mapping", REGIMES.values(), ids=REGIMES)
def test_a_regime_survives_json(mapping: Any) -> None:
    regime = regime_from(mapping)
    written = regime_from(json.loads(json.dumps(mapping)))
    assert written == regime
    assert hash(written) == hash(regime)
    assert (regime == Regime()) == (mapping == {})


def test_none_is_everything_off() -> None:
    assert regime_from(None) == Regime() == regime_from({})
    assert Regime().sentences == ()
    assert Regime().of_our_steps == ()


def test_every_switch_that_does_something_has_one_sentence() -> None:
    for name, mapping in REGIMES.items():
        sentences = regime_from(mapping).sentences
        assert len(sentences) == {"nothing": 0, "several": 2}.get(name, 1)
        assert all(text.count(". ") == 0 and text.endswith(".") for text in sentences)


def test_what_needs_a_new_run_and_what_needs_our_own_steps() -> None:
    hot = regime_from({**REGIMES["pgd"], "accumulation": 4})
    assert hot.cold == Regime()
    assert hot.of_our_steps == ("adversarial", "accumulation")
    for name in ("curriculum", "transfer", "label noise", "dropout"):
        regime = regime_from(REGIMES[name])
        several = replace(regime, accumulation=3)
        # A curriculum's pace is in steps, so what a step takes is a matter of the run.
        assert several.cold == (several if name == "curriculum" else regime)
    assert regime_from({**REGIMES["transfer"], **REGIMES["dropout"]}).of_our_steps == ()


def test_pgd_has_the_steps_of_its_paper_by_default() -> None:
    attack = Attack("pgd", 0.4)
    assert (attack.steps, attack.random_start) == (7, True)
    assert attack.step_size == pytest.approx(2.5 * 0.4 / 7)
    assert Attack("fgsm", 0.4).step_size == 0.4


def test_a_state_in_memory_is_compared_by_identity() -> None:
    state = {"weight": torch.ones(3)}
    regime = regime_from({"transfer": {"state": state}})
    assert isinstance(regime.transfer.state, SavedState)
    assert regime == regime
    assert regime != regime_from({"transfer": {"state": state}})


PGD = {"method": "pgd", "epsilon": 0.1}
BAD: list[tuple[Any, type[Exception], str]] = [
    (3, TypeError, "regime must be a mapping"),
    ({"adversary": {}}, ValueError, "regime has no 'adversary': choose from adversarial, curri"),
    ({"adversarial": "fgsm"}, TypeError, "adversarial must be a mapping"),
    ({"adversarial": {"epsilon": 1}}, ValueError, "adversarial needs method"),
    ({"adversarial": {"method": "cw", "epsilon": 1}}, ValueError, "choose one of fgsm, pgd"),
    ({"adversarial": {**PGD, "eps": 1}}, ValueError, "choose from method, epsilon, steps"),
    ({"adversarial": {**PGD, "epsilon": 0}}, ValueError, "epsilon must be a finite number above 0"),
    ({"adversarial": {**PGD, "epsilon": float("nan")}}, ValueError, "epsilon must be"),
    ({"adversarial": {**PGD, "steps": -1}}, ValueError, "steps must be a whole number"),
    ({"adversarial": {**PGD, "step_size": -1}}, ValueError, "step_size must be"),
    ({"adversarial": {**PGD, "random_start": 1}}, ValueError, "random_start must be True or"),
    ({"adversarial": {**PGD, "method": "fgsm", "steps": 4}}, ValueError, "belong to method 'pgd'"),
    ({"curriculum": {"by": "beauty"}}, ValueError, "choose one of loss, length"),
    ({"curriculum": {"start": 0}}, ValueError, "start must be a finite number above 0 and at mo"),
    ({"curriculum": {"start": 1.5}}, ValueError, "start must be"),
    ({"curriculum": {"steps": 0}}, ValueError, "steps must be a whole number of at least 1"),
    ({"transfer": {}}, ValueError, "transfer does nothing"),
    ({"transfer": {"freeze": -1}}, ValueError, "freeze must be a whole number of at least 0"),
    ({"transfer": {"state": 3}}, TypeError, "state must be a path or a state dict, not int"),
    ({"transfer": {"state": "a", "strict": 0}}, ValueError, "strict must be True or False"),
    ({"accumulation": 0}, ValueError, "accumulation must be a whole number of at least 1"),
    ({"accumulation": 2.5}, ValueError, "accumulation must be a whole number"),
    ({"accumulation": True}, ValueError, "accumulation must be a whole number"),
    ({"label_noise": 1.2}, ValueError, "label_noise must be a share from 0 to 1"),
    ({"noise_seed": -1}, ValueError, "noise_seed must be a whole number"),
    ({"dropout": 1}, ValueError, "dropout must be a share from 0 to below 1"),
]


@pytest.mark.parametrize(("mapping", "error", "message"), BAD)
def test_bad_input_gets_one_sentence(mapping: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        regime_from(mapping)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("mapping", REGIMES.values(), ids=REGIMES)
def test_the_class_takes_what_the_knob_takes(mapping: Any) -> None:
    assert Regime(**mapping) == regime_from(mapping)


def test_a_part_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^adversarial must be a mapping of .*, not 0\.1\.$"):
        Regime(adversarial=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fgsm", "pgd", "curriculum", "label noise", "dropout", "several"])
def test_the_same_seed_is_the_same_run(name: str) -> None:
    regime = regime_from({**REGIMES[name], "accumulation": 2})
    first, second = (train(regime, network(), samples(), steps=6)[1].loss for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert train(regime, network(), samples(), steps=6, seed=1)[1].loss.tobytes() != first.tobytes()


# -- the sentences are true --------------------------------------------------------------


@cache
def run_on_digits(name: str, seed: int) -> History:
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for _ in range(4):
        modules += [nn.Linear(64, 64), nn.Tanh()]
        nn.init.xavier_normal_(modules[-2].weight)
    model = nn.Sequential(*modules, nn.Linear(64, 10))
    regime = regime_from(REGIMES[name])
    return train(regime, model, digits(), steps=300, batch_size=64, seed=seed)[1]


def late(history: History) -> tuple[float, np.ndarray]:
    """Loss, and each layer's gradient, over the last hundred steps."""
    return history.loss[-100:].mean(), history.weight_grad_norm[-100:].mean(axis=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["fgsm", "label noise", "dropout"])
def test_gradients_stay_large_where_they_would_fade(name: str, seed: int) -> None:
    loss, gradients = late(run_on_digits(name, seed))
    plain_loss, plain_gradients = late(run_on_digits("nothing", seed))
    assert loss > 2 * plain_loss
    assert (gradients > 1.2 * plain_gradients).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_accumulation_makes_bars_steadier_and_shorter(seed: int) -> None:
    def unrest(history: History) -> float:
        return float(np.diff(np.log(history.total_norm)).std())

    accumulated, alone = run_on_digits("accumulation", seed), run_on_digits("nothing", seed)
    assert unrest(accumulated) < 0.85 * unrest(alone)
    assert (late(accumulated)[1] < 0.8 * late(alone)[1]).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_where_easy_samples_are_learned_soon_gradients_fade_and_grow_again(seed: int) -> None:
    norms = run_on_digits("curriculum", seed).total_norm
    early, later = norms[20:60].mean(), norms[100:150].mean()
    assert early < 0.7 * run_on_digits("nothing", seed).total_norm[20:60].mean()
    assert later > 1.2 * early

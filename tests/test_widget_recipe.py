"""recipe(flow): the text of a widget as it stands, with the first loss of its run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradflow_widget
from gradflow_widget import recipe
from tests.models.zoo import Cnn
from tests.source_code.fresh import assert_same_groups, assert_same_weights, run
from tests.training.parts import CROSS_ENTROPY, plain_network, samples, small_network

INPUTS, TARGETS = samples()
FIRST_STEP = """
generator = torch.Generator().manual_seed({seed})
rows = torch.randperm(len(inputs), generator=generator)[:{batch}]
print(training_step(inputs[rows], targets[rows]).item())
"""


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def first_loss(text: str, inputs: Any, targets: Any, seed: int, batch: int) -> float:
    """The loss of the first step, as the comment at the end of the text tells to take it."""
    comment = text.rpartition("hold all samples:\n")[2]
    assert f"manual_seed({seed})" in comment
    assert f"[:{batch}]" in comment
    torch.manual_seed(99)
    exec_in = run(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:batch]
        return float(exec_in["training_step"](inputs[rows], targets[rows]).item())


def test_the_public_name_is_the_function() -> None:
    assert "recipe" in gradflow_widget.__all__
    assert callable(gradflow_widget.recipe)


def test_anything_but_a_widget_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError) as refusal:
        recipe(nn.Sequential(nn.Linear(2, 2)))
    assert str(refusal.value) == (
        "flow must be a GradientFlow, not Sequential: GradientFlow(model, optimizer) makes one."
    )


def test_knobs_as_they_stand_and_the_runs_first_loss(make_flow: Any, tmp_path: Path) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, (INPUTS, TARGETS), seed=5)
    flow.step(4)
    flow.activation = "relu"
    flow.normalization = "layer"
    flow.initialization = "he"
    flow.orthogonality = 0.01
    flow.learning_rate, flow.clip_norm, flow.batch_size = 0.025, 2.0, 32
    flow.reset()
    flow.step(3)
    text = recipe(flow)
    made = run(text)
    assert made["optimizer"].param_groups[0]["lr"] == 0.025
    assert "clip_grad_norm_(model.parameters(), 2.0)" in text
    assert first_loss(text, INPUTS, TARGETS, 5, 32) == flow.history.loss[0]
    assert not torch.equal(made["model"][0].layer.weight, flow.model[0].layer.weight)
    flow.reset()
    assert_same_weights(flow.model, made["model"])


def test_a_ready_made_model_brings_its_weights(make_flow: Any) -> None:
    model = small_network(seed=8)
    flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, (INPUTS, TARGETS), seed=1)
    flow.step(3)
    text = recipe(flow)
    assert "base64" in text
    # Dropout draws as it does in the widget's first step.
    assert "torch.manual_seed(1)  # for dropout" in text
    assert first_loss(text, INPUTS, TARGETS, 1, 64) == flow.history.loss[0]


def test_a_turned_knob_is_in_the_text_before_the_step_that_uses_it(make_flow: Any) -> None:
    model = plain_network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.4}]
    optimizer = torch.optim.AdamW(groups, lr=0.2)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, (INPUTS, TARGETS))
    flow.learning_rate = 0.01
    flow.weight_decay = 0.5
    made = run(recipe(flow))
    assert [group["lr"] for group in made["optimizer"].param_groups] == [0.01, 0.02]
    assert [group["weight_decay"] for group in made["optimizer"].param_groups] == [0.5, 0.5]
    flow.step(1)
    assert_same_groups(flow.optimizer, flow.model, made)


def test_another_kind_of_optimizer_is_the_one_in_use(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, (INPUTS, TARGETS))
    flow.optimizer_kind = "Adam"
    assert "torch.optim.Adam(model.parameters(), lr=0.1)" in recipe(flow)


def test_large_weights_go_to_a_file_that_is_asked_for(make_flow: Any, tmp_path: Path) -> None:
    torch.manual_seed(123)
    model = nn.Sequential(nn.Linear(6, 128), nn.Tanh(), nn.Linear(128, 128), nn.Linear(128, 3))
    flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, (INPUTS, TARGETS))
    with pytest.raises(ValueError, match=r'recipe\(flow, weights="weights.pt"\)'):
        recipe(flow)
    flow.step(2)
    file = tmp_path / "weights.pt"
    text = recipe(flow, weights=file)
    assert "weights_only=True" in text
    assert len(text) < 2000
    assert first_loss(text, INPUTS, TARGETS, 0, 64) == flow.history.loss[0]


def test_a_fresh_interpreter_gives_the_first_loss(make_flow: Any, tmp_path: Path) -> None:
    images = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(40) % 2
    flow = make_flow(
        lambda: Cnn(),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        CROSS_ENTROPY,
        (images, labels),
        seed=6,
    )
    flow.activation = "silu"
    flow.skips = "learned"
    flow.step(2)
    torch.save((images, labels), tmp_path / "data.pt")
    script = recipe(flow) + f'inputs, targets = torch.load("{tmp_path}/data.pt")\n'
    script += FIRST_STEP.format(seed=6, batch=40)
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import torch; torch.set_num_threads(1)\n{script}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == flow.history.loss[0]


def test_a_loop_of_ones_own_has_a_text_without_a_step(make_flow: Any) -> None:
    model = plain_network()
    flow = make_flow(model, sgd(model.parameters()))
    text = recipe(flow)
    assert "training_step" not in text
    made = run(text)
    assert_same_weights(model, made["model"])
    assert_same_groups(flow.optimizer, model, made)


def test_a_regime_is_named_where_the_text_does_without_it(make_flow: Any) -> None:
    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, (INPUTS, TARGETS))
    assert "besides" not in recipe(flow)
    flow._training.turn(regime={"label_noise": 0.3})
    assert "# The widget's steps have besides: label noise." in recipe(flow)


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_hard_orthogonality_beside_a_normalization(make_flow: Any, normalization: str) -> None:
    inputs, targets = samples()
    flow = make_flow(plain_network(), sgd, CROSS_ENTROPY, (inputs, targets))
    flow.normalization = normalization
    flow.orthogonality = "hard"
    text = recipe(flow)
    loss = next(flow.steps(1)).loss
    assert first_loss(text, inputs, targets, 0, flow.batch_size) == pytest.approx(loss)

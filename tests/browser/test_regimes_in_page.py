"""The training regime under the hand of a person while training plays: each switch, its effect."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.browser.flow_page import FlowCell, FlowPage

# ``losses`` are those of the same seed without a regime; ``ended`` holds the step that each run
# had reached when the next one took its place.
SHOWN = """\
import numpy as np
import torch
from gradflow_widget import GradientFlow

with_nothing = GradientFlow.playground(depth=3, seed=0)
with_nothing.speed = 1000
with_nothing.step(120)
losses = with_nothing.history.loss
with_nothing.close()
flow = GradientFlow.playground(depth=3, seed=0)
ended = []
flow.observe(lambda turn: ended.append(turn["old"]) if not turn["new"] else None, "step_number")

def ratio(first, last):
    'How much higher the loss is than without a regime, over these steps.'
    return flow.history.loss[first:last].mean() / losses[first:last].mean()

flow"""


@pytest.fixture
def page(cell: FlowCell) -> FlowPage:
    """A playground that plays as fast as it can, with the regime's heading open."""
    shown = cell.show(SHOWN)
    shown.unfold("Training regime")
    shown.menu("draw").select_option("what fits (max)")
    shown.button("Play").click()
    shown.wait_for(lambda drawn: drawn.step >= 10 and drawn.loss)
    return shown


@contextmanager
def same_run(page: FlowPage) -> Iterator[None]:
    """Steps go on from where they were, under what is turned in here."""
    step, ended = page.kernel.evaluate("[flow.step_number, len(ended)]")
    yield
    page.kernel.wait_until(f"flow.step_number > {step + 1}")
    assert page.kernel.evaluate("[flow.playing, len(ended)]") == [True, ended]


@contextmanager
def new_run(page: FlowPage) -> Iterator[None]:
    """Steps begin anew, and go on, by what is turned in here; the run before is the ghost."""
    ended = page.kernel.evaluate("len(ended)")
    yield
    page.kernel.wait_until(f"len(ended) > {ended} and flow.step_number >= 2")
    assert page.kernel.evaluate("[flow.playing, len(ended)]") == [True, ended + 1]
    page.wait_for(lambda drawn: drawn.loss_ghost and drawn.loss and drawn.step >= 2)


def is_told(page: FlowPage, sentence: str, in_short: str) -> None:
    """The sentence stands below the controls, and what is on beside the heading."""
    expect(page.root.locator(".gradflow-changes")).to_contain_text(sentence)
    heading = page.root.locator("button.gradflow-heading", has_text="Training regime")
    expect(heading.locator(".gradflow-in-short")).to_have_text(in_short)


def is_marked(page: FlowPage, text: str) -> None:
    page.wait_for(lambda drawn: drawn.rules and any(text in marker for marker in drawn.markers))


def nothing_is_told(page: FlowPage) -> None:
    expect(page.root.locator(".gradflow-changes")).to_have_text("")
    assert page.kernel.evaluate("flow.regime == type(flow.regime)()")


def test_an_attack_with_its_epsilon_raises_the_loss_from_the_next_step_on(page: FlowPage) -> None:
    kernel = page.kernel
    expect(page.slider("ε")).to_be_hidden()
    kernel.wait_until("flow.history.loss[-20:].mean() < 0.4", timeout=60)
    with same_run(page):
        page.menu("attack").select_option("FGSM")
        kernel.wait_until("flow.regime.adversarial is not None")
        assert kernel.evaluate("flow.regime.adversarial.method") == "fgsm"
        is_marked(page, "attack fgsm ε 0.1")
        is_told(page, "every input is moved by up to ε = 0.1", "attack FGSM")
    with same_run(page):
        page.drag("ε", 0.82)
        kernel.wait_until("flow.regime.adversarial.epsilon > 0.5")
        # Moved so far against it, the network can't tell the digits that it had learned.
        kernel.wait_until("flow.history.loss[-10:].mean() > 1.0")
        kernel.wait_until("flow.history.latest.settings.regime == flow.regime")
    with same_run(page):
        page.menu("attack").select_option("PGD")
        kernel.wait_until("flow.regime.adversarial.method == 'pgd'")
        is_told(page, "in 7 steps up the loss", "attack PGD")
    with same_run(page):
        page.menu("attack").select_option("off")
        kernel.wait_until("flow.regime.adversarial is None")
        is_marked(page, "attack off")
    expect(page.slider("ε")).to_be_hidden()
    nothing_is_told(page)


def test_a_curriculum_begins_anew_with_what_is_easy(page: FlowPage) -> None:
    kernel = page.kernel
    with new_run(page):
        page.menu("curriculum").select_option("by loss")
        kernel.wait_until("flow.regime.curriculum is not None")
    is_told(page, "Curriculum: training starts on the 20% of the samples", "curriculum by loss")
    kernel.wait_until("flow.step_number >= 60")
    # The easiest fifth is learned sooner than all of them.
    assert kernel.evaluate("ratio(20, 60)") < 0.8
    with new_run(page):
        page.menu("curriculum").select_option("off")
    nothing_is_told(page)
    kernel.wait_until("flow.step_number >= 60")
    assert kernel.evaluate("ratio(0, 60)") == 1.0


def test_what_does_not_fit_the_data_is_told_and_taken_back(page: FlowPage) -> None:
    with same_run(page):
        page.menu("curriculum").select_option("by length")
        alert = page.root.locator(".gradflow-notice[role=alert]")
        expect(alert).to_contain_text("curriculum by 'length' needs inputs that are sequences")
        expect(page.menu("curriculum")).to_have_value("off")
    nothing_is_told(page)


def test_frozen_layers_keep_their_weights_and_are_drawn_as_frozen(page: FlowPage) -> None:
    kernel = page.kernel
    with new_run(page):
        page.menu("freeze").select_option("first 2")
        kernel.wait_until("flow.regime.transfer is not None")
    is_told(page, "the first 2 layers keep their weights", "freeze first 2")
    kernel.execute("before = [p.detach().clone() for p in flow.model.parameters()]")
    step = kernel.evaluate("flow.step_number")
    kernel.wait_until(f"flow.step_number > {step + 5}")
    unchanged = kernel.evaluate(
        "[torch.equal(p, q) for p, q in zip(flow.model.parameters(), before)]"
    )
    assert unchanged == [True, True, True, True, False, False]
    drawn = page.wait_for(lambda drawn: drawn.glyphs == ["∥", "∥"])
    assert [height > 1 for height in drawn.bars] == [False, False, True]
    assert "the others are frozen" in drawn.verdict
    with new_run(page):
        page.menu("freeze").select_option("off")
    page.wait_for(lambda drawn: all(height > 1 for height in drawn.bars) and not drawn.glyphs)
    nothing_is_told(page)


def test_accumulation_makes_a_step_of_several_batches(page: FlowPage) -> None:
    kernel = page.kernel
    kernel.execute(
        "seen = []\n"
        "def count(model, inputs):\n"
        "    if model.training:\n"
        "        seen.append(len(inputs[0]))\n"
        "hook = flow.model.register_forward_pre_hook(count)"
    )
    with same_run(page):
        page.menu("accumulation").select_option("4 batches")
        kernel.wait_until("flow.regime.accumulation == 4")
        kernel.wait_until("flow.history.latest.settings.regime.accumulation == 4")
        is_marked(page, "accumulation 4")
        is_told(page, "the gradients of 4 batches", "accumulation 4 batches")
    page.pause()
    # Two steps, to the sample: the hook counts on the thread that trains.
    kernel.execute("seen.clear()")
    for _ in range(2):
        step = kernel.evaluate("flow.step_number")
        page.button("Step").click()
        page.wait_for(lambda drawn, step=step: drawn.step == step + 1)
    assert kernel.evaluate("seen") == [kernel.evaluate("flow.batch_size")] * 8
    page.button("Play").click()
    with same_run(page):
        page.menu("accumulation").select_option("off")
        kernel.wait_until("flow.history.latest.settings.regime.accumulation == 1")
    kernel.execute("hook.remove()")
    nothing_is_told(page)


def test_wrong_labels_keep_the_loss_up(page: FlowPage) -> None:
    kernel = page.kernel
    with new_run(page):
        page.menu("label noise").select_option("40 %")
        kernel.wait_until("flow.regime.label_noise == 0.4")
    is_told(page, "40% of the training labels", "label noise 40 %")
    kernel.wait_until("flow.step_number >= 120")
    assert kernel.evaluate("ratio(80, 120)") > 2
    with new_run(page):
        page.menu("label noise").select_option("off")
    nothing_is_told(page)


def test_dropout_stands_behind_every_activation(page: FlowPage) -> None:
    kernel = page.kernel
    rates = "[m.p for m in flow.model.modules() if isinstance(m, torch.nn.Dropout)]"
    assert kernel.evaluate(rates) == []
    with new_run(page):
        page.menu("dropout").select_option("0.5")
        kernel.wait_until("flow.regime.dropout == 0.5")
    is_told(page, "every hidden unit is silent with probability 0.5", "dropout 0.5")
    assert kernel.evaluate(rates) == [0.5, 0.5]
    kernel.wait_until("flow.step_number >= 120")
    higher = kernel.evaluate("ratio(80, 120)")
    assert math.isfinite(higher)
    assert higher > 1.2
    page.pause()
    for theme, width in (("light", 1500), ("dark", 600)):
        page.notebook.set_theme(theme)  # type: ignore[arg-type]
        page.resize(width)
        page.at_rest()
        page.notebook.screenshot(f"regime-{theme}-{width}", page.root)
    page.menu("dropout").select_option("as given")
    kernel.wait_until(f"flow.regime.dropout is None and {rates} == []")
    nothing_is_told(page)

"""Every preset as a teacher shows it: loaded by its button, run, its story seen in the page.

All in one widget, one preset after the other, as in a class. Run alone, a preset that is compared
with another runs that one first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from gradflow_widget.playground.presets import preset_of, presets
from tests.browser.flow_page import Drawn, FlowCell
from tests.browser.geometry import cut_or_outside, overlapping
from tests.browser.jupyterlab import JupyterLab, Notebook, Theme

SHOWN = """\
from gradflow_widget import GradientFlow
flow = GradientFlow.playground()
flow"""

IN_THE_KERNEL = """\
import threading
from types import SimpleNamespace
from ipywidgets import Widget
from gradflow_widget.playground.presets import kept, preset_of

recorded = {}

def judged(name):
    preset = preset_of(name)
    holds, numbers = kept(preset, flow, recorded.get(preset.against))
    recorded[name] = SimpleNamespace(history=flow.history, validations=flow.validations)
    return holds, numbers

def our_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("gradflow")]
"""

EVERY_STEP, WHAT_FITS = "every step", "what fits (max)"
# Where a class wants to see each step, and does; the others run as fast as they can.
SLOW = ("vanishing sigmoid", "exploding RNN")
LEVEL = 1.3  # decades
# As the whole widget with every heading open at 600 px: bqplot lays out anew only what is in sight.
TALL = 2200


@dataclass(frozen=True)
class Story:
    """What was seen of a preset: after its first step and after its last, with its numbers."""

    first: Drawn
    last: Drawn
    numbers: dict[str, float]


class Lesson:
    """The widget, and what has been run in it."""

    def __init__(self, notebook: Notebook) -> None:
        notebook.set_width(1500, TALL)
        self.notebook, self.kernel = notebook, notebook.kernel
        self.page = FlowCell(notebook).show(SHOWN)
        self.kernel.execute(IN_THE_KERNEL)
        self.stories: dict[str, Story] = {}
        self.page.unfold("Presets")

    def preset(self, name: str) -> Locator:
        return self.page.root.locator("button.gradflow-preset").get_by_text(name, exact=True)

    def exchanges_controls(self, press: Callable[[], None], name: str) -> None:
        """Wait until the controls of a preset stand in the place of those before ``press``."""
        before = self.page.button("Reset").element_handle()
        press()
        self.notebook.page.wait_for_function("part => !part.isConnected", arg=before)
        expect(self.preset(name)).to_have_attribute("aria-current", "true")
        self.page.button("Play").wait_for()
        self.page.wait_for(lambda drawn: drawn.step == 0 and any(drawn.bars))

    def run(self, name: str) -> Story:
        """Load a preset by its button, play half of its steps or more, and end it to the step."""
        preset, page = preset_of(name), self.page
        if preset.against is not None and preset.against not in self.stories:
            self.run(preset.against)
        self.exchanges_controls(self.preset(name).click, name)
        page.menu("draw").select_option(EVERY_STEP if name in SLOW else WHAT_FITS)
        page.button("Step").click()
        first = page.wait_for(lambda drawn: drawn.step == 1)
        page.button("Play").click()
        self.kernel.wait_until(f"flow.step_number >= {preset.steps} // 2", timeout=90)
        paused = page.pause()
        if paused.step >= preset.steps:  # the pause came late
            page.button("Reset").click()
            page.wait_for(lambda drawn: drawn.step == 0)
            page.button("Step").click()  # what is told of the first step is read in full
            paused = page.wait_for(lambda drawn: drawn.step == 1)
        elif name in SLOW:
            page.wait_for(lambda drawn: drawn.steps_drawn == drawn.step)
        if (left := preset.steps - paused.step) > 1:
            self.kernel.execute(f"flow.step({left - 1})", timeout=90)
        page.button("Step").click()
        page.wait_for(lambda drawn: drawn.step == preset.steps)
        holds, numbers = self.kernel.evaluate(f"judged({name!r})")
        last = page.at_rest()
        assert holds, numbers
        story = self.stories[name] = Story(first, last, numbers)
        return story

    def table_column(self, name: str) -> list[str]:
        """Return what the layer table says of a quantity; it is closed again."""
        table = self.page.table
        table.locator("summary").click()
        expect(table.locator("thead th", has_text=name)).to_be_visible()
        heads = table.locator("table").first.locator("thead th").all_inner_texts()
        place = heads.index(name) + 1
        cells = table.locator("table").first.locator(f"tbody tr > :nth-child({place})")
        told = cells.all_inner_texts()
        table.locator("summary").click()
        return told


@pytest.fixture(scope="module")
def in_class(running_lab: JupyterLab) -> Iterator[Lesson]:
    """One widget for all of them."""
    notebook = running_lab.open_notebook([""])
    notebook.page.evaluate("localStorage.clear()")
    yield Lesson(notebook)
    running_lab.close_notebook(notebook)


@pytest.fixture
def lesson(in_class: Lesson, evidence: Callable[[Notebook], None]) -> Iterator[Lesson]:
    """The widget, which leaves no errors in the page."""
    evidence(in_class.notebook)
    yield in_class
    assert in_class.notebook.errors == []


# -- the stories ---------------------------------------------------------------------------


def fraction(text: str) -> float:
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def learns(lesson: Lesson, story: Story) -> None:
    """Bars that don't fall, marked as sound, and a loss that ends below where it began."""
    assert story.last.verdict.startswith("Healthy")
    assert not set(story.last.colours) & {"vanishing", "exploding", "severed"}
    assert "▼" not in story.last.glyphs
    assert story.numbers["decades"] > -LEVEL
    assert story.numbers["loss"] < story.numbers["first_loss"]


def vanishing_sigmoid(lesson: Lesson, story: Story) -> None:
    for drawn in (story.first, story.last):
        assert re.match(r"Vanishing: the signal falls by [5-9]\.\d decades", drawn.verdict)
        assert drawn.glyphs.count("▼") == drawn.colours.count("vanishing") >= 9
        assert drawn.bars == sorted(drawn.bars)


def mended(lesson: Lesson, story: Story) -> None:
    learns(lesson, story)
    assert story.last.ghost  # of the preset before
    assert story.last.loss_ghost


def batch_norm_explodes(lesson: Lesson, story: Story) -> None:
    assert story.first.verdict.startswith("Exploding")
    assert "▲" in story.first.glyphs
    assert story.last.verdict.startswith("Healthy")
    assert "▲" not in story.last.glyphs


def exploding_rnn(lesson: Lesson, story: Story) -> None:
    assert re.match(
        r"Not finite: the (output|gradient) of layer \d+ \(.+\) was first, at step \d+|"
        r"Not finite: the loss was first, at step \d+",
        story.last.verdict,
    )
    assert re.match(r"(NaN|∞)(, NaN)? ", story.last.wrong)
    assert set(story.last.glyphs) <= {"NaN", "∞"}
    assert len(story.last.glyphs) == 2
    assert "loss NaN" in story.last.status


def mended_by_clipping(lesson: Lesson, story: Story) -> None:
    learns(lesson, story)
    assert story.last.wrong == ""
    expect(lesson.page.menu("clipping")).to_have_value("by norm")
    expect(lesson.page.readout("threshold")).to_have_text("0.20")
    # The curve keeps its height, though the ghost has left the chart for 10³⁰.
    assert not any("10" in tick and "⁰" in tick for tick in story.last.loss_ticks)


def through_time(lesson: Lesson) -> Drawn:
    """Look at the signal through time, as far as the tooltip of a step, and back."""
    page = lesson.page
    page.button("through time").click()
    drawn = page.wait_for(lambda drawn: len(drawn.bars) == 20 and "through time" in drawn.title)
    assert drawn.title.startswith("Signal gradient through time · layers.0")
    assert drawn.colours[-1] == "healthy"  # the last step, by which the others are judged
    norms = lesson.kernel.evaluate("flow.history.latest.signal_grad_through_time['layers.0']")
    tooltip = page.point_at_bar(19)
    expect(tooltip).to_contain_text("time step 20 of 20")
    told = tooltip.locator("dd").first.inner_text()
    assert float(told) == pytest.approx(norms[-1], rel=0.01)
    page.point_away()
    resting = page.at_rest()
    page.button("weight gradient").click()
    page.wait_for(lambda drawn: len(drawn.bars) == 2)
    return resting


def rnn_on_the_adding_problem(lesson: Lesson, story: Story) -> None:
    assert "validation" not in story.last.status  # no classes, no accuracy
    assert story.last.loss
    through_time(lesson)


def lstm_on_the_adding_problem(lesson: Lesson, story: Story) -> None:
    expect(lesson.page.menu("activation")).to_be_disabled()
    reasons = lesson.page.root.locator(".gradflow-reasons:visible")
    expect(reasons.first).to_contain_text("gates of nn.LSTM")
    # "the bars through time become level": none of twenty is lost any more.
    assert story.numbers["time_decades"] > -1
    bars = through_time(lesson).bars
    assert min(bars) > 1


def dead_relus(lesson: Lesson, story: Story) -> None:
    told = lesson.table_column("dead share")
    shares = [fraction(text) for text in told if text[:1].isdigit()]
    assert max(shares) > 0.5


def learning_rate_too_high(lesson: Lesson, story: Story) -> None:
    assert story.first.verdict.startswith("Healthy")
    assert story.numbers["loss"] > 2 * story.numbers["first_loss"]
    expect(lesson.page.readout("learning rate")).to_have_text("5.0")


def learning_rate_too_low(lesson: Lesson, story: Story) -> None:
    assert story.last.verdict.startswith("Healthy")
    expect(lesson.page.readout("learning rate")).to_have_text("0.00010")
    lesson.page.button("update ratio").click()
    shown = lesson.page.wait_for(lambda drawn: "update ratio" in drawn.title)
    assert any("⁻⁵" in tick or "⁻⁶" in tick for tick in shown.flow_ticks)
    lesson.page.button("weight gradient").click()


def post_ln(lesson: Lesson, story: Story) -> None:
    assert story.last.verdict.startswith("Vanishing")
    assert story.last.glyphs.count("▼") >= 10


def frozen_backbone(lesson: Lesson, story: Story) -> None:
    assert story.last.glyphs == ["∥", "∥", "∥"]
    assert [height > 1 for height in story.last.bars] == [False, False, False, True]
    assert "the others are frozen" in story.last.verdict
    assert "freeze first 3" in lesson.page.root.locator(".gradflow-folds").inner_text()
    expect(lesson.page.root.locator(".gradflow-changes")).to_contain_text(
        "the first 3 layers keep their weights and are drawn as frozen"
    )


def a_step_sees(lesson: Lesson, choice: str) -> None:
    expect(lesson.page.root.locator(".gradflow-folds")).to_contain_text(choice)


def full_batch(lesson: Lesson, story: Story) -> None:
    learns(lesson, story)
    a_step_sees(lesson, "full batch")


def sgd(lesson: Lesson, story: Story) -> None:
    a_step_sees(lesson, "stochastic (1)")
    assert story.last.loss_ghost  # the smooth curve of the full batch, to compare with


TOLD: dict[str, Callable[[Lesson, Story], None]] = {
    "vanishing sigmoid": vanishing_sigmoid,
    "mended by skips": mended,
    "mended by ReLU + He": mended,
    "mended by BatchNorm": mended,
    "mended by orthogonal tanh": mended,
    "batch norm explodes": batch_norm_explodes,
    "exploding RNN": exploding_rnn,
    "mended by clipping": mended_by_clipping,
    "RNN on the adding problem": rnn_on_the_adding_problem,
    "LSTM on the adding problem": lstm_on_the_adding_problem,
    "dead ReLUs": dead_relus,
    "learning rate too high": learning_rate_too_high,
    "learning rate too low": learning_rate_too_low,
    "post-LN transformer": post_ln,
    "pre-LN transformer": learns,
    "frozen backbone": frozen_backbone,
    "full batch": full_batch,
    "SGD against full batch": sgd,
}
LOOKED_AT: dict[str, tuple[Theme, int]] = {
    "vanishing sigmoid": ("light", 1500),
    "mended by skips": ("dark", 600),
    "exploding RNN": ("dark", 1500),
    "mended by clipping": ("light", 600),
    "dead ReLUs": ("light", 1500),
    "post-LN transformer": ("dark", 600),
    "frozen backbone": ("dark", 1500),
    "SGD against full batch": ("light", 600),
}


def test_every_preset_has_a_story_here_and_a_button_in_their_order(lesson: Lesson) -> None:
    names = list(presets())
    assert list(TOLD) == names
    expect(lesson.page.root.locator("button.gradflow-preset")).to_have_text(names)
    expect(lesson.page.root.locator(".gradflow-watch")).to_contain_text("Play runs it")


@pytest.mark.parametrize("name", TOLD)
def test_a_preset_keeps_its_promise_and_its_story_is_seen(lesson: Lesson, name: str) -> None:
    story = lesson.run(name)

    says_what_to_watch(lesson, name)
    is_drawn_truly(lesson, story.last)
    TOLD[name](lesson, story)
    if name in LOOKED_AT:
        picture(lesson, name)


def says_what_to_watch(lesson: Lesson, name: str) -> None:
    """The text is the preset's, in sight as a whole, and its name stands beside the heading."""
    root = lesson.page.root
    words = root.locator(".gradflow-watch")
    expect(words).to_contain_text(preset_of(name).watch)
    assert cut_or_outside(root, ".gradflow-watch, .gradflow-watch *, .gradflow-preset") == []
    size = words.evaluate("part => parseFloat(getComputedStyle(part).fontSize)")
    assert size >= 12
    heading = root.locator("button.gradflow-heading", has_text="Presets")
    expect(heading.locator(".gradflow-in-short")).to_have_text(name)
    expect(root.locator("button.gradflow-preset[aria-current=true]")).to_have_text([name])


def is_drawn_truly(lesson: Lesson, last: Drawn) -> None:
    """Bars, curve and validation are those of the run, and nothing went wrong unseen."""
    count, accuracy, losses = lesson.kernel.evaluate(
        "[len(flow.history.layers), flow.accuracy, "
        "int(__import__('numpy').isfinite(flow.history.loss).sum())]"
    )
    assert len(last.bars) == count
    assert last.notice == ""
    assert 1 <= last.loss.count("L") <= losses
    assert not any("NaN" in path for path in (last.loss, last.loss_ghost, last.ghost))
    assert not lesson.page.root.locator("[transform*=NaN], [d*=NaN]").count()
    said = lesson.page.root.locator(".gradflow-chart-loss .axislabel", has_text="validation")
    if accuracy != accuracy:
        expect(said.filter(visible=True)).to_have_count(0)
        return
    percent = f"{100 * accuracy:.1f} %"
    assert f"validation {percent}" in last.status
    expect(said).to_have_text(f"validation accuracy: {percent}")
    # bqplot lays a chart out anew a third of a second after its margins have changed.
    lesson.notebook.page.wait_for_function(
        """() => {
            const chart = document.querySelector(".gradflow-chart-loss");
            const words = [...chart.querySelectorAll(".axislabel")].map(
                label => label.getBoundingClientRect());
            const {right, bottom} = chart.getBoundingClientRect();
            return words.every(box => box.right <= right + 1 && box.bottom <= bottom + 1);
        }"""
    )


def picture(lesson: Lesson, name: str) -> None:
    theme, width = LOOKED_AT[name]
    lesson.notebook.set_theme(theme)
    lesson.page.point_away()
    lesson.page.resize(width, TALL)
    lesson.page.at_rest()
    assert overlapping(lesson.page.root.locator(".gradflow-preset, .gradflow-watch")) == []
    says_what_to_watch(lesson, name)
    slug = re.sub(r"\W+", "-", name).lower()
    lesson.notebook.screenshot(f"preset-{slug}-{theme}-{width}", lesson.page.root)
    lesson.notebook.set_theme("light")
    lesson.page.resize(1500, TALL)


# -- by keyboard ---------------------------------------------------------------------------


def focused(lesson: Lesson) -> Any:
    return lesson.notebook.page.evaluate("document.activeElement.textContent")


def test_headings_and_presets_are_used_by_keyboard_alone(lesson: Lesson) -> None:
    keyboard = lesson.notebook.page.keyboard
    heading = lesson.page.root.locator("button.gradflow-heading", has_text="Presets")
    heading.press("Enter")
    expect(heading).to_have_attribute("aria-expanded", "false")
    expect(lesson.preset("full batch")).to_be_hidden()
    heading.press("Space")
    expect(heading).to_have_attribute("aria-expanded", "true")
    assert lesson.kernel.evaluate("flow.playing") is False  # Space on a button is no Play

    keyboard.press("Tab")
    assert focused(lesson) == "vanishing sigmoid"
    described = lesson.preset("vanishing sigmoid")
    expect(described).to_have_accessible_description(preset_of("vanishing sigmoid").watch)
    lesson.exchanges_controls(lambda: keyboard.press("Space"), "vanishing sigmoid")
    assert lesson.kernel.evaluate("[flow.depth, flow.playing, flow.step_number]") == [12, False, 0]

    # The button that was pressed is gone; who pressed it goes on from its successor.
    expect(lesson.preset("vanishing sigmoid")).to_be_focused()
    keyboard.press("Tab")
    assert focused(lesson) == "mended by skips"
    lesson.exchanges_controls(lambda: keyboard.press("Enter"), "mended by skips")
    expect(lesson.preset("mended by skips")).to_be_focused()
    assert lesson.kernel.evaluate("flow.skips") == 1.0
    says_what_to_watch(lesson, "mended by skips")

    # A key that a button does not take goes to the widget.
    keyboard.press("s")
    lesson.page.wait_for(lambda drawn: drawn.step == 1)


# -- loaded while another plays, and by code -------------------------------------------------


def test_a_preset_is_loaded_while_another_plays(lesson: Lesson) -> None:
    lesson.exchanges_controls(lesson.preset("mended by skips").click, "mended by skips")
    lesson.page.button("Play").click()
    lesson.kernel.wait_until("flow.step_number >= 3")
    lesson.exchanges_controls(lesson.preset("dead ReLUs").click, "dead ReLUs")
    assert lesson.kernel.evaluate("[flow.playing, flow.step_number, flow.depth]") == [False, 0, 3]
    lesson.page.button("Play").click()
    lesson.page.wait_for(lambda drawn: drawn.step >= 3 and len(drawn.bars) == 3)
    lesson.page.pause()


def test_what_is_open_stays_open_in_every_picture_while_a_preset_is_loaded(lesson: Lesson) -> None:
    lesson.page.root.evaluate(
        """root => {
            window.heights = [];
            const look = () => {
                const open = root.querySelector(".gradflow-folded-presets");
                window.heights?.push(open?.getBoundingClientRect().height ?? 0);
                if (window.heights) requestAnimationFrame(look);
            };
            look();
        }"""
    )
    lesson.exchanges_controls(lesson.preset("full batch").click, "full batch")
    heights = lesson.notebook.page.evaluate(
        "() => { const seen = window.heights; window.heights = null; return seen; }"
    )
    assert min(heights) > 20


def test_at_600_px_with_every_heading_open_nothing_overlaps(lesson: Lesson) -> None:
    page, notebook = lesson.page, lesson.notebook
    name = "LSTM on the adding problem"
    lesson.exchanges_controls(lesson.preset(name).click, name)
    headings = ("Network", "Optimizer and data", "Training regime", "Presets")
    for heading in headings:
        page.unfold(heading)
    page.menu("clipping").select_option("by norm")
    page.menu("attack").select_option("FGSM")
    expect(page.slider("ε")).to_be_visible()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    page.button("through time").click()
    page.wait_for(lambda drawn: len(drawn.bars) == 20)
    for theme in ("light", "dark"):
        notebook.set_theme(theme)  # type: ignore[arg-type]
        page.point_away()
        page.resize(600, TALL)
        page.at_rest()
        notebook.screenshot(f"presets-all-open-{theme}-600", page.root)
        for parts in (
            ".gradflow-toolbar > *, .gradflow-grid > *, .gradflow-heading, .gradflow-panel, "
            ".gradflow-views > *, .gradflow-charts > *, .gradflow-legend, .gradflow-table",
            ".gradflow-knobs .widget-label, .gradflow-knobs .slider-container, "
            ".gradflow-knobs .widget-readout, .gradflow-knobs select, .gradflow-knobs button",
            ".gradflow-chart-bars .axis text, .gradflow-chart-bars .mainheading",
            ".gradflow-chart-loss .axis text, .gradflow-chart-loss .mainheading",
        ):
            assert overlapping(page.root.locator(parts)) == []
        everything = ".gradflow-knobs *, .gradflow-panel *, .gradflow-toolbar *, .gradflow-views *"
        assert cut_or_outside(page.root, everything) == []
    notebook.set_theme("light")
    page.resize(1500, TALL)
    page.button("weight gradient").click()
    for heading in headings[:-1]:
        page.root.locator("button.gradflow-heading", has_text=heading).click()


# -- after the last --------------------------------------------------------------------------


def test_preset_after_preset_leaves_nothing_behind(lesson: Lesson) -> None:
    page, kernel = lesson.page, lesson.kernel
    # The buttons of the latest presets stay for clicks on their way: from here on of as many.
    kernel.execute("for _ in range(9): flow.load_preset('full batch')")
    page.wait_for(lambda drawn: drawn.step == 0 and any(drawn.bars))
    counts = []
    for name in ("frozen backbone", "full batch", "frozen backbone"):
        lesson.exchanges_controls(lesson.preset(name).click, name)
        page.button("Step").click()
        page.wait_for(lambda drawn: drawn.step == 1)
        page.at_rest()
        elements = page.root.evaluate("root => root.querySelectorAll('*').length")
        counts.append((kernel.evaluate("len(Widget.widgets)"), elements))
    assert counts[0][0] == counts[2][0]
    assert abs(counts[0][1] - counts[2][1]) < 10
    assert len(kernel.evaluate("[n for n in our_threads() if 'training' in n]")) <= 1

    kernel.execute("flow.close()")

    kernel.wait_until("our_threads() == []")
    assert kernel.evaluate("len(Widget.widgets)") == 0
    expect(page.root).to_have_count(0)
    expect(lesson.notebook.page.locator(".gradflow-tooltip:visible")).to_have_count(0)

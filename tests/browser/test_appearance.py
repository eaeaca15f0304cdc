"""How it looks: themes, widths, marks that differ, and what a keyboard and a screen reader reach.

Each kind of picture is saved under screenshots/ for a person to look at.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.flow_page import FlowCell, FlowPage
from tests.browser.geometry import boxes_of, cut_or_outside, overlap
from tests.browser.jupyterlab import Theme

THEMES: tuple[Theme, ...] = ("light", "dark")
GIVEN = """\
import torch
from torch import nn
from gradflow_widget import GradientFlow
from gradflow_widget.playground.data import digits
{body}
flow = GradientFlow(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(),
                    digits())
flow"""

EVERY_MARK = """\
class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("first", "frozen", "unused", "zero", "nan", "inf"):
            setattr(self, name, nn.Linear(64, 64))
        self.last = nn.Linear(64, 10)
        self.frozen.requires_grad_(False)
        self.nan.weight.register_hook(lambda gradient: gradient * float("nan"))
        self.inf.weight.register_hook(lambda gradient: gradient * float("inf"))
    def forward(self, x):
        x = torch.tanh(self.frozen(torch.tanh(self.first(x))))
        x = x + 0 * self.zero(x)
        return self.last(torch.tanh(self.inf(torch.tanh(self.nan(x)))))
torch.manual_seed(0)
model = Odd()"""

DEEP = """\
torch.manual_seed(0)
def block():
    linear = nn.Linear(64, 64)
    nn.init.orthogonal_(linear.weight)
    return linear, nn.Tanh()
model = nn.Sequential(*[part for _ in range(199) for part in block()], nn.Linear(64, 10))"""

EXPLODING = """\
torch.manual_seed(0)
model = nn.Sequential(*[part for _ in range(19) for part in (nn.Linear(64, 64), nn.ReLU())],
                      nn.Linear(64, 10))
for part in model[::2]:
    nn.init.normal_(part.weight, std=0.35)"""


def picture(page: FlowPage, name: str, widths: tuple[int, ...] = (1500, 600)) -> None:
    """Save the widget in both themes and these widths."""
    notebook = page.notebook
    for theme in THEMES:
        notebook.set_theme(theme)
        for width in widths:
            page.resize(width)
            notebook.screenshot(f"{name}-{theme}-{width}", page.root)


# -- themes and widths -------------------------------------------------------------------


def luminance(colour: list[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    channels = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast of two colours, from 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


# As the page computes them: a canvas turns any way to write a colour into red, green and blue.
COLOURS = """(root, selectors) => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = colour => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const ground = element => {
        for (let e = element; e; e = e.parentElement) {
            const colour = rgb(getComputedStyle(e).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255, 255];
    };
    return Object.fromEntries(selectors.map(selector => {
        const element = root.querySelector(selector);
        const style = getComputedStyle(element);
        const isText = element instanceof SVGTextElement;
        return [selector, [rgb(isText ? style.fill : style.color), ground(element)]];
    }));
}"""

TEXTS = [
    ".gradflow-chart-bars .axis .tick text",
    ".gradflow-chart-bars .axislabel",
    ".gradflow-chart-bars .mainheading",
    ".gradflow-chart-loss .axis .tick text",
    ".gradflow-status",
    ".gradflow-verdict",
    ".gradflow-knobs .widget-label",
    ".gradflow-legend .widget-html-content",
    ".gradflow-table summary",
]


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_is_readable_in_the_theme(cell: FlowCell, theme: Theme) -> None:
    page = cell.playground()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)

    cell.notebook.set_theme(theme)

    for selector, (text, ground) in page.root.evaluate(COLOURS, TEXTS).items():
        assert contrast(text, ground) >= 4.5, (selector, text, ground)


# The line that tells a pressed toggle from the others, and the edge of a slider's handle, each with
# what it stands on: [red, green, blue, alpha] as painted.
PRESSED_AND_EDGE = r"""root => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const painted = (...colours) => {
        for (const colour of colours) {
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
        }
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const colourOf = value => value.match(/rgba?\([^)]*\)|#\w+/)[0];
    const pressed = getComputedStyle(root.querySelector(".widget-toggle-button.mod-active"));
    const handle = getComputedStyle(root.querySelector(".noUi-handle"));
    const cell = getComputedStyle(document.body).getPropertyValue("--jp-layout-color0");
    return [
        [
            painted(pressed.backgroundColor, colourOf(pressed.boxShadow)),
            painted(pressed.backgroundColor),
        ],
        [painted(cell, handle.borderTopColor), painted(cell)],
    ];
}"""


@pytest.mark.parametrize("theme", THEMES)
def test_a_pressed_toggle_and_a_sliders_handle_stand_out(cell: FlowCell, theme: Theme) -> None:
    page = cell.show(STAND_IN)

    cell.notebook.set_theme(theme)

    for mark, ground in page.root.evaluate(PRESSED_AND_EDGE):
        assert contrast(mark, ground) >= 3


@pytest.mark.parametrize("width", [360, 600, 1000, 1500])
def test_nothing_overlaps_and_nothing_is_cut(cell: FlowCell, width: int) -> None:
    page = cell.playground(depth=20, activation="sigmoid")
    page.button("signal gradient").click()
    page.button("relative to last").click()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1 and "relative" in drawn.title)

    page.resize(width)

    root = page.root.bounding_box()
    assert root is not None
    groups = [
        ".gradflow-toolbar > *, .gradflow-grid > *, .gradflow-folds > *, .gradflow-panel, "
        ".gradflow-views > *, .gradflow-charts > *, .gradflow-legend, .gradflow-table",
        ".gradflow-knobs .widget-label, .gradflow-knobs .slider-container, "
        ".gradflow-knobs .widget-readout, .gradflow-knobs select",
        ".gradflow-chart-bars .axis text, .gradflow-chart-bars .mainheading",
        ".gradflow-chart-loss .axis text, .gradflow-chart-loss .mainheading",
    ]
    for group in groups:
        boxes = boxes_of(page.root.locator(group))
        for (name, box), (other, beside) in combinations(boxes, 2):
            assert not overlap(box, beside), (name, other)
        for name, box in boxes:
            assert box["x"] >= root["x"] - 1, name
            assert box["x"] + box["width"] <= root["x"] + root["width"] + 1, name
    overflowing = page.root.evaluate(
        "root => [root, ...root.querySelectorAll('.widget-label, .widget-readout, button, "
        ".gradflow-charts, .gradflow-panel *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).overflowX !== 'visible' && !e.closest('.gradflow-live'))"
        ".map(e => e.className + ': ' + e.textContent)"
    )
    assert overflowing == []


STAND_IN = """\
from tests.browser.stand_in import StandIn
flow = StandIn()
flow"""

VERDICT = """root => {
    const badge = root.querySelector(".gradflow-verdict");
    const [[symbol], lines] = [...badge.children].map(part => {
        const words = document.createRange();
        words.selectNodeContents(part);
        return [...words.getClientRects()];
    });
    const frame = badge.getBoundingClientRect();
    return {
        line_heights: lines.slice(1).map((line, i) => line.top - lines[i].top),
        font_size: parseFloat(getComputedStyle(badge).fontSize),
        above: lines[0].top - frame.top - badge.clientTop,
        below: frame.bottom - lines.at(-1).bottom - badge.clientTop,
        beside: lines[0].left - symbol.right,
        charts: root.querySelector(".gradflow-charts").getBoundingClientRect().top
            - root.getBoundingClientRect().top,
    };
}"""


@pytest.mark.parametrize("severity", ["watch", "fault"])
@pytest.mark.parametrize("width", [600, 1500])
def test_a_verdict_of_several_lines_has_room_in_its_frame(
    cell: FlowCell, width: int, severity: str
) -> None:
    page = cell.show(STAND_IN)
    page.resize(width)

    def say(sentence: str) -> dict[str, Any]:
        cell.kernel.execute(f"flow.say('vanishing', {severity!r}, {sentence!r})")
        page.wait_for(lambda drawn: drawn.verdict == sentence)
        return dict(page.root.evaluate(VERDICT))

    several = say("Vanishing: the signal falls from layer 'blocks.7.attention.projection'. " * 3)
    assert several["line_heights"]
    assert min(several["line_heights"]) >= 1.25 * several["font_size"]
    assert min(several["above"], several["below"]) >= 2
    assert several["beside"] >= 5
    cell.notebook.screenshot(f"verdict-{severity}-{width}", page.root)

    # What stands below stays where it is when the words are few again.
    assert say("Vanishing.")["charts"] == several["charts"]


USUAL = (
    "Vanishing: the signal falls by 14.4 decades from layer 18 (34) back to layer 1 (0) "
    "(slope -1.962, ×0.141 a layer)."
)


@pytest.mark.parametrize("width", [400, 600, 683, 1000, 1500])
def test_nothing_moves_when_the_usual_verdict_appears(cell: FlowCell, width: int) -> None:
    page = cell.show(STAND_IN)
    page.resize(width)

    def charts_after(problem: str, severity: str, sentence: str) -> float:
        cell.kernel.execute(f"flow.say({problem!r}, {severity!r}, {sentence!r})")
        page.wait_for(lambda drawn: drawn.verdict == sentence)
        return float(page.root.evaluate(VERDICT)["charts"])

    before = charts_after("healthy", "", "Healthy: the signal arrives.")
    assert charts_after("vanishing", "fault", USUAL) == before


@pytest.mark.parametrize("width", [400, 1000])
def test_a_notice_with_a_long_path_is_wrapped(cell: FlowCell, width: int) -> None:
    page = cell.show(STAND_IN)
    page.resize(width)
    path = "/home/somebody/" + "a_folder_with_a_long_name/" * 8 + "model.py"

    cell.kernel.execute(f"flow.fail('FileNotFoundError: {path}')")
    page.wait_for(lambda drawn: path in drawn.notice)

    assert cut_or_outside(page.root, ".gradflow-notice") == []


# -- what a bar and a line can be --------------------------------------------------------


def test_zero_none_frozen_nan_and_infinite_gradients_have_marks_of_their_own(
    cell: FlowCell,
) -> None:
    page = cell.show(GIVEN.format(body=EVERY_MARK))

    page.wait_for(lambda drawn: len(drawn.glyphs) >= 5)
    drawn = page.at_rest()

    names = cell.kernel.evaluate("list(flow._stage._shown.layers)")
    marks = dict(
        zip(cell.kernel.evaluate("list(flow._stage._shown.layers)"), drawn.bars, strict=True)
    )
    assert sorted(set(drawn.glyphs) - {"▼", "▲"}) == sorted(["0", "∅", "∥", "NaN", "∞"])
    assert set(names) == {"first", "frozen", "unused", "zero", "nan", "inf", "last"}
    assert [name for name, height in marks.items() if height > 1] == ["first", "last"]
    picture(page, "marks")


def test_nan_leaves_the_page_alive_and_is_told_by_layer_and_step(cell: FlowCell) -> None:
    page = cell.playground(activation="relu")
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 8)
    cell.kernel.execute("flow.learning_rate = 1e6")

    drawn = page.wait_for(lambda drawn: "NaN since step" in drawn.wrong)
    first = cell.kernel.evaluate(
        "int(__import__('numpy').flatnonzero(flow.history.loss != flow.history.loss)[0]) + 1"
    )
    assert drawn.wrong == f"NaN since step {first}"
    told = page.wait_for(lambda drawn: "Not finite" in drawn.verdict).verdict
    layers = cell.kernel.evaluate("list(flow.history.layers)")
    assert any(f"layer {place} ({name})" in told for place, name in enumerate(layers, 1))
    assert "at step" in told
    assert all("NaN" not in tick for tick in drawn.flow_ticks + drawn.loss_ticks)
    assert not any("NaN" in path for path in (drawn.loss, drawn.loss_ghost))
    assert all(math.isfinite(height) for height in drawn.bars)

    later = page.wait_for(lambda later: later.step > drawn.step)
    page.pause()
    picture(page, "nan")
    page.button("Reset").click()
    page.wait_for(lambda drawn: drawn.step == 0 and not drawn.wrong and any(drawn.bars))
    assert later.wrong == drawn.wrong


# What is clipped away is at none of the points of its box.
CUT_SIGNS = """root => {
    const signs = [...root.querySelectorAll(".gradflow-chart-bars text.label")];
    return signs.filter(sign => {
        sign.scrollIntoView({block: "center"});
        const {left, right, top, bottom} = sign.getBoundingClientRect();
        return [left + 1, right - 1].some(
            x => !document.elementsFromPoint(x, (top + bottom) / 2).includes(sign));
    }).map(sign => sign.textContent);
}"""


def test_two_hundred_layers_stay_readable(cell: FlowCell) -> None:
    page = cell.show(GIVEN.format(body=DEEP))
    page.button("Step").click()
    drawn = page.wait_for(lambda drawn: drawn.step == 1 and len(drawn.bars) == 200)

    assert drawn.layer_ticks[0] == "1"
    assert drawn.layer_ticks[-1] == "200"
    assert 5 <= len(drawn.layer_ticks) <= 21
    for width in (600, 1500):
        page.resize(width)
        labels = [
            box
            for _, box in boxes_of(
                page.root.locator(".gradflow-chart-bars .axis[text-anchor=middle] .tick text")
            )
        ]
        assert not any(overlap(*pair) for pair in combinations(labels, 2))
        assert page.root.evaluate(CUT_SIGNS) == []
    picture(page, "two-hundred-layers")


@pytest.mark.parametrize(
    ("name", "define", "problem"),
    [
        ("healthy", "flow = GradientFlow.playground(depth=4, activation='relu')", "healthy"),
        (
            "vanishing",
            "flow = GradientFlow.playground(depth=20, activation='sigmoid')",
            "vanishing",
        ),
    ],
)
def test_bars_tell_their_verdict_by_colour_and_by_mark(
    cell: FlowCell, name: str, define: str, problem: str
) -> None:
    page = cell.show(f"from gradflow_widget import GradientFlow\n{define}\nflow")
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 30)
    drawn = page.pause()

    assert drawn.verdict.lower().startswith(problem)
    assert problem in drawn.colours
    assert ("▼" in drawn.glyphs) == (problem == "vanishing")
    picture(page, name)


def test_an_exploding_network_is_told_before_its_first_step(cell: FlowCell) -> None:
    page = cell.show(GIVEN.format(body=EXPLODING))

    drawn = page.wait_for(lambda drawn: drawn.verdict)

    assert drawn.verdict.startswith("Exploding")
    assert "exploding" in drawn.colours
    assert "▲" in drawn.glyphs
    picture(page, "exploding")


def test_markers_of_many_turns_do_not_lie_on_each_other(cell: FlowCell) -> None:
    page = cell.playground()
    page.unfold("Optimizer and data")
    page.play()
    for turn in range(6):
        page.slider("learning rate").press("ArrowRight")
        page.slider("batch size").press("ArrowRight" if turn % 2 else "ArrowLeft")
        page.menu("clipping").select_option(["by norm", "by value"][turn % 2])
        step = cell.kernel.evaluate("flow.step_number")
        page.wait_for(lambda drawn, step=step: drawn.step > step + 3)
    page.drag("threshold", 0.1)
    page.wait_for(lambda drawn: drawn.outlines)
    page.pause()

    for width in (600, 1500):
        page.resize(width)
        labels = boxes_of(page.root.locator(".gradflow-chart-loss text.label"))
        assert len(labels) >= 2
        for (one, box), (other, beside) in combinations(labels, 2):
            assert not overlap(box, beside), (one, other)
    picture(page, "clipped")


@pytest.mark.parametrize("width", [420, 480, 600, 720, 760, 900, 1280, 1500])
def test_the_threshold_has_a_label_where_it_does_not_stand_beside_its_menu(
    cell: FlowCell, width: int
) -> None:
    page = cell.playground(depth=3, clip_norm=0.5)
    page.resize(width)
    menu, slider, label = (
        page.root.locator(f".gradflow-clipping {part}").evaluate(
            "e => [e.getBoundingClientRect().top, parseFloat(getComputedStyle(e).fontSize)]"
        )
        for part in (".widget-dropdown", ".widget-slider", ".widget-slider .widget-label")
    )
    below = slider[0] > menu[0] + 10
    assert (label[1] > 0) == below


def test_a_laptop_screen_magnified_by_half_wastes_no_room(cell: FlowCell) -> None:
    page = cell.playground(depth=6)
    page.resize(683)  # 1024 px at 150 %

    def box(part: str) -> dict[str, float]:
        found = page.root.locator(part).bounding_box()
        assert found is not None
        return dict(found)

    status, verdict, views = map(box, (".gradflow-status", ".gradflow-verdict", ".gradflow-views"))
    assert verdict["y"] - (status["y"] + status["height"]) < 8
    assert views["y"] - (verdict["y"] + verdict["height"]) < 30  # a verdict of one line more
    track = box(".gradflow-knobs .slider-container >> nth=0")
    assert track["width"] >= 110


def test_the_previous_run_stays_as_a_dashed_ghost(cell: FlowCell) -> None:
    page = cell.playground(depth=8)
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 15)
    page.menu("activation").select_option("sigmoid")
    page.wait_for(lambda drawn: drawn.ghost and drawn.loss_ghost and drawn.step >= 5)
    page.pause()

    dashes = page.root.evaluate(
        "root => [...root.querySelectorAll('path.line')].filter(p => "
        "p.closest('[clip-path]').style.display !== 'none')"
        ".map(p => p.style.strokeDasharray)"
    )
    assert dashes.count("10, 10") == 2
    picture(page, "ghost")


LOSS_CHART = """root => {
    const chart = root.querySelector(".gradflow-chart-loss");
    const marks = [...chart.querySelectorAll(".svg-figure g[clip-path]")];
    const [ghost, , line, validation] = marks;
    const clip = mark => getComputedStyle(mark).clipPath;
    const figure = chart.getBoundingClientRect();
    return {
        clipped: [ghost, line, validation].map(mark => clip(mark) !== "none"),
        pieces: line.querySelector("path.line").getAttribute("d").split("M").length - 1,
        numbers: [...chart.querySelectorAll(".axis[text-anchor=end] .tick text")]
            .map(text => text.getBoundingClientRect().left - figure.left),
    };
}"""


def test_the_loss_chart_has_gaps_and_cuts_neither_numbers_nor_strokes_nor_dots(
    cell: FlowCell,
) -> None:
    page = cell.show(STAND_IN)
    cell.kernel.execute(
        "from tests.display.readings import reading\n"
        "flow.stage.begin_run(None)\n"
        "flow.stage.forget_ghosts()\n"
        "nan = float('nan')\n"
        "for step in range(1, 41):\n"
        "    loss = nan if 10 < step < 20 or step in (30, 32) else -123440.0 - step / 10\n"
        "    flow.stage.record(reading([1.0], step=step, loss=loss, signal_grad_norm=[1.0]))\n"
        "flow.stage.validation(45, 1.0)"
    )
    page.wait_for(lambda drawn: drawn.step == 40 and "12344" in "".join(drawn.loss_ticks))
    page.at_rest()

    drawn = page.root.evaluate(LOSS_CHART)
    assert drawn["clipped"] == [True, False, False]
    assert drawn["pieces"] == 4  # the third is the one loss at step 31
    assert min(drawn["numbers"]) >= 0
    for theme in THEMES:
        cell.notebook.set_theme(theme)
        cell.notebook.screenshot(f"loss-{theme}", page.root)


# -- without eyes, and without a mouse ---------------------------------------------------


def test_the_layer_table_opens_by_keyboard_and_mirrors_the_bars(cell: FlowCell) -> None:
    page = cell.playground(depth=5)
    page.table.locator("summary").press("Enter")

    rows = page.table.locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(page.table.locator("thead")).to_contain_text("weight gradient")
    shown = rows.nth(0).locator("td").nth(3).inner_text()
    value = cell.kernel.evaluate("flow._stage._shown.weight_grad_norm[0]")
    assert float(shown) == pytest.approx(value, rel=0.01)

    # The first step begins with the weights that are shown before it.
    page.button("Step").click()
    page.button("Step").click()
    expect(rows.nth(0).locator("td").nth(3)).not_to_have_text(shown)
    assert page.table.get_by_role("group").get_attribute("tabindex") == "0"


def test_the_tooltip_names_the_layer_and_its_exact_numbers(cell: FlowCell) -> None:
    page = cell.playground(depth=5)
    box = page.root.locator(".gradflow-chart-bars .bar").nth(2).bounding_box()
    assert box is not None

    cell.notebook.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    tooltip = cell.notebook.page.locator(".gradflow-tooltip:visible")
    expect(tooltip).to_contain_text("3 · 4")
    expect(tooltip).to_contain_text("Linear · 64 × 64")
    value = cell.kernel.evaluate("flow._stage._shown.weight_grad_norm[2]")
    told = tooltip.locator("dt", has_text="weight gradient").locator("+ dd").inner_text()
    assert float(told) == pytest.approx(value, rel=1e-5)
    cell.notebook.page.mouse.move(2, 2)
    expect(tooltip).to_have_count(0)


def test_the_tooltip_goes_with_an_output_that_is_collapsed_under_the_pointer(
    cell: FlowCell,
) -> None:
    tooltip = cell.playground(depth=3).point_at_bar(1)
    expect(tooltip).to_be_visible()
    notebook = cell.notebook.page.locator(".jp-Notebook")

    notebook.evaluate("() => window.jupyterapp.commands.execute('notebook:hide-cell-outputs')")
    expect(tooltip).to_be_hidden()
    notebook.evaluate("() => window.jupyterapp.commands.execute('notebook:show-cell-outputs')")
    expect(cell.notebook.page.locator(".gradflow")).to_be_visible()


def test_status_and_verdict_are_spoken_politely(cell: FlowCell) -> None:
    page = cell.playground()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)

    live = page.root.locator(".gradflow-live[aria-live=polite]")
    expect(live).to_contain_text("step 1", timeout=10_000)
    expect(live).to_contain_text(page.drawn().verdict)
    assert page.root.get_attribute("aria-label") == "Gradient flow"


def test_a_model_of_one_layer_says_why_depth_and_activation_rest(cell: FlowCell) -> None:
    page = cell.show(GIVEN.format(body="model = nn.Linear(64, 10)"))

    expect(page.menu("activation")).to_be_disabled()
    expect(page.menu("activation")).to_have_value("–")
    expect(page.slider("depth").locator("xpath=../../..")).to_have_attribute("disabled", "true")
    expect(page.readout("depth")).to_be_hidden()
    reasons = page.root.locator(".gradflow-reasons:visible")
    expect(reasons).to_contain_text("The model repeats no block")
    expect(reasons).to_contain_text("The model has no activation between its layers")

"""Headings that fold, controls that rest, and what a page says of them, without a model."""

from __future__ import annotations

from itertools import combinations

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.flow_page import FlowCell, FlowPage
from tests.browser.geometry import boxes_of, overlap

SHOWN = """\
import sys
sys.path.insert(0, {root!r})
from tests.browser.stand_in import PRESETS, StandIn
flow = StandIn({arguments})
flow"""
HEADINGS = ("Network", "Optimizer and data", "Presets")


@pytest.fixture(autouse=True)
def nothing_open(cell: FlowCell) -> None:
    """What an earlier test left open is closed."""
    cell.notebook.page.evaluate("localStorage.clear()")


def show(cell: FlowCell, arguments: str = "") -> FlowPage:
    root = str(pytest.importorskip("tests.browser").__path__[0]).removesuffix("/tests/browser")
    return cell.show(SHOWN.format(root=root, arguments=arguments))


def heading(page: FlowPage, name: str) -> Locator:
    return page.root.locator("button.gradflow-heading", has_text=name)


def test_headings_open_by_keyboard_and_are_left_as_they_were_after_a_reload(
    cell: FlowCell,
) -> None:
    page = show(cell)
    network = heading(page, "Network")
    expect(network).to_have_attribute("aria-expanded", "false")
    expect(page.menu("skips")).to_be_hidden()

    network.press("Enter")
    expect(network).to_have_attribute("aria-expanded", "true")
    expect(page.menu("skips")).to_be_visible()
    expect(page.menu("optimizer")).to_be_hidden()

    again = cell.run_again()
    expect(heading(again, "Network")).to_have_attribute("aria-expanded", "true")
    expect(again.menu("skips")).to_be_visible()
    cell.notebook.reload()
    page = cell.run_again()
    expect(page.menu("skips")).to_be_visible()
    heading(page, "Network").press("Space")
    expect(page.menu("skips")).to_be_hidden()
    # Space on a heading is no Play.
    assert cell.kernel.evaluate("flow.desk.done") == []


def test_the_folded_controls_reach_the_kernel_and_follow_it(cell: FlowCell) -> None:
    page = show(cell)
    heading(page, "Network").click()
    heading(page, "Optimizer and data").click()

    page.menu("skips").select_option("1/√(2L)")
    cell.kernel.wait_until("flow.owner.skips == '1/sqrt(2L)'")
    page.menu("normalisation").select_option("none")
    cell.kernel.wait_until("flow.owner.normalization is None")
    page.menu("optimizer").select_option("Adam")
    cell.kernel.wait_until("flow.owner.optimizer_kind == 'Adam'")
    page.slider("weight decay").press("ArrowRight")
    cell.kernel.wait_until("flow.owner.weight_decay == 1e-6")
    page.button("full batch").click()
    cell.kernel.wait_until("flow.owner.batch_size == 1000")
    expect(page.readout("batch size")).to_have_text("1000")
    page.slider("batch size").press("ArrowLeft")
    cell.kernel.wait_until("flow.owner.batch_size == 512")
    expect(page.button("mini-batch")).to_have_attribute("aria-pressed", "true")
    page.button("stochastic \\(1\\)").click()
    cell.kernel.wait_until("flow.owner.batch_size == 1")

    cell.kernel.execute("flow.owner.skips = 0.3; flow.owner.weight_decay = 0.037")
    expect(page.menu("skips")).to_have_value("0.3")
    expect(page.readout("weight decay")).to_have_text("0.037")
    cell.kernel.execute("flow.owner.skips = None")
    expect(page.menu("skips")).to_have_value("off")
    assert cell.kernel.evaluate("flow.owner.skips is None and flow.owner.weight_decay == 0.037")
    assert cell.kernel.evaluate("flow.desk.errors") == []


def test_a_closed_heading_says_what_is_turned_below_it(cell: FlowCell) -> None:
    page = show(cell)
    cell.kernel.execute("flow.owner.skips = 1.0; flow.owner.optimizer_kind = 'Adam'")
    expect(heading(page, "Network")).to_contain_text("skips 1")
    expect(heading(page, "Optimizer and data")).to_contain_text("Adam")


def test_what_is_not_offered_says_why_by_pointer_and_by_screen_reader(cell: FlowCell) -> None:
    page = show(cell, "rests=True")
    heading(page, "Network").click()
    menu = page.menu("skips")
    expect(menu).to_be_disabled()
    expect(menu).to_have_value("–")
    reason = cell.kernel.evaluate("flow.controls.network_menus['skips'].tooltip")
    expect(menu).to_have_accessible_description(reason)
    expect(menu.locator("xpath=..")).to_have_attribute("title", reason)
    expect(page.menu("initialisation")).to_be_enabled()
    heading(page, "Optimizer and data").click()
    slider = page.slider("weight decay")
    expect(slider).to_have_accessible_name("weight decay")
    expect(slider).to_have_accessible_description("LBFGS has no weight decay.")
    expect(slider).to_have_attribute("aria-disabled", "true")
    expect(page.readout("weight decay")).to_be_hidden()


def test_every_slider_has_a_name(cell: FlowCell) -> None:
    page = show(cell)
    for name in HEADINGS[:2]:
        heading(page, name).click()
    for name in ("depth", "learning rate", "weight decay", "batch size"):
        expect(page.slider(name)).to_have_accessible_name(name)


@pytest.mark.parametrize("width", [600, 1000, 1500])
def test_with_everything_open_nothing_overlaps_and_nothing_is_cut(
    cell: FlowCell, width: int
) -> None:
    page = show(cell, "presets=PRESETS")
    page.menu("clipping").select_option("by value")
    cell.kernel.execute("flow.owner.initialization = 'orthogonal'; flow.owner.batch_size = 1")
    for name in HEADINGS:
        heading(page, name).click()
    page.resize(width)
    expect(page.slider("threshold")).to_be_visible()

    root = page.root.bounding_box()
    assert root is not None
    for group in (
        ".gradflow-toolbar > *, .gradflow-grid:not(.gradflow-folded-presets) > *, "
        ".gradflow-heading, .gradflow-panel, .gradflow-views > *",
        ".gradflow-knobs .widget-label, .gradflow-knobs .slider-container, "
        ".gradflow-knobs .widget-readout, .gradflow-knobs select, .gradflow-knobs button",
    ):
        boxes = boxes_of(page.root.locator(group))
        assert len(boxes) > 15
        for (name, box), (other, beside) in combinations(boxes, 2):
            assert not overlap(box, beside), (name, other)
        for name, box in boxes:
            assert box["x"] >= root["x"] - 1, name
            assert box["x"] + box["width"] <= root["x"] + root["width"] + 1, name
    cut = page.root.evaluate(
        "root => [...root.querySelectorAll('.gradflow-knobs :is(.widget-label, .widget-readout, "
        "button, select)')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).overflowX !== 'visible').map(e => e.className + e.textContent)"
    )
    assert cut == []


def test_a_preset_is_loaded_by_its_button(cell: FlowCell) -> None:
    page = show(cell, "presets=PRESETS")
    heading(page, "Presets").click()
    words = page.root.locator(".gradflow-watch")
    expect(words).to_contain_text("Play runs it")
    page.button("mended by skips").click()
    cell.kernel.wait_until("flow.desk.done == [('load preset', 'mended by skips')]")
    expect(words).to_contain_text("reaches 90 %")
    expect(page.button("mended by skips")).to_have_attribute("aria-current", "true")
    expect(page.button("exploding RNN")).to_have_attribute("aria-current", "false")
    expect(heading(page, "Presets")).to_contain_text("mended by skips")


# -- what the stage tells ----------------------------------------------------------------


def test_changes_of_the_model_are_told_politely_below_the_controls(cell: FlowCell) -> None:
    page = show(cell)
    told = page.root.locator(".gradflow-changes")
    expect(told).to_have_attribute("aria-live", "polite")
    cell.kernel.execute("flow.stage.changes_told(['Skips: 3 blocks compute x + 1.0·f(x).'])")
    expect(told).to_have_text("Skips: 3 blocks compute x + 1.0·f(x).")
    cell.kernel.execute("flow.stage.changes_told([])")
    expect(told).to_have_text("")


def test_validation_accuracy_is_a_curve_on_an_axis_of_its_own(cell: FlowCell) -> None:
    page = show(cell)
    ticks = page.root.locator(".gradflow-chart-loss .axis[text-anchor=start] .tick text")
    cell.kernel.execute(
        "for n in range(10): flow.step(20); flow.stage.validation(flow.steps, 0.1 + 0.09 * n)"
    )

    said = page.root.locator(".gradflow-chart-loss .axislabel", has_text="validation")
    expect(said).to_have_text("validation accuracy: 91.0 %")
    expect(ticks.last).to_be_visible()
    assert ticks.all_text_contents() == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert "validation 91.0 %" in page.at_rest().status
    # bqplot lays a chart out anew a third of a second after its margins have changed.
    cell.notebook.page.wait_for_function(
        """() => {
            const chart = document.querySelector(".gradflow-chart-loss");
            const plot = chart.querySelector(".plotarea_background").getBoundingClientRect();
            return chart.getBoundingClientRect().right - plot.right > 40;
        }"""
    )
    chart = page.root.locator(".gradflow-chart-loss").bounding_box()
    assert chart is not None
    for text, box in (*boxes_of(ticks), *boxes_of(said)):
        assert box["x"] + box["width"] <= chart["x"] + chart["width"] + 1, text
    ((_, words),) = boxes_of(said)
    for text, box in boxes_of(ticks):
        assert not overlap(words, box), text


_END_OF_TEXT = """cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getBoundingClientRect().right;
}"""


def test_through_time_is_offered_where_there_are_time_steps(cell: FlowCell) -> None:
    page = show(cell)
    view = page.button("through time")
    expect(view).to_be_hidden()

    cell.kernel.execute(
        "flow.step(signal_grad_through_time={'rnn': [10.0 ** (k / 4 - 7) for k in range(28)]})"
    )
    expect(view).to_be_visible()
    view.click()
    page.wait_for(lambda drawn: len(drawn.bars) == 28)
    drawn = page.at_rest()  # bqplot adds bars before it moves them
    assert drawn.title == "Signal gradient through time · rnn"
    assert drawn.bars == sorted(drawn.bars)
    assert drawn.bars[0] > 0

    box = page.root.locator(".gradflow-chart-bars .bar").nth(2).bounding_box()
    assert box is not None
    cell.notebook.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    tooltip = cell.notebook.page.locator(".gradflow-tooltip:visible")
    expect(tooltip).to_contain_text("time step 3 of 28")
    cell.notebook.page.mouse.move(2, 2)

    # In the table each number stands under its heading.
    page.table.locator("summary").click()
    times = page.table.locator("table").nth(1)
    expect(times.locator("tbody tr")).to_have_count(28)  # filled when it is opened
    heading = times.locator("thead th").all()
    latest = times.locator("tbody tr").last.locator("th, td").all()
    for title, number in zip(heading, latest, strict=True):
        assert title.evaluate(_END_OF_TEXT) == pytest.approx(number.evaluate(_END_OF_TEXT), abs=1)


def test_a_norm_s_own_numbers_stand_in_its_tooltip(cell: FlowCell) -> None:
    page = show(cell)
    cell.kernel.execute(
        "flow.step(layer_notes=(None, (('batch mean', (0.5, -1.0, 2.0)), "
        "('scale', (1.0, 1.0, 1.0))), *[None] * 6))"
    )
    page.wait_for(lambda drawn: drawn.step == 2)
    box = page.root.locator(".gradflow-chart-bars .bar").nth(1).bounding_box()
    assert box is not None
    cell.notebook.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    tooltip = cell.notebook.page.locator(".gradflow-tooltip:visible")
    expect(tooltip.locator("dt", has_text="batch mean").locator("+ dd")).to_have_text(
        "0.500 (−1.00 … 2.00)"
    )
    expect(tooltip.locator("dt", has_text="scale").locator("+ dd")).to_have_text("1.00")
    cell.notebook.page.mouse.move(2, 2)
    page.table.locator("summary").click()
    expect(page.table.locator("tbody tr").nth(1)).to_contain_text("batch mean 0.500")
    page.table.locator("summary").click()


def test_a_batch_norm_put_in_by_its_menu_tells_its_batch(cell: FlowCell) -> None:
    page = cell.playground(depth=4, activation="relu")
    page.unfold("Network")
    page.menu("normalisation").select_option("batch")
    page.wait_for(lambda drawn: len(drawn.bars) == 7)
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)

    box = page.root.locator(".gradflow-chart-bars .bar").nth(1).bounding_box()
    assert box is not None
    cell.notebook.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    tooltip = cell.notebook.page.locator(".gradflow-tooltip:visible")
    told = tooltip.locator("dt", has_text="batch deviation").locator("+ dd").inner_text()
    mean = cell.kernel.evaluate("dict(flow._stage._shown.layer_notes[1])['batch deviation'][0]")
    assert float(told.split()[0]) == pytest.approx(mean, rel=0.01)
    assert mean > 0
    cell.notebook.screenshot("norm-tooltip-light-1500")
    cell.notebook.page.mouse.move(2, 2)


# -- looked at ---------------------------------------------------------------------------


def test_pictures(cell: FlowCell) -> None:
    page = show(cell, "presets=PRESETS, rests=True")
    cell.kernel.execute(
        "flow.step(30)\n"
        "for n in range(10): flow.step(20); flow.stage.validation(flow.steps, 0.1 + 0.09 * n)\n"
        "flow.step(signal_grad_through_time={'rnn': [10.0 ** (k / 4 - 7) for k in range(28)]})\n"
        "flow.owner.initialization = 'he'\n"
        "flow.stage.changes_told(['Initialisation: 8 × He (gain √2).', "
        "'Skips: 3 blocks compute x + 1.0·f(x).'])"
    )
    page.wait_for(lambda drawn: drawn.step == 232)
    notebook = cell.notebook
    for opened in ("closed", "open"):
        for theme in ("light", "dark"):
            notebook.set_theme(theme)  # type: ignore[arg-type]
            for width in (1500, 600):
                page.resize(width)
                notebook.screenshot(f"folded-{opened}-{theme}-{width}", page.root)
        if opened == "closed":
            page.menu("clipping").select_option("by norm")
            for name in HEADINGS:
                heading(page, name).click()
            page.button("through time").click()
            page.wait_for(lambda drawn: len(drawn.bars) == 28)

"""Training under the hand of a person: buttons, keys, knobs and views, in a real page."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.flow_page import TALL, Drawn, FlowCell

WARMING_UP = """\
import torch
from gradflow_widget import GradientFlow
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 10))
data = torch.randn(32, 4), torch.randint(3, (32,))
flow = GradientFlow(model, optimizer, torch.nn.CrossEntropyLoss(), data)
flow"""

# Beyond this many pixels two bars are not of one height.
PIXEL = 1.0


def test_play_moves_bars_and_loss_and_pause_holds_them(cell: FlowCell) -> None:
    page = cell.playground(depth=6)
    before = page.drawn()
    assert before.step == 0
    assert before.loss == ""

    page.button("Play").click()

    moving = page.wait_for(lambda drawn: drawn.step >= 5 and drawn.loss)
    later = page.wait_for(
        lambda drawn: (
            drawn.step > moving.step and drawn.bars != moving.bars and drawn.loss != moving.loss
        )
    )
    assert "steps/s" in page.wait_for(lambda drawn: "steps/s" in drawn.status).status
    assert len(later.bars) == 6

    page.pause()
    page.wait_for(lambda drawn: drawn.steps_drawn == drawn.step)
    held = page.at_rest()
    assert cell.kernel.evaluate("flow.playing") is False
    assert page.drawn() == held


def test_at_the_default_speed_every_step_is_drawn(cell: FlowCell) -> None:
    page = cell.playground()
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 20)

    stopped = page.pause()

    page.wait_for(lambda drawn: drawn.steps_drawn == stopped.step)


@pytest.mark.parametrize("width", [600, 683, 1280, 1500])
def test_the_charts_stand_still_while_the_words_above_them_change(
    cell: FlowCell, width: int
) -> None:
    cell.notebook.set_width(width, TALL)
    page = cell.playground(depth=8)
    page.root.evaluate(
        """root => {
            window.tops = new Set();
            const look = () => {
                const [toolbar, charts] = [".gradflow-toolbar", ".gradflow-charts"].map(
                    name => root.querySelector(name)?.getBoundingClientRect().top);
                if (charts === undefined) return;
                window.tops.add(Math.round(charts - toolbar));
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    page.play()
    page.wait_for(lambda drawn: drawn.step > 300)
    page.pause()

    assert len(cell.notebook.page.evaluate("[...window.tops]")) == 1


def test_step_does_exactly_one_step_and_shows_exactly_that(cell: FlowCell) -> None:
    page = cell.playground()

    for number in (1, 2, 3):
        before = page.drawn()
        page.button("Step").click()
        page.wait_for(lambda drawn, n=number: drawn.step == drawn.steps_drawn == n)
        page.wait_for(lambda drawn, b=before: drawn.bars != b.bars and drawn.loss != b.loss)
        assert cell.kernel.evaluate("[flow.step_number, len(flow.history)]") == [number, number]

    assert cell.kernel.evaluate("flow.playing") is False


def test_keys_play_pause_step_and_reset_and_never_reach_jupyterlab(cell: FlowCell) -> None:
    page = cell.playground()

    page.press("s")
    page.wait_for(lambda drawn: drawn.step == 1)
    page.press(" ")
    page.wait_for(lambda drawn: drawn.step >= 5)
    page.press(" ")
    page.button("Play").wait_for()
    page.press("r")
    page.wait_for(lambda drawn: drawn.step == 0)

    # In JupyterLab's command mode "r" makes a cell raw and Shift+Space scrolls.
    assert cell.notebook.cell(0).get_attribute("class").count("jp-CodeCell") == 1
    assert cell.notebook.page.locator(".jp-Cell").count() == 1
    expect(page.root).to_be_visible()


def test_a_notebook_is_saved_by_its_shortcut_with_the_focus_in_the_widget(cell: FlowCell) -> None:
    page = cell.playground()
    notebook = cell.notebook
    dirty = "window.jupyterapp.shell.currentWidget.context.model.dirty"
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    notebook.page.wait_for_function(f"() => {dirty}")

    notebook.page.keyboard.press("Control+s")
    notebook.page.wait_for_function(f"() => !{dirty}")

    notebook.page.keyboard.press("s")
    page.wait_for(lambda drawn: drawn.step == 2)


# As when the page has had its last word on the widget before this one, whose subshell then ended.
ANSWERED_LAST = """
import threading, time
from IPython.display import display
from gradflow_widget import GradientFlow

flow = GradientFlow.playground(depth=4)
kernel = get_ipython().kernel
last = {"header": {"subshell_id": "of the page before"}}
beside = threading.Thread(target=kernel.set_parent, args=([], last))
beside.start()
beside.join()
display(flow)
while flow._stage.publisher._number == 0:
    time.sleep(0.01)
"""


def test_the_page_is_heard_though_the_subshell_of_the_widget_before_has_ended(
    cell: FlowCell,
) -> None:
    page = cell.show(ANSWERED_LAST)
    page.press("s")
    page.wait_for(lambda drawn: drawn.step == 1)


@pytest.mark.parametrize("control", ["menu", "button", "slider", "toggle", "heading"])
def test_keys_pressed_on_a_control_never_reach_jupyterlab(cell: FlowCell, control: str) -> None:
    """There "r" makes the cell raw, "m" text, "x" cuts it and "b" adds one."""
    page = cell.playground()
    focused = {
        "menu": page.menu("activation"),
        "button": page.button("Step"),
        "slider": page.slider("learning rate"),
        "toggle": page.button("signal gradient"),
        "heading": page.root.locator("summary").first,
    }[control]
    focused.focus()
    for key in ("b", "m", "y", "x", "r", "ArrowDown"):
        cell.notebook.page.keyboard.press(key)
    cell.kernel.wait_until("flow.step_number == 0")
    assert cell.notebook.cell(0).get_attribute("class").count("jp-CodeCell") == 1
    assert cell.notebook.page.locator(".jp-Cell").count() == 1
    expect(page.root).to_be_visible()
    if control == "menu":
        expect(focused).to_be_focused()


def test_reset_repeats_the_run_and_a_new_seed_begins_another(cell: FlowCell) -> None:
    page = cell.playground()
    first_loss = "flow.history.loss[0]"
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    first = page.at_rest()
    loss = cell.kernel.evaluate(first_loss)

    page.button("Reset").click()
    page.wait_for(lambda drawn: drawn.step == 0 and drawn.loss_ghost)
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    again = page.at_rest()
    assert cell.kernel.evaluate(first_loss) == loss
    assert again.bars == pytest.approx(first.bars, abs=PIXEL)

    page.button("New seed").click()
    page.wait_for(lambda drawn: drawn.step == 0)
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    assert cell.kernel.evaluate(first_loss) != loss


def test_the_learning_rate_moves_by_key_and_by_mouse_while_it_trains(cell: FlowCell) -> None:
    page = cell.playground(learning_rate=0.1)
    page.play()

    page.slider("learning rate").press("ArrowRight")
    moved = cell.kernel.wait_until("flow.learning_rate != 0.1 and flow.learning_rate")
    assert moved == pytest.approx(0.1 * 10**0.01, rel=0.01)
    cell.kernel.wait_until("flow.history.latest.learning_rate == flow.learning_rate")
    page.wait_for(lambda drawn: drawn.markers == [f"lr {moved:.3g}"] and drawn.rules == 1)

    page.drag("learning rate", 0.2)
    cell.kernel.wait_until("flow.learning_rate < 1e-4")
    cell.kernel.wait_until("flow.history.latest.learning_rate == flow.learning_rate")

    def shows_the_rate(drawn: Drawn) -> bool:
        # Asked for anew each time: the last moves of the mouse may be on their way yet.
        rate = cell.kernel.evaluate("flow.learning_rate")
        return drawn.markers[-1].endswith(f"lr {rate:.3g}")

    page.wait_for(shows_the_rate)
    assert page.drawn().rules > 1
    page.pause()


def test_a_rate_set_in_code_stays_as_it_is_and_moves_the_slider(cell: FlowCell) -> None:
    # The slider has a hundred places in a decade, and none of them is 0.03.
    page = cell.playground(learning_rate=0.07)
    cell.kernel.execute("flow.learning_rate = 0.5; flow.learning_rate = 0.03")
    expect(page.readout("learning rate")).to_have_text("0.030")

    # What the page has to say to that has been heard by the time that it steps.
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)

    assert cell.kernel.evaluate("flow.learning_rate") == 0.03
    assert cell.kernel.evaluate("flow.history.latest.learning_rate") == 0.03


def test_a_rate_of_0_reads_0_until_it_is_turned(cell: FlowCell) -> None:
    page = cell.show(WARMING_UP)
    expect(page.readout("learning rate")).to_have_text("0")

    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    assert cell.kernel.evaluate("flow.learning_rate == flow.history.latest.learning_rate == 0")

    page.slider("learning rate").press("PageUp")
    turned = cell.kernel.wait_until("flow.learning_rate")
    expect(page.readout("learning rate")).not_to_have_text("0")
    assert float(page.readout("learning rate").inner_text()) == pytest.approx(turned, rel=0.05)


def test_what_is_typed_beside_a_slider_is_understood_or_refused_in_words(cell: FlowCell) -> None:
    page = cell.playground(learning_rate=0.0125, depth=6)
    keyboard = page.notebook.page.keyboard
    page.play()

    def type_beside(knob: str, text: str, then: str = "Enter") -> None:
        page.readout(knob).focus()
        keyboard.press("Control+a")
        keyboard.type(text)
        keyboard.press(then)

    page.readout("learning rate").press("Enter")  # 0.0125 stands there rounded
    page.wait_for(lambda drawn: drawn.step > 5)
    assert cell.kernel.evaluate("flow.learning_rate") == 0.0125

    type_beside("learning rate", "0,02", "Tab")
    assert cell.kernel.wait_until("flow.learning_rate == 0.02")
    type_beside("learning rate", "0,05")
    assert cell.kernel.wait_until("flow.learning_rate == 0.05")
    assert not page.drawn().notice

    for knob, text in (("learning rate", "1/100"), ("depth", "200")):
        type_beside(knob, text)
        refused = page.wait_for(lambda drawn: drawn.notice)
        page.wait_for(lambda drawn, step=refused.step: drawn.step > step + 5)
        assert page.drawn().notice.startswith(f"{knob} must be a")
        assert f"not “{text}”" in page.drawn().notice
        keyboard.press("ArrowRight")
        page.wait_for(lambda drawn: not drawn.notice)
    assert cell.kernel.evaluate("[flow.learning_rate, flow.depth]") == [0.05, 6]
    expect(page.readout("learning rate")).to_have_text("0.050")
    expect(page.readout("depth")).to_have_text("6")


def test_clipping_by_norm_and_by_value_with_its_threshold_while_it_trains(cell: FlowCell) -> None:
    page = cell.playground()
    page.play()
    assert page.drawn().outlines == []

    page.menu("clipping").select_option("by norm")
    cell.kernel.wait_until("flow.clip_norm == 1.0 and flow.clip_value is None")
    page.wait_for(lambda drawn: drawn.markers == ["clip norm 1"])
    page.drag("threshold", 0.1)
    cell.kernel.wait_until("flow.clip_norm < 0.001")
    cell.kernel.wait_until("flow.history.latest.clip_scale < 1")
    clipped = page.wait_for(lambda drawn: drawn.outlines)
    assert all(outline > bar for outline, bar in zip(clipped.outlines, clipped.bars, strict=True))

    page.menu("clipping").select_option("by value")
    cell.kernel.wait_until("flow.clip_value is not None and flow.clip_norm is None")
    page.wait_for(lambda drawn: "clip value" in drawn.markers[-1])

    page.menu("clipping").select_option("off")
    cell.kernel.wait_until("flow.clip_value is None and flow.clip_norm is None")
    page.wait_for(lambda drawn: not drawn.outlines)
    page.pause()


def test_batch_size_changes_while_it_trains(cell: FlowCell) -> None:
    page = cell.playground(batch_size=64)
    page.play()

    page.unfold("Optimizer and data")
    page.slider("batch size").press("ArrowRight")

    cell.kernel.wait_until("flow.batch_size == 128")
    cell.kernel.wait_until("flow.history.latest.settings.batch_size == 128")
    page.wait_for(lambda drawn: drawn.markers == ["batch 128"])
    page.pause()


def test_depth_rebuilds_while_it_trains_and_leaves_the_ghost(cell: FlowCell) -> None:
    page = cell.playground(depth=6)
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 5)
    assert page.drawn().loss_ghost == ""

    page.slider("depth").press("ArrowRight")

    cell.kernel.wait_until("flow.depth == 7 and len(flow.history.layers) == 7")
    rebuilt = page.wait_for(lambda drawn: len(drawn.bars) == 7)
    assert rebuilt.ghost
    assert rebuilt.loss_ghost
    page.wait_for(lambda drawn: drawn.step >= 3)
    assert cell.kernel.evaluate("flow.playing") is True
    page.pause()


def test_dragging_depth_rebuilds_once_so_that_the_ghost_is_the_run_before(cell: FlowCell) -> None:
    page = cell.playground(depth=6)
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 8)
    before = page.pause()

    page.drag("depth", 0.5)

    cell.kernel.wait_until("20 < flow.depth < 45")
    page.wait_for(lambda drawn: len(drawn.bars) == cell.kernel.evaluate("flow.depth"))
    # The ghost's points are the bars of the run before.
    assert page.drawn().ghost.count("L") == len(before.bars) - 1


def test_a_rebuild_while_paused_shows_the_new_bars_before_any_training(cell: FlowCell) -> None:
    page = cell.playground(depth=6, activation="tanh")
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    before = page.at_rest()

    page.menu("activation").select_option("sigmoid")

    after = page.wait_for(lambda drawn: drawn.step == 0 and drawn.bars != before.bars)
    assert after.ghost
    assert cell.kernel.evaluate("type(flow.model[1]).__name__") == "Sigmoid"
    assert cell.kernel.evaluate("[flow.step_number, len(flow.history)]") == [0, 0]
    assert len(after.bars) == 6


def test_speed_draws_every_fifth_step_and_says_so(cell: FlowCell) -> None:
    page = cell.playground()
    page.menu("draw").select_option("every 5th")
    cell.kernel.wait_until("flow.speed == 5")

    page.button("Play").click()
    page.wait_for(lambda drawn: drawn.step >= 50)
    stopped = page.pause()

    assert stopped.steps_drawn <= stopped.step / 5 + 2
    page.menu("draw").select_option("what fits (max)")
    cell.kernel.wait_until("flow.speed == 'max'")


def test_the_toggles_show_another_quantity_at_once(cell: FlowCell) -> None:
    page = cell.playground(depth=6)
    page.button("Step").click()
    first = page.wait_for(lambda drawn: drawn.step == 1 and "weight gradient" in drawn.title)

    shown = page.root.get_by_role("group", name="what the bars show")
    expect(shown.get_by_role("button", name="weight gradient", pressed=True)).to_be_visible()
    page.button("signal gradient").click()
    signal = page.wait_for(lambda drawn: "signal gradient" in drawn.title)
    expect(shown.get_by_role("button", name="signal gradient", pressed=True)).to_be_visible()
    expect(shown.get_by_role("button", name="weight gradient", pressed=False)).to_be_visible()
    page.wait_for(lambda drawn: drawn.bars != first.bars)
    page.button("update ratio").click()
    page.wait_for(lambda drawn: "update ratio" in drawn.title and drawn.bars != signal.bars)

    page.button("relative to last").click()
    relative = page.wait_for(lambda drawn: "relative to last" in drawn.title)
    assert "1" in relative.flow_ticks

    assert relative.loss_ticks[0] != "0"
    page.button("linear loss").click()
    page.wait_for(lambda drawn: drawn.loss_ticks[0] == "0")
    assert cell.kernel.evaluate("flow.step_number") == 1


def test_labels_on_the_axes_tell_the_values_and_not_their_logarithms(cell: FlowCell) -> None:
    page = cell.playground(depth=6)
    for _ in range(3):
        page.button("Step").click()
    drawn = page.wait_for(lambda drawn: drawn.step == drawn.steps_drawn == 3)

    assert all(float(label) > 0 for label in drawn.flow_ticks)
    assert all(1 <= float(label) < 10 for label in drawn.loss_ticks)
    assert drawn.layer_ticks == ["1", "2", "3", "4", "5", "6"]


def test_drawing_on_and_on_leaves_nothing_behind_in_the_page(cell: FlowCell) -> None:
    page = cell.playground()
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 10)
    elements = "root => root.querySelectorAll('*').length"
    early = page.root.evaluate(elements)

    page.wait_for(lambda drawn: drawn.step >= 100)

    assert page.root.evaluate(elements) < early + 30
    page.pause()


def test_a_value_that_is_refused_is_told_and_taken_back(cell: FlowCell) -> None:
    page = cell.show(
        "import torch\nfrom gradflow_widget import GradientFlow\n"
        "from gradflow_widget.playground import data, networks\n"
        "def build(depth=4):\n"
        "    if depth == 5:\n"
        "        raise ValueError('five is right out')\n"
        "    return networks.mlp(depth)\n"
        "flow = GradientFlow(build, lambda p: torch.optim.SGD(p, lr=0.1),\n"
        "                    torch.nn.CrossEntropyLoss(), data.digits())\nflow"
    )

    page.slider("depth").press("ArrowRight")

    expect(page.root.locator(".gradflow-notice[role=alert]")).to_contain_text("five is right out")
    expect(page.readout("depth")).to_have_text("4")
    assert cell.kernel.evaluate("[flow.depth, len(flow.model)]") == [4, 7]

"""Widgets in the life of a notebook: run again, hidden, reloaded, several, and own loops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.flow_page import FlowCell, FlowPage
from tests.browser.jupyterlab import JupyterLab

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

OWN_LOOP = """\
import pathlib, torch
from torch import nn
from gradflow_widget import GradientFlow
from gradflow_widget.playground.data import digits
inputs, targets = digits()
model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
sgd = torch.optim.SGD(model.parameters(), lr=0.1)
def train():
    while not pathlib.Path("stop").exists():
        loss = nn.functional.cross_entropy(model(inputs[:64]), targets[:64])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
flow = GradientFlow(model, sgd)
flow"""


def test_the_quickstart_as_a_person_opens_it(lab: JupyterLab) -> None:
    notebook = lab.open_notebook(NOTEBOOKS / "01_quickstart.ipynb")
    notebook.run_all_cells()
    notebook.wait_until_idle()
    assert notebook.page.locator(".gradflow").count() == 3
    assert notebook.page.locator(".jp-RenderedText[data-mime-type*=error]").count() == 0

    for number in range(3):
        page = FlowPage(notebook, number)
        page.root.scroll_into_view_if_needed()
        page.wait_for(lambda drawn: drawn.step > 0 and any(drawn.bars) and drawn.loss)

    first = FlowPage(notebook, 0)
    first.root.scroll_into_view_if_needed()
    before = first.drawn()
    first.button("Play").click()
    first.wait_for(lambda drawn: drawn.step > before.step and drawn.bars != before.bars)
    first.pause()
    notebook.screenshot("quickstart")
    assert notebook.errors == []


@pytest.mark.parametrize("rests", [True, False], ids=["paused", "playing"])
def test_a_page_that_reconnects_to_the_kernel_shows_all_again(cell: FlowCell, rests: bool) -> None:
    page = cell.playground(depth=3)
    page.play()
    page.wait_for(lambda drawn: drawn.step >= 12)
    if rests:
        page.pause()
        before = page.at_rest()
        cell.kernel.execute("sent = flow._stage.publisher._number")
    else:
        before = page.drawn()

    cell.notebook.page.evaluate(
        "() => window.jupyterapp.commands.execute('kernelmenu:reconnect-to-kernel')"
    )

    if rests:  # so that nothing but the page's asking brings a frame
        cell.kernel.wait_until("flow._stage.publisher._number > sent")
        assert page.at_rest() == before
    else:
        page.wait_for(lambda drawn: drawn.step > before.step + 20)
        after = page.pause()
        assert len(after.bars) == len(before.bars)
        assert (after.title, after.colours != [""] * 3) == (before.title, True)
        assert "NaN" not in after.loss
        assert after.verdict
    assert cell.notebook.errors == []


def test_without_a_kernel_the_last_picture_stays_as_it_was(lab: JupyterLab) -> None:
    notebook = lab.open_notebook(
        ["from gradflow_widget import GradientFlow\nflow = GradientFlow.playground()\nflow"]
    )
    notebook.run_cell(0)
    page = FlowPage(notebook)
    page.wait_for(lambda drawn: any(drawn.bars))
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 1)
    before = page.at_rest()
    places = """root => {
        const middle = part => {
            const {left, right} = part.getBoundingClientRect();
            return (left + right) / 2;
        };
        const of = parts => [...root.querySelectorAll(".gradflow-chart-bars " + parts)];
        const ticks = of(".axis[text-anchor='middle'] .tick text");
        const bars = of(".bar").filter(bar => bar.getBoundingClientRect().width > 0);
        return bars.map((bar, index) => [
            middle(bar), middle(ticks.find(tick => tick.textContent === `${index + 1}`))]);
    }"""

    notebook.page.evaluate(
        "() => void window.jupyterapp.commands.execute('notebook:restart-kernel')"
    )
    notebook.page.locator(".jp-Dialog .jp-mod-accept").click()
    notebook.page.locator(".gradflow.jupyter-widgets-disconnected").wait_for()
    notebook.wait_until_idle()  # a server ends no kernel that is just beginning

    assert page.at_rest() == before
    for bar, tick in page.root.evaluate(places):
        assert bar == pytest.approx(tick, abs=1)
    words = page.root.evaluate("root => getComputedStyle(root, '::before').content")
    assert words.startswith('"Not connected to a kernel')
    notebook.screenshot("without-kernel", page.root)
    lab.close_notebook(notebook)


def test_where_a_notebook_says_that_the_controls_are_live_its_cell_does_not_wait() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            assert not ("controls above are live" in source and ".wait(" in source), path.name


def test_running_the_cell_again_leaves_nothing_of_the_old_widget(cell: FlowCell) -> None:
    page = cell.playground()
    page.play()
    cell.kernel.execute(
        "import threading, weakref, ipywidgets\n"
        "old, old_model, old_optimizer = weakref.ref(flow), flow.model, flow.optimizer\n"
        "threads = {t.name for t in threading.enumerate()}\n"
        "widgets = len(ipywidgets.Widget.widgets)"
    )

    again = cell.run_again()

    assert again.root.count() == 1
    assert cell.kernel.evaluate("old_model is flow.model") is False
    hooks = (
        "[len(h) for h in (old_optimizer._optimizer_step_pre_hooks, "
        "old_optimizer._optimizer_step_post_hooks)] + [len(m._forward_hooks) + "
        "len(m._forward_pre_hooks) + len(m._backward_hooks) for m in old_model.modules()]"
    )
    assert set(cell.kernel.evaluate(hooks)) == {0}
    assert cell.kernel.evaluate("len(ipywidgets.Widget.widgets) - widgets") == 0
    again.play()
    assert (
        cell.kernel.evaluate(
            "sum(t.name.startswith('gradflow-training') for t in threading.enumerate())"
        )
        == 1
    )
    again.pause()


def test_a_hidden_tab_is_not_drawn_into_and_catches_up_when_shown(cell: FlowCell) -> None:
    page = cell.playground()
    page.play()

    cell.notebook.set_hidden(True)
    cell.kernel.wait_until("not flow._stage.publisher.visible")
    hidden = page.at_rest()
    step = cell.kernel.evaluate("flow.step_number")
    cell.kernel.wait_until(f"flow.step_number > {step + 50}")
    assert page.drawn() == hidden

    cell.notebook.set_hidden(False)
    step = cell.kernel.evaluate("flow.step_number")
    page.wait_for(lambda drawn: drawn.step >= step and drawn.loss != hidden.loss)
    page.pause()


def test_a_page_reloaded_while_it_trains_shows_the_present_state(lab: JupyterLab) -> None:
    notebook = lab.open_notebook([""])
    cell = FlowCell(notebook)
    page = cell.playground(depth=6)
    page.play()
    cell.kernel.execute("flow.depth = 9")
    page.wait_for(lambda drawn: len(drawn.bars) == 9 and drawn.step >= 10)
    step = cell.kernel.evaluate("flow.step_number")

    notebook.reload()

    page = FlowPage(notebook)
    page.wait_for(lambda drawn: len(drawn.bars) == 9 and drawn.step > step and drawn.loss)
    expect(page.readout("depth")).to_have_text("9")
    assert page.drawn().ghost
    # Labels that came after their axis would stand there as logarithms.
    assert all(float(label) > 0 for label in page.drawn().flow_ticks)
    page.pause()
    # Of the page before the reload nothing is waited for any more.
    notebook.set_hidden(True)
    cell.kernel.wait_until("not flow._stage.publisher.visible")
    assert notebook.errors == []


# What a page says as it goes and comes may be lost on the way, and here it always is.
LOSES_VIEWS = """\
publisher = flow._stage.publisher
def receive(message, receive=publisher.receive):
    if message["type"] != "view" or ({hears_questions} and message["asks"]):
        receive(message)
publisher.receive = receive"""


@pytest.mark.parametrize("plays", [True, False], ids=["playing", "paused"])
def test_a_notebook_closed_and_opened_again_shows_the_present_state(
    lab: JupyterLab, plays: bool
) -> None:
    define = "from gradflow_widget import GradientFlow\n{0} = GradientFlow.playground()\n{0}"
    notebook = lab.open_notebook([define.format("flow"), define.format("other")])
    notebook.run_all_cells()
    page = FlowPage(notebook)
    page.play()
    if not plays:
        page.pause()
    before = page.wait_for(lambda drawn: len(drawn.bars) > 1 and drawn.step >= 2)
    # While it trains, that a page confirms frames says enough; at rest it has to ask.
    notebook.kernel.execute(LOSES_VIEWS.format(hears_questions=not plays))

    notebook.reopen()

    FlowPage(notebook, 1).wait_for(lambda drawn: len(drawn.bars) == len(before.bars))
    page.wait_for(
        lambda drawn: (
            len(drawn.bars) == len(before.bars)
            and drawn.title == before.title
            and drawn.loss
            and drawn.step >= before.step
        )
    )
    notebook.kernel.execute("flow.close(); other.close()")
    assert notebook.errors == []


def test_two_widgets_in_one_notebook_are_both_live(lab: JupyterLab) -> None:
    define = (
        "from gradflow_widget import GradientFlow\n{0} = GradientFlow.playground(depth={1})\n{0}"
    )
    notebook = lab.open_notebook([define.format("flow", 4), define.format("other", 5)])
    notebook.run_all_cells()
    first, second = FlowPage(notebook, 0), FlowPage(notebook, 1)
    second.wait_for(lambda drawn: len(drawn.bars) == 5)

    first.play()
    second.play()
    for page in (first, second):
        before = page.drawn()
        page.wait_for(lambda drawn, b=before: drawn.step > b.step + 10 and drawn.bars != b.bars)
    first.slider("learning rate").press("ArrowRight")
    notebook.kernel.wait_until("flow.learning_rate != 0.1")

    assert notebook.kernel.evaluate("other.learning_rate") == 0.1
    assert [len(first.drawn().bars), len(second.drawn().bars)] == [4, 5]
    notebook.kernel.execute("flow.close(); other.close()")
    assert notebook.errors == []


def test_a_plain_loop_is_drawn_while_its_cell_runs_and_steered_when_it_has_ended(
    lab: JupyterLab,
) -> None:
    stop = lab.server.root / "stop"
    stop.unlink(missing_ok=True)
    notebook = lab.open_notebook([OWN_LOOP, "train()"])
    notebook.run_cell(0)
    page = FlowPage(notebook)
    expect(page.button("Play")).to_be_disabled()

    notebook.run_cell(1, wait=False)
    moving = page.wait_for(lambda drawn: drawn.step > 3 and drawn.bars)
    assert "controls apply when the cell ends" in moving.notice
    page.wait_for(lambda drawn: drawn.step > moving.step and drawn.bars != moving.bars)
    expect(page.button("Reset")).to_be_disabled()  # for it would be heard then
    page.slider("learning rate").press("ArrowRight")

    stop.touch()
    notebook.wait_until_idle()
    notebook.kernel.wait_until("flow.learning_rate > 0.1")
    page.wait_for(lambda drawn: not drawn.notice)
    steps = notebook.kernel.evaluate("flow.step_number")
    page.wait_for(lambda drawn: drawn.step == steps and drawn.steps_drawn > 3)
    expect(page.button("Reset")).to_be_enabled()
    assert notebook.errors == []


# Each in a cell of its own until a file is there, with a widget that an earlier cell has shown.
STEPS_IN_A_CELL = {
    "wait": (OWN_LOOP, "flow.run(train); flow.wait()"),
    "other work": (OWN_LOOP, "flow.run(train)\nwhile not pathlib.Path('stop').exists(): pass"),
    "steps": (
        "import pathlib; from gradflow_widget import GradientFlow\n"
        "flow = GradientFlow.playground(); flow",
        "for _ in flow.steps(100_000):\n    if pathlib.Path('stop').exists(): break",
    ),
}


@pytest.mark.parametrize(("define", "cell"), STEPS_IN_A_CELL.values(), ids=STEPS_IN_A_CELL)
def test_the_controls_act_while_a_cell_runs(lab: JupyterLab, define: str, cell: str) -> None:
    stop = lab.server.root / "stop"
    stop.unlink(missing_ok=True)
    notebook = lab.open_notebook([define, cell])
    notebook.run_cell(0)
    page = FlowPage(notebook)
    page.wait_for(lambda drawn: drawn.bars)

    notebook.run_cell(1, wait=False)
    before = page.wait_for(lambda drawn: drawn.step > 3 and drawn.steps_drawn > 3)
    moving = page.wait_for(lambda now: now.steps_drawn > before.steps_drawn + 20)
    assert moving.bars != before.bars
    page.slider("learning rate").press("ArrowRight")
    live = page.wait_for(lambda drawn: drawn.markers)
    assert live.notice == ""

    stop.touch()
    notebook.wait_until_idle()
    assert notebook.kernel.evaluate("flow.learning_rate") > 0.1
    notebook.kernel.execute("flow.close()")
    assert notebook.errors == []


# With the cell that makes the widget: the page can't be heard to have appeared.
AT_ONCE = {
    "plays in the same cell": [
        f"{OWN_LOOP.removesuffix('flow')}display(flow)\nflow.run(train); flow.wait()"
    ],
    "plain loop in the same cell": [f"{OWN_LOOP.removesuffix('flow')}display(flow)\ntrain()"],
    "plain loop in the next cell": [OWN_LOOP, "train()"],
}


@pytest.mark.parametrize("cells", AT_ONCE.values(), ids=AT_ONCE)
def test_steps_are_drawn_that_begin_before_the_page_can_be_heard(
    lab: JupyterLab, cells: list[str]
) -> None:
    stop = lab.server.root / "stop"
    stop.unlink(missing_ok=True)
    notebook = lab.open_notebook(cells)
    notebook.run_all_cells(wait=False)
    page = FlowPage(notebook)
    before = page.wait_for(lambda drawn: drawn.step > 3 and len(drawn.bars) == 3)
    moving = page.wait_for(lambda now: now.step > before.step + 20 and now.bars != before.bars)
    if moving.notice == "":
        moving = page.wait_for(lambda drawn: drawn.notice)
    assert "the controls apply when" in moving.notice

    page.slider("learning rate").press("ArrowRight")
    stop.touch()
    notebook.wait_until_idle()
    notebook.kernel.wait_until("flow.learning_rate > 0.1")
    steps = notebook.kernel.evaluate("flow.step_number")
    page.wait_for(lambda drawn: drawn.step == steps and not drawn.notice)
    assert notebook.errors == []


def test_a_loop_given_to_run_is_under_the_hand_of_the_controls(lab: JupyterLab) -> None:
    stop = lab.server.root / "stop"
    stop.unlink(missing_ok=True)
    notebook = lab.open_notebook([OWN_LOOP, "flow.run(train)"])
    notebook.run_all_cells()
    page = FlowPage(notebook)
    page.wait_for(lambda drawn: drawn.step > 3 and drawn.bars)

    page.slider("learning rate").press("ArrowRight")
    notebook.kernel.wait_until("sgd.param_groups[0]['lr'] > 0.1")
    page.menu("clipping").select_option("by norm")
    notebook.kernel.wait_until("flow.history.latest.settings.clip_norm == 1.0")

    paused = page.pause()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == paused.step + 1)
    assert notebook.kernel.evaluate("flow.step_number") == paused.step + 1

    page.button("Play").click()
    page.wait_for(lambda drawn: drawn.step > paused.step + 5)
    stop.touch()
    notebook.kernel.wait_until("not flow.playing")
    assert notebook.errors == []


def test_all_cells_run_again_while_a_loop_trains_leave_one_loop_on_the_new_network(
    lab: JupyterLab,
) -> None:
    (lab.server.root / "stop").unlink(missing_ok=True)
    notebook = lab.open_notebook([OWN_LOOP, "flow.run(train)"])
    for _ in range(3):
        notebook.run_all_cells()
        notebook.wait_until_idle()
        page = FlowPage(notebook)
        page.wait_for(lambda drawn: drawn.step > 20 and not drawn.notice)
    threads = "[one.name for one in __import__('threading').enumerate()]"
    assert notebook.kernel.evaluate(threads).count("gradflow-training") == 1

    stopped = page.pause()
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == stopped.step + 1)
    assert notebook.kernel.evaluate("flow.step_number") == stopped.step + 1
    assert notebook.errors == []

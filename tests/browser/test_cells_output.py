"""What the user's code prints in a notebook, and cells whose output is captured."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.flow_page import FlowPage
from tests.browser.jupyterlab import JupyterLab

MAKING = """\
from gradflow_widget import GradientFlow
flow = GradientFlow.playground(depth=4)
flow"""
PRINTING = """\
import torch
from torch import nn
from gradflow_widget import GradientFlow
from gradflow_widget.playground.data import digits
inputs, targets = digits()
losses = 0
def loss_fn(outputs, targets):
    global losses
    losses += 1
    print("loss", losses)
    return nn.functional.cross_entropy(outputs, targets)
model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
flow = GradientFlow(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, (inputs, targets))
flow"""


def test_what_the_user_s_code_prints_stands_below_its_cell(lab: JupyterLab) -> None:
    notebook = lab.open_notebook(
        [
            PRINTING,
            """\
def train():
    for epoch in range(20):
        flow.optimizer.zero_grad()
        nn.functional.cross_entropy(flow.model(inputs), targets).backward()
        flow.optimizer.step()
        print("epoch", epoch)
flow.run(train)""",
            "flow.wait()",
        ]
    )
    for cell in range(3):
        notebook.run_cell(cell)
    # Below the cell under way, as what any other thread prints.
    printed = notebook.page.locator(
        ".jp-OutputArea-output[data-mime-type*=stdout]", has_text="epoch"
    )
    notebook.page.wait_for_function(
        "() => document.querySelector('.jp-Notebook').innerText.includes('epoch 19')"
    )
    assert "".join(printed.all_text_contents()) == "".join(f"epoch {n}\n" for n in range(20))
    page = FlowPage(notebook)
    for step in (21, 22, 23):
        page.button("Step").click()  # a message of the page, and none of a cell
        page.wait_for(lambda drawn, step=step: drawn.step == step)
    at_first = notebook.cell(0).locator(".jp-OutputArea-output[data-mime-type*=stdout]")
    # Above the widget what its making has printed, below it what the steps have.
    expect(at_first).to_have_text(["loss 1\n", "loss 2\nloss 3\nloss 4\n"])
    assert notebook.errors == []


def test_a_click_during_a_captured_cell_is_heard(lab: JupyterLab) -> None:
    stop = lab.server.root / "stop"
    stop.unlink(missing_ok=True)
    waiting = "%%capture captured\nimport pathlib, time\nprint('begun')\n"
    waiting += "pathlib.Path('begun').touch()\n"
    waiting += "while not pathlib.Path('stop').exists(): time.sleep(0.01)"
    notebook = lab.open_notebook([MAKING, waiting])
    notebook.run_cell(0)
    page = FlowPage(notebook)
    page.wait_for(lambda drawn: drawn.bars)
    page.button("Step").click()  # which makes the page known
    page.wait_for(lambda drawn: drawn.step == 1)

    notebook.run_cell(1, wait=False)
    begun = lab.server.root / "begun"
    while not begun.exists():
        notebook.page.wait_for_timeout(20)
    page.button("Step").click()
    page.wait_for(lambda drawn: drawn.step == 2)  # at once
    stop.touch()
    notebook.wait_until_idle()
    assert notebook.cell(1).locator(".jp-OutputArea-output").count() == 0
    assert notebook.kernel.evaluate("(captured.stdout, captured.stderr)") == ["begun\n", ""]
    assert notebook.errors == []

"""Where in a notebook stands what the user's code prints on the widget's thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nbclient
import nbformat
import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow, jupyter
from tests.fake_shell import FakeShell

MAKING = """\
import torch
from torch import nn
from gradflow_widget import GradientFlow
x, y = torch.randn(64, 4), torch.randint(2, (64,))
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
def loss_fn(outputs, targets):
    print("loss")
    return nn.functional.cross_entropy(outputs, targets)
flow = GradientFlow(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, (x, y))"""
LOOP = """\
def train():
    for n in range(20):
        flow.optimizer.zero_grad()
        nn.functional.cross_entropy(flow.model(x), y).backward()
        flow.optimizer.step()
        print("epoch", n)
flow.run(train); flow.wait()"""


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_a_notebook_that_runs_without_a_page_keeps_all_that_is_printed() -> None:
    sources = [MAKING, "flow.step(30)", LOOP]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nbclient.NotebookClient(book, timeout=120).execute()
    making, steps, loop = book.cells
    assert printed(making) == "loss\n"
    assert printed(steps) == "loss\n" * 30
    assert printed(loop) == "".join(f"epoch {n}\n" for n in range(20))


def test_output_goes_to_the_cell_under_way_else_to_the_loop_s_or_the_widget_s(
    make_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = FakeShell()
    monkeypatch.setattr(jupyter, "shell", lambda: shell)
    places: list[tuple[str, bool]] = []

    def placed(cell: Mapping[str, Any], *, displays: bool) -> None:
        places.append((cell["metadata"]["cellId"], displays))

    monkeypatch.setattr(jupyter, "output_goes_to", placed)
    x, y = torch.randn(8, 4), torch.randint(2, (8,))

    def make() -> GradientFlow:
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        flow: GradientFlow = make_flow(model, optimizer, nn.CrossEntropyLoss(), (x, y))
        flow.step()
        return flow

    def loop() -> None:
        for _ in range(3):
            flow.optimizer.zero_grad()
            flow.model(x).sum().backward()
            flow.optimizer.step()

    flow = shell.run("making", make)
    assert places == [("making", True)]
    flow.step()  # as pressed in the page
    assert places[-1] == ("making", False)  # what is cleared there would be the widget
    shell.run("stepping", flow.step)
    assert places[-1] == ("stepping", True)
    shell.run("running", lambda: flow.run(loop))
    flow.wait()
    assert places[-1] == ("running", True)
    shell.run("waiting", lambda: (flow.run(loop), flow.wait()))
    assert places[-1] == ("waiting", True)


def test_a_captured_cell_takes_no_message_from_the_page(make_flow: Any) -> None:
    displaypub = pytest.importorskip("IPython.core.displaypub")
    make_flow(nn.Linear(4, 2), lambda p: torch.optim.SGD(p, lr=0.1))
    displaypub.CapturingDisplayPublisher().set_parent({})  # as ipykernel does for each message

"""Where the kernel hears the page while a cell runs, without a page."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets
import pytest
import torch

from tests.fake_shell import FakeShell
from tests.training.parts import CROSS_ENTROPY, plain_network, samples
from tests.waiting import join

INPUTS, TARGETS = samples()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture(autouse=True)
def no_cell_is_short(monkeypatch: Any) -> None:
    monkeypatch.setattr("gradflow_widget.backstage._SHORT_CELL", -1.0)


class HeardPage:
    """A page of which the kernel hears on a thread beside; notes where its widgets are heard.

    As in ipykernel 7.4, that is on the shell whose message was answered when they last sent.
    """

    def __init__(self, shell: FakeShell, monkeypatch: Any, subshell: str | None) -> None:
        self._shell, self._subshell = shell, subshell
        self.heard_on: dict[Any, Any] = {}
        send = widgets.Widget._send

        def note(widget: Any, message: Any, buffers: Any = None) -> None:
            self.heard_on[widget] = shell.answers_on
            send(widget, message, buffers)

        monkeypatch.setattr(widgets.Widget, "_send", note)

    def say(self, flow: Any) -> None:
        """Say that it shows the widget."""

        def answer() -> None:
            self._shell.answer({"header": {"subshell_id": self._subshell}})
            view = {"type": "view", "page": "p", "visible": True}
            flow._stage.panel._handle_custom_msg(view, [])

        thread = threading.Thread(target=answer)
        thread.start()
        join(thread)


def _moved_in_page(flow: Any) -> list[Any]:
    controls = flow._controls
    return [controls.play_button, controls.rate_slider, controls.clip_menu, controls.depth_slider]


def test_beside_a_cell_the_controls_are_heard_where_the_page_asks(
    shell: FakeShell, make_flow: Any, monkeypatch: Any
) -> None:
    page = HeardPage(shell, monkeypatch, "of the page")
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)
    flow.play()
    page.heard_on.clear()

    def cell() -> None:
        assert {page.heard_on[control] for control in _moved_in_page(flow)} == {"of the page"}
        # What code sets in the cell leaves them where they are.
        flow.learning_rate = 0.3
        assert page.heard_on[flow._controls.rate_slider] == "of the page"
        flow._stage.refresh_status()
        assert "A cell is running" not in flow.status
        flow.pause()
        flow.wait()

    shell.run("b", cell)


def test_beside_steps_in_a_cell_the_controls_are_heard_where_the_page_asks(
    shell: FakeShell, make_flow: Any, monkeypatch: Any
) -> None:
    page = HeardPage(shell, monkeypatch, "of the page")
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)

    def cell() -> None:
        assert {page.heard_on[control] for control in _moved_in_page(flow)} == {None}
        for _ in flow.steps(3):
            page.say(flow)
        assert {page.heard_on[control] for control in _moved_in_page(flow)} == {"of the page"}

    shell.run("b", cell)


def test_in_a_plain_loop_the_controls_wait_for_the_cell(
    shell: FakeShell, make_flow: Any, monkeypatch: Any
) -> None:
    page = HeardPage(shell, monkeypatch, "of the page")
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = shell.run("a", lambda: make_flow(model, optimizer))
    page.say(flow)
    # Such as a control that a person moved between cells, which answers what the page said.
    shell.answer({"header": {"subshell_id": "of the page"}})
    flow.learning_rate = 0.3
    assert page.heard_on[flow._controls.rate_slider] == "of the page"

    def cell() -> None:
        CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
        optimizer.step()
        page.say(flow)
        assert {page.heard_on[control] for control in _moved_in_page(flow)} == {None}

    shell.run("b", cell)
    flow.reset()


@pytest.mark.parametrize("makes_steps", ["plays", "steps"])
def test_where_the_page_asks_for_no_subshell_a_notice_says_that_the_controls_wait(
    shell: FakeShell, make_flow: Any, monkeypatch: Any, makes_steps: str
) -> None:
    page = HeardPage(shell, monkeypatch, None)
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)
    if makes_steps == "plays":
        flow.play()

    def cell() -> None:
        if makes_steps == "plays":
            flow._stage.refresh_status()
            assert "A cell is running: the controls apply when it ends" in flow.status
            flow.pause()
            flow.wait()
        else:
            for _ in flow.steps(1):
                flow._stage.refresh_status()
                assert "A cell is running: the controls apply when it ends" in flow.status
        assert {page.heard_on.get(control) for control in _moved_in_page(flow)} == {None}

    shell.run("b", cell)
    flow._stage.refresh_status()
    assert "A cell is running" not in flow.status

"""Where the kernel hears the page while a cell runs, without a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pytest
import torch

from gradflow_widget import GradientFlow, jupyter
from tests.fake_shell import FakeShell
from tests.training.parts import CROSS_ENTROPY, plain_network, samples
from tests.waiting import join, started, wait_for

INPUTS, TARGETS = samples()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.fixture(autouse=True)
def no_cell_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradflow_widget.backstage._SHORT_CELL", -1.0)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> FakeShell:
    fake = FakeShell()
    monkeypatch.setattr(jupyter, "shell", lambda: fake)
    return fake


@pytest.fixture
def page(shell: FakeShell, monkeypatch: pytest.MonkeyPatch) -> HeardPage:
    return HeardPage(shell, monkeypatch)


class HeardPage:
    """A page of which the kernel hears on a thread beside; notes where its widgets are heard.

    As in ipykernel 7.4, that is on the shell whose message was answered when they last sent.
    """

    def __init__(self, shell: FakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
        self._shell = shell
        self.heard_on: dict[Any, str | None] = {}
        send = widgets.Widget._send

        def note(widget: Any, message: Any, buffers: Any = None) -> None:
            self.heard_on[widget] = shell.answers_on
            send(widget, message, buffers)

        monkeypatch.setattr(widgets.Widget, "_send", note)

    def say(self, flow: GradientFlow, subshell: str | None = "page") -> None:
        """Say that it shows the widget, and name a subshell to be heard on."""
        view = {"type": "view", "page": "p", "visible": True}
        self._beside(lambda: flow._stage.panel._handle_custom_msg(view, []), subshell)

    def move(self, move: Callable[[], object], subshell: str | None = "page") -> None:
        """Have a person move a control."""
        self._beside(move, subshell)

    def hears(self, flow: GradientFlow) -> set[str | None]:
        """Return where the controls are heard."""
        parts = flow._controls
        assert parts is not None
        controls = (parts.play_button, parts.step_button, parts.rate_slider, parts.clip_menu)
        return {self.heard_on.get(control) for control in controls}

    def _beside(self, work: Callable[[], object], subshell: str | None) -> None:
        def answer() -> None:
            self._shell.answer({"header": {"subshell_id": subshell}})
            work()

        join(started(answer))


def test_beside_a_cell_the_controls_are_heard_where_the_page_asks(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)
    flow.play()

    def cell() -> None:
        assert page.hears(flow) == {"page"}
        # What code sets in the cell leaves them where they are.
        flow.learning_rate = 0.3
        assert page.hears(flow) == {"page"}
        flow._stage.refresh_status()
        assert "A cell is running" not in flow.status
        flow.pause()
        flow.wait()

    page.heard_on.clear()
    shell.run("b", cell)


def test_a_page_that_is_first_heard_beside_a_cell_has_its_controls_heard_there_too(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    def cell() -> None:
        flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
        for _ in flow.steps(2):
            flow._stage.refresh_status()
            assert "A cell is running: the controls apply when it ends" in flow.status
        assert page.hears(flow) == {None}
        page.say(flow)
        assert page.hears(flow) == {"page"}
        for _ in flow.steps(1):
            flow._stage.refresh_status()
            assert "A cell is running" not in flow.status

    shell.run("a", cell)


def test_in_a_plain_loop_the_controls_wait_for_the_cell(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = shell.run("a", lambda: make_flow(model, optimizer))
    page.say(flow)

    def cell() -> None:
        assert page.hears(flow) == {"page"}
        for _ in range(2):
            CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
            optimizer.step()
        assert page.hears(flow) == {None}
        page.say(flow)
        assert page.hears(flow) == {None}

    shell.run("b", cell)
    shell.run("c", lambda: None)
    assert page.hears(flow) == {"page"}
    flow.reset()


def test_the_controls_follow_a_page_to_another_subshell(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)
    shell.run("b", lambda: None)
    assert page.hears(flow) == {"page"}
    page.say(flow, "reloaded")
    assert page.hears(flow) == {"reloaded"}
    page.say(flow, None)
    assert page.hears(flow) == {None}


def test_where_the_page_names_no_subshell_a_notice_says_that_the_controls_wait(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow, None)
    flow.play()
    page.heard_on.clear()

    def cell() -> None:
        flow._stage.refresh_status()
        assert "A cell is running: the controls apply when it ends" in flow.status
        assert not any(isinstance(widget, widgets.Dropdown) for widget in page.heard_on)
        flow.pause()
        flow.wait()

    shell.run("b", cell)
    flow._stage.refresh_status()
    assert "A cell is running" not in flow.status


def test_a_cell_on_a_subshell_of_its_own_moves_no_controls(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)

    def cell() -> None:
        began = flow._backstage._cell_began
        join(started(lambda: shell.run("console", lambda: None)))
        assert flow._backstage._cell_began == began

    shell.run("b", cell)
    page.heard_on.clear()
    join(started(lambda: shell.run("console", lambda: None)))
    assert set(page.heard_on) <= {flow._stage.panel}  # a frame may go out at any time


def test_code_that_is_no_cell_is_not_told_as_one(shell: FakeShell, make_flow: Any) -> None:
    callback = {"header": {"msg_type": "comm_msg"}}
    silent = {"header": {"msg_type": "execute_request"}, "content": {"silent": True}}
    for message in (callback, silent):
        shell.answer(message)
        flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
        for _ in flow.steps(1):
            flow._stage.refresh_status()
            assert "A cell is running" not in flow.status


def test_where_the_page_is_not_heard_it_is_spoken_to_from_either_shell_in_turn(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)
    stage, heard_on = flow._stage, []

    def speak() -> None:
        for _ in range(4):
            stage._send({"type": "ping", "id": 0}, [])
            heard_on.append(page.heard_on[stage.panel])

    stage.publisher.close()  # so that nobody else speaks
    shell.run("b", speak)
    assert heard_on == ["page"] * 4
    heard_on.clear()
    stage.publisher._unheard = True
    shell.run("c", speak)
    assert heard_on == [None, "page", None, "page"]


def test_a_widget_speaks_from_its_own_cell_whatever_was_answered_last(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    """Else the page of a widget before it, just gone, would keep it from ever being heard."""

    def cell() -> GradientFlow:
        flow = make_flow(plain_network, sgd, CROSS_ENTROPY, samples())
        page.move(lambda: None, "page of the one before")
        shell.ended_subshells.add("page of the one before")
        flow._stage.publisher.assume_page()  # as its display in a running cell does
        wait_for(lambda: flow._stage.panel in page.heard_on)
        flow.step(3)  # by the thread that trains
        return flow

    flow = shell.run("a", cell)
    wait_for(lambda: flow._stage.publisher._number > 1)
    assert set(page.heard_on.values()) == {None}


def test_without_subshells_what_is_sent_belongs_to_the_cell_that_runs(
    shell: FakeShell, make_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts such as nbclient listen to the cell that they are running, and to nothing else."""
    cells: dict[Any, str] = {}
    send = widgets.Widget._send

    def note(widget: Any, message: Any, buffers: Any = None) -> None:
        cells[widget] = shell.kernel.get_parent("shell")["metadata"]["cellId"]
        send(widget, message, buffers)

    monkeypatch.setattr(widgets.Widget, "_send", note)
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    panel, slider = flow._stage.panel, flow._controls.rate_slider

    def cell() -> None:
        flow.learning_rate = 0.3
        join(started(lambda: flow._stage._send({"type": "ping", "id": 0}, [])))
        assert cells[panel] == cells[slider] == "b"

    shell.run("b", cell)


def test_the_publisher_knows_whether_a_cell_may_keep_the_page_from_being_heard(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    publisher = flow._stage.publisher
    assert not publisher.heard_beside_cells
    page.say(flow)
    assert publisher.heard_beside_cells
    page.say(flow, None)
    assert not publisher.heard_beside_cells


def test_where_the_subshell_has_ended_the_main_shell_hears_and_then_the_next_page_is_heard(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = shell.run("a", lambda: make_flow(plain_network, sgd, CROSS_ENTROPY, samples()))
    page.say(flow)
    shell.run("b", lambda: flow.step())
    assert page.hears(flow) == {"page"}
    shell.ended_subshells.add("page")

    flow._stage._send({"type": "ping", "id": 0}, [])
    assert page.heard_on[flow._stage.panel] is None
    flow.learning_rate = 0.3
    assert page.heard_on[flow._controls.rate_slider] is None

    page.say(flow, "another page")
    shell.run("c", lambda: flow.step())
    assert page.hears(flow) == {"another page"}


def test_a_loop_that_is_handed_over_in_a_cell_leaves_the_controls_where_they_are_heard(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = shell.run("a", lambda: make_flow(model, optimizer))
    page.say(flow)

    def loop() -> None:
        CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
        optimizer.step()

    def cell() -> None:
        assert page.hears(flow) == {"page"}
        flow.run(loop)
        flow.wait()
        assert page.hears(flow) == {"page"}

    shell.run("b", cell)


@pytest.mark.parametrize("hears_beside", [True, False], ids=["subshell", "main shell"])
def test_no_reset_is_pressed_for_when_a_loop_in_a_cell_is_over(
    shell: FakeShell, page: HeardPage, make_flow: Any, hears_beside: bool
) -> None:
    model = plain_network()
    optimizer = sgd(model.parameters())
    flow = shell.run("a", lambda: make_flow(model, optimizer))
    page.say(flow, "page" if hears_beside else None)
    buttons = flow._controls.reset_button, flow._controls.seed_button

    def rest() -> list[bool]:
        assert all(("in a cell" in one.tooltip) == one.disabled for one in buttons)
        return [one.disabled for one in buttons]

    def loop() -> None:
        for _ in range(3):
            CROSS_ENTROPY(model(INPUTS), TARGETS).backward()
            optimizer.step()

    def cell() -> None:
        loop()
        assert rest() == [True, True]
        raise KeyboardInterrupt

    assert rest() == [False, False]
    with pytest.raises(KeyboardInterrupt):
        shell.run("b", cell)
    assert rest() == [False, False]

    def hands_over() -> None:
        flow.run(loop)
        flow.wait()
        assert rest() == [False, False]

    shell.run("c", hands_over)
    join(started(loop))  # a thread keeps nobody from being heard
    assert rest() == [False, False]


def test_controls_made_in_a_cell_are_heard_where_the_page_asks(
    shell: FakeShell, page: HeardPage
) -> None:
    flow = shell.run("a", lambda: GradientFlow.playground(depth=3))
    page.say(flow)

    def cell() -> None:
        assert page.hears(flow) == {"page"}
        flow.load_preset("vanishing sigmoid")
        assert page.hears(flow) != {"page"}
        page.say(flow)
        assert page.hears(flow) == {"page"}

    shell.run("b", cell)
    flow.close()


def test_while_a_cell_makes_steps_no_preset_takes_the_network_away(
    shell: FakeShell, page: HeardPage, make_flow: Any
) -> None:
    flow = GradientFlow.playground(depth=3)
    told: list[str] = []

    def load() -> None:
        with pytest.raises(RuntimeError) as refusal:
            flow.load_preset("vanishing sigmoid")
        told.append(str(refusal.value))

    for number, _ in enumerate(flow.steps(3)):
        if number == 1:
            page.move(load)
    assert flow.step_number == 3
    waiting = started(lambda: flow.step(1_000_000))
    wait_for(lambda: flow.step_number > 3)
    page.move(load)
    flow.pause()
    join(waiting)
    assert told == ["a cell is making steps: load a preset when they are done."] * 2
    flow.load_preset("vanishing sigmoid")
    flow.close()

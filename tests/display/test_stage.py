"""Which steps reach the page, and what the status line says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from gradflow_widget.diagnosis.verdict import UNDECIDED, Verdict
from gradflow_widget.display import publisher
from gradflow_widget.display.closing import close_tree
from gradflow_widget.display.stage import Stage
from gradflow_widget.measurement.reading import Reading
from tests.display.fake_page import FakePage
from tests.display.readings import reading
from tests.waiting import wait_for


class Director:
    """Who tells the stage what to say; it listens, too."""

    def __init__(self) -> None:
        self.playing = self.stepping = False
        self.said = ""
        self.keys: list[str] = []

    def verdict(self, readings: Sequence[Reading]) -> Verdict:
        return UNDECIDED

    def layer_problems(self, reading: Reading) -> list[str]:
        return [""] * len(reading.layers)

    def step_problems(self, reading: Reading, name: str) -> list[str]:
        return ["vanishing"] * len((reading.signal_grad_through_time or {})[name])

    def notice(self) -> tuple[str, bool]:
        return "", False

    def is_playing(self) -> bool:
        return self.playing

    def is_stepping(self) -> bool:
        return self.stepping

    def on_heard(self) -> None: ...

    def on_key(self, action: str) -> None:
        self.keys.append(action)

    def on_status(self, status: str) -> None:
        self.said = status


class Theatre(FakePage):
    """A stage whose messages go to a page that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.director = Director()
        self.stage = Stage(self.director)
        self.publisher = self.stage.publisher
        self.stage.panel.send = self._send
        self.models: dict[str, dict[str, Any]] = {}

    def confirm(self, number: int, *, dropped: bool = False) -> None:
        self._confirmed.add(number)
        self.says(type="confirm", frame=number, animation_frame=number)

    def says(self, **message: Any) -> None:
        self.stage._on_message(None, {"page": self.name, **message}, None)

    def step(self, number: int, *, drawn: bool = True) -> None:
        full = {"signal_grad_norm": [1.0, 1.0]} if drawn else {}
        self.stage.record(reading([1.0, 1.0], step=number, loss=1.0 / number, **full))

    def status(self) -> str:
        """The status line in the latest frame that told one."""
        for frame in reversed(self.frames):
            for update in frame["updates"]:
                if update["target"] == "panel" and "status" in update["state"]:
                    return str(update["state"]["status"])
        return ""


@pytest.fixture
def theatre() -> Iterator[Theatre]:
    theatre = Theatre()
    theatre.confirms_at_once = True
    yield theatre
    theatre.stage.close()
    close_tree(theatre.stage.panel)


def test_at_rest_the_line_counts_the_last_step_once_the_page_has_drawn_it(
    theatre: Theatre,
) -> None:
    theatre.says(type="view", visible=True)
    theatre.step(1)

    theatre.wait_for(lambda: theatre.status() == "step 1 · loss 1.000 · paused · 1 of 1 drawn")


def test_the_panel_knows_whether_steps_follow_one_another(theatre: Theatre) -> None:
    told = []
    for playing, stepping in ((False, False), (True, False), (False, True), (False, False)):
        theatre.director.playing, theatre.director.stepping = playing, stepping
        theatre.stage.state_changed()
        told.append(theatre.stage._writer._state["panel"]["playing"])

    assert told == [False, True, True, False]


def test_steps_made_in_a_cell_leave_room_for_those_that_are_drawn(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(theatre.publisher, "draw", lambda *, step: asked.append(step))
    theatre.director.stepping = True
    theatre.step(1, drawn=False)
    theatre.step(2)
    assert asked == [True]


def test_without_a_page_no_steps_are_counted_as_drawn(theatre: Theatre) -> None:
    theatre.step(1)
    theatre.stage.refresh_status()

    assert "drawn" not in theatre.director.said


def test_while_the_page_is_not_heard_no_steps_are_counted_as_drawn(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", 0.02)
    theatre.confirms_at_once = False
    theatre.says(type="view", visible=True)
    steps = 0

    def is_heard_no_more() -> bool:
        nonlocal steps
        steps += 1
        theatre.stage.next_is_drawn(steps, may_wait=True)
        theatre.step(steps)
        return not theatre.publisher.heard

    wait_for(is_heard_no_more)
    theatre.stage.refresh_status()
    assert "drawn" not in theatre.director.said

    theatre.confirm_all()
    theatre.stage.refresh_status()
    assert f" of {steps} drawn" in theatre.director.said


def test_a_step_that_ends_after_the_pause_is_told_though_it_is_not_drawn(theatre: Theatre) -> None:
    theatre.says(type="view", visible=True)
    theatre.step(1)
    theatre.step(2, drawn=False)

    theatre.wait_for(
        lambda: theatre.status() == "step 2 · loss 0.5000 · paused · bars of step 1 · 1 of 2 drawn"
    )


@pytest.mark.parametrize(("speed", "drawn"), [(1, 20), (2, 10), (5, 4), (20, 1)])
def test_at_speed_n_every_nth_step_is_drawn(theatre: Theatre, speed: int, drawn: int) -> None:
    theatre.says(type="view", visible=True)
    theatre.stage.speed = speed

    asked = [n for n in range(1, 21) if theatre.stage.next_is_drawn(n, may_wait=True)]

    assert asked == [speed * n for n in range(1, drawn + 1)]


@pytest.mark.parametrize("speed", [1, 2, 5, 20, "max"])
def test_the_last_step_that_was_asked_for_is_always_drawn(theatre: Theatre, speed: Any) -> None:
    theatre.says(type="view", visible=True)
    theatre.stage.speed = speed

    assert all(theatre.stage.next_is_drawn(n, may_wait=True, must=True) for n in range(1, 8))


def test_without_a_page_the_same_steps_are_read_in_full(theatre: Theatre) -> None:
    theatre.stage.speed = 5
    assert sum(theatre.stage.next_is_drawn(n, may_wait=True) for n in range(1, 21)) == 4
    assert theatre.frames == []


def test_the_ghost_is_of_a_run_that_has_trained(theatre: Theatre) -> None:
    stage = theatre.stage
    stage.begin_run(reading([1.0, 1.0], step=0, signal_grad_norm=[1.0, 1.0]))
    stage.begin_run(None)
    stage.settle()
    assert not stage.bars.targets["bars_ghost"].visible

    theatre.step(1)
    stage.begin_run(reading([1.0, 1.0], step=0, signal_grad_norm=[1.0, 1.0]))
    stage.settle()
    assert stage.bars.targets["bars_ghost"].visible
    assert stage.loss.targets["loss_ghost"].visible

    stage.forget_ghosts()
    stage.settle()
    assert not stage.bars.targets["bars_ghost"].visible
    assert not stage.loss.targets["loss_ghost"].visible


def test_the_step_axis_is_no_longer_than_what_it_shows(theatre: Theatre) -> None:
    stage = theatre.stage

    def end() -> float:
        stage.settle()
        return float(stage.loss.targets["loss_x"].max)

    for step in range(1, 301):
        theatre.step(step)
    assert 300 <= end() < 460
    stage.begin_run(reading([1.0, 1.0], step=0, signal_grad_norm=[1.0, 1.0]))
    assert 300 <= end() < 460  # of the ghost
    stage.begin_run(reading([1.0, 1.0], step=0, signal_grad_norm=[1.0, 1.0]))
    stage.forget_ghosts()
    assert end() == 20
    for step in range(1, 41):
        theatre.step(step)
    assert 40 <= end() < 70
    stage.forget_ghosts()
    assert 40 <= end() < 70


def test_a_knob_turned_before_the_first_step_leaves_no_marker(theatre: Theatre) -> None:
    theatre.stage.mark("lr 0.1")
    theatre.step(1)
    theatre.stage.mark("lr 0.2")
    theatre.stage.settle()

    labels = theatre.stage.loss.targets["loss_labels"]
    assert list(labels.text) == ["lr 0.2"]
    assert labels.x.tolist() == [2]


def test_keys_go_to_the_director(theatre: Theatre) -> None:
    theatre.says(type="key", action="toggle")
    assert theatre.director.keys == ["toggle"]


def panel_says(theatre: Theatre, trait: str) -> list[Any]:
    """What frames have told the panel of a trait, oldest first."""
    updates = [update for frame in theatre.frames for update in frame["updates"]]
    return [
        update["state"][trait]
        for update in updates
        if update["target"] == "panel" and trait in update["state"]
    ]


def test_what_was_changed_in_the_model_is_told_and_taken_back(theatre: Theatre) -> None:
    theatre.says(type="view", visible=True)
    sentences = ["Skips: 3 blocks compute x + 1.0·f(x).", "Activation: 4 × relu."]
    theatre.stage.changes_told(sentences)
    theatre.wait_for(lambda: panel_says(theatre, "changes") == [sentences])

    theatre.stage.changes_told(())
    theatre.wait_for(lambda: panel_says(theatre, "changes") == [sentences, []])


def test_the_latest_validation_is_in_the_status_line_and_ends_with_its_run(
    theatre: Theatre,
) -> None:
    theatre.says(type="view", visible=True)
    theatre.step(1)
    theatre.stage.validation(1, 0.931)
    theatre.wait_for(lambda: "loss 1.000 · validation 93.1 % · paused" in theatre.status())

    theatre.stage.begin_run(None)
    theatre.step(1)
    theatre.wait_for(lambda: theatre.status() == "step 1 · loss 1.000 · paused · 1 of 1 drawn")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (0.615, "0.6150"),
        (0.65694, "0.6569"),
        (1.0, "1.000"),
        (1234.0, "1234"),
        (2e-7, "2.000e-07"),
        (-12.5, "−12.50"),
        (float("nan"), "NaN"),  # as on the chart
        (float("-inf"), "−∞"),
    ],
)
def test_the_loss_has_four_significant_digits_whatever_they_are(
    theatre: Theatre, loss: float, said: str
) -> None:
    theatre.stage.record(reading([1.0], step=1, loss=loss, signal_grad_norm=[1.0]))
    theatre.stage.refresh_status()
    assert f" · loss {said} · " in theatre.director.said


def test_the_table_is_told_each_turn_of_a_knob(theatre: Theatre) -> None:
    theatre.step(1)
    theatre.stage.mark("lr 0.1")
    theatre.step(2)
    theatre.stage.settle()
    assert theatre.stage.table.turns == [["2", "lr 0.1"]]


def test_an_accuracy_that_is_no_share_is_refused(theatre: Theatre) -> None:
    with pytest.raises(ValueError, match="accuracy must be a share from 0 to 1, not 93"):
        theatre.stage.validation(1, 93)


def test_the_bars_can_be_looked_at_through_time(theatre: Theatre) -> None:
    theatre.stage.record(
        reading([1.0], signal_grad_norm=[1.0], signal_grad_through_time={"rnn": [1e-3, 1.0]})
    )
    theatre.stage.look_at(measure="through time")
    theatre.stage.settle()
    assert theatre.stage.bars.targets["bars"].y.tolist() == [-3.0, 0.0]
    assert theatre.stage.table.bars_show == "time steps"

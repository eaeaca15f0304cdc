"""Back-pressure between training and drawing, without a browser."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gradflow_widget.display import pages
from gradflow_widget.display import publisher as module
from tests.display.fake_page import FakePage, draws_a_step, seconds
from tests.waiting import join, started, wait_for


@pytest.fixture
def page() -> Iterator[FakePage]:
    page = FakePage()
    yield page
    page.publisher.close()


@pytest.fixture
def looking(page: FakePage) -> FakePage:
    """A page that somebody looks at and that confirms each frame at once."""
    page.confirms_at_once = True
    page.show()
    page.wait_for_frames(1)
    return page


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(pages, "GONE_AFTER", 0.2)
    monkeypatch.setattr(module, "UNHEARD_INTERVAL", 0.02)


def steps_until(page: FakePage, met: Callable[[], bool]) -> None:
    """Step as training does until something has come about."""
    until = time.monotonic() + 10
    steps = 0
    while not met():
        assert time.monotonic() < until, "it never came about"
        steps += 1
        draws_a_step(page, steps)


def test_without_a_view_nothing_is_sent_and_nothing_waits(page: FakePage) -> None:
    page.publisher.draw(step=True)

    assert page.publisher.wait_for_room() is False
    assert page.frames == []
    assert page.publisher.steps_drawn == 0


def test_a_page_that_is_assumed_is_sent_everything_until_one_is_heard(page: FakePage) -> None:
    page.publisher.assume_page()
    for state in (1, 2):
        page.state = state
        page.publisher.draw(step=True)
        page.wait_for(lambda state=state: page.shows[-1:] == [state])
    assert set(page.wholes) == {True}

    page.confirms_at_once = True
    page.show()
    page.wait_for(lambda: page.frames[-1]["number"] > 2)
    page.state = 3
    page.publisher.draw(step=True)
    page.wait_for(lambda: page.shows[-1] == 3 and not page.wholes[-1])


def test_an_assumed_page_that_was_not_ready_is_sent_everything_again(page: FakePage) -> None:
    page.publisher.assume_page()
    page.wait_for_frames(2)
    assert page.wholes == [True, True]


def test_the_first_frame_that_a_page_gets_is_whole(page: FakePage) -> None:
    page.publisher.draw(step=True)
    page.show()
    page.wait_for_frames(1)
    page.confirm_all()
    page.publisher.draw(step=True)
    page.wait_for_frames(2)

    assert page.wholes == [True, False]


def test_held_it_sends_nothing_and_then_what_there_is_to_see(looking: FakePage) -> None:
    with looking.publisher.holding():
        looking.publisher.draw(step=False)
        looking.state = 4
        with looking.publisher.holding():
            pass
        threading.Event().wait(0.05)
        assert len(looking.frames) == 1
    looking.wait_for_frames(2)

    assert looking.shows[-1] == 4


def test_each_time_that_the_page_appears_the_frame_is_whole_again(looking: FakePage) -> None:
    looking.show(False)
    looking.state = 7
    looking.publisher.draw(step=True)
    looking.show()
    looking.wait_for_frames(2)

    assert looking.wholes == [True, True]
    assert looking.shows[-1] == 7


def test_a_second_page_gets_a_whole_frame_of_its_own(looking: FakePage) -> None:
    looking.publisher.receive({"type": "view", "page": "other", "visible": True})
    looking.wait_for_frames(2)

    assert looking.wholes == [True, True]


def test_a_page_that_asks_again_is_sent_everything_again(looking: FakePage) -> None:
    looking.publisher.receive({"type": "view", "page": "page", "visible": True})
    looking.publisher.draw(step=True)
    looking.wait_for_frames(2)
    looking.publisher.receive({"type": "view", "page": "page", "visible": True, "asks": True})
    looking.wait_for_frames(3)

    assert looking.wholes == [True, False, True]


def test_a_page_that_shows_frames_is_sent_everything_though_its_first_words_were_lost(
    looking: FakePage,
) -> None:
    looking.publisher.draw(step=True)
    looking.wait_for_frames(2)
    looking.publisher.receive({"type": "confirm", "page": "opened", "frame": 2})
    looking.wait_for_frames(3)
    looking.show(False)

    assert looking.wholes == [True, False, True]
    assert looking.publisher.visible


def test_a_page_that_drops_frames_is_not_taken_for_one_that_looks(looking: FakePage) -> None:
    looking.show(False)
    looking.publisher.receive({"type": "confirm", "page": "opened", "frame": 1, "dropped": True})

    assert not looking.publisher.visible


def test_a_hidden_page_that_confirms_late_what_it_has_shown_is_still_hidden(
    looking: FakePage,
) -> None:
    looking.show(False)
    looking.publisher.receive({"type": "confirm", "page": "page", "frame": 1})

    assert not looking.publisher.visible


def test_while_one_of_two_pages_is_shown_drawing_goes_on(looking: FakePage) -> None:
    looking.publisher.receive({"type": "view", "page": "other", "visible": True})
    looking.wait_for_frames(2)
    looking.show(False)

    assert looking.publisher.visible
    looking.publisher.receive({"type": "view", "page": "other", "visible": False})
    assert not looking.publisher.visible


@pytest.mark.usefixtures("impatient")
def test_a_page_that_went_without_a_word_is_forgotten_while_another_is_shown(
    looking: FakePage,
) -> None:
    looking.publisher.receive({"type": "view", "page": "crashed", "visible": True})
    steps_until(looking, lambda: "crashed" in looking.publisher._pages._gone)
    looking.show(False)

    assert not looking.publisher.visible
    sent = len(looking.frames)
    assert draws_a_step(looking, 5) is False
    assert len(looking.frames) == sent


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("speaks", ["confirm", "view"])
def test_a_page_that_was_only_asleep_is_shown_everything_when_it_speaks_again(
    looking: FakePage, speaks: str
) -> None:
    looking.publisher.receive({"type": "view", "page": "asleep", "visible": True})
    steps_until(looking, lambda: "asleep" in looking.publisher._pages._gone)
    looking.show(False)
    sent = len(looking.frames)
    looking.state = 1_000_000
    if speaks == "confirm":
        looking.publisher.receive({"type": "confirm", "page": "asleep", "frame": sent})
    else:
        looking.publisher.receive({"type": "view", "page": "asleep", "visible": True})
    looking.wait_for_frames(sent + 1)

    assert looking.publisher.visible
    assert looking.wholes[-1] is True
    assert looking.shows[-1] == 1_000_000


def test_a_page_that_was_sent_nothing_for_long_is_not_forgotten(
    looking: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    looking.publisher.receive({"type": "view", "page": "other", "visible": True})
    looking.wait_for_frames(2)
    looking.publisher.receive({"type": "confirm", "page": "other", "frame": 2})
    looking.confirms_at_once = False
    looking.confirm_all()
    clock[0] += 60 * pages.GONE_AFTER
    draws_a_step(looking, 1)
    looking.wait_for_frames(3)
    looking.confirm_all()
    assert looking.publisher._pages._gone == set()

    clock[0] += 2 * pages.GONE_AFTER
    draws_a_step(looking, 2)
    looking.wait_for_frames(4)
    looking.confirm_all()
    assert looking.publisher._pages._gone == {"other"}


def both_look(looking: FakePage) -> int:
    """Let a second, slow page look beside the quick one; return the last frame that it was sent."""
    looking.publisher.receive({"type": "view", "page": "slow", "visible": True})
    looking.wait_for_frames(2)
    looking.publisher.receive({"type": "confirm", "page": "slow", "frame": 2})
    return 2


def test_no_page_that_looks_falls_behind(looking: FakePage) -> None:
    latest, most = both_look(looking), looking.publisher.most_in_flight + module._MOST_BEHIND
    for step in range(3, 40):
        while looking.publisher._number - latest > most:
            assert not looking.publisher.has_room()
            latest += 1
            looking.publisher.receive({"type": "confirm", "page": "slow", "frame": latest})
        assert looking.publisher.wait_for_room()
        looking.publisher.draw(step=True)
        looking.wait_for_frames(step)
    assert latest > 20
    looking.publisher.receive({"type": "view", "page": "slow", "visible": False})
    assert looking.publisher.has_room()


@pytest.mark.usefixtures("impatient")
def test_a_page_that_stays_behind_is_waited_for_boundedly(looking: FakePage) -> None:
    both_look(looking)
    steps_until(looking, looking.publisher._one_is_behind)
    assert not looking.publisher.has_room()
    # Not for want of being heard: the other page shows all.
    assert looking.publisher.wait_for_room()
    assert looking.publisher.heard

    steps_until(looking, lambda: not looking.publisher._one_is_behind())


def test_what_one_page_leaves_out_another_may_have_shown(looking: FakePage) -> None:
    both_look(looking)
    looking.confirms_at_once = False
    draws_a_step(looking, 1)
    looking.wait_for_frames(3)
    message = {"type": "confirm", "frame": 3}
    looking.publisher.receive({**message, "page": "slow", "dropped": True})
    looking.publisher.receive({**message, "page": "page"})
    assert looking.publisher.steps_drawn == 1


@pytest.mark.usefixtures("impatient")
def test_a_page_that_closes_without_a_word_while_it_is_behind_stops_no_drawing(
    looking: FakePage,
) -> None:
    both_look(looking)
    steps_until(looking, looking.publisher._one_is_behind)
    wait_for(lambda: not (looking.publisher._wanted or looking.publisher._in_flight))
    looking.publisher.receive({"type": "confirm", "page": "slow", "frame": 3})
    looking.publisher._pages._latest["slow"] = -100  # however far behind
    wait_for(lambda: looking.publisher.room_without_waiting(0.0))


def test_every_step_is_drawn_and_confirmed_one_by_one(looking: FakePage) -> None:
    for step in range(1, 51):
        assert draws_a_step(looking, step)
        looking.wait_for(lambda step=step: looking.shows[-1] == step)

    assert looking.publisher.steps_drawn == 50
    assert looking.shows == list(range(51))


def test_at_most_so_many_frames_are_in_flight(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    most = page.publisher.most_in_flight

    stop = threading.Event()

    def confirm_slowly() -> None:
        while not stop.wait(0.002):
            if page.unconfirmed:
                page.confirm(page.unconfirmed[0])

    slow = started(confirm_slowly)
    for step in range(40):
        assert draws_a_step(page, step)
        page.publisher.draw(step=False)  # a knob was turned, too
    stop.set()
    join(slow)

    assert page.most_unconfirmed <= most


def test_drawing_that_nobody_waited_for_keeps_to_the_room_too(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    for state in range(1, 100):
        page.state = state
        page.publisher.draw(step=False)
    page.wait_for(lambda: len(page.unconfirmed) == page.publisher.most_in_flight)
    sent = len(page.frames)
    page.publisher.draw(step=False)
    assert sent == page.publisher.most_in_flight

    page.confirm_all()
    page.wait_for_frames(sent + 1)
    assert page.shows[-1] == 99


def test_a_slow_page_slows_the_frames_and_still_gets_the_newest_state(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    for state in range(1, 1000):
        page.state = state
        if page.publisher.room_without_waiting(0.0):
            page.publisher.draw(step=True)
    assert len(page.frames) <= page.publisher.most_in_flight

    page.confirm_all()
    page.publisher.draw(step=True)
    page.wait_for(lambda: page.shows[-1] == 999)


def test_free_running_frames_keep_their_interval(looking: FakePage) -> None:
    assert looking.publisher.room_without_waiting(0.0) is True
    looking.publisher.draw(step=True)
    looking.wait_for_frames(2)

    assert looking.publisher.room_without_waiting(60.0) is False
    assert looking.publisher.room_without_waiting(0.0) is True


def test_the_interval_is_counted_from_step_to_step_however_late_their_frames_are(
    looking: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = 1 / 1024  # a power of two, so that ticks add up without a rounding error
    clock = [float(math.ceil(time.monotonic()))]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    granted = []
    for now in range(1000):
        clock[0] += tick
        if granted and now == granted[-1] + 15:  # a step has to be taken before it is drawn
            looking.publisher.draw(step=True)
            looking.wait_for_frames(1 + len(granted))
        elif looking.publisher.room_without_waiting(40 * tick):
            granted.append(now)
    assert granted == list(range(granted[0], 1000, 40))


@pytest.mark.usefixtures("impatient")
def test_a_page_that_never_answers_holds_a_step_boundedly_and_then_not_at_all(
    page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.show()
    page.wait_for_frames(1)
    for state in range(1, page.publisher.most_in_flight):
        draws_a_step(page, state)
    page.wait_for_frames(page.publisher.most_in_flight)

    assert seconds(page.publisher.wait_for_room) > 0.03
    monkeypatch.setattr(module, "PATIENCE", 30.0)
    assert seconds(lambda: [page.publisher.wait_for_room() for _ in range(100)]) < 20.0


def test_a_page_that_no_cell_keeps_from_being_heard_is_but_busy(
    page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "PATIENCE_BESIDE_CELLS", 30.0)
    monkeypatch.setattr(pages, "GONE_AFTER", 60.0)
    page.publisher.heard_beside_cells = True
    page.show()
    page.wait_for_frames(1)
    for state in range(1, page.publisher.most_in_flight):
        draws_a_step(page, state)
    page.wait_for_frames(page.publisher.most_in_flight)

    had_room: list[bool] = []
    waiting = started(lambda: had_room.append(page.publisher.wait_for_room()))
    waiting.join(4 * module.PATIENCE)
    assert not page.publisher.room_without_waiting(0.0)
    page.confirm_all()
    join(waiting)
    assert had_room == [True]


@pytest.mark.usefixtures("impatient")
def test_unheard_frames_still_go_out_at_a_slow_pace(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    steps_until(page, lambda: len(page.frames) >= 8)

    assert page.publisher.steps_drawn == 0
    page.confirm_all()
    assert page.publisher.steps_drawn >= 5
    assert page.publisher.wait_for_room() is True


@pytest.mark.usefixtures("impatient")
def test_confirmations_that_are_lost_do_not_block_for_ever(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    for state in range(1, page.publisher.most_in_flight):
        draws_a_step(page, state)
    page.wait_for_frames(page.publisher.most_in_flight)  # of these none is ever confirmed

    page.confirms_at_once = True
    for state in range(100, 120):
        wait_for(lambda state=state: draws_a_step(page, state))
        page.wait_for(lambda state=state: page.shows[-1] == state)
    assert page.publisher.steps_drawn >= 19


def test_dropped_frames_are_not_counted_as_drawn(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    page.publisher.draw(step=True)
    page.wait_for_frames(2)

    page.confirm(1)
    page.show(False)
    page.confirm(2, dropped=True)

    assert page.publisher.steps_drawn == 0
    assert page.unconfirmed == []


def test_frames_without_a_new_step_are_not_counted_as_steps(looking: FakePage) -> None:
    looking.publisher.draw(step=False)
    looking.wait_for_frames(2)
    assert looking.publisher.steps_drawn == 0


def test_a_confirmation_of_the_run_before_does_not_count_in_the_new_run(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    page.publisher.draw(step=True)
    page.wait_for_frames(2)

    page.publisher.begin_run()
    page.confirm_all()

    assert page.publisher.steps_drawn == 0


def sent_while_not_heard(page: FakePage) -> None:
    """Steps of a cell so long that most of their frames are waited for no longer."""
    page.show()
    page.wait_for_frames(1)
    steps_until(page, lambda: len(page.frames) * module.UNHEARD_INTERVAL > 0.6)
    page.confirm(page.frames[-1]["number"])
    page.publisher._has_room_now()
    assert 2 not in page.publisher._in_flight


@pytest.mark.usefixtures("impatient")
def test_steps_that_are_confirmed_only_when_a_long_cell_has_ended_were_drawn(
    page: FakePage,
) -> None:
    sent_while_not_heard(page)
    sent = [frame["number"] for frame in page.frames]

    for number in [*sent, *sent]:  # by a second page, too
        page.confirm(number)

    assert page.publisher.steps_drawn == len(sent) - 1  # the first came before any step


@pytest.mark.usefixtures("impatient")
def test_those_of_the_run_before_are_not_counted(page: FakePage) -> None:
    sent_while_not_heard(page)
    page.publisher.begin_run()
    page.confirm_all()

    assert page.publisher.steps_drawn == 0


@pytest.mark.usefixtures("impatient")
def test_those_that_the_page_dropped_are_not_counted(page: FakePage) -> None:
    sent_while_not_heard(page)
    for number in page.unconfirmed:
        page.confirm(number, dropped=True)

    assert page.publisher.steps_drawn == 1  # the one by which the page was heard again


@pytest.mark.usefixtures("impatient")
def test_what_is_kept_of_a_cell_that_never_ends_is_bounded(
    page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_FORGOTTEN", 5)
    page.show()
    page.wait_for_frames(1)
    steps_until(page, lambda: min(page.publisher._in_flight, default=0) > 20)

    assert len(page.publisher._forgotten) == 5


def test_a_step_in_flight_when_a_page_appears_is_counted_when_it_is_confirmed(
    page: FakePage,
) -> None:
    page.show()
    page.wait_for_frames(1)
    page.publisher.draw(step=True)
    page.wait_for_frames(2)
    page.publisher.receive({"type": "view", "page": "other", "visible": True})
    page.wait_for_frames(3)
    page.confirm_all()

    assert page.publisher.steps_drawn == 1


def test_hidden_again_a_waiting_step_is_let_go(
    page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 300.0)
    page.show()
    page.wait_for_frames(1)
    for state in range(page.publisher.most_in_flight):
        page.state = state
        page.publisher.draw(step=True)
    waiting = started(page.publisher.wait_for_room)
    page.show(False)
    join(waiting)


@pytest.mark.parametrize(("round_trip", "frames"), [(0.002, 2), (0.045, 3), (0.200, 4)])
def test_the_farther_the_page_the_more_frames_are_in_flight(
    page: FakePage, monkeypatch: pytest.MonkeyPatch, round_trip: float, frames: int
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    page.publisher._ping()
    clock[0] += round_trip
    page.answer_pings()

    assert page.publisher.most_in_flight == frames


def test_a_page_that_is_busy_is_not_taken_for_one_that_is_far_away(
    page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for round_trip in (0.150, 0.004, 0.080):
        clock[0] += module.PING_INTERVAL
        page.publisher._ping()
        clock[0] += round_trip
        page.answer_pings()

    assert page.publisher.most_in_flight == 2


def test_a_chart_that_can_not_be_drawn_ends_neither_drawing_nor_training(
    looking: FakePage, caplog: pytest.LogCaptureFixture
) -> None:
    compose = looking.publisher._compose
    failed = threading.Event()

    def fail(whole: bool) -> None:
        failed.set()
        raise ValueError("no such chart")

    looking.publisher._compose = fail  # type: ignore[assignment]
    looking.publisher.draw(step=True)
    assert failed.wait(10)
    looking.publisher._compose = compose
    wait_for(lambda: draws_a_step(looking, 5))
    looking.wait_for(lambda: looking.shows[-1] == 5)

    assert "could not be drawn" in caplog.text
    assert looking.wholes[-1] is True  # what was lost is told again


def test_closed_its_thread_has_ended_and_nothing_is_sent(looking: FakePage) -> None:
    looking.publisher.close()
    sent = len(looking.frames)
    looking.publisher.draw(step=True)

    assert len(looking.frames) == sent
    assert looking.publisher.wait_for_room() is False
    assert not any(t.name == "gradflow-publisher" for t in threading.enumerate())


def test_training_goes_on_when_its_frame_was_taken_and_there_is_room_for_another(
    page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 20.0)
    page.show()
    page.wait_for_frames(1)
    page.confirm_all()

    # The lock keeps the frame from being taken before the wait for room has begun.
    with page.publisher._condition:
        page.publisher.draw(step=True)
        waited = seconds(page.publisher.wait_for_room)

    assert waited < 10
    assert len(page.publisher._in_flight) == 1  # not yet confirmed


def test_steps_are_drawn_at_a_pace_that_a_screen_can_show(looking: FakePage) -> None:
    assert draws_a_step(looking, 0)

    took = seconds(lambda: [draws_a_step(looking, step) for step in range(1, 11)])

    assert took > 9 * module.SHORTEST_PACE


def test_a_step_waits_no_longer_for_its_pace_than_the_page_looks(page: FakePage) -> None:
    page.show()
    page.wait_for_frames(1)
    page.confirm_all()
    page.publisher._pace = 60.0
    assert draws_a_step(page, 1)
    waiting = started(page.publisher.wait_for_room)
    page.show(False)
    join(waiting)


def test_frames_that_queue_in_the_page_slow_the_pace_until_they_no_longer_do(
    looking: FakePage,
) -> None:
    def confirm(waited: float) -> float:
        looking.publisher.receive(
            {"type": "confirm", "page": "page", "frame": 1, "animation_frame": 1, "waited": waited}
        )
        return looking.publisher._pace

    assert confirm(10.0) == module.SHORTEST_PACE
    first, second = confirm(60.0), confirm(60.0)
    assert module.SHORTEST_PACE < first < second
    assert max(confirm(60.0) for _ in range(100)) == module.LONGEST_PACE
    assert confirm(0.0) < module.LONGEST_PACE
    assert min(confirm(0.0) for _ in range(100)) == module.SHORTEST_PACE


def test_frames_close_together_are_confirmed_together(looking: FakePage) -> None:
    looking.publisher.confirmed_together = 3
    for state in range(1, 7):
        looking.publisher._last_sent = time.monotonic() + 60
        looking.publisher.draw(step=True)
        looking.wait_for_frames(state + 1)

    at_once = [frame["number"] for frame in looking.frames if frame["at_once"]]
    assert at_once == [1, 4, 7]


def test_a_page_that_is_slower_confirms_fewer_frames_together(looking: FakePage) -> None:
    looking.publisher.confirmed_together = 8
    room_at_first = looking.publisher._window
    looking.publisher._pace = module.LONGEST_PACE / 2
    for state in range(1, 7):
        looking.publisher._last_sent = time.monotonic() + 60
        looking.publisher.draw(step=True)
        looking.wait_for_frames(state + 1)
        looking.publisher._pace = module.LONGEST_PACE / 2

    assert [frame["number"] for frame in looking.frames if frame["at_once"]] == [1, 4, 7]
    assert looking.publisher._window == room_at_first - 5


def test_many_frames_confirmed_together_change_the_pace_as_often_as_few(looking: FakePage) -> None:
    def pace_after(waited: float, earlier: int) -> float:
        looking.publisher._pace = 2 * module.SHORTEST_PACE
        looking.publisher.receive(
            {
                "type": "confirm",
                "page": "page",
                "frame": 0,
                "earlier": [0] * earlier,
                "animation_frame": 1,
                "waited": waited,
            }
        )
        return looking.publisher._pace / (2 * module.SHORTEST_PACE)

    for waited in (60.0, 0.0):
        assert pace_after(waited, 5) == pytest.approx(pace_after(waited, 2) ** 2)
        assert pace_after(waited, 0) == pace_after(waited, 2)


def test_a_step_in_one_frame_with_the_end_of_training_is_confirmed_at_once(
    looking: FakePage,
) -> None:
    looking.publisher.confirmed_together = 100
    for state in range(1, 4):
        looking.publisher._last_sent = time.monotonic() + 60
        # The lock keeps the step's frame from being taken before the rest is asked for.
        with looking.publisher._condition:
            looking.publisher.draw(step=True)
            looking.publisher.draw(step=False)
        looking.wait_for_frames(state + 1)

    assert all(frame["at_once"] for frame in looking.frames)
    assert looking.publisher.steps_drawn == 3


def test_frames_far_apart_are_confirmed_one_by_one(looking: FakePage) -> None:
    looking.publisher.confirmed_together = 3
    for state in range(1, 4):
        looking.publisher._last_sent = time.monotonic() - 60
        looking.publisher.draw(step=True)
        looking.wait_for_frames(state + 1)

    assert all(frame["at_once"] for frame in looking.frames)


def test_a_message_of_another_version_s_page_is_passed_over(looking: FakePage) -> None:
    looking.publisher.receive({"type": "something new"})
    looking.publisher.receive({})

    assert looking.publisher.visible

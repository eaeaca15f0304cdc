"""Publisher: the one thread that draws, no faster than the page can show.

Frames are numbered. The page confirms each from the animation frame that applied it, and
only a few may be unconfirmed: as many as the round trip to the page, measured by pings,
calls for. A page that appears, or asks, is sent everything. A session that has every step
drawn waits for room before a step, and for a pace that the page holds without frames waiting
for one another there; but never longer than ``PATIENCE``, and not at all where no page is
looking or where the kernel can't hear it (a cell is running); then frames go out at a slow
pace of their own. A page that is heard beside cells is only busy, and is waited for longer.
Slowly frames go out, too, where a cell has displayed the widget, and runs on or others follow
it at once: the page can't be heard to have appeared. Where several pages look, the first to show
a frame makes room for another, but none may fall behind by more than some frames. The newest
reading is drawn, never a backlog.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .pages import Pages, is_given_up

_log = logging.getLogger(__name__)

PATIENCE = 0.5
# Less than GONE_AFTER: each frame that a page gone without a word forgets would be a step.
PATIENCE_BESIDE_CELLS = 1.5
UNHEARD_INTERVAL = 0.1
# In s, and twice as long each time: again for a page that was not ready for the frame before.
_FIRST_AGAIN = 0.25
# As many frames as go out in half an hour of a cell that keeps the kernel from hearing the page.
_MOST_FORGOTTEN = 20_000
# So many frames more than the quickest page may have in flight others may be behind.
_MOST_BEHIND = 4
# From one step that is to be drawn to the next; these come a little later, when a step is over.
FASTEST_INTERVAL = 1 / 28
# Most screens show 60 pictures a second. A little below that, frames don't queue in the page.
SHORTEST_PACE = 1 / 50
LONGEST_PACE = 1 / 10
# In ms: a frame that has waited longer in the page has waited for another than the present one.
_QUEUED = 25.0
_SLOWER, _QUICKER = 1.1, 0.97
# Who confirms more frames than this together tells of them as often as this many would.
_TOLD_ONCE = 3
# In s: frames that are confirmed together go out within this time, so fewer at a slower pace.
_TOGETHER_WITHIN = 8 * SHORTEST_PACE
# Frames this far apart are confirmed one by one: the count of those drawn is to be seen.
_SLOW = 0.1
PING_INTERVAL = 1.0
FIRST_PING_INTERVAL = 0.1
_ENOUGH_PINGS = 5

Send = Callable[[dict[str, Any], list[memoryview]], None]
Compose = Callable[[bool], tuple[list[dict[str, Any]], list[memoryview]]]


class Publisher:
    """Sends frames from a thread of its own and keeps count of what the page has shown.

    Args:
        compose: builds a frame's updates and buffers; called on the publisher's thread
            alone, with True where the page needs every trait and not only the changed ones.
        send: sends a message to the page.
    """

    def __init__(self, compose: Compose, send: Send) -> None:
        self._compose, self._send = compose, send
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._holders = 0
        self._wanted = False
        self._draws_step = False
        self._shows_more = False
        self._whole = True
        self._number = 0
        self._in_flight: dict[int, tuple[float, bool]] = {}
        # Frames that show a step, and whose confirmation is no longer waited for.
        self._forgotten: OrderedDict[int, bool] = OrderedDict()
        self._last_sent = 0.0
        self._granted = 0.0
        self._pace = SHORTEST_PACE
        self._due = 0.0
        self._unheard = False
        self._assumed_at: float | None = None
        self._again = _FIRST_AGAIN
        self._held = 0  # frames since the last that the page confirms at once
        self._pings: dict[int, float] = {}
        self._round_trips: deque[float] = deque(maxlen=9)
        self._last_ping = 0.0
        self._pages = Pages()
        # How many frames the page may confirm together at most. Each message makes the kernel tell
        # JupyterLab that it is busy and idle again, whose toolbar and icon then change twice: that
        # costs the browser nearly as much as drawing a frame.
        self.confirmed_together = 1
        # Whether the page is heard though a cell runs.
        self.heard_beside_cells = False
        self.steps_drawn = 0
        self.animation_frames = 0

    # -- asked by training -----------------------------------------------------------

    @property
    def most_in_flight(self) -> int:
        """How many frames may be unconfirmed, by the round trip measured.

        The shortest of late is the way there and back; the longer ones found the page busy,
        and further frames would only wait there.
        """
        if not self._round_trips:
            return 2
        round_trip = min(self._round_trips)
        if round_trip < 0.035:
            return 2
        return 3 if round_trip < 0.060 else 4

    @property
    def visible(self) -> bool:
        """Whether a page shows the widget."""
        return self._pages.visible

    @property
    def heard(self) -> bool:
        """Whether what the page says comes through; a cell that runs keeps it waiting."""
        return not self._unheard

    @property
    def counts_drawn(self) -> bool:
        """Whether ``steps_drawn`` is what pages have shown: there are some, and they are heard."""
        return self._pages.are_known and self.heard

    @property
    def _patience(self) -> float:
        return PATIENCE_BESIDE_CELLS if self.heard_beside_cells else PATIENCE

    def has_room(self) -> bool:
        """Whether a frame asked for now would go out at once and be shown."""
        return self._has_free_flight() and not self._one_is_behind()

    def _has_free_flight(self) -> bool:
        """Whether one more frame may be unconfirmed, whichever page is behind."""
        return not self._wanted and len(self._in_flight) < self._window

    def _one_is_behind(self) -> bool:
        """Whether a page that looks, and has not gone, has more to show than it may."""
        return self._pages.one_is_behind(self._number - self._window - _MOST_BEHIND)

    @property
    def _window(self) -> int:
        return self.most_in_flight + self._together - 1

    @property
    def _together(self) -> int:
        """How many frames the page confirms together at its present pace."""
        return max(1, min(self.confirmed_together, round(_TOGETHER_WITHIN / self._pace)))

    def wait_for_room(self) -> bool:
        """Wait, boundedly, until there is room; False where the page is not heard."""
        with self._condition:
            if self._unheard:
                return self._may_draw_unheard()
            if self._condition.wait_for(
                lambda: self._is_unseen() or self._has_room_now(), self._patience
            ):
                self._condition.wait_for(self._is_unseen, self._due - time.monotonic())
                self._due = max(self._due, time.monotonic()) + self._pace
                return not self._is_unseen()
            if self._has_free_flight():  # one page alone is behind, and does not catch up
                return True
            self._unheard = True
            return self._may_draw_unheard()

    def _is_unseen(self) -> bool:
        return self._closed or not self.visible

    def room_without_waiting(self, interval: float) -> bool:
        """Say whether a step may be drawn now, at most one each ``interval`` seconds."""
        with self._condition:
            if self._unheard:
                return self._may_draw_unheard()
            now = time.monotonic()
            # Not from the last frame, which went out only when its step was over.
            if now - self._granted < interval:
                return False
            if self._has_room_now():
                self._granted = now
                return True
            oldest = min((sent for sent, _ in self._in_flight.values()), default=0.0)
            if self._in_flight and time.monotonic() - oldest > self._patience:
                self._unheard = True
            return False

    def _has_room_now(self) -> bool:
        self._forget_lost()
        return self.has_room()

    def _forget_lost(self) -> None:
        now = time.monotonic()
        self._forget([n for n, (t, _) in self._in_flight.items() if is_given_up(t, now)])

    def _forget(self, frames: Iterable[int]) -> None:
        """Wait no longer for these frames; should they be confirmed after all, they still count."""
        for number in frames:
            _, draws_step = self._in_flight.pop(number)
            if draws_step:
                self._forgotten[number] = draws_step
        while len(self._forgotten) > _MOST_FORGOTTEN:
            self._forgotten.popitem(last=False)

    def _may_draw_unheard(self) -> bool:
        return not self._wanted and time.monotonic() - self._last_sent >= UNHEARD_INTERVAL

    def draw(self, *, step: bool) -> None:
        """Ask for a frame of what there is to see now; ``step`` if it shows a new step."""
        with self._condition:
            if self._closed:
                return
            self._wanted = True
            self._draws_step = self._draws_step or step
            # Such as that training rests now: there may be no later frame to be confirmed with.
            self._shows_more = self._shows_more or not step
            self._start()
            if self._has_page:  # a thread woken for nothing slows the training down
                self._condition.notify_all()

    def assume_page(self) -> None:
        """Take it, until one is heard, that a page shows the widget though none can say so."""
        with self._condition:
            if self._assumed_at is None and not self._closed:
                self._assumed_at = time.monotonic()
                self._start()
                self._condition.notify_all()

    @property
    def _has_page(self) -> bool:
        return self.visible or self._is_assumed

    @property
    def _is_assumed(self) -> bool:
        return self._assumed_at is not None and not self._pages.are_known

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let no frame out inside the ``with``: what there is to see is half made."""
        with self._condition:
            self._holders += 1
        try:
            yield
        finally:
            with self._condition:
                self._holders -= 1
                self._condition.notify_all()

    # -- told by the page ------------------------------------------------------------

    def receive(self, message: dict[str, Any]) -> None:
        """Take in what the page says about frames, views and pings (js/src/messages.ts)."""
        kind = message.get("type")
        with self._condition:
            if kind == "confirm":
                self._take_confirmation(message)
            elif kind == "view":
                self._take_view(message)
            elif kind == "pong":
                self._take_pong(message)
            self._condition.notify_all()

    def _take_confirmation(self, message: dict[str, Any]) -> None:
        page, dropped = str(message["page"]), bool(message.get("dropped"))
        if dropped and self.visible and self._pages.is_hidden(page):
            return  # a page that shows nothing speaks for itself alone
        self._unheard = False
        frame, earlier = int(message["frame"]), message.get("earlier", ())
        self._pages.take_confirmation(page, frame, self._number)
        for number in earlier:
            self.steps_drawn += self._confirmed(int(number))
        if not dropped:
            self.steps_drawn += self._confirmed(frame)
        elif not self._pages.another_looks(page):
            self._confirmed(frame)  # else it is shown there
        self.animation_frames = int(message.get("animation_frame", self.animation_frames))
        if not dropped:
            self._keep_pace(float(message.get("waited", 0.0)), len(earlier) + 1)
            if self._pages.take_shown(page):
                self._show_everything()

    def _confirmed(self, number: int) -> bool:
        """Take a frame as confirmed; say whether it shows a step, and was not confirmed before."""
        if number in self._in_flight:
            return self._in_flight.pop(number)[1]
        return self._forgotten.pop(number, False)

    def _take_view(self, message: dict[str, Any]) -> None:
        visible, asks = bool(message["visible"]), message.get("asks")
        appeared = self._pages.take_view(str(message["page"]), visible, self._number)
        self._unheard = False
        if appeared or (visible and asks):
            self._show_everything()

    def _take_pong(self, message: dict[str, Any]) -> None:
        sent_at = self._pings.pop(int(message["id"]), None)
        if sent_at is not None:
            self._round_trips.append(time.monotonic() - sent_at)

    def _keep_pace(self, waited: float, frames: int) -> None:
        """Slow down at once where frames queue in the page, and recover little by little."""
        times = max(1.0, frames / _TOLD_ONCE)
        if waited > _QUEUED:
            self._pace = min(LONGEST_PACE, self._pace * _SLOWER**times)
        else:
            self._pace = max(SHORTEST_PACE, self._pace * _QUICKER**times)

    def _show_everything(self) -> None:
        """Send a page that has just appeared what it may have missed."""
        self._whole = self._wanted = True
        self._forget(list(self._in_flight))
        self._start()

    def begin_run(self) -> None:
        """Count drawn steps anew."""
        with self._condition:
            self.steps_drawn = 0
            self._in_flight = {n: (t, False) for n, (t, _) in self._in_flight.items()}
            self._forgotten.clear()
            self._draws_step = False

    # -- the thread ------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(
                target=self._work, name="gradflow-publisher", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._wait_until_it_may_send()
                if self._closed:
                    return
                whole, self._whole = self._whole or self._is_assumed, False
                draws_step, self._draws_step = self._draws_step, False
                shows_more, self._shows_more = self._shows_more, False
                self._number += 1
                number = self._number
                now = time.monotonic()
                self._forget_lost()  # in a cell that runs for hours nobody else does
                self._in_flight[number] = (now, draws_step)
                self._pages.are_sent_a_frame()
                # From here on a newer reading asks for a frame of its own.
                self._wanted = False
                slow = now - self._last_sent > _SLOW
                self._held += 1
                at_once = slow or shows_more or whole or self._held >= self._together
                if at_once:
                    self._held = 0
                # Who waits for room may have it already, long before this frame is confirmed.
                self._condition.notify_all()
            self._last_sent = time.monotonic()
            try:
                updates, buffers = self._compose(whole)
                self._send(
                    {
                        "type": "frame",
                        "number": number,
                        "at_once": at_once,
                        "whole": whole,
                        "updates": updates,
                    },
                    buffers,
                )
                self._ping()
            except Exception:
                # A chart that can't be drawn must not end all drawing, or the training.
                _log.exception("frame %d could not be drawn", number)
                with self._condition:
                    self._in_flight.pop(number, None)
                    self._whole = True  # what this one had to tell is told with the next
                    self._condition.notify_all()

    def _wait_until_it_may_send(self) -> None:
        """Wait for a frame that is wanted and for room; without room, long enough."""
        while not self._closed:
            if self._is_assumed and not self._holders:
                interval = UNHEARD_INTERVAL if self._wanted else self._again
                left = max(self._last_sent, self._assumed_at or 0.0) + interval - time.monotonic()
                if left > 0:
                    self._condition.wait(left)
                    continue
                if not self._wanted:
                    self._again *= 2
                return
            if not (self._wanted and self.visible) or self._holders:
                self._condition.wait()
                continue
            if len(self._in_flight) < self._window:
                return
            interval = UNHEARD_INTERVAL if self._unheard else PATIENCE
            left = self._last_sent + interval - time.monotonic()
            if left <= 0:
                return
            self._condition.wait(left)

    def _ping(self) -> None:
        now = time.monotonic()
        known = len(self._round_trips) >= _ENOUGH_PINGS
        if now - self._last_ping < (PING_INTERVAL if known else FIRST_PING_INTERVAL):
            return
        self._last_ping = now
        self._pings = {self._number: now}
        self._send({"type": "ping", "id": self._number}, [])

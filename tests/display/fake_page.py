"""A page that is not there: it takes frames in and plays confirmations back when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from gradflow_widget.display.publisher import Publisher

PATIENCE = 10.0


class FakePage:
    """Keeps what a publisher sends; what each frame would show is counted by ``composed``."""

    def __init__(self, name: str = "page") -> None:
        self.name = name
        self.frames: list[dict[str, Any]] = []
        self.pings: list[int] = []
        self.state = 0
        self.most_unconfirmed = 0
        self.confirms_at_once = False
        self._confirmed: set[int] = set()
        self._changed = threading.Condition()
        self.publisher = Publisher(self._compose, self._send)

    def _compose(self, whole: bool) -> tuple[list[dict[str, Any]], list[memoryview]]:
        return [{"target": "whole" if whole else "changes", "state": {"shows": self.state}}], []

    def _send(self, message: dict[str, Any], _: list[memoryview]) -> None:
        with self._changed:
            if message["type"] == "ping":
                self.pings.append(message["id"])
            else:
                self.frames.append(message)
                self.most_unconfirmed = max(self.most_unconfirmed, len(self.unconfirmed))
            self._changed.notify_all()
        if message["type"] == "frame" and self.confirms_at_once:
            self.confirm(message["number"])

    # What the page has.

    @property
    def unconfirmed(self) -> list[int]:
        numbers = [frame["number"] for frame in self.frames]
        return [number for number in numbers if number not in self._confirmed]

    @property
    def shows(self) -> list[int]:
        """The state in each frame, oldest first."""
        return [frame["updates"][0]["state"]["shows"] for frame in self.frames]

    @property
    def wholes(self) -> list[bool]:
        """Whether each frame had every trait, oldest first."""
        return [frame["updates"][0]["target"] == "whole" for frame in self.frames]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), "the publisher did not send it"

    def wait_for_frames(self, count: int) -> None:
        self.wait_for(lambda: len(self.frames) >= count)

    # What the page says.

    def show(self, visible: bool = True) -> None:
        self.publisher.receive({"type": "view", "page": self.name, "visible": visible})

    def confirm(self, number: int, *, dropped: bool = False) -> None:
        message = {"type": "confirm", "page": self.name, "frame": number, "animation_frame": number}
        self._confirmed.add(number)
        self.publisher.receive({**message, "dropped": True} if dropped else message)

    def confirm_all(self) -> None:
        for number in self.unconfirmed:
            self.confirm(number)

    def answer_pings(self) -> None:
        for number in self.pings:
            self.publisher.receive({"type": "pong", "id": number})


def draws_a_step(page: FakePage, state: int) -> bool:
    """What training does at the default speed: wait for room, step, draw."""
    drawn = page.publisher.wait_for_room()
    page.state = state
    if drawn:
        page.publisher.draw(step=True)
    return drawn


def seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start

"""Pages: which of them show a widget, who looks, and how far each has come with its frames."""

from __future__ import annotations

import time

# In s: so long what was sent to a page is waited for. One that shows nothing for longer, while
# another shows frames, is gone.
GONE_AFTER = 2.0


def is_given_up(sent: float, now: float) -> bool:
    """Whether a frame that was sent at one time, and not confirmed, is waited for no longer."""
    return now - sent > GONE_AFTER


class Pages:
    """What is known of the pages from their own words; the publisher's lock is held throughout.

    A page that has long shown nothing while another has shown frames is gone without a word, and
    is not counted among those that look. It may have been only slow, or asleep.

    Attributes:
        visible: whether one that looks is known.
    """

    def __init__(self) -> None:
        self.visible = False
        # Whether each has the widget in sight.
        self._in_sight: dict[str, bool] = {}
        # Since when each that looks has been sent frames of which it has confirmed none.
        self._silent_since: dict[str, float] = {}
        self._gone: set[str] = set()
        # The latest frame that each has confirmed, or that was sent before it looked.
        self._latest: dict[str, int] = {}

    @property
    def are_known(self) -> bool:
        """Whether any has ever been heard."""
        return bool(self._in_sight)

    def looks(self, page: str) -> bool:
        """Whether a page has the widget in sight, and is not gone."""
        return self._in_sight.get(page, False) and page not in self._gone

    def is_hidden(self, page: str) -> bool:
        """Whether a page has said that the widget is out of its sight."""
        return not self._in_sight.get(page, True)

    def another_looks(self, page: str) -> bool:
        """Whether a page other than this one looks."""
        return any(self.looks(other) for other in self._in_sight if other != page)

    def one_is_behind(self, frame: int) -> bool:
        """Whether one that looks, and has not been silent for long, has yet to show a frame."""
        now = time.monotonic()
        return any(
            latest < frame
            and self.looks(page)
            and not is_given_up(self._silent_since.get(page, now), now)
            for page, latest in self._latest.items()
        )

    def take_view(self, page: str, visible: bool, sent: int) -> bool:
        """Take in whether a page has the widget in sight; return whether it looks anew.

        Args:
            page: the name that it gave itself.
            visible: what it said.
            sent: the number of the latest frame.
        """
        appeared = visible and not self.looks(page)
        self._in_sight[page] = visible
        if appeared:
            self._latest[page] = sent
        self._has_spoken(page, sent)
        self._gone.discard(page)
        self.visible = any(map(self.looks, self._in_sight))
        return appeared

    def take_confirmation(self, page: str, frame: int, sent: int) -> None:
        """Take in that a page has come as far as a frame, of those that were ``sent``."""
        self._latest[page] = max(self._latest.get(page, 0), frame)
        self._has_spoken(page, sent)

    def take_shown(self, page: str) -> bool:
        """Take in that a page has shown a frame; return whether it may have missed others.

        Those that have long been silent meanwhile are gone.
        """
        missed = False
        if page not in self._in_sight:  # that it appeared was never heard
            self._in_sight[page] = self.visible = missed = True
        if page in self._gone:  # it was only slow, or asleep
            self._gone.discard(page)
            if not self.visible:
                self.visible = missed = True
        now = time.monotonic()
        self._gone |= {p for p, t in self._silent_since.items() if is_given_up(t, now)}
        return missed

    def are_sent_a_frame(self) -> None:
        """Take in that those that look have one more frame to show."""
        now = time.monotonic()
        for page in filter(self.looks, self._in_sight):
            self._silent_since.setdefault(page, now)

    def _has_spoken(self, page: str, sent: int) -> None:
        """Take a page as silent from now on, where it has frames yet to show."""
        if self._latest.get(page, sent) < sent:
            self._silent_since[page] = time.monotonic()
        else:
            self._silent_since.pop(page, None)

"""What an interrupt must not leave half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interrupt of the main thread wait for the end of the ``with``.

    Python raises KeyboardInterrupt between any two of its instructions: between the old
    optimizer's hooks and the new one's, too. For what is over in some milliseconds; a second
    interrupt does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python raises it in the main thread only
        return
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # interrupts are ignored, or handled outside of Python
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if caught:
            handler(number, frame)
        caught.append((number, frame))

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[0])

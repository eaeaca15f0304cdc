"""Waiting for what other threads do, which fails a test in time where it never comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# In s. Long enough for a loaded machine; reached only by a test that fails.
PATIENCE = 30.0


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something that another thread does has come about."""
    until = time.monotonic() + PATIENCE
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < until, f"it has not come about after {PATIENCE:.0f} s"
        waiting.wait(0.002)


def started(work: Callable[[], object]) -> threading.Thread:
    """Start a thread that keeps no process alive, should it never end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    """Wait until these threads have ended."""
    until = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} has not ended after {PATIENCE:.0f} s"

"""Which notebook cell a widget was defined in, so that running it again replaces it."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from . import jupyter


class Closable(Protocol):
    """Something that a cell defined and that can be stopped."""

    def close(self) -> None:
        """Stop it and let go of everything."""


def cell_runs() -> bool:
    """Say whether the calling thread runs a cell, and not a callback of a widget, say."""
    if threading.current_thread() is not threading.main_thread():
        return False
    message = jupyter.message()
    is_request = message.get("header", {}).get("msg_type") == "execute_request"
    # IPython tells of no cell that runs silently, as what a page or a debugger asks does.
    return bool(is_request and not message.get("content", {}).get("silent"))


def _cell_and_run() -> tuple[str, int] | None:
    """Return the running cell's identity and the number of its run; None outside a cell."""
    shell = jupyter.shell()
    if shell is None:
        return None
    sources = shell.user_ns.get("In") or [""]
    return _cell_of(sources[-1]), int(shell.execution_count)


def _cell_of(source: object) -> str:
    """Return the identity of the cell that runs, whose source this is as IPython keeps it."""
    told = jupyter.message().get("metadata", {}).get("cellId")
    # A front end that does not tell: the same source is the same cell.
    return str(told or hashlib.sha256(str(source).encode()).hexdigest())


class CellRegistry:
    """Remembers what each cell has defined."""

    def __init__(self) -> None:
        self._defined: dict[str, list[tuple[int, weakref.ref[Closable]]]] = {}

    def replace_earlier(self) -> None:
        """Close what an earlier run of the present cell has defined."""
        place = _cell_and_run()
        if place is None:
            return
        cell, run = place
        kept: list[tuple[int, weakref.ref[Closable]]] = []
        for earlier, reference in self._defined.pop(cell, []):
            thing = reference()
            if thing is None:
                continue
            if earlier == run:
                kept.append((earlier, reference))
            else:
                thing.close()
        if kept:
            self._defined[cell] = kept

    def define(self, thing: Closable) -> None:
        """Note that the present cell has defined ``thing``."""
        place = _cell_and_run()
        if place is not None:
            cell, run = place
            self._defined.setdefault(cell, []).append((run, weakref.ref(thing)))

    def has_defined(self, cell: str, thing: Closable) -> bool:
        """Say whether an earlier run of a cell has defined ``thing``."""
        return any(reference() is thing for _, reference in self._defined.get(cell, []))


def cell_that_begins(info: object) -> str:
    """Return the identity of a cell that is about to run; ``info``: what IPython tells of it."""
    source = getattr(info, "raw_cell", None)
    return _cell_of("" if source is None else jupyter.shell().transform_cell(source))


def around_each_cell(
    begins: Callable[[object], None], ends: Callable[[], None]
) -> Callable[[], None]:
    """Call ``begins`` and ``ends`` whenever a cell does; return how to stop that.

    ``begins`` is given what IPython tells of the cell.
    """
    shell = jupyter.shell()
    if shell is None:
        return lambda: None

    def began(info: object = None) -> None:
        begins(info)

    def ended(*_: object) -> None:
        ends()

    listeners = {"pre_run_cell": began, "post_run_cell": ended}
    for event, listener in listeners.items():
        shell.events.register(event, listener)

    def stop() -> None:
        for event, listener in listeners.items():
            # The registered list may have been emptied by a reset of the shell.
            if listener in shell.events.callbacks.get(event, []):
                shell.events.unregister(event, listener)

    return stop

"""What IPython and its kernel tell of the code that runs: a cell, or a callback of a widget."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any


def shell() -> Any:
    """Return IPython's shell; None outside IPython."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def message() -> Mapping[str, Any]:
    """Return the message that the kernel is answering on the calling thread.

    On a thread without a context that is the latest of all; where there is no kernel it is empty.
    """
    try:
        answered = shell().kernel.get_parent("shell")
    except AttributeError:
        return {}
    return answered if isinstance(answered, Mapping) else {}


def subshell() -> str | None:
    """Return the subshell that this message is answered on; None for the main shell."""
    named: str | None = message().get("header", {}).get("subshell_id")
    return named


def subshells() -> Collection[str]:
    """Return the names of the kernel's subshells, threads that answer messages beside a cell."""
    try:
        found: Collection[str] = shell().kernel.shell_channel_thread.manager.list_subshell()
    except AttributeError:  # ipykernel has them since 7.0
        return ()
    return found


def output_goes_to(cell: Mapping[str, Any], *, displays: bool) -> None:
    """Let what the calling thread, one of our own, prints stand below a cell.

    Else it would belong to the message that the kernel has answered last, mostly one of the page's,
    and a notebook drops that.

    Args:
        cell: the message by which the kernel was told to run it.
        displays: what is displayed too, or cleared; else that stands nowhere.
    """
    here = shell()
    parts = [(sys.stdout, cell), (sys.stderr, cell)]
    for name in ("display_pub", "displayhook"):
        parts.append((getattr(here, name, None), cell if displays else {}))
    for part, message in parts:
        # ipykernel has it since 7.0; another may stand in a part's place.
        place = getattr(part, "set_thread_parent", None)
        if place is not None:
            place(message)


def let_captured_cells_be_told() -> None:
    """Give IPython's stand-in for what displays, under ``%%capture``, what ipykernel calls on it.

    Else each message that a subshell answers meanwhile raises there and is lost: clicks in a page,
    and its word that it has drawn a step.
    """
    try:
        from IPython.core.displaypub import CapturingDisplayPublisher
    except ImportError:
        return
    if not hasattr(CapturingDisplayPublisher, "set_parent"):
        CapturingDisplayPublisher.set_parent = lambda *_: None  # type: ignore[attr-defined]

"""What IPython and its kernel tell of the code that runs: a cell, or a callback of a widget."""

from __future__ import annotations

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

"""IPython with a kernel, as far as the widget asks them, with cells and messages run by hand."""

from __future__ import annotations

from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any


class FakeShell:
    """What jupyter.py asks of IPython and ipykernel.

    Args:
        has_kernel: there is none in plain IPython.
    """

    def __init__(self, *, has_kernel: bool = True) -> None:
        self.execution_count = 0
        self.ended_subshells: set[str] = set()
        self._subshells: set[str] = set()
        self.user_ns: dict[str, Any] = {"In": [""]}
        self.callbacks: dict[str, list[Any]] = {"pre_run_cell": [], "post_run_cell": []}
        self._message: ContextVar[dict[str, Any]] = ContextVar("message")
        self._latest: dict[str, Any] = {"header": {}}
        self.events = SimpleNamespace(
            callbacks=self.callbacks,
            register=lambda event, callback: self.callbacks[event].append(callback),
            unregister=lambda event, callback: self.callbacks[event].remove(callback),
        )
        if has_kernel:
            manager = SimpleNamespace(list_subshell=lambda: self._subshells - self.ended_subshells)
            self.kernel = SimpleNamespace(
                get_parent=lambda _: self._message.get(self._latest),
                shell_channel_thread=SimpleNamespace(manager=manager),
            )

    def run(self, cell: str, body: Any) -> Any:
        self.answer({"header": {"msg_type": "execute_request"}, "metadata": {"cellId": cell}})
        self._tell("pre_run_cell", SimpleNamespace(raw_cell=cell))
        self.execution_count += 1
        self.user_ns["In"].append(self.transform_cell(cell))
        try:
            return body()
        finally:
            self._tell("post_run_cell", None)

    def transform_cell(self, source: str) -> str:
        """Return a cell's source as IPython runs and keeps it."""
        return f"{source}\n"

    def answer(self, message: dict[str, Any]) -> None:
        """Have the calling thread answer a message, which is the latest of all."""
        self._message.set(message)
        self._latest = message
        subshell = message["header"].get("subshell_id")
        if subshell is not None:
            self._subshells.add(subshell)

    @property
    def answers_on(self) -> Any:
        """Which subshell the message names that is being answered."""
        return self.kernel.get_parent("shell")["header"].get("subshell_id")

    def _tell(self, event: str, info: object) -> None:
        for callback in list(self.callbacks[event]):
            callback(info)

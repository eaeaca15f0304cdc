"""Runs pieces of the text while it is being written, without a trace outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..random_generators import between_steps, python_and_numpy_kept
from .definitions import Definitions


class Workbench:
    """A namespace of its own in which the definitions written so far hold.

    Args:
        definitions: what the pieces need; what has been added to them since is run first.
    """

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self._imports: set[str] = set()
        self._blocks = 0

    def evaluate(self, text: str) -> Any:
        """Return what an expression gives; every random state is put back.

        Raises:
            Exception: what it raised.
        """
        with as_in_a_fresh_interpreter():
            self._catch_up()
            return eval(_compiled(text, "eval"), self.namespace)

    def run(self, text: str) -> None:
        """Run statements; every random state is put back.

        Raises:
            Exception: what they raised.
        """
        with as_in_a_fresh_interpreter():
            self._catch_up()
            exec(_compiled(text, "exec"), self.namespace)

    def _catch_up(self) -> None:
        for statement in sorted(self._definitions.imports - self._imports):
            if not statement.startswith("from __future__"):
                exec(_compiled(statement, "exec"), self.namespace)
        self._imports |= self._definitions.imports
        for block in self._definitions.blocks[self._blocks :]:
            exec(_compiled(block, "exec", future=True), self.namespace)
            self._blocks += 1


def run_alone(text: str) -> tuple[dict[str, Any], torch.Tensor]:
    """Run a whole text in a namespace of its own; random states are put back.

    Returns:
        The namespace, and torch's random state at the end.

    Raises:
        Exception: what it raised.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with as_in_a_fresh_interpreter():
        exec(_compiled(text, "exec"), namespace)
        return namespace, torch.get_rng_state()


def _compiled(text: str, mode: str, *, future: bool = False) -> Any:
    if future:
        text = f"from __future__ import annotations\n{text}"
    return compile(text, "<recipe>", mode, dont_inherit=True)


@contextmanager
def as_in_a_fresh_interpreter() -> Iterator[None]:
    """Keep random states, and set the default dtype to what it is in a fresh interpreter."""
    cuda = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if cuda else []
    with (
        between_steps(),
        torch.random.fork_rng(devices=devices),
        python_and_numpy_kept(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)

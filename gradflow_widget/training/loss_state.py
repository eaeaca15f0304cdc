"""LossState: what the modules of a loss held when they were given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..measurement.attributes import Contents, Known


class LossState:
    """What a loss knows besides the model, such as a running centre, as it was at first.

    Every run of a session begins with it.

    Args:
        modules: those that the loss is made of, with all that is in them.
        model: the model, where it was given ready made; what is a part of it is none of the loss.
    """

    def __init__(self, modules: Sequence[nn.Module], model: object) -> None:
        others = set(model.modules()) if isinstance(model, nn.Module) and modules else set()
        parts = dict.fromkeys(part for module in modules for part in module.modules())
        self._parts = [part for part in parts if part not in others]
        self._others = others
        self._first = self._contents()

    def _contents(self) -> Contents:
        known = Known()
        known.add_modules(self._others)
        return Contents(self._parts, known=known)

    def put(self) -> None:
        """Let the loss have what it had at first, and no gradient."""
        self._first.put_back()
        for part in self._parts:
            for parameter in part.parameters(recurse=False):
                parameter.grad = None

    @contextmanager
    def as_at_first(self) -> Iterator[None]:
        """Let it have what it had at first within the ``with``, and then what it has now again."""
        now = self._contents()
        try:
            self._first.put_back()
            yield
        finally:
            now.put_back()

"""A run's own random state, kept apart from everybody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RandomStream:
    """The random state of one run, put in place for each step and taken out after it.

    What other cells draw between two steps neither disturbs the run nor is disturbed by
    it. Torch's state costs a microsecond to exchange; Python's and NumPy's cost more and
    are exchanged only where a user's data may draw from them (``every_source``).
    """

    def __init__(self, seed: int, *, every_source: bool = False) -> None:
        self._every_source = every_source
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin again from ``seed``."""
        outside = self._everything()
        torch.manual_seed(seed)
        if self._every_source:
            random.seed(seed)
            np.random.seed(seed % 2**32)
        self._own = self._everything()
        self._put(outside)

    def _everything(self) -> list[Any]:
        states: list[Any] = [torch.get_rng_state()]
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            states.append(torch.cuda.get_rng_state_all())
        else:
            states.append(None)
        if self._every_source:
            states += [random.getstate(), np.random.get_state()]
        return states

    def _put(self, states: list[Any]) -> None:
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state_all(states[1])
        if self._every_source:
            random.setstate(states[2])
            np.random.set_state(states[3])

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from this stream inside the ``with`` block."""
        outside = self._everything()
        self._put(self._own)
        try:
            yield
        finally:
            self._own = self._everything()
            self._put(outside)

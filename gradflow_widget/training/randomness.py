"""A run's own random state, kept apart from everybody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..random_generators import between_steps, exchanging

_has_cuda = torch.version.cuda is not None or torch.version.hip is not None


class RandomState:
    """The random state of the process as it is now, or as ``seed`` makes it.

    Torch's costs a microsecond to read; Python's and NumPy's cost a hundred times as much
    and are left out unless asked for (``every_source``). CUDA's is there where CUDA is in
    use.
    """

    def __init__(self, *, every_source: bool = True) -> None:
        with between_steps():
            self._torch = torch.default_generator.get_state()
            self._cuda = torch.cuda.get_rng_state_all() if _cuda_is_in_use() else None
            self._others = (random.getstate(), np.random.get_state()) if every_source else None

    @classmethod
    def seeded(cls, seed: int, *, every_source: bool = True) -> RandomState:
        """Return the state that ``seed`` stands for; the present one stays."""
        with exchanging:
            outside = cls(every_source=every_source)
            try:
                # torch.manual_seed would also seed devices whose state is not put back.
                torch.default_generator.manual_seed(seed)
                if _cuda_is_in_use():
                    torch.cuda.manual_seed_all(seed)
                if every_source:
                    random.seed(seed)
                    np.random.seed(seed % 2**32)
                return cls(every_source=every_source)
            finally:
                outside.put()

    @property
    def of_torch(self) -> torch.Tensor:
        """The state of torch's generator on the CPU, as ``torch.set_rng_state`` takes it."""
        return self._torch

    def put(self) -> None:
        """Make it the state of the process, the whole of it also where an interrupt comes."""
        try:
            self._put()
        except KeyboardInterrupt:
            self._put()
            raise

    def _put(self) -> None:
        with between_steps():
            torch.default_generator.set_state(self._torch)
            if self._cuda is not None:
                torch.cuda.set_rng_state_all(self._cuda)
            if self._others is not None:
                random.setstate(self._others[0])
                np.random.set_state(self._others[1])


class RandomStream:
    """The random state of one run, put in place for each step and taken out after it.

    What other cells draw between two steps neither disturbs the run nor is disturbed by
    it, nor do other runs; only what another thread draws in the middle of a step can't be kept
    apart. Python's and NumPy's generators are exchanged only for a run that draws from them.

    Attributes:
        every_source: exchange Python's and NumPy's generators too.
    """

    def __init__(self, seed: int, *, every_source: bool = False) -> None:
        self.every_source = every_source
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin again from ``seed``."""
        self._own = RandomState.seeded(seed, every_source=self.every_source)

    @contextmanager
    def __call__(self) -> Iterator[RandomState]:
        """Draw from this stream inside the ``with`` block; gives what it begins with."""
        every_source = self.every_source
        with exchanging:
            outside, is_put = RandomState(every_source=every_source), False
            # Whatever an interrupt cuts short, what was outside is put back.
            try:
                self._own.put()
                is_put = True
                yield self._own
            finally:
                try:
                    if is_put:
                        self._own = RandomState(every_source=every_source)
                finally:
                    outside.put()


def python_and_numpy_state() -> tuple[Any, ...]:
    """Return a value that changes when somebody draws from Python's or NumPy's generator."""
    _, keys, position, *rest = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), position, tuple(rest)


def _cuda_is_in_use() -> bool:
    return _has_cuda and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]

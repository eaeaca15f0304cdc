"""Cells with a plain loop of the user's, which after a reset draw the same random numbers again."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ..random_generators import between_steps
from .randomness import RandomState

# In s; most steps are shorter. A cell does not wait for a longer one, which may wait for the cell.
_MOMENT = 0.01
# Of one run: each takes some 40 kB.
_MOST_BEGINNINGS = 100


class _Beginning(NamedTuple):
    """A place where random numbers may have to be drawn again.

    Attributes:
        cell: the identity of the cell.
        loops: how many loops the cell has run in this run so far.
        at_reset: it is where the cell resets the run, and not where the cell begins.
    """

    cell: str
    loops: int
    at_reset: bool


class RepeatedCells:
    """Remembers where the cells whose loops trained began, and takes them back there.

    The random state comes back when such a cell is run again, not with the reset: what other cells
    draw meanwhile is new, and never what the loop had drawn. The state is not noted while another
    session is in the middle of a step.
    """

    def __init__(self) -> None:
        self._of_seed: dict[int, dict[_Beginning, RandomState]] = {}
        self._due: dict[_Beginning, RandomState] = {}
        self._loops: Counter[str] = Counter()
        self._cell: str | None = None
        self._here: tuple[_Beginning, RandomState] | None = None

    def begins(self, cell: str) -> None:
        """Take in that a cell begins."""
        self._cell = cell
        self._note(_Beginning(cell, self._loops[cell], at_reset=False))

    def ends(self) -> None:
        """Take in that it has ended."""
        self._cell = self._here = None

    def trains(self, seed: int) -> None:
        """Take in that a plain loop makes its first step here, in a run of ``seed``."""
        if self._here is None:
            return
        (beginning, state), self._here = self._here, None
        known = self._of_seed.setdefault(seed, {})
        if len(known) < _MOST_BEGINNINGS:
            known.setdefault(beginning, state)
        self._loops[beginning.cell] += 1

    def reset(self, present: int, seed: int) -> None:
        """Take in that the run of the seed ``present`` is reset, to ``seed``."""
        self._loops.clear()
        due = self._of_seed.get(seed)
        if due is None and (latest := self._of_seed.get(present)):
            due = {next(iter(latest)): RandomState.seeded(seed)}
        self._due = dict(due or {})
        if self._cell is not None:
            self._note(_Beginning(self._cell, 0, at_reset=True))

    def _note(self, beginning: _Beginning) -> None:
        self._here = None
        with between_steps(_MOMENT) as nobody_steps:
            if not nobody_steps:
                return
            due = self._due.pop(beginning, None)
            if due is not None:
                due.put()
            self._here = beginning, RandomState() if due is None else due

"""Blocks of older steps, which take the place of their rows where memory is bounded."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Statistic = Literal["min", "mean", "max"]

# Minimum, mean and maximum of rows, and how many numbers each mean is of.
_Summary = tuple[FloatArray, FloatArray, FloatArray, NDArray[np.int64]]


class Blocks:
    """Blocks of older steps: minimum, mean and maximum of every number of a row.

    Args:
        capacity: how many blocks there are at most.
        every_step: columns in which NaN is a number like any other, shape (columns,); in the
            others it stands for none.
        norms: columns of norms of gradients, those before a clip too.
        missing: columns of which each tells, of both such norms, where there was no gradient.

    Attributes:
        length: how many blocks there are.
    """

    def __init__(
        self, capacity: int, every_step: NDArray[np.bool_], *, norms: slice, missing: slice
    ) -> None:
        width = len(every_step)
        self.length = 0
        self._capacity = capacity
        self._size = 2  # steps of a block; the last may still be filling
        self._low, self._mean, self._high = (np.empty((capacity, width)) for _ in range(3))
        # How many numbers a mean is of: full readings come only now and then.
        self._count = np.empty((capacity, width), dtype=np.int64)
        self._steps = np.zeros(capacity, dtype=np.int64)
        self._every_step, self._norms, self._missing = every_step, norms, missing

    @property
    def nbytes(self) -> int:
        """Bytes that the blocks take."""
        arrays = (self._low, self._mean, self._high, self._count, self._steps)
        return sum(array.nbytes for array in arrays)

    @property
    def steps_per_row(self) -> NDArray[np.int64]:
        """How many steps each block stands for, shape (blocks,)."""
        return self._steps[: self.length].copy()

    def rows(self, statistic: Statistic) -> FloatArray:
        """Return one statistic of every block, oldest first, shape (blocks, columns)."""
        array = {"min": self._low, "mean": self._mean, "max": self._high}[statistic]
        return array[: self.length]

    def widen(self, columns: int) -> None:
        """Add columns at the right, of which there has been no number so far."""
        self._low, self._mean, self._high = (
            widened(array, columns) for array in (self._low, self._mean, self._high)
        )
        self._count = np.pad(self._count, ((0, 0), (0, columns)))
        self._every_step = np.pad(self._every_step, (0, columns))

    def extend(self, rows: FloatArray) -> None:
        """Append single steps, a power of two of them."""
        count = np.where(self._every_step | ~np.isnan(rows), 1, 0)
        count[:, self._norms] -= np.tile(rows[:, self._missing] == 1, 2)
        self._append((rows, rows, rows, count), 1)

    def _append(self, summary: _Summary, steps: int) -> None:
        """Append rows that stand for ``steps`` steps each, joined to blocks of full size."""
        while len(summary[0]) > 1 and steps < self._size:
            summary, steps = _joined(summary), 2 * steps
        last = slice(self.length - 1, self.length)
        if self.length and steps < self._size and self._steps[last] < self._size:
            pairs = zip(self._arrays(), summary, strict=True)
            both = tuple([np.concatenate([array[last], row]) for array, row in pairs])
            self._put(last, _joined(cast(_Summary, both)), self._steps[last] + steps)
        elif self.length + len(summary[0]) > self._capacity:
            self._halve()
            self._append(summary, steps)
        else:
            into = slice(self.length, self.length + len(summary[0]))
            self._put(into, summary, steps)
            self.length = into.stop

    def _halve(self) -> None:
        """Join the blocks, all of them full, in pairs: half the rows are free again."""
        joined = _joined((self._low, self._mean, self._high, self._count))
        self.length //= 2
        self._put(slice(0, self.length), joined, 2 * self._size)
        self._size *= 2

    def _arrays(self) -> _Summary:
        return self._low, self._mean, self._high, self._count

    def _put(self, into: slice, summary: _Summary, steps: int | NDArray[np.int64]) -> None:
        for array, values in zip(self._arrays(), summary, strict=True):
            array[into] = values
        self._steps[into] = steps


def _joined(summary: _Summary) -> _Summary:
    """Join rows in pairs."""
    low, mean, high, count = summary
    n, m = count[0::2], count[1::2]
    with np.errstate(invalid="ignore", over="ignore"):
        # Weights first: the sum of two numbers near the largest float overflows.
        total = np.maximum(n + m, 1)
        first, second = (
            np.where(weight > 0, part * (weight / total), 0.0)
            for part, weight in ((mean[0::2], n), (mean[1::2], m))
        )
        means = np.where(n + m > 0, first + second, np.nan)
    return np.fmin(low[0::2], low[1::2]), means, np.fmax(high[0::2], high[1::2]), n + m


def widened(rows: FloatArray, columns: int) -> FloatArray:
    """Return rows with so many columns more at the right, of NaN."""
    return np.pad(rows, ((0, 0), (0, columns)), constant_values=np.nan)

"""A loss curve of any length in at most 1,000 points, with its extremes kept."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MOST_BUCKETS = 500


class LossCurve:
    """Losses by step, thinned as they come in: O(1) a step, and O(1) to draw.

    Steps share buckets; a bucket keeps its lowest and its highest loss and the steps where
    they were. When all buckets are in use, they are joined in pairs and hold twice as many
    steps from then on.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget every loss."""
        # Columns: step of the lowest, lowest, step of the highest, highest.
        self._buckets = np.empty((MOST_BUCKETS, 4))
        self._used = 0
        self._in_last = 0
        self._steps_each = 1
        self.last_step = 0
        self.positive = True
        self.first_nonfinite: tuple[int, str] | None = None
        self.last_nonfinite: tuple[int, str] | None = None
        self.nonfinite_count = 0

    def append(self, step: int, loss: float) -> None:
        """Add one step's loss; NaN and inf are kept apart, as places on the axis."""
        self.last_step = step
        if not math.isfinite(loss):
            place = (step, "NaN" if math.isnan(loss) else ("∞" if loss > 0 else "−∞"))
            self.first_nonfinite = self.first_nonfinite or place
            self.last_nonfinite = place
            self.nonfinite_count += 1
            return
        if loss <= 0:
            self.positive = False
        if self._used and self._in_last < self._steps_each:
            bucket = self._buckets[self._used - 1]
            if loss < bucket[1]:
                bucket[:2] = step, loss
            elif loss > bucket[3]:
                bucket[2:] = step, loss
            self._in_last += 1
            return
        if self._used == MOST_BUCKETS:
            self._join_pairs()
            if self._in_last < self._steps_each:
                self.append(step, loss)
                return
        self._buckets[self._used] = step, loss, step, loss
        self._used += 1
        self._in_last = 1

    def _join_pairs(self) -> None:
        even, odd = self._buckets[0::2].copy(), self._buckets[1::2].copy()
        half = MOST_BUCKETS // 2
        lower = odd[:, 1] < even[:, 1]
        higher = odd[:, 3] > even[:, 3]
        self._buckets[:half, :2] = np.where(lower[:, None], odd[:, :2], even[:, :2])
        self._buckets[:half, 2:] = np.where(higher[:, None], odd[:, 2:], even[:, 2:])
        self._used = half
        self._steps_each *= 2
        self._in_last = self._steps_each

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return steps and losses, in the order of steps, at most 1,000 of them."""
        buckets = self._buckets[: self._used]
        pairs = buckets.reshape(-1, 2, 2)
        later_low = buckets[:, 0] > buckets[:, 2]
        ordered = np.where(later_low[:, None, None], pairs[:, ::-1], pairs)
        distinct = np.ones((self._used, 2), dtype=np.bool_)
        distinct[:, 1] = buckets[:, 0] != buckets[:, 2]
        chosen = ordered[distinct]
        return chosen[:, 0].copy(), chosen[:, 1].copy()

"""A loss curve of any length in at most 1,000 points, with its extremes and its gaps kept."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MOST_BUCKETS = 500
# What a bucket holds of losses that are not there: any loss is lower than its lowest.
_EMPTY = (np.nan, np.inf, np.nan, -np.inf, np.nan)


class LossCurve:
    """Losses by step, thinned as they come in: O(1) a step, and O(1) to draw.

    Steps share buckets; a bucket keeps its lowest and its highest loss and the steps where
    they were, and its last step whose loss was not finite: the line has a gap there. When all
    buckets are in use, they are joined in pairs and hold twice as many steps from then on.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget every loss."""
        # Columns: step of the lowest, lowest, step of the highest, highest, step of the gap.
        self._buckets = np.empty((MOST_BUCKETS, 5))
        self._used = 0
        self._in_last = 0
        self._steps_each = 1
        self.last_step = 0
        self.positive = True
        self.first_nonfinite: tuple[int, str] | None = None
        self.last_nonfinite: tuple[int, str] | None = None
        self.nonfinite_count = 0

    def append(self, step: int, loss: float) -> None:
        """Add one step's loss; NaN and inf are gaps, and told as places on the axis."""
        self.last_step = step
        finite = math.isfinite(loss)
        if not finite:
            place = step, sign_of_nonfinite(loss)
            self.first_nonfinite = self.first_nonfinite or place
            self.last_nonfinite = place
            self.nonfinite_count += 1
        elif loss <= 0:
            self.positive = False
        bucket = self._bucket_of_next()
        if not finite:
            bucket[4] = step
            return
        if loss < bucket[1]:
            bucket[:2] = step, loss
        if loss > bucket[3]:
            bucket[2:4] = step, loss

    def _bucket_of_next(self) -> NDArray[np.float64]:
        """Return the bucket that the next step belongs to, and count it in."""
        if self._used == MOST_BUCKETS and self._in_last == self._steps_each:
            self._join_pairs()
        if self._used and self._in_last < self._steps_each:
            self._in_last += 1
        else:
            self._buckets[self._used] = _EMPTY
            self._used += 1
            self._in_last = 1
        bucket: NDArray[np.float64] = self._buckets[self._used - 1]
        return bucket

    def _join_pairs(self) -> None:
        even, odd = self._buckets[0::2].copy(), self._buckets[1::2].copy()
        half = MOST_BUCKETS // 2
        lower = odd[:, 1] < even[:, 1]
        higher = odd[:, 3] > even[:, 3]
        self._buckets[:half, :2] = np.where(lower[:, None], odd[:, :2], even[:, :2])
        self._buckets[:half, 2:4] = np.where(higher[:, None], odd[:, 2:4], even[:, 2:4])
        self._buckets[:half, 4] = np.where(np.isnan(odd[:, 4]), even[:, 4], odd[:, 4])
        self._used = half
        self._steps_each *= 2
        self._in_last = self._steps_each

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return steps and losses, in the order of steps, at most 1,000 of them.

        Where losses between two of them were not finite, a NaN stands between them.
        """
        buckets = self._buckets[: self._used]
        steps = buckets[:, [0, 2, 4]]
        losses = np.column_stack([buckets[:, [1, 3]], np.full(self._used, np.nan)])
        steps[steps[:, 0] == steps[:, 1], 1] = np.nan  # lowest and highest in one
        there = ~np.isnan(steps)
        steps, losses = steps[there], losses[there]
        order = np.argsort(steps, kind="stable")
        steps, losses = steps[order], losses[order]
        # One NaN for a gap, and none before the first loss or after the last.
        is_loss = np.isfinite(losses)
        before = np.concatenate([[False], is_loss[:-1]])
        after = np.maximum.accumulate(is_loss[::-1])[::-1]
        shown = is_loss | (before & after)
        return steps[shown], losses[shown]


def sign_of_nonfinite(loss: float) -> str:
    """Return NaN, ∞ or −∞."""
    return "NaN" if math.isnan(loss) else ("∞" if loss > 0 else "−∞")

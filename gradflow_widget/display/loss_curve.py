"""A loss curve of any length in at most 1,000 points, with its extremes and its gaps kept."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 1000
# Of two losses each. One with its gaps has twice as many points: the one between the losses, and
# the one between it and the bucket before.
MOST_BUCKETS = MOST_POINTS // 2
_MOST_OF_A_BUCKET = 4
# What a bucket holds of losses that are not there: any loss is lower than its lowest.
_EMPTY = (np.nan, np.inf, np.nan, -np.inf, np.nan, np.nan, np.nan)
_LOW, _HIGH = slice(0, 2), slice(2, 4)
_BEFORE, _BETWEEN, _AFTER = 4, 5, 6


class LossCurve:
    """Losses by step, thinned as they come in: O(1) a step, and O(1) to draw.

    Steps share buckets; a bucket keeps its lowest and its highest loss and the steps where
    they were, and of the losses before, between and after these two the last step of each whose
    loss was not finite: the line has a gap there. When all buckets are in use, or gaps make too
    many points of them, they are joined in pairs and hold twice as many steps from then on.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget every loss."""
        # Columns: step of the lowest, lowest, step of the highest, highest, steps of the gaps.
        self._buckets = np.empty((MOST_BUCKETS, len(_EMPTY)))
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
            bucket[_AFTER] = step
            return
        is_lowest, is_highest = loss < bucket[1], loss > bucket[3]
        if not (is_lowest or is_highest):
            return
        if self.nonfinite_count:
            _move_gaps(bucket, is_lowest=is_lowest, is_highest=is_highest)
        if is_lowest:
            bucket[_LOW] = step, loss
        if is_highest:
            bucket[_HIGH] = step, loss

    def _bucket_of_next(self) -> NDArray[np.float64]:
        """Return the bucket that the next step belongs to, and count it in."""
        if self._used and self._in_last < self._steps_each:
            self._in_last += 1
        else:
            while self._used % 2 == 0 and self._has_no_room():
                self._join_pairs()
            self._buckets[self._used] = _EMPTY
            self._used += 1
            self._in_last = 1
        bucket: NDArray[np.float64] = self._buckets[self._used - 1]
        return bucket

    def _has_no_room(self) -> bool:
        """Whether two more buckets would be too many, or might have too many points."""
        if self._used == MOST_BUCKETS:
            return True
        # Without a gap they never have.
        if not self.nonfinite_count or _MOST_OF_A_BUCKET * (self._used + 2) <= MOST_POINTS:
            return False
        return len(self.points()[0]) + 2 * _MOST_OF_A_BUCKET > MOST_POINTS

    def _join_pairs(self) -> None:
        """Join an even number of buckets, the last of them full."""
        even, odd = self._buckets[0 : self._used : 2].copy(), self._buckets[1 : self._used : 2]
        self._used //= 2
        self._steps_each *= 2
        self._in_last = self._steps_each
        gaps = np.hstack([even[:, _BEFORE:], odd[:, _BEFORE:]])
        low = np.where((odd[:, 1] < even[:, 1])[:, None], odd[:, _LOW], even[:, _LOW])
        high = np.where((odd[:, 3] > even[:, 3])[:, None], odd[:, _HIGH], even[:, _HIGH])
        first, second = np.sort([low[:, 0], high[:, 0]], axis=0)[:, :, None]
        # Where no loss is finite, the gap stands after all of them.
        regions = gaps < first, (first < gaps) & (gaps < second), ~(gaps < second)
        last = [np.fmax.reduce(np.where(region, gaps, np.nan), axis=1) for region in regions]
        self._buckets[: self._used] = np.column_stack([low, high, *last])

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return steps and losses, in the order of steps, at most 1,000 of them.

        Where losses between two of them were not finite, a NaN stands between them.
        """
        buckets = self._buckets[: self._used]
        rising = buckets[:, 0] <= buckets[:, 2]
        first, second = (
            np.where(where[:, None], buckets[:, _LOW], buckets[:, _HIGH])
            for where in (rising, ~rising)
        )
        second[first[:, 0] == second[:, 0]] = np.nan  # lowest and highest in one
        before, between, after = buckets[:, _BEFORE:].T
        steps = np.column_stack([before, first[:, 0], between, second[:, 0], after]).ravel()
        nothing = np.full(len(buckets), np.nan)
        losses = np.column_stack([nothing, first[:, 1], nothing, second[:, 1], nothing]).ravel()
        there = ~np.isnan(steps)
        steps, losses = steps[there], losses[there]
        # One NaN for a gap, and none before the first loss or after the last.
        is_loss = np.isfinite(losses)
        before = np.concatenate([[False], is_loss[:-1]])
        after = np.maximum.accumulate(is_loss[::-1])[::-1]
        shown = is_loss | (before & after)
        return steps[shown], losses[shown]


def _move_gaps(bucket: NDArray[np.float64], *, is_lowest: bool, is_highest: bool) -> None:
    """Move a bucket's gaps to where they stand when its last loss is its lowest or highest."""
    before, between, after = bucket[_BEFORE:].tolist()
    if is_lowest and is_highest:  # the first of the bucket
        bucket[_BEFORE:] = after, np.nan, np.nan
        return
    left, kept = (bucket[0], bucket[2]) if is_lowest else (bucket[2], bucket[0])
    if left < kept:
        bucket[_BEFORE:] = np.fmax(before, between), after, np.nan
    else:
        bucket[_BEFORE:] = before, np.fmax(between, after), np.nan


def sign_of_nonfinite(loss: float) -> str:
    """Return NaN, ∞ or −∞."""
    return "NaN" if math.isnan(loss) else ("∞" if loss > 0 else "−∞")

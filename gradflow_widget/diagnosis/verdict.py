"""Verdict: what is told of the flow, and the lines between sick and healthy (theory.md)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Problem = Literal["", "healthy", "vanishing", "exploding", "severed", "non-finite"]
Severity = Literal["", "watch", "fault"]

WATCH_DECADES, FAULT_DECADES = 1.3, 2.2
# During training a network explodes only if it stays beyond the fault line; healthy ones
# have been seen at 2.01 for a while.
PERSISTENT_READINGS = 10
# Of so many readings the median tells whether the signal vanishes, so that the verdict does not
# change to and fro with the batches: an even number, for two that take turns. The latest has to be
# near at least.
MEDIAN_OF = 6
_NEAR = 0.5


@dataclass(frozen=True)
class Verdict:
    """A plain verdict on the flow of the signal gradient.

    Attributes:
        problem: "" while nothing can be said yet.
        severity: "watch" or "fault" where there is a problem.
        sentence: what to tell the user.
    """

    problem: Problem
    severity: Severity
    sentence: str


UNDECIDED = Verdict("", "", "No full reading yet.")


def falls_beyond(line: float, decades: Sequence[float], *, at_first: bool, at_once: float) -> bool:
    """Whether the signal falls by more than ``line`` decades: by the median of late, or at once.

    Args:
        line: how many decades are too many.
        decades: of the readings of one run, the newest last; some may be NaN.
        at_first: whether the latest is of the first weights, which alone count then.
        at_once: beyond so many the latest alone counts, too.
    """
    latest = decades[-1]
    if at_first or latest < -at_once:
        return latest < -line
    if not latest < _NEAR - line:
        return False
    return statistics.median(d for d in decades[-MEDIAN_OF:] if not math.isnan(d)) < -line

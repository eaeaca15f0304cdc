"""Verdict: what is told of the flow, and the lines between sick and healthy (theory.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Problem = Literal["", "healthy", "vanishing", "exploding", "severed", "non-finite"]
Severity = Literal["", "watch", "fault"]

WATCH_DECADES, FAULT_DECADES = 1.3, 2.2
# During training a network explodes only if it stays beyond the fault line; healthy ones
# have been seen at 2.01 for a while.
PERSISTENT_READINGS = 10
# Of so many readings the median tells whether the signal vanishes, so that the verdict does not
# change to and fro with the batches. The latest has to be near at least.
MEDIAN_OF = 5
NEAR = 0.5


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

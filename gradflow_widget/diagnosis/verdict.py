"""Verdict: what is told of the flow, and the lines between sick and healthy (theory.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..measurement.reading import Reading

_Of = TypeVar("_Of")
Problem = Literal["", "healthy", "vanishing", "exploding", "severed", "non-finite"]
Severity = Literal["", "watch", "fault"]

WATCH_DECADES, FAULT_DECADES = 1.3, 2.2
# During training a network explodes only if it stays beyond the fault line; healthy ones
# have been seen at 2.01 for a while.
PERSISTENT_READINGS = 10
# Of so many readings the one in the middle is judged, so that the verdict does not change to and
# fro with the batches: an even number, for two that take turns.
MEDIAN_OF = 6


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


def late(readings: Sequence[Reading]) -> list[Reading]:
    """Return the last readings of the latest's layers; at the first weights the latest alone.

    A look before the first step is not among the others: the first step repeats it.
    """
    latest = readings[-1]
    if latest.step <= 1:
        return [latest]
    recent = readings[-MEDIAN_OF:]
    return [one for one in recent if one.step > 0 and one.described == latest.described]


def typical(found: Sequence[tuple[float, _Of]]) -> tuple[float, _Of]:
    """Return the one in the middle by its decades, to be judged by and told of.

    Of the two in the middle the one that changes the signal less. Of an odd number the first is
    left out, so that of two batches that take turns it is always the same.

    Args:
        found: pairs of decades and what they are of, the newest last; at least one.
    """
    even = found[len(found) % 2 :] or found
    in_line = sorted(decades for decades, _ in even)
    middle = min(in_line[(len(even) - 1) // 2 : len(even) // 2 + 1], key=abs)
    return next(one for one in reversed(even) if one[0] == middle)

"""Finds the stretches of a sequence that repeat one block."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class Repeat:
    """``count`` equal blocks of ``period`` members, one after another from ``start`` on."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        """The index of the first member after it."""
        return self.start + self.period * self.count


def find_repeats(
    kinds: Sequence[Hashable],
    sizes: Sequence[int],
    weighty: Sequence[bool],
    taken: Sequence[bool],
) -> list[Repeat]:
    """Return the repeats of two or more blocks, none over another; in no certain order.

    The greatest by the sum of its sizes goes first and takes its place, then the greatest of
    what is left, and so on. Of equal ones it is that of most blocks, then one that begins with
    a weighty member, then the first, then that of the shortest period.

    A sequence that repeats one block from end to end, as deep networks do, is read in a time
    in proportion to its length; any other at worst in proportion to its square for each repeat.

    Args:
        kinds: what members have in common exactly if they are equal.
        sizes: the weight of each member, 0 or more.
        weighty: whether a block that has this member counts; the same for all of a kind.
        taken: the members that are in no repeat.
    """
    before = list(accumulate(sizes, initial=0))
    weighty_before = list(accumulate(map(int, weighty), initial=0))
    found: list[Repeat] = []
    waiting = list(_untaken(taken))
    while waiting:
        part = waiting.pop()
        smaller = _without_single(kinds, part)
        if smaller != [part]:
            waiting += smaller
            continue
        best = max(
            (
                one
                for one in _candidates(kinds, part)
                if weighty_before[one.start] < weighty_before[one.start + one.period]
            ),
            # A shorter period is met first, and of equal ones max returns the first.
            key=lambda one: (
                before[one.stop] - before[one.start],
                one.count,
                weighty[one.start],
                -one.start,
            ),
            default=None,
        )
        if best is not None:
            found.append(best)
            waiting += [range(part.start, best.start), range(best.stop, part.stop)]
    return found


def _untaken(taken: Sequence[bool]) -> Iterator[range]:
    """Yield the stretches between what is taken: no repeat goes across."""
    start = 0
    for index, is_taken in enumerate([*taken, True]):
        if is_taken:
            yield range(start, index)
            start = index + 1


def _without_single(kinds: Sequence[Hashable], part: range) -> list[range]:
    """Return the stretches of ``part`` between the members whose kind is there only once."""
    places: dict[Hashable, list[int]] = {}
    for index in part:
        places.setdefault(kinds[index], []).append(index)
    single = sorted(indices[0] for indices in places.values() if len(indices) == 1)
    bounds = [part.start - 1, *single, part.stop]
    stretches = [range(left + 1, right) for left, right in pairwise(bounds)]
    return [stretch for stretch in stretches if len(stretch) > 1]


def _candidates(kinds: Sequence[Hashable], part: range) -> Iterator[Repeat]:
    """Yield the repeats within ``part`` that may be the greatest there, short periods first."""
    first: dict[Hashable, int] = {}
    farthest = max(index - first.setdefault(kinds[index], index) for index in part)
    for period in range(1, min(farthest, len(part) // 2) + 1):
        for stretch in _stretches(kinds, part, period):
            # One that starts later lies in one of these and has fewer blocks.
            for start in range(stretch.start, min(stretch.start + period, stretch.stop)):
                count = (stretch.stop - start) // period
                if count >= 2:
                    yield Repeat(start, period, count)
            # What repeats here by a longer period does so by a shorter one too, in more blocks
            # (Fine and Wilf 1965).
            if stretch == part:
                return


def _stretches(kinds: Sequence[Hashable], part: range, period: int) -> Iterator[range]:
    """Yield each longest stretch whose members equal those ``period`` before them, if any."""
    start = part.start
    for index in range(part.start, part.stop - period):
        if kinds[index] != kinds[index + period]:
            if index >= start + period:
                yield range(start, index + period)
            start = index + 1
    if part.stop >= start + 2 * period:
        yield range(start, part.stop)

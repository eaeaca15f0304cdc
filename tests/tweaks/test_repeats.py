"""The repeats of a sequence, against all of its blocks counted one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradflow_widget.tweaks.repeats import Repeat, find_repeats

_KINDS = "abcd"


def counted_one_by_one(
    kinds: str, sizes: list[int], weighty: list[bool], taken: list[bool]
) -> set[Repeat]:
    taken, found = list(taken), set()

    def blocks(start: int, period: int) -> int:
        count = 0
        while True:
            here = slice(start + count * period, start + (count + 1) * period)
            if kinds[here] != kinds[start : start + period] or any(taken[here]):
                return count
            count += 1

    def greatness(one: Repeat) -> tuple[int, int, bool, int, int]:
        size = sum(sizes[one.start : one.stop])
        return size, one.count, weighty[one.start], -one.start, -one.period

    while True:
        candidates = [
            Repeat(start, period, blocks(start, period))
            for period in range(1, len(kinds) // 2 + 1)
            for start in range(len(kinds) - 2 * period + 1)
            if any(weighty[start : start + period])
        ]
        best = max((one for one in candidates if one.count >= 2), key=greatness, default=None)
        if best is None:
            return found
        found.add(best)
        taken[best.start : best.stop] = [True] * (best.stop - best.start)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[str, list[int], list[bool], list[bool]]:
    pieces = st.tuples(st.text(_KINDS, min_size=1, max_size=4), st.integers(1, 5))
    kinds = "".join(text * times for text, times in draw(st.lists(pieces, max_size=4)))[:24]
    weighty = {kind: draw(st.booleans()) for kind in _KINDS}
    size = {kind: draw(st.integers(0, 3)) for kind in _KINDS}
    # Members of a kind may differ in size, where one has a weight twice.
    sizes = [size[kind] + draw(st.sampled_from((0, 0, 0, 1))) for kind in kinds]
    taken = draw(st.lists(st.sampled_from((False, False, False, False, True)), min_size=24))
    return kinds, sizes, [weighty[kind] for kind in kinds], taken[: len(kinds)]


@given(sequences())
def test_they_are_those_counted_one_by_one(
    sequence: tuple[str, list[int], list[bool], list[bool]],
) -> None:
    found = find_repeats(*sequence)
    assert set(found) == counted_one_by_one(*sequence)
    assert len(set(found)) == len(found)


class Compared(str):
    """A kind that counts how often it is compared."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    "around",
    [("", "ab", ""), ("", "a", ""), ("xb", "ab", "y"), ("x", "abc", "aby")],
    ids=" ".join,
)
def test_deep_networks_take_comparisons_in_proportion_to_their_length(
    around: tuple[str, str, str],
) -> None:
    before, block, after = around
    length = 0
    times = []
    for blocks in (200, 400):
        kinds = [Compared(kind) for kind in before + block * blocks + after]
        length, Compared.times = len(kinds), 0
        found = find_repeats(kinds, [1] * length, [kind != "b" for kind in kinds], [False] * length)
        assert [one.count for one in found] == [blocks]
        times.append(Compared.times)
    assert times[1] < 2.5 * times[0]
    assert times[1] < 20 * length


def test_pairs_of_many_kinds_take_few_comparisons() -> None:
    kinds = [Compared(index // 2) for index in range(400)]
    Compared.times = 0
    assert len(find_repeats(kinds, [1] * 400, [True] * 400, [False] * 400)) == 200
    assert Compared.times < 400**2

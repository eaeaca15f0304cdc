"""Statements about parts of a model, equal ones on neighbouring parts as loops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

Path = tuple[str, ...]
"""How to come to a part: ("model", ".blocks", "[3]")."""


class Statement(NamedTuple):
    """A statement about the part of the model at ``path``; ``HERE`` stands for that in ``text``."""

    path: Path
    text: str


def statements_text(statements: list[Statement]) -> str:
    """Return the statements, line by line."""
    return "".join(f"{line}\n" for line in _lines(statements))


def _lines(statements: list[Statement]) -> Iterator[str]:
    start = 0
    while start < len(statements):
        loop, taken = _loop(statements[start:])
        yield from loop
        start += taken


def _loop(statements: list[Statement]) -> tuple[list[str], int]:
    """Return the text of the first statements, a loop where they repeat, and how many those are."""
    first = statements[0]
    best: tuple[list[str], int] = ([first.text.replace("HERE", "".join(first.path))], 1)
    for place, step in enumerate(first.path):
        if not re.fullmatch(r"\[\d+\]", step):
            continue
        groups: dict[int, list[Statement]] = {}
        for statement in statements:
            if statement.path[:place] != first.path[:place] or len(statement.path) <= place:
                break
            number = re.fullmatch(r"\[(\d+)\]", statement.path[place])
            if number is None:
                break
            rest = Statement(statement.path[place + 1 :], statement.text)
            index = int(number[1])
            if index in groups and index != next(reversed(groups)):
                break
            groups.setdefault(index, []).append(rest)
        block = groups[next(iter(groups))]
        alike = [index for index in groups if groups[index] == block]
        equal = alike[: next((n for n, i in enumerate(groups) if groups[i] != block), len(alike))]
        taken = len(block) * len(equal)
        if len(equal) >= 3 and taken > best[1]:
            prefix = "".join(first.path[:place])
            lines = [f"for index in {_range(equal)}:"]
            for rest in block:
                path = f"{prefix}[index]{''.join(rest.path)}"
                lines += ["    " + line for line in rest.text.replace("HERE", path).split("\n")]
            best = (lines, taken)
    return best


def _range(indices: list[int]) -> str:
    step = indices[1] - indices[0]
    if indices == list(range(indices[0], indices[-1] + 1, step)):
        if step == 1:
            return (
                f"range({indices[0]}, {indices[-1] + 1})"
                if indices[0]
                else f"range({indices[-1] + 1})"
            )
        return f"range({indices[0]}, {indices[-1] + 1}, {step})"
    return f"({', '.join(map(str, indices))})"

"""The random generators that data keep for themselves: in a Dataset, its transforms, a sampler."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from ..plain_objects import GENERATORS, GeneratorState, seed_generator

# Data may hold a list of a million samples: what holds generators holds few things.
_MOST_MEMBERS, _MOST_OBJECTS = 200, 2_000


class DataGenerators:
    """The generators that ``data`` draw from and nobody else knows of, as they were given.

    Those of the whole process are not among them: a run has a stream of its own of these.

    Args:
        data: a Dataset, a DataLoader or another iterable; looked through for generators in
            attributes, lists, dictionaries, closures and partial functions.
    """

    def __init__(self, data: object) -> None:
        self._beginnings = [(one, GeneratorState(one)) for one in _generators_in(data)]
        self._first_seed: int | None = None

    def restart(self, seed: int) -> None:
        """Put them where they were given; another seed than the first sets them by it."""
        if self._first_seed is None:
            self._first_seed = seed
        self._rewind(seed)

    def _rewind(self, seed: int) -> None:
        for generator, beginning in self._beginnings:
            if self._first_seed is None or seed == self._first_seed:
                beginning.put()
            else:
                seed_generator(generator, seed)

    @contextmanager
    def restarted(self, seed: int) -> Iterator[None]:
        """Have them as after ``restart(seed)`` inside the ``with``, and as they are after it."""
        present = [GeneratorState(generator) for generator, _ in self._beginnings]
        self._rewind(seed)
        try:
            yield
        finally:
            for state in present:
                state.put()


def _generators_in(data: object) -> list[Any]:
    of_the_process = {id(torch.default_generator), *_hidden_in(random), *_hidden_in(np.random)}
    found: list[Any] = []
    seen: set[int] = set()
    to_see = deque([data])
    while to_see and len(seen) < _MOST_OBJECTS:
        one = to_see.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not isinstance(one, GENERATORS):
            to_see.extend(_members(one))
        elif id(one) not in of_the_process and not isinstance(one, random.SystemRandom):
            found.append(one)
    return found


def _hidden_in(module: Any) -> set[int]:
    """Return the identities of the generators behind a module's functions."""
    return {id(getattr(one, "__self__", None)) for one in vars(module).values()}


def _members(value: Any) -> Iterable[Any]:
    """Return what is held by ``value`` and may be, or hold, a generator."""
    if isinstance(value, (torch.Tensor, np.ndarray, str, bytes, type)):
        return ()
    held: list[Any] = []
    if isinstance(value, functools.partial):
        held += [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        held.append(value.__self__)
    elif isinstance(value, FunctionType):
        held += [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    elif isinstance(value, (dict, list, tuple, set)):
        members = value.values() if isinstance(value, dict) else value
        held += list(members) if len(value) <= _MOST_MEMBERS else []
    return [*held, *getattr(value, "__dict__", {}).values()]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises where nothing has been put in yet
    except ValueError:
        return False
    return True

"""The worker processes behind a DataLoader: begun anew, and ended when nobody needs them."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable
from typing import Any, TypeGuard

from torch.utils.data import DataLoader


def keeps_workers(iterable: object) -> TypeGuard[DataLoader[Any]]:
    """Whether it is a DataLoader with persistent workers, which has only one iterator."""
    return isinstance(iterable, DataLoader) and iterable.persistent_workers


def end_workers(iterator: object) -> None:
    """End the processes behind an iterator, where it has any.

    They would go with it, but whoever has caught an exception that it raised holds it.
    """
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()


def begun(iterable: Iterable[Any]) -> Generator[Any, None, None]:
    """Go through an iterable from its beginning, and leave no process behind.

    A loader's only iterator keeps its place.
    """
    if keeps_workers(iterable):
        iterable = copy.copy(iterable)
        vars(iterable).update(_iterator=None, persistent_workers=False)
    iterator = iter(iterable)
    try:
        yield from iterator
    finally:
        end_workers(iterator)

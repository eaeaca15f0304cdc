"""Whether an iterable of batches has a length, and can be gone through again and again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .data_generators import DataGenerators
from .failure import FirstBatchError, described
from .randomness import RandomStream

_END = object()
# Where the iterators come from that only go on: generators, those of lists, zip, islice.
_NEVER_ANEW = ("builtins", "itertools")
_ENDLESS = (itertools.cycle, itertools.count, itertools.repeat)


def check_repeatable(data: Iterable[Any], name: str) -> None:
    """Begin to go through ``data`` twice, unless it is of a kind that is known to allow it.

    An iterator that begins anew when it is asked for itself passes where it has a length and
    the same random state brings the same first batch. Behind a DataLoader nothing is consumed.

    Raises:
        ValueError: it can be gone through only once.
        FirstBatchError: it raised something.
    """
    if isinstance(data, DataLoader) and _is_over_one_iterator(data):
        raise ValueError(
            f"{name} is a DataLoader that can be gone through only once: let __iter__ of its "
            f"{type(data.dataset).__name__} return a new iterator each time, or pass a list of "
            "batches."
        )
    if isinstance(data, (list, tuple, DataLoader, Dataset)):
        return
    if not isinstance(data, Iterator) or isinstance(data, Sized):
        try:
            (one, first), (other, second) = _begun(data), _begun(data)
        except Exception as error:
            raise FirstBatchError(
                f"{name} failed on the first batch with {described(error)}: "
                "pass a list of batches or a DataLoader."
            ) from error
        # That it is empty, where it is, has a sentence of its own.
        if first is _END or (second is not _END and one is not other):
            return
        if one is data and _alike(first, second):
            return
    raise ValueError(
        f"{name} can be gone through only once: pass a list of batches or a DataLoader."
    )


def _is_over_one_iterator(loader: DataLoader[Any]) -> bool:
    """Whether a loader's dataset hands out one and the same iterator, which can't begin anew.

    Worker processes each begin with a copy of it, and so each time anew.
    """
    dataset = loader.dataset
    if loader.num_workers or not isinstance(dataset, IterableDataset):
        return False
    try:
        with RandomStream(0, every_source=True)(), DataGenerators(dataset).restarted(0):
            like = copy.copy(dataset)  # it may count how often it was begun
            one, other = iter(like), iter(like)
    except Exception:  # it will raise that again when its first batch is asked for
        return False
    # One of any other class may begin anew whenever it is asked for.
    is_one = one is other and type(one).__module__ in _NEVER_ANEW
    return is_one and not isinstance(one, _ENDLESS)


def _begun(data: Iterable[Any]) -> tuple[Iterator[Any], Any]:
    """Return an iterator over ``data`` and its first batch."""
    with RandomStream(0, every_source=True)(), DataGenerators(data).restarted(0):
        iterator = iter(data)
        return iterator, next(iterator, _END)


def _alike(one: Any, other: Any) -> bool:
    """Whether two batches hold the same numbers."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one is other or bool(np.array_equal(one, other))


def length_of(data: object, name: str) -> int | None:
    """Return how many batches or samples there are; None where there is no telling.

    Raises:
        TypeError: its ``__len__`` fails.
    """
    if not isinstance(data, Sized):
        return None
    try:
        return len(data)
    except (TypeError, NotImplementedError):  # a DataLoader over a dataset without a length, say
        return None
    except Exception as error:
        raise TypeError(
            f"{name} has a length that can't be told ({described(error)}): let its __len__ return "
            "a whole number from 0."
        ) from error

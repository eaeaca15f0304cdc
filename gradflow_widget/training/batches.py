"""Batches: seeded sampling from tensors or a Dataset, or an iterable used as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sized
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate

from .data_generators import DataGenerators
from .loader_workers import begun, end_workers, keeps_workers
from .repeatable import check_repeatable, length_of

DEFAULT_BATCH_SIZE = 64


class NoBatchError(ValueError):
    """A pass over the data gave no batch at all, or a first one without a sample."""


class PictureError(TypeError):
    """A Dataset gives pictures, which no batch can hold before they are tensors."""


class Batches(Protocol):
    """Where a session's batches come from.

    Attributes:
        size: the number of samples; None where only batches are known.
    """

    size: int | None

    def restart(self, seed: int) -> None:
        """Go back to the start; ``seed`` decides the order."""

    def next(self, batch_size: int | None) -> Any:
        """Return the next batch."""

    def first(self, seed: int, batch_size: int | None) -> Any:
        """Return what ``next`` gives after ``restart(seed)``; the present place is kept."""


class IndexedBatches(Batches, Protocol):
    """Batches of samples that can be told apart by their index."""

    def rows(self, indices: torch.Tensor) -> Any:
        """Return the samples at ``indices``, shape (batch,), as a batch."""


class _Order:
    """A new seeded permutation for each epoch, handed out in pieces of any size.

    A piece that runs over the end of an epoch goes on in the next one, so that no batch is
    smaller than was asked for. A piece of the whole size is a whole epoch, each sample once:
    what was left of the one before is passed by.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size = size
        self._generator = torch.Generator("cpu")
        self.restart(seed)

    def restart(self, seed: int) -> None:
        self._generator.manual_seed(seed)
        self._permutation = torch.randperm(self._size, generator=self._generator, device="cpu")
        self._position = 0

    def take(self, count: int) -> torch.Tensor:
        if count == self._size and self._position:
            self._position = self._size
        stop = self._position + count
        if stop <= self._size:
            taken = self._permutation[self._position : stop]
            self._position = stop
            return taken
        rest = self._permutation[self._position :]
        self._permutation = torch.randperm(self._size, generator=self._generator, device="cpu")
        self._position = count - len(rest)
        return torch.cat([rest, self._permutation[: self._position]])


class TensorBatches:
    """Samples rows of a pair of tensors."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.size: int | None = len(inputs)
        self.inputs, self.targets = inputs, targets
        self._order = _Order(len(inputs))

    def restart(self, seed: int) -> None:
        """Go back to the start; ``seed`` decides the order."""
        self._order.restart(seed)

    def next(self, batch_size: int | None) -> Any:
        """Return the next batch: a pair of tensors."""
        return self.rows(self._order.take(batch_size or DEFAULT_BATCH_SIZE))

    def first(self, seed: int, batch_size: int | None) -> Any:
        """Return what ``next`` gives after ``restart(seed)``; the present place is kept."""
        order = _Order(len(self.inputs), seed)
        return self.rows(order.take(batch_size or DEFAULT_BATCH_SIZE))

    def rows(self, indices: torch.Tensor) -> Any:
        """Return the samples at ``indices`` as a pair of tensors."""
        return (
            self.inputs[indices.to(self.inputs.device)],
            self.targets[indices.to(self.targets.device)],
        )


class DatasetBatches:
    """Samples items of a map-style Dataset and collates them.

    Args:
        dataset: gives items by their index.
        size: how many.
        generators: those that the dataset draws from, where they are known already.
    """

    def __init__(
        self, dataset: Dataset[Any], size: int, generators: DataGenerators | None = None
    ) -> None:
        self.size: int | None = size
        self._size = size
        self.dataset = dataset
        self._order = _Order(size)
        self.generators = generators or DataGenerators(dataset)

    def restart(self, seed: int) -> None:
        """Go back to the start; ``seed`` decides the order."""
        self._order.restart(seed)
        self.generators.restart(seed)

    def next(self, batch_size: int | None) -> Any:
        """Return the next batch, collated as a DataLoader does."""
        return self.rows(self._order.take(batch_size or DEFAULT_BATCH_SIZE))

    def first(self, seed: int, batch_size: int | None) -> Any:
        """Return what ``next`` gives after ``restart(seed)``; the present place is kept."""
        with self.generators.restarted(seed):
            return self.rows(_Order(self._size, seed).take(batch_size or DEFAULT_BATCH_SIZE))

    def rows(self, indices: torch.Tensor) -> Any:
        """Return the items at ``indices``, collated as a DataLoader does."""
        items = [self.dataset[index] for index in indices.tolist()]
        try:
            return default_collate(items)
        except TypeError:
            if _holds_picture(items[0]):
                raise PictureError(
                    "data gives PIL images, which no batch can hold: give the dataset "
                    "transform=torchvision.transforms.ToTensor()."
                ) from None
            raise


class IterableBatches:
    """Goes through an iterable of batches again and again.

    Random generators of its own, as a DataLoader may have, begin from their state when it was
    given; another seed than the first one sets them.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.size: int | None = None
        self._iterable = iterable
        self._iterator: Iterator[Any] | None = None
        self._generators = DataGenerators(iterable)

    def restart(self, seed: int) -> None:
        """Begin a new pass; its order is the iterable's own, under the run's random state."""
        end_workers(self._iterator)
        self._iterator = None
        if keeps_workers(self._iterable):
            # Their random state would go on; a loader without an iterator starts them anew.
            self._iterable._iterator = None
        self._generators.restart(seed)

    def next(self, batch_size: int | None) -> Any:
        """Return the iterable's next batch as it is.

        Raises:
            NoBatchError: a new pass gave no batch at all.
        """
        if self._iterator is not None:
            batch = next(self._iterator, _END)
            if batch is not _END:
                return batch
        self._iterator = iter(self._iterable)
        return _first_of(self._iterator)

    def first(self, seed: int, batch_size: int | None) -> Any:
        """Return what ``next`` gives after ``restart(seed)``; the present place is kept."""
        iterable = self._iterable
        if isinstance(iterable, Iterator):  # that begins anew when asked for itself
            iterable = copy.copy(iterable)
        with self._generators.restarted(seed), closing(begun(iterable)) as batches:
            batch = _first_of(batches)
        check_filled(batch)
        return batch


def check_filled(batch: Any, name: str = "data") -> None:
    """Raise NoBatchError where the tensors that a batch is, or is made of, have no sample."""
    tensors = [part for part in _parts_of(batch) if isinstance(part, torch.Tensor)]
    if tensors and all(tensor.shape[:1] == (0,) for tensor in tensors):
        raise NoBatchError(
            f"{name} gave a batch without a sample, which has no loss: leave such batches out."
        )


def _holds_picture(item: Any) -> bool:
    """Whether an item is, or has among its parts, one of Pillow's images."""
    kinds = [parent for part in _parts_of(item) for parent in type(part).__mro__]
    return any(kind.__module__ == "PIL.Image" for kind in kinds)


def _parts_of(item: Any) -> Iterable[Any]:
    """Return what a mapping, a tuple or a list holds; of anything else that itself."""
    if isinstance(item, Mapping):
        return item.values()
    return item if isinstance(item, (tuple, list)) else (item,)


_END = object()
_NUMBERS = "fiubc"
"""Kinds of NumPy's dtypes that torch has too."""
# They can be gone through, but not in batches.
_NO_BATCHES = (torch.Tensor, np.ndarray, str, bytes, Mapping)


def _first_of(iterator: Iterator[Any]) -> Any:
    batch = next(iterator, _END)
    if batch is _END:
        raise no_batch_of("data")
    return batch


def no_batch_of(name: str) -> NoBatchError:
    """Return the error that the argument ``name`` gave no batch at all."""
    return NoBatchError(
        f"{name} gave no batch: it is empty or can be gone through only once; "
        "pass a list of batches or a DataLoader."
    )


def as_new(batches: Batches) -> Batches:
    """Return the same data with a place of its own; an iterable has only one, and is itself."""
    if isinstance(batches, TensorBatches):
        return TensorBatches(batches.inputs, batches.targets)
    if isinstance(batches, DatasetBatches):
        return DatasetBatches(batches.dataset, batches.size or 0, batches.generators)
    return batches


def _as_tensor(value: Any, name: str, floating: torch.dtype | None = None) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        if value.is_nested:
            raise TypeError(
                f"{name} holds a nested tensor, of which no rows can be chosen: "
                "give a Dataset or an iterable of batches."
            )
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _NUMBERS:
            raise TypeError(
                f"{name} holds an array of dtype {value.dtype}, which torch can't use: "
                "convert it to numbers."
            )
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
        # torch takes neither negative strides nor, without a warning, read-only memory.
        shareable = value.flags.writeable and all(stride >= 0 for stride in value.strides)
        tensor = torch.as_tensor(value if shareable else value.copy(), device="cpu")
        # NumPy's own numbers are float64, which hardly a model takes.
        is_double = tensor.dtype is torch.float64
        return tensor.to(floating or torch.get_default_dtype()) if is_double else tensor
    return None


def as_batches(data: Any, name: str = "data", floating: torch.dtype | None = None) -> Batches:
    """Return the batches that ``data`` stands for.

    Args:
        data: a pair of tensors (or arrays) of equal length, a Dataset with a length, or an
            iterable of batches such as a DataLoader.
        name: of the argument that it came from, for error messages.
        floating: what a pair of arrays in float64 is turned into; None: torch's default.

    Raises:
        TypeError: it is none of these.
        ValueError: lengths differ, there is no sample, or the iterable is one-shot.
        FirstBatchError: the iterable raised something.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2:
        inputs, targets = (_as_tensor(part, name, floating) for part in data)
        if inputs is not None and targets is not None:
            if inputs.dim() == targets.dim() == 0:
                raise ValueError(
                    f"{name} has inputs and targets of shape (), which are numbers and no samples: "
                    "give both a first dimension that goes through the samples."
                )
            if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
                raise ValueError(
                    f"{name} has inputs of shape {tuple(inputs.shape)} but targets of shape "
                    f"{tuple(targets.shape)}: both need the same length."
                )
            if len(inputs) == 0:
                raise ValueError(f"{name} is empty: give at least one sample.")
            return TensorBatches(inputs, targets)
        if (inputs is None) != (targets is None):
            kinds = " and ".join(type(part).__name__ for part in data)
            raise TypeError(f"{name} is a pair of {kinds}: give two tensors or two arrays.")
    if isinstance(data, IterableDataset):
        raise TypeError(
            f"{name} is an IterableDataset, whose items may be samples or batches: wrap it in a "
            "DataLoader, with batch_size=None where they are batches."
        )
    if isinstance(data, Dataset):
        size = length_of(data, name)
        if size is None:
            raise TypeError(f"{name} is a Dataset without a length: wrap it in a DataLoader.")
        if size == 0:
            raise ValueError(f"{name} is empty: give at least one sample.")
        return DatasetBatches(data, size)
    if _is_read_by_index(data):
        raise TypeError(
            f"{name} is a {type(data).__name__}, whose items may be samples or batches: wrap "
            "it in a DataLoader, with batch_size=None where they are batches."
        )
    if isinstance(data, _NO_BATCHES) or not isinstance(data, Iterable):
        raise TypeError(
            f"{name} must be a pair of tensors, a Dataset or an iterable of batches, "
            f"not {type(data).__name__}."
        )
    if length_of(data, name) == 0:
        raise ValueError(f"{name} is empty: give at least one batch.")
    batches = IterableBatches(data)
    check_repeatable(data, name)
    return batches


def _is_read_by_index(data: object) -> bool:
    """Whether ``data`` has items and a length, but no ``__iter__`` that goes through them."""
    has_items = isinstance(data, Sized) and hasattr(type(data), "__getitem__")
    return has_items and not isinstance(data, (*_NO_BATCHES, Iterable))


def on_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor in a (nested) batch to ``device``; numbers in arrays become tensors.

    What has nothing to move is handed on as it is.
    """
    if isinstance(batch, torch.Tensor):
        if batch.device == device:
            return batch
        # On the CPU it would be there before its values are.
        return batch.to(device, non_blocking=device.type != "cpu")
    if isinstance(batch, np.ndarray):
        # Names of files, say, go along with the numbers.
        tensor = _as_tensor(batch, "data") if batch.dtype.kind in _NUMBERS else None
        return batch if tensor is None else on_device(tensor, device)
    if callable(getattr(type(batch), "to", None)):  # no key of a dictionary with attributes
        return batch.to(device)
    if isinstance(batch, MutableMapping):
        moved = {key: on_device(value, device) for key, value in batch.items()}
        if all(moved[key] is batch[key] for key in moved):
            return batch
        try:
            twin = copy.copy(batch)
        except KeyError:
            # Before Python 3.11 a copy is asked for __getstate__, which a dictionary whose
            # members are attributes looks for among its keys.
            twin = type(batch).__new__(type(batch))
            vars(twin).update(vars(batch))
        twin.update(moved)
        return twin
    if isinstance(batch, (tuple, list)):
        members = [on_device(value, device) for value in batch]
        if all(new is old for new, old in zip(members, batch, strict=True)):
            return batch
        if hasattr(batch, "_fields"):
            return type(batch)(*members)
        if isinstance(batch, list):
            list_like = copy.copy(batch)
            list_like[:] = members
            return list_like
        return tuple(members)
    return batch

"""Shelf: small tensors of one shape, copied side by side as they come and measured together.

After a layer's forward or backward has run, the first call of any other operation costs
several times what it costs in a tight loop: its code and its data have left the caches. On
20 layers of 64 units the norms and shares of a full reading, taken layer by layer, cost two thirds
of a bare step; one copy for each layer, and the rest once, costs half of that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import torch

from .norms import exact_norms, trusted

# Copying more elements than this costs more than measuring them on the spot.
LARGEST = 32_768
# Beyond these tensors are measured on the spot, so that a long loop takes no more memory.
_MOST_ROWS = 256
_MOST_ELEMENTS = 2_000_000
# Shapes may change from batch to batch: shelves with more bytes in all are made anew.
_MOST_BYTES = 32_000_000
_DTYPES = (torch.float32, torch.float64)

Owner = TypeVar("Owner")


class Shelf(Generic[Owner]):
    """Copies of tensors of one shape and dtype, each with who it is of.

    Args:
        like: a tensor of that kind.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._memory = torch.empty((8, *like.shape), dtype=like.dtype, device="cpu")
        self._places = self._memory.unbind()
        self.owners: list[Owner] = []

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self._memory.nbytes

    @property
    def rows(self) -> torch.Tensor:
        """The tensors, shape (rows, ...); good until the shelf is cleared."""
        return self._memory[: len(self.owners)]

    def put(self, owner: Owner, values: torch.Tensor) -> None:
        """Copy ``values``, which have no graph, into the next row."""
        place = len(self.owners)
        if place == len(self._places):
            memory = self._memory.new_empty((2 * place, *self._memory.shape[1:]))
            memory[:place] = self._memory
            self._memory, self._places = memory, memory.unbind()
        self._places[place].copy_(values)
        self.owners.append(owner)

    def norms(self) -> list[float]:
        """Return the L2 norm of each row."""
        rows = self.rows.reshape(len(self.owners), -1)
        norms: list[float] = torch.linalg.vector_norm(rows, dim=1).tolist()
        for row, norm in enumerate(norms):
            if not trusted(norm):
                norms[row] = exact_norms([rows[row]])[0].item()
        return norms


class Shelves(Generic[Owner]):
    """A shelf for each kind of small tensor on the CPU."""

    def __init__(self) -> None:
        self._shelves: dict[tuple[torch.Size, torch.dtype, Hashable], Shelf[Owner]] = {}

    def put(self, owner: Owner, values: torch.Tensor, kind: Hashable = None) -> bool:
        """Take a tensor in; False where it is to be measured on the spot.

        Args:
            owner: who it is of.
            values: the tensor, without a graph.
            kind: tensors of different kinds come on shelves of their own.
        """
        if not (0 < values.numel() <= LARGEST and _is_plain(values)):
            return False
        key = values.shape, values.dtype, kind
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = Shelf(values)
        if len(shelf.owners) >= min(_MOST_ROWS, _MOST_ELEMENTS // values.numel()):
            return False
        shelf.put(owner, values)
        return True

    def filled(self) -> Iterator[tuple[Hashable, Shelf[Owner]]]:
        """Go through the shelves that hold anything, with their kinds."""
        for (_, _, kind), shelf in self._shelves.items():
            if shelf.owners:
                yield kind, shelf

    def clear(self) -> None:
        """Empty every shelf; its memory stays for the next tensors."""
        if sum(shelf.nbytes for shelf in self._shelves.values()) > _MOST_BYTES:
            self._shelves = {}
        for shelf in self._shelves.values():
            shelf.owners.clear()


def _is_plain(values: torch.Tensor) -> bool:
    """Whether a tensor can be copied like any other: none of a transform's or a subclass's."""
    return (
        type(values) is torch.Tensor
        and values.dtype in _DTYPES
        and values.device.type == "cpu"
        and values.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(values)
    )

"""What single values hold, to be put back: tensors, arrays, random generators, iterators."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..iterators import at_the_same_place
from ..plain_objects import GeneratorState
from .tensor_values import differ


class Content(Protocol):
    """What something holds, to be put back."""

    def put_back(self) -> Any:
        """Put it back, and return what is to stand there: the same object where that can be."""

    def written_into(self, twin: Any) -> Any:
        """Write it into a copy as far as that goes, and return what is to stand there."""


class TensorContent:
    """The values of a tensor outside of any graph."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._values = tensor, tensor.detach().clone()

    def put_back(self) -> torch.Tensor:
        """Put the values back."""
        if differ(self._tensor, self._values):
            with torch.no_grad():
                if self._tensor.shape != self._values.shape:
                    self._tensor.resize_(self._values.shape)
                self._tensor.copy_(self._values)
        return self._tensor

    def written_into(self, twin: Any) -> Any:
        """Give a copy the values."""
        if not isinstance(self._tensor, nn.Parameter):
            return self._values.clone()
        if isinstance(twin, nn.Parameter) and twin is not self._tensor:
            with torch.no_grad():
                if twin.shape == self._values.shape:
                    twin.copy_(self._values)
        return twin


class ArrayContent:
    """The numbers of one of :data:`ARRAYS`."""

    def __init__(self, array: Any) -> None:
        self._array, self._numbers = array, copy.copy(array)

    def put_back(self) -> Any:
        """Put the numbers back."""
        if not isinstance(self._array, np.ndarray):
            self._array[:] = self._numbers
        elif self._array.flags.writeable:
            np.copyto(self._array, self._numbers)
        return self._array

    def written_into(self, _: Any) -> Any:
        """Give a copy the numbers."""
        return copy.copy(self._numbers)


class GeneratorContent(GeneratorState):
    """The state of a random generator."""

    def put_back(self) -> Any:
        """Put the state back."""
        self.put()
        return self.generator

    def written_into(self, twin: Any) -> Any:
        """Give a copy the state."""
        self.write_into(twin)
        return twin


class IteratorContent:
    """The place where an iterator stands."""

    def __init__(self, iterator: Any) -> None:
        self._iterator, self._then = iterator, at_the_same_place(iterator)

    def put_back(self) -> Any:
        """Return one that stands there, for its place."""
        return self.written_into(self._iterator)

    def written_into(self, twin: Any) -> Any:
        """Return one that stands there, for a copy of its."""
        return twin if self._then is None else at_the_same_place(self._then)

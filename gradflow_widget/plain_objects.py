"""What users keep in attributes: which of it has a state that can be read and put back."""

from __future__ import annotations

import numbers
import random
from collections import deque
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Random generators, whose state can be read and set."""

_PLAIN_VALUES = (
    type(None),
    numbers.Number,
    str,
    bytes,
    type,
    FunctionType,
    BuiltinFunctionType,
    np.ndarray,
    torch.dtype,
    torch.device,
    *GENERATORS,
)
_CONTAINERS = (list, dict, set, tuple, deque)
_MOST_ATTRIBUTES, _DEEPEST = 100, 2


def is_plain_object(value: object, _depth: int = 0) -> bool:
    """Whether all that an object knows is in its attributes, and these are values alone.

    Such as a schedule that counts its calls; not what holds a model, a file or a thread, is more
    than its attributes, or is copied in a way of its own.
    """
    kind = type(value)
    if not (
        hasattr(value, "__dict__")
        and kind.__module__.partition(".")[0] not in ("builtins", "torch", "numpy")
        and kind.__reduce__ is object.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__setattr__ is object.__setattr__
        and not any(hasattr(kind, name) for name in ("__del__", "__setstate__", "__iter__"))
    ):
        return False
    attributes = vars(value)
    return len(attributes) <= _MOST_ATTRIBUTES and all(
        isinstance(one, _PLAIN_VALUES)
        or type(one) is torch.Tensor
        or type(one) in _CONTAINERS
        or (_depth < _DEEPEST and is_plain_object(one, _depth + 1))
        for one in attributes.values()
    )


class GeneratorState:
    """The state of one of :data:`GENERATORS`, to be put back."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        if isinstance(generator, torch.Generator):
            self._state: Any = generator.get_state()
        elif isinstance(generator, np.random.Generator):
            self._state = generator.bit_generator.state
        elif isinstance(generator, np.random.RandomState):
            self._state = generator.get_state()
        else:
            self._state = generator.getstate()

    def put(self) -> None:
        """Give the generator this state again."""
        self.write_into(self._generator)

    def write_into(self, generator: Any) -> None:
        """Give it to another generator of the same kind."""
        if isinstance(generator, torch.Generator):
            generator.set_state(self._state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = self._state
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(self._state)
        else:
            generator.setstate(self._state)


def seed_generator(generator: Any, seed: int) -> None:
    """Set one of :data:`GENERATORS` to the state that ``seed`` stands for."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        kind: Any = type(generator.bit_generator)
        generator.bit_generator.state = kind(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    else:
        generator.seed(seed)

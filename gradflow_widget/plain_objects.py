"""What users keep in attributes: which of it has a state that can be read and put back."""

from __future__ import annotations

import numbers
import random
from array import array
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from .iterators import at_the_same_place, is_iterator

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Random generators, whose state can be read and set."""
ARRAYS = (np.ndarray, bytearray, array)
"""What holds numbers in a row, which can be copied and written over."""
MAPPINGS = (dict, Counter, defaultdict, OrderedDict)
"""Python's own mappings that a pass may write into."""
NOTHING_BUT_ATTRIBUTES = (SimpleNamespace, UserDict, UserList)
"""Python's own that are but their attributes, though they are copied in ways of their own."""
MOST_LEVELS, MOST_MEMBERS, MOST_BYTES = 6, 100, 64_000_000
"""So deep a container is looked into, where it has no more members than this, and an array copied
where it has no more bytes: what is larger is data, which no pass changes."""

_PLAIN_VALUES = (
    type(None),
    numbers.Number,
    str,
    bytes,
    type,
    FunctionType,
    BuiltinFunctionType,
    torch.dtype,
    torch.device,
    *ARRAYS,
    *GENERATORS,
)
_CONTAINERS = (list, set, tuple, deque, *MAPPINGS)
_WAYS_OF_ITS_OWN = ("__del__", "__setstate__", "__iter__", "__copy__", "__deepcopy__")
_MOST_ATTRIBUTES, _DEEPEST = 100, 2


def is_plain_object(value: object, _depth: int = 0) -> bool:
    """Whether all that an object knows is in its attributes, and these are values alone.

    Such as a schedule that counts its calls; not what holds a model, a file or a thread, is more
    than its attributes, or is copied in a way of its own.
    """
    kind = type(value)
    if not (kind in NOTHING_BUT_ATTRIBUTES or has_no_ways_of_its_own(value)):
        return False
    attributes = attributes_of(value)
    return len(attributes) <= _MOST_ATTRIBUTES and all(
        isinstance(one, _PLAIN_VALUES)
        or type(one) is torch.Tensor
        or type(one) in _CONTAINERS
        or (is_iterator(one) and at_the_same_place(one) is not None)
        or (_depth < _DEEPEST and is_plain_object(one, _depth + 1))
        for one in attributes.values()
    )


def has_no_ways_of_its_own(value: object) -> bool:
    """Whether an object of a user's class is copied and written to as any object is."""
    kind = type(value)
    options = getattr(kind, "__dataclass_params__", None)
    return (
        (hasattr(value, "__dict__") or any("__slots__" in vars(base) for base in kind.__mro__))
        and kind.__module__.partition(".")[0] not in ("builtins", "torch", "numpy")
        and kind.__reduce__ is object.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        # A frozen dataclass's own does nothing but refuse.
        and (kind.__setattr__ is object.__setattr__ or (options is not None and options.frozen))
        and not any(hasattr(kind, name) for name in _WAYS_OF_ITS_OWN)
    )


def attributes_of(value: object) -> dict[str, Any]:
    """Return an object's attributes by name, those in slots among them."""
    slots = {
        name
        for base in type(value).__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType) and hasattr(value, name)
    }
    return {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots}}


def bytes_of(value: Any) -> int:
    """Return how much memory one of :data:`ARRAYS` takes."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) * getattr(value, "itemsize", 1)


class GeneratorState:
    """The state of one of :data:`GENERATORS`, to be put back.

    Attributes:
        generator: whose state it is.
    """

    def __init__(self, generator: Any) -> None:
        self.generator = generator
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
        self.write_into(self.generator)

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

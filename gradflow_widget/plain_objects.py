"""What users keep in attributes: which of it has a state that can be read and put back."""

from __future__ import annotations

import numbers
import random
from collections import deque
from types import BuiltinFunctionType, FunctionType

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

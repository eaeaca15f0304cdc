"""Plain values as source."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any

import torch


class Unwritable(ValueError):
    """A value, class or module that can't be written down as source; the sentence says which."""


_EXACT = (bool, int, bytes, type(None))


def quoted(text: str) -> str:
    """Return source of a string, in double quotes where that takes no escapes."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if '"' not in plain and plain[0] == "'" else plain


def written(value: Any, refer: Callable[[Any], str]) -> str:
    """Return source that makes a value equal to ``value``.

    Args:
        value: numbers, text, None, torch's dtypes and devices, enumerations, dataclasses, classes
            and functions, and lists, tuples, sets and dictionaries of these.
        refer: names a class or a function.

    Raises:
        Unwritable: it is something else.
    """

    def inner(part: Any) -> str:
        return written(part, refer)

    kind = type(value)
    if kind is str:
        return quoted(value)
    if kind in _EXACT:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if kind in (list, tuple, torch.Size, set):
        parts = [inner(part) for part in (sorted(value, key=repr) if kind is set else value)]
        if kind is list:
            return f"[{', '.join(parts)}]"
        if kind is set:
            return f"{{{', '.join(parts)}}}" if parts else "set()"
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    if kind is dict:
        return f"{{{', '.join(f'{inner(key)}: {inner(part)}' for key, part in value.items())}}}"
    if kind in (torch.dtype, torch.memory_format):
        return str(value)
    if kind is torch.device:
        return f'torch.device("{value}")'
    if isinstance(value, enum.Enum):
        return f"{refer(kind)}.{value.name}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value, refer)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
        return refer(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == () and kind is not torch.Tensor:
        return inner(value.item())  # a number of NumPy's
    raise Unwritable(f"a value of class {kind.__name__} can't be written as source")


def _dataclass(value: Any, refer: Callable[[Any], str]) -> str:
    given: list[str] = []
    for field in dataclasses.fields(value):
        present = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.init and (default is dataclasses.MISSING or not same(present, default)):
            given.append(f"{field.name}={written(present, refer)}")
    return f"{refer(type(value))}({', '.join(given)})"


def same(one: Any, other: Any) -> bool:
    """Return whether two values are alike, where classes may have been defined twice."""
    if one is other:
        return True
    if callable(one) and callable(other):
        names = [
            getattr(each, "__qualname__", getattr(each, "__name__", "")) for each in (one, other)
        ]
        return bool(names[0]) and names[0] == names[1]
    if type(one) is bool or type(other) is bool:
        return type(one) is type(other) and bool(one == other)
    try:
        if bool(one == other):
            return True
    except (RuntimeError, ValueError, TypeError):  # arrays and tensors
        return False
    # float("nan") is not equal to itself; a dataclass that was defined twice not to its like.
    return type(one).__name__ == type(other).__name__ and repr(one) == repr(other)

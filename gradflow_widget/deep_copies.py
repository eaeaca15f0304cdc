"""Deep copies in which functions refer to what was copied too.

``copy.deepcopy`` leaves functions as they are. In a copy of a block that says
``self.mlpf = lambda x: mlp(x)``, as minGPT's does, the lambda would go on calling the layers of the
block that was copied.
"""

from __future__ import annotations

import copy
import functools
import gc
from collections import deque
from collections.abc import Container, Iterable
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

from .plain_objects import (
    MAPPINGS,
    NOTHING_BUT_ATTRIBUTES,
    attributes_of,
    has_no_ways_of_its_own,
)

T = TypeVar("T")

_HAVE_NO_PARTS = (
    type(None),
    int,
    float,
    complex,
    str,
    bytes,
    type,
    ModuleType,
    torch.Tensor,
)
_OF_MODULES = ("_parameters", "_buffers", "_modules")
_OURS = "_gradflow_"
_CACHED = functools._lru_cache_wrapper
_EMPTY = CellType()
# What refers to a model does so within a few steps, and holds no more layers than this; what goes
# on for longer, or is longer, is somebody else's data: a vocabulary that each block knows.
_MOST_STEPS = 1_000


def deep_copy(value: T, memo: dict[int, Any]) -> T:
    """Return a deep copy, as ``copy.deepcopy(value, memo)`` does, whose functions are its own.

    A function that leads to nothing copied, in its closure, its defaults or its attributes, stays
    the same object. One that names the copied by a global variable does too.

    Raises:
        TypeError: something callable leads to the copied that can't be made anew.
    """
    twin = copy.deepcopy(value, memo)
    refer_to_twins(memo)
    return twin


def refer_to_twins(memo: dict[int, Any]) -> None:
    """Let what functions refer to in the twins be the twins too.

    Args:
        memo: the twins by the ``id`` of what they were made from, as in a deepcopy's memo; the
            functions made anew are added.

    Raises:
        TypeError: something callable leads to what has a twin, and can't be made anew.
    """
    # A deepcopy keeps what it has copied alive by a list in its own memo.
    twins = [twin for key, twin in memo.items() if id(twin) != key and key != id(memo)]
    _Twins(twins, memo).fill_holders()


def refer_to_new(model: nn.Module, replaced: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Let what a model's modules hold in attributes be the new modules, in functions and lists too.

    What is registered, and what tweaks keep to be undone, stays, and so does what the old modules
    hold themselves: the new may have them within.

    Args:
        model: it has the new modules already in the place of the old.
        replaced: pairs of an old module and a new one.

    Raises:
        TypeError: something callable leads to an old one, and can't be made anew.
    """
    pairs = list(replaced)
    if pairs:
        twins = _Twins(model.modules(), {id(old): new for old, new in pairs})
        twins.fill_holders(but={id(part) for old, _ in pairs for part in old.modules()})


class _Twins:
    def __init__(self, holders: Iterable[Any], memo: dict[int, Any]) -> None:
        self._memo = memo
        # What refers to nothing is not tracked: words and numbers, of which there may be many.
        self._holders = [one for one in holders if gc.is_tracked(one) and _holds_by_key(one)]
        self._done = {id(holder) for holder in self._holders}
        # What is let go of would give its id away.
        self._kept: list[Any] = []
        self._leading_nowhere: dict[int, Any] = {}

    def fill_holders(self, but: Container[int] = ()) -> None:
        for holder in self._holders:
            if id(holder) not in but:
                self._fill(holder, _items_of(holder, registered=False))

    def of(self, value: Any) -> Any:
        """Return the twin of ``value``, ``value`` itself where it leads to nothing that has one."""
        if self._has_twin(value):
            return self._memo[id(value)]
        # Most of what a module has are numbers and empty dicts of hooks.
        if not gc.is_tracked(value) or (isinstance(value, MAPPINGS) and not value):
            return value
        return self._made(value) if self._leads_to_twins(value) else value

    def _has_twin(self, value: Any) -> bool:
        return self._memo.get(id(value), value) is not value

    def _leads_to_twins(self, value: Any) -> bool:
        met: dict[int, Any] = {}
        waiting = deque([value])
        while waiting:
            one = waiting.popleft()
            if (
                isinstance(one, _HAVE_NO_PARTS)
                or id(one) in met
                or id(one) in self._done
                or id(one) in self._leading_nowhere
            ):
                continue
            if len(met) == _MOST_STEPS:
                # That tells nothing of the parts; the whole need not be gone through again.
                self._leading_nowhere[id(value)] = value
                return False
            met[id(one)] = one
            parts = list(_parts_of(one))
            if any(map(self._has_twin, parts)):
                return True
            waiting.extend(filter(gc.is_tracked, parts))
        self._leading_nowhere.update(met)
        return False

    def _made(self, value: Any) -> Any:
        """Return a new twin of what leads to twins."""
        self._kept.append(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            twin: Any = MethodType(self.of(value.__func__), self.of(value.__self__))
        elif isinstance(value, BuiltinMethodType):
            twin = getattr(self.of(value.__self__), value.__name__)
        elif isinstance(value, functools.partial):
            arguments = map(self.of, value.args)
            twin = type(value)(self.of(value.func), *arguments, **self.of(value.keywords))
        elif isinstance(value, _CACHED):
            twin = functools.lru_cache(**value.cache_parameters())(self.of(value.__wrapped__))
        elif isinstance(value, tuple):
            make = getattr(type(value), "_make", type(value))  # a namedtuple takes them one by one
            twin = make(map(self.of, value))
            for name, one in attributes_of(value).items():
                object.__setattr__(twin, name, self.of(one))
        elif type(value) in (set, frozenset):
            twin = type(value)(map(self.of, value))
        elif _holds_by_key(value):
            twin = self._memo[id(value)] = copy.copy(value)
            self._fill(twin, _items_of(value))
        else:
            raise TypeError(
                f"a {type(value).__name__} in it refers to its parts, and can't be made to refer "
                "to those of a copy"
            )
        self._memo[id(value)] = twin
        return twin

    def _fill(self, holder: Any, items: Iterable[tuple[Any, Any]]) -> None:
        """Let ``holder`` hold the twins of what is among ``items``."""
        for key, one in items:
            new = self.of(one)
            if new is one:
                continue
            if isinstance(holder, (*MAPPINGS, list, deque)):
                holder[key] = new
            else:
                object.__setattr__(holder, key, new)  # frozen ones too

    def _function(self, old: FunctionType) -> FunctionType:
        cells = [
            self._memo.setdefault(id(cell), CellType()) if self._leads_to_twins(cell) else cell
            for cell in old.__closure__ or ()
        ]
        new = FunctionType(old.__code__, old.__globals__, old.__name__, closure=tuple(cells))
        self._memo[id(old)] = new  # it may be in its own closure
        for cell, before in zip(cells, old.__closure__ or (), strict=True):
            if cell is not before:
                cell.cell_contents = self.of(before.cell_contents)
        new.__defaults__ = self.of(old.__defaults__)
        new.__kwdefaults__ = self.of(old.__kwdefaults__)
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(new, name, getattr(old, name))
        new.__dict__.update({name: self.of(value) for name, value in old.__dict__.items()})
        return new


def _items_of(value: Any, *, registered: bool = True) -> list[tuple[Any, Any]]:
    """Return what a container or an object holds, by key, place or name."""
    if isinstance(value, (*MAPPINGS, list, deque)):
        if len(value) > _MOST_STEPS:
            return []
        return list(value.items() if isinstance(value, MAPPINGS) else enumerate(value))
    attributes = attributes_of(value)
    if registered or not isinstance(value, nn.Module):
        return list(attributes.items())
    return [
        (name, one)
        for name, one in attributes.items()
        if name not in _OF_MODULES and not name.startswith(_OURS)
    ]


def _holds_by_key(value: Any) -> bool:
    """Whether what it holds can be exchanged one by one: by key, by place or as an attribute."""
    kind = type(value)
    if isinstance(value, _HAVE_NO_PARTS) or kind in (functools.partial, _CACHED):
        return False
    if kind in (list, deque, *MAPPINGS, *NOTHING_BUT_ATTRIBUTES) or has_no_ways_of_its_own(value):
        return True
    return (
        callable(value)
        and hasattr(value, "__dict__")
        and not isinstance(value, FunctionType | MethodType | BuiltinMethodType)
    )


def _parts_of(value: Any) -> Iterable[Any]:
    """Return what a value holds by which it may compute."""
    if isinstance(value, FunctionType):
        attributes = value.__dict__.values()
        return [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, *attributes]
    if isinstance(value, CellType):
        return [value.cell_contents] if value != _EMPTY else []
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, BuiltinMethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, value.keywords]
    if isinstance(value, _CACHED):
        return [value.__wrapped__]
    if isinstance(value, tuple | set | frozenset):
        return value
    if _holds_by_key(value) or isinstance(value, (*MAPPINGS, list, deque)):
        return [one for _, one in _items_of(value)]
    return gc.get_referents(value) if callable(value) else []

"""What modules keep in plain attributes: counters, hidden states, lists of outputs."""

from __future__ import annotations

import copy
import numbers
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..iterators import at_the_same_place, is_iterator
from ..plain_objects import (
    ARRAYS,
    GENERATORS,
    GeneratorState,
    attributes_of,
    bytes_of,
    is_plain_object,
)
from .tensor_values import differ

# What every module has: parameters, buffers and submodules are others' concern.
_EVERY_MODULE_HAS = frozenset(nn.Module().__dict__)
# A container is looked into so deep, where it has no more members than this, and an array copied
# where it has no more bytes: what is larger is data, which no pass changes.
_DEEPEST, _MOST_MEMBERS, _MOST_BYTES = 6, 100, 64_000_000
VALUES = (type(None), str, bytes, numbers.Number, torch.Size)
"""What has no content of its own: another value takes its place."""


class PlainAttributes:
    """The plain attributes of modules as they are now, to be put back.

    A forward pass may count its calls, keep a hidden state for the next one or append to a
    list. Each attribute comes back as the same object, an iterator as one that stands where it
    stood; of tensors outside a graph, arrays, random generators, lists, dictionaries, sets and
    plain objects, such as a schedule, the content comes back too, and of what lies in them down
    to a few levels.

    Args:
        modules: whose.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        known: set[int] = set()
        self._kept = [
            (module, {name: (one, content_of(one, known)) for name, one in _plain(module).items()})
            for module in modules
        ]

    def restore(self) -> None:
        """Put them back, and take away those that have come since."""
        for module, kept in self._kept:
            for name in _plain(module).keys() - kept.keys():
                del module.__dict__[name]
            for name, (value, content) in kept.items():
                module.__dict__[name] = value if content is None else content.put_back()

    def write_into(self, twin: nn.Module) -> None:
        """Give a copy of the model, made since, what of it are numbers, texts and the like."""
        for module, (_, kept) in zip(twin.modules(), self._kept, strict=True):
            _write(module.__dict__, kept, _plain(module).keys() - kept.keys())


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in _EVERY_MODULE_HAS and not name.startswith("_gradflow")
    }


class Content(Protocol):
    """What something holds, to be put back."""

    def put_back(self) -> Any:
        """Put it back, and return what is to stand there: the same object where that can be."""

    def written_into(self, twin: Any) -> Any:
        """Write it into a copy as far as that goes, and return what is to stand there."""


def content_of(value: Any, known: set[int], depth: int = 0) -> Content | None:
    """Return the content of ``value``; None where it has none of its own.

    Args:
        value: some attribute.
        known: the containers and objects whose content is kept already; these are added.
        depth: how many containers deep it lies.
    """
    if type(value) is torch.Tensor:
        is_apart = value.grad_fn is None and value.layout is torch.strided
        return _Tensor(value) if is_apart and not value.is_inference() else None
    if isinstance(value, ARRAYS):
        return _Array(value) if bytes_of(value) <= _MOST_BYTES else None
    if isinstance(value, GENERATORS):
        return _Generator(value)
    if is_iterator(value):
        return _Iterator(value)
    is_container = isinstance(value, list | dict | set | deque | tuple)
    if id(value) in known or not (is_container or is_plain_object(value)):
        return None
    known.add(id(value))
    return (_Container if is_container else _Object)(value, depth, known)


def _inside(members: Any, depth: int, known: set[int]) -> dict[Any, Content]:
    """Return the contents of those members, by place, that have any and are looked into."""
    if depth == _DEEPEST or len(members) > _MOST_MEMBERS:
        return {}
    contents = {place: content_of(one, known, depth + 1) for place, one in _by_place(members)}
    return {place: content for place, content in contents.items() if content is not None}


def _by_place(members: Any) -> Iterable[tuple[Any, Any]]:
    return members.items() if isinstance(members, dict) else enumerate(members)


def _write(
    into: dict[Any, Any], kept: dict[Any, tuple[Any, Content | None]], since: Iterable[Any]
) -> None:
    """Write what is kept into the attributes of a copy, without those that came since."""
    for name in since:
        del into[name]
    for name, (value, content) in kept.items():
        if isinstance(value, VALUES):
            into[name] = value
        elif content is not None and name in into:
            into[name] = content.written_into(into[name])


class _Tensor:
    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._values = tensor, tensor.detach().clone()

    def put_back(self) -> torch.Tensor:
        if differ(self._tensor, self._values):
            with torch.no_grad():
                if self._tensor.shape != self._values.shape:
                    self._tensor.resize_(self._values.shape)
                self._tensor.copy_(self._values)
        return self._tensor

    def written_into(self, _: Any) -> torch.Tensor:
        return self._values.clone()


class _Array:
    def __init__(self, array: Any) -> None:
        self._array, self._numbers = array, copy.copy(array)

    def put_back(self) -> Any:
        if not isinstance(self._array, np.ndarray):
            self._array[:] = self._numbers
        elif self._array.flags.writeable:
            np.copyto(self._array, self._numbers)
        return self._array

    def written_into(self, _: Any) -> Any:
        return copy.copy(self._numbers)


class _Generator(GeneratorState):
    def put_back(self) -> Any:
        self.put()
        return self.generator

    def written_into(self, twin: Any) -> Any:
        self.write_into(twin)
        return twin


class _Iterator:
    def __init__(self, iterator: Any) -> None:
        self._iterator, self._then = iterator, at_the_same_place(iterator)

    def put_back(self) -> Any:
        return self.written_into(self._iterator)

    def written_into(self, twin: Any) -> Any:
        return twin if self._then is None else at_the_same_place(self._then)


class _Object:
    def __init__(self, value: object, depth: int, known: set[int]) -> None:
        self._object, self._attributes = value, attributes_of(value)
        self._inside = _inside(self._attributes, depth, known)

    def put_back(self) -> object:
        for since in attributes_of(self._object).keys() - self._attributes.keys():
            delattr(self._object, since)
        for name, one in self._attributes.items():
            content = self._inside.get(name)
            setattr(self._object, name, one if content is None else content.put_back())
        return self._object

    def written_into(self, twin: Any) -> Any:
        if twin is self._object:  # which no copy is to be had of
            return twin
        now = attributes_of(twin)
        since = now.keys() - self._attributes.keys()
        kept = {name: (one, self._inside.get(name)) for name, one in self._attributes.items()}
        _write(now, kept, since)
        for name in since:
            delattr(twin, name)
        for name, one in now.items():
            setattr(twin, name, one)
        return twin


class _Container:
    def __init__(self, container: Any, depth: int, known: set[int]) -> None:
        self._container = container
        self._members: Any = dict(container) if isinstance(container, dict) else list(container)
        self._inside = _inside(self._members, depth, known)

    def put_back(self) -> Any:
        members = copy.copy(self._members)
        for place, content in self._inside.items():
            members[place] = content.put_back()
        _fill(self._container, members)
        return self._container

    def written_into(self, twin: Any) -> Any:
        if isinstance(twin, set) or type(twin) is not type(self._container):
            return twin
        if twin is self._container and not isinstance(twin, tuple):
            return twin
        now = dict(_by_place(twin))
        kept = {place: (one, self._inside.get(place)) for place, one in _by_place(self._members)}
        _write(now, kept, now.keys() - kept.keys())
        if now.keys() == kept.keys():
            in_order = {place: now[place] for place in kept}
            if type(twin) is tuple:
                return tuple(in_order.values())
            _fill(twin, in_order if isinstance(twin, dict) else list(in_order.values()))
        return twin


def _fill(container: Any, members: Any) -> None:
    """Let a container have these members, in their order."""
    if isinstance(container, dict):
        if list(container) == list(members):
            dict.update(container, members)
            return
        container.clear()
        for key, one in members.items():
            container[key] = one
    elif isinstance(container, list):
        container[:] = members
    elif isinstance(container, set | deque):
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(members)

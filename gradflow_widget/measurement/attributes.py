"""What modules hold, and keep in plain attributes: counters, hidden states, lists of outputs."""

from __future__ import annotations

import copy
import numbers
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..iterators import is_iterator
from ..plain_objects import (
    ARRAYS,
    GENERATORS,
    MOST_BYTES,
    MOST_LEVELS,
    MOST_MEMBERS,
    NOTHING_BUT_ATTRIBUTES,
    attributes_of,
    bytes_of,
    is_plain_object,
)
from .tensor_values import differ
from .value_contents import (
    ArrayContent,
    Content,
    GeneratorContent,
    IteratorContent,
    TensorContent,
)

# What every module has: parameters, buffers and submodules are others' concern.
_EVERY_MODULE_HAS = frozenset(nn.Module().__dict__)
VALUES = (type(None), str, bytes, numbers.Number, torch.Size)
"""What has no content of its own: another value takes its place."""
# A copy of more weights than these may be more than a device has room for.
_MOST_WEIGHTS = 300_000_000


class Known:
    """What is kept already, so that nothing is kept twice.

    Args:
        keeps_modules: whether modules and parameters that lie in attributes are kept too.

    Attributes:
        keeps_modules: as above.
        tensors: those whose values are kept.
    """

    def __init__(self, *, keeps_modules: bool = True) -> None:
        self.keeps_modules = keeps_modules
        self.tensors: list[torch.Tensor] = []
        self._identities: set[int] = set()

    def __contains__(self, one: object) -> bool:
        """Whether that very object is kept."""
        return id(one) in self._identities

    def add(self, one: object) -> None:
        """Note that it is kept."""
        self._identities.add(id(one))

    def add_modules(self, modules: Iterable[nn.Module]) -> None:
        """Note modules, each without its children, and their parameters."""
        for module in modules:
            self.add(module)
            for parameter in module.parameters(recurse=False):
                self.add(parameter)


def have_room(modules: Iterable[nn.Module]) -> bool:
    """Whether all weights of modules, each without its children, are few enough to be copied."""
    own = (parameter for module in modules for parameter in module.parameters(recurse=False))
    return sum(one.numel() for one in own if not is_lazy(one)) <= _MOST_WEIGHTS


class PlainAttributes:
    """The plain attributes of modules as they are now, to be put back.

    A forward pass may count its calls, keep a hidden state for the next one or append to a
    list. Each attribute comes back as the same object, an iterator as one that stands where it
    stood; of tensors outside a graph, arrays, random generators, lists, dictionaries, sets and
    plain objects, such as a schedule, the content comes back too, and of what lies in them down
    to a few levels. So does all that a module or a parameter holds that lies there, where it is
    none of the model's: such as a teacher in a list, which hides it from ``parameters()``.

    Args:
        modules: whose.
        known: what is kept already; they and what they hold are added.
    """

    def __init__(self, modules: Iterable[nn.Module], known: Known | None = None) -> None:
        known, modules = known or Known(), list(modules)
        known.add_modules(modules)
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

    def write_into(self, twins: Iterable[nn.Module]) -> None:
        """Give copies of the modules, made since, what of it are numbers, texts and the like."""
        for module, (_, kept) in zip(twins, self._kept, strict=True):
            _write(module.__dict__, kept, _plain(module).keys() - kept.keys())


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in _EVERY_MODULE_HAS and not name.startswith("_gradflow")
    }


class Contents:
    """Buffers, weights, modes and plain attributes of modules as they are now, to be put back.

    Each comes back as the same object, with the same values.

    Args:
        modules: whose; each is looked at without its children.
        every_weight: whether all weights are kept, or only those of embeddings that renormalise
            them.
        known: what is kept already; these are added.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        every_weight: bool = True,
        known: Known | None = None,
    ) -> None:
        known = known or Known()
        self._attributes = PlainAttributes(modules, known)
        self._modes = [(module, module.training) for module in modules]
        self._buffers = [(module, dict(module._buffers)) for module in modules]
        own = [list(module.parameters(recurse=False)) for module in modules]
        self._asked = [(one, one.requires_grad) for parameters in own for one in parameters]
        values = [b for _, named in self._buffers for b in named.values() if b is not None]
        values += [
            parameter
            for module, parameters in zip(modules, own, strict=True)
            if every_weight or getattr(module, "max_norm", None) is not None
            for parameter in parameters
        ]
        self._values = [(one, one.detach().clone()) for one in values if not is_lazy(one)]
        known.tensors += [one for one, _ in self._values]

    def put_back(self) -> None:
        """Put it back."""
        for module, mode in self._modes:
            module.training = mode
        for module, named in self._buffers:
            if not isinstance(module, torch.jit.ScriptModule):  # which replaces none of its own
                module._buffers.clear()
                module._buffers.update(named)
        self._attributes.restore()
        for parameter, asks in self._asked:
            if parameter.requires_grad != asks:
                parameter.requires_grad_(asks)
        with torch.no_grad():
            for value, before in self._values:
                if differ(value, before):
                    if value.shape != before.shape:
                        value.resize_(before.shape)
                    value.copy_(before)

    def write_into(self, twins: Sequence[nn.Module]) -> None:
        """Write it into copies of the modules, made since, as far as they are still alike."""
        self._attributes.write_into(twins)
        before = {id(value): values for value, values in self._values}
        with torch.no_grad():
            for (module, mode), (_, named), twin in zip(
                self._modes, self._buffers, twins, strict=True
            ):
                twin.training = mode
                there = {**twin._buffers, **twin._parameters}
                for name, value in {**named, **module._parameters}.items():
                    values, other = before.get(id(value)), there.get(name)
                    if values is not None and other is not None and other.shape == values.shape:
                        other.copy_(values)


def content_of(value: Any, known: Known, depth: int = 0) -> Content | None:
    """Return the content of ``value``; None where it has none of its own.

    Args:
        value: some attribute.
        known: the containers, objects and modules whose content is kept already; these are
            added.
        depth: how many containers deep it lies.
    """
    if isinstance(value, nn.Module | nn.Parameter) and (value in known or not known.keeps_modules):
        return None
    if isinstance(value, nn.Module):
        # Without a hash torch can't list it.
        return _Module(value, known) if type(value).__hash__ is not None else None
    if type(value) in (torch.Tensor, nn.Parameter):
        is_apart = value.grad_fn is None and value.layout is torch.strided
        if not is_apart or value.is_inference():
            return None
        known.tensors.append(value)
        return TensorContent(value)
    if isinstance(value, ARRAYS):
        return ArrayContent(value) if bytes_of(value) <= MOST_BYTES else None
    if isinstance(value, GENERATORS):
        return GeneratorContent(value)
    if is_iterator(value):
        return IteratorContent(value)
    is_container = isinstance(value, list | dict | set | deque | tuple)
    is_object = type(value) in NOTHING_BUT_ATTRIBUTES or is_plain_object(value)
    if value in known or not (is_container or is_object):
        return None
    known.add(value)
    return (_Container if is_container else _Object)(value, depth, known)


def _inside(members: Any, depth: int, known: Known) -> dict[Any, Content]:
    """Return the contents of those members, by place, that have any and are looked into."""
    if depth == MOST_LEVELS or len(members) > MOST_MEMBERS:
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


class _Module:
    def __init__(self, module: nn.Module, known: Known) -> None:
        self._module = module
        every = list(module.modules())
        self._count = len(every)
        self._places = [place for place, part in enumerate(every) if part not in known]
        parts = [every[place] for place in self._places]
        self._contents = Contents(parts, every_weight=have_room(parts), known=known)

    def put_back(self) -> nn.Module:
        self._contents.put_back()
        return self._module

    def written_into(self, twin: Any) -> Any:
        if isinstance(twin, nn.Module) and twin is not self._module:
            every = list(twin.modules())
            if len(every) == self._count:
                self._contents.write_into([every[place] for place in self._places])
        return twin


class _Object:
    def __init__(self, value: object, depth: int, known: Known) -> None:
        self._object, self._attributes = value, attributes_of(value)
        self._inside = _inside(self._attributes, depth, known)

    def put_back(self) -> object:
        for since in attributes_of(self._object).keys() - self._attributes.keys():
            object.__delattr__(self._object, since)  # of a frozen dataclass too
        for name, one in self._attributes.items():
            content = self._inside.get(name)
            restored = one if content is None else content.put_back()
            object.__setattr__(self._object, name, restored)
        return self._object

    def written_into(self, twin: Any) -> Any:
        if twin is self._object:  # which no copy is to be had of
            return twin
        now = attributes_of(twin)
        since = now.keys() - self._attributes.keys()
        kept = {name: (one, self._inside.get(name)) for name, one in self._attributes.items()}
        _write(now, kept, since)
        for name in since:
            object.__delattr__(twin, name)
        for name, one in now.items():
            object.__setattr__(twin, name, one)
        return twin


class _Container:
    def __init__(self, container: Any, depth: int, known: Known) -> None:
        self._container = container
        self._members: Any = dict(container) if isinstance(container, dict) else list(container)
        self._inside = _inside(self._members, depth, known)
        # A subclass may keep something beside its members.
        own = getattr(container, "__dict__", container)  # which may be its members themselves
        self._attributes = None if own is container else _Object(container, depth, known)

    def put_back(self) -> Any:
        if self._attributes is not None:
            self._attributes.put_back()
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
        if self._attributes is not None:
            self._attributes.written_into(twin)
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

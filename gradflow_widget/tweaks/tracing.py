"""What a model computes from what, found with torch.fx without running or touching the model.

`torch.fx.Tracer` patches `nn.Module.__call__` for the whole process while it traces, which
breaks a training step that runs on another thread at that moment. Here the forward method runs
on a shadow of the model instead: objects of the same classes, whose parameters and buffers are
fx proxies. Nothing global changes, whatever forward keeps on `self` stays on the shadow, and what
it writes into tensors of the model, such as the weights of a teacher that follows, is lost.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections import Counter, deque
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..deep_copies import refer_to_twins
from ..iterators import at_the_same_place, is_iterator
from ..plain_objects import (
    ARRAYS,
    GENERATORS,
    MAPPINGS,
    MOST_BYTES,
    MOST_LEVELS,
    MOST_MEMBERS,
    attributes_of,
    bytes_of,
    is_plain_object,
)
from .random_state import random_state_kept
from .silence import nothing_printed
from .write_guard import WriteGuard

_TORCH = torch.__path__[0]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_PATH = "_gradflow_path"
_TRACER = "_gradflow_tracer"
# Others are made of these when a shadow is.
_OWN_PLACES = ("_parameters", "_buffers", "_modules")
_RETRIES = 5
# The blocks of a deep model ask at the same place, and so does a loop until something converges.
_TIMES = 100

Site = tuple[CodeType, int]
"""A place in a function: its code and the index of the instruction that runs there."""


def is_torch_layer(module: nn.Module) -> bool:
    """Return whether ``module`` is a layer of PyTorch's own rather than a container of layers."""
    ours = type(module).__module__.startswith("torch.")
    return ours and not isinstance(module, _CONTAINERS)


def traced(model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> tuple[fx.Graph | None, str]:
    """Return the graph of ``model.forward``, or None and the reason why it can't be traced.

    Modules for which ``is_leaf`` holds become one node each; a node's ``meta["site"]`` is the
    place in the user's code that made it. Arguments with a default are left at it. The model
    and the global random state are untouched.
    """
    return _traced(model, is_leaf, _SiteTracer(fx.Graph()))


def ways_through(model: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> list[fx.Graph]:
    """Return graphs of a ``forward`` that decides by the values of tensors: two at most.

    On the first way such conditions are false, on the second they are true; a condition that
    leads to an error, as that of an assertion does, is answered the other way. All that is on
    a graph may be called as it says there; what a mixture of answers leads to is on neither.
    Arguments, nodes and what stays untouched are as ``traced`` has them.
    """
    found: list[fx.Graph] = []
    for answer in (False, True):
        answers: dict[Site, bool] = {}
        for _ in range(_RETRIES):
            tracer = _DecidingTracer(fx.Graph(), answer, answers)
            graph, _ = _traced(model, is_leaf, tracer)
            if graph is not None:
                found.append(graph)
                break
            if tracer.last is None or tracer.last in answers:
                break
            answers[tracer.last] = not answer
    return found


def _traced(
    model: nn.Module, is_leaf: Callable[[nn.Module], bool], tracer: _SiteTracer
) -> tuple[fx.Graph | None, str]:
    graph: fx.Graph = tracer.graph
    made: dict[int, nn.Module] = {}
    known: dict[int, Any] = {id(module): module for module in model.modules()}
    root = _shadow(model, "", tracer, is_leaf, made, {}, known)
    try:
        refer_to_twins({**known, **made})
        arguments, keywords = _placeholders(type(model).forward, tracer)
        # forward may draw random numbers that no proxy has a part in, and print what is one.
        with (
            random_state_kept(model.parameters()),
            nothing_printed(),
            torch.no_grad(),
            WriteGuard(),
        ):
            result = root.forward(*arguments, **keywords)
        graph.output(tracer.create_arg(result))
    except Exception as error:
        lines = str(error).splitlines()
        return None, f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return graph, ""


def inputs_of(nodes: list[fx.Node]) -> set[fx.Node]:
    """Return ``nodes`` and all nodes that they are computed from."""
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return seen


class _SiteTracer(fx.proxy.GraphAppendingTracer):
    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["site"] = _site()
        return node


class _DecidingTracer(_SiteTracer):
    """Answers for tensors in conditions: ``answers`` for a place, else always the same.

    Attributes:
        last: the place that was answered for last.
    """

    def __init__(self, graph: fx.Graph, answer: bool, answers: dict[Site, bool]) -> None:
        super().__init__(graph)
        self.last: Site | None = None
        self._answer, self._answers = answer, answers
        self._asked: Counter[Site] = Counter()

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer, unless a loop has asked at the same place too often."""
        self.last = site = _site()
        self._asked[site] += 1
        if self._asked[site] > _TIMES:
            raise fx.proxy.TraceError("a loop over values does not end")
        return self._answers.get(site, self._answer)


def _site() -> Site:
    """Return the place in the user's code that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_TORCH) or frame.f_code.co_filename == __file__
    ):
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def _placeholders(
    forward: Callable[..., Any], tracer: _SiteTracer
) -> tuple[list[Any], dict[str, Any]]:
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    parameters = list(inspect.signature(forward).parameters.items())[1:]
    for name, parameter in parameters:
        if parameter.default is not inspect.Parameter.empty:
            continue
        if parameter.kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            arguments.append(tracer.create_proxy("placeholder", name, (), {}))
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            keywords[name] = tracer.create_proxy("placeholder", name, (), {})
    if not arguments and not keywords:
        # One that hands on whatever it is given is called with one tensor at least.
        arguments = [
            tracer.create_proxy("placeholder", name, (), {})
            for name, parameter in parameters
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL
        ]
    if not arguments and not keywords:
        raise TypeError("forward names no argument")
    return arguments, keywords


def _shadow(
    module: nn.Module,
    path: str,
    tracer: _SiteTracer,
    is_leaf: Callable[[nn.Module], bool],
    made: dict[int, nn.Module],
    aliases: dict[int, Tensor],
    known: dict[int, Any],
) -> nn.Module:
    if id(module) in made:
        return made[id(module)]
    leaf = bool(path) and is_leaf(module)
    call = _call_leaf if leaf else _call_forward
    shadow: nn.Module = object.__new__(
        type(type(module).__name__, (type(module),), {"__call__": call})
    )
    made[id(module)] = shadow
    # A hook is the user's: it must not see a proxy.
    state = {
        key: type(value)() if "hooks" in key else _apart(value, known)
        for key, value in module.__dict__.items()
        if key not in _OWN_PLACES
    }
    for kind in ("_parameters", "_buffers"):
        state[kind] = {
            name: tensor
            if tensor is None
            else _alias(tensor, aliases)
            if leaf
            else tracer.create_proxy("get_attr", f"{path}.{name}".lstrip("."), (), {})
            for name, tensor in module.__dict__[kind].items()
        }
    state["_modules"] = {
        name: child
        if child is None
        else _shadow(child, f"{path}.{name}".lstrip("."), tracer, is_leaf, made, aliases, known)
        for name, child in module.__dict__["_modules"].items()
    }
    shadow.__dict__.update(state)
    shadow.__dict__[_PATH] = path
    shadow.__dict__[_TRACER] = tracer
    return shadow


def _alias(tensor: Tensor, aliases: dict[int, Tensor]) -> Tensor:
    """Return a tensor of the same memory, to which other memory may be given by ``.data``."""
    if id(tensor) not in aliases and not nn.parameter.is_lazy(tensor):
        alias = tensor.detach()
        if type(tensor) is nn.Parameter:
            alias = nn.Parameter(alias, requires_grad=tensor.requires_grad)
        aliases[id(tensor)] = alias
    return aliases.get(id(tensor), tensor)


def _apart(value: Any, known: dict[int, Any], depth: int = 0) -> Any:
    """Return what a forward pass may change in place without changing the user's own.

    ``known``: what stands for an object that was met already; that one is added.
    """
    if id(value) not in known:
        twin = _twin(value, known, depth)
        if twin is value:
            return value
        known[id(value)] = twin
    return known[id(value)]


def _twin(value: Any, known: dict[int, Any], depth: int) -> Any:
    kind = type(value)
    if kind is Tensor:
        return value.detach().clone()
    if isinstance(value, GENERATORS):
        return copy.deepcopy(value)
    if isinstance(value, ARRAYS):
        return copy.copy(value) if bytes_of(value) <= MOST_BYTES else value
    if is_iterator(value):
        return at_the_same_place(value) or value
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        # One that lies in a list, say, and is none of the model's: its mode and counters are apart.
        twin = known[id(value)] = object.__new__(kind)
        for key, one in value.__dict__.items():
            twin.__dict__[key] = type(one)() if "hooks" in key else _apart(one, known)
        return twin
    if depth == MOST_LEVELS:
        return value
    if kind is set or (kind in (list, deque, *MAPPINGS) and len(value) > MOST_MEMBERS):
        return copy.copy(value)
    if kind in MAPPINGS:
        twin = known[id(value)] = copy.copy(value)
        for key, one in value.items():
            twin[key] = _apart(one, known, depth + 1)
        return twin
    if kind in (list, deque):
        twin = known[id(value)] = copy.copy(value)
        for place, one in enumerate(value):
            twin[place] = _apart(one, known, depth + 1)
        return twin
    if kind is tuple and len(value) <= MOST_MEMBERS:
        members = tuple([_apart(one, known, depth + 1) for one in value])
        is_same = all(one is other for one, other in zip(members, value, strict=True))
        return value if is_same else members
    if is_plain_object(value):
        twin = known[id(value)] = copy.copy(value)
        for key, one in attributes_of(value).items():
            object.__setattr__(twin, key, _apart(one, known, depth + 1))  # frozen ones too
        return twin
    return value


def _call_leaf(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return self.__dict__[_TRACER].create_proxy("call_module", self.__dict__[_PATH], args, kwargs)


def _call_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return self.forward(*args, **kwargs)

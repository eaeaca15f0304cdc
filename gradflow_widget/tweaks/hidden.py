"""Finds a model's hidden activations: those whose output some later layer takes in.

An activation behind the last layer with weights shapes the output, and a sigmoid that another
tensor is multiplied by is a gate: both are left alone. Each module's forward is traced by itself,
its children as single nodes; where what follows an activation is not decided there, the module
around it is looked at. Where forward can't be traced, the order of registration decides.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from .errors import CannotTweak
from .nonlinearities import as_attribute, function_name
from .rewriting import CallSite, call_sites
from .tracing import traced

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ACTIVATIONS = (
    nn.Threshold,
    nn.ReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Tanh,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.Hardshrink,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.PReLU,
    nn.Softsign,
    nn.Tanhshrink,
)
_FOREIGN = re.compile(
    r"(new|quick|fast|approx\w*|accurate|clipped)?_?"
    r"(relu\w?|gelu\w*|swish|silu|mish|elu|selu|tanh|softplus)(activation)?"
)
_BOUNDED = re.compile(r"sigmoid|tanh|softplus|softsign", re.IGNORECASE)
_RESHAPING = frozenset(
    ["view", "reshape", "expand", "expand_as", "unsqueeze", "squeeze", "permute", "transpose"]
)
_MULTIPLYING = (operator.mul, operator.imul, torch.mul, torch.multiply)


@dataclass
class Hidden:
    """The hidden activations of a model.

    Attributes:
        modules: the activation modules, by identity.
        attributes: modules and the names of their attributes that hold a function (F.relu).
        sites: modules and the places in their methods that call a function.
        recurrent: the nn.RNN and nn.RNNCell layers.
    """

    modules: dict[int, nn.Module] = field(default_factory=dict)
    attributes: list[tuple[nn.Module, str]] = field(default_factory=list)
    sites: list[tuple[nn.Module, list[CallSite]]] = field(default_factory=list)
    recurrent: list[nn.Module] = field(default_factory=list)

    @property
    def names(self) -> list[str | None]:
        """The names of them all, None for one that the activation knob does not offer."""
        return [
            *(activation_name(module) for module in self.modules.values()),
            *(function_name(owner.__dict__[key]) for owner, key in self.attributes),
            *(site.function for _, sites in self.sites for site in sites),
            *(str(module.nonlinearity) for module in self.recurrent),
        ]


def is_activation(module: nn.Module) -> bool:
    """Return whether ``module`` is an activation that works on each entry by itself."""
    if isinstance(module, _ACTIVATIONS):
        return True
    if module._modules or type(module).__module__.startswith("torch."):
        return False
    foreign = type(module).__module__ == "transformers.activations"
    return foreign or bool(_FOREIGN.fullmatch(type(module).__name__.lower()))


def activation_name(module: nn.Module) -> str | None:
    """Return the name of an activation module as ``ACTIVATIONS`` has it, or None."""
    word = type(module).__name__.lower()
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu"
    for name in ("gelu", "silu", "swish"):
        if name in word and not isinstance(module, nn.Hardswish):
            return "silu" if name == "swish" else name
    return {"linearactivation": "identity"}.get(word, word)


def find_hidden(model: nn.Module) -> Hidden:
    """Return the hidden activations of ``model``, which is untouched.

    Raises:
        CannotTweak: forward calls activations as functions and can't be traced, or its source
            can't be read; or one module is both a hidden and the output activation.
    """
    search = _Search(getattr(model, "_orig_mod", model))
    return search.found


class _Search:
    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.found = Hidden()
        self.classes: set[type[nn.Module]] = set()
        self.flows: dict[int, _Flow | None] = {}
        self.places = list(root.named_modules(remove_duplicate=False))
        self.order = {path: index for index, (path, _) in enumerate(self.places)}
        self.last_weight = max(
            (
                index
                for index, (_, module) in enumerate(self.places)
                if any(_is_weight(parameter) for parameter in module._parameters.values())
            ),
            default=-1,
        )
        modules: dict[int, tuple[nn.Module, list[str]]] = {}
        for path, module in self.places:
            modules.setdefault(id(module), (module, []))[1].append(path)
        for module, paths in modules.values():
            if is_activation(module):
                if self._is_hidden_module(module, paths):
                    self.found.modules[id(module)] = module
            else:
                self._look_within(module, paths[0])

    def _look_within(self, module: nn.Module, path: str) -> None:
        if isinstance(module, nn.RNN | nn.RNNCell):
            self.found.recurrent.append(module)
            return
        self._add_attributes(module)
        if is_layer_of_torch(module):
            return
        sites = call_sites(module)
        # Functions that call activations for it are the same for all modules of a class.
        if not sites and type(module) in self.classes:
            return
        self.classes.add(type(module))
        flow = self._flow(module)
        if flow is None:
            if not sites:
                return
            raise CannotTweak(
                f"{type(module).__name__}.{sites[0].method} calls {sites[0].function} as a "
                f"function, and {type(module).__name__}.forward can't be traced: make it a module, "
                f"{as_attribute(sites[0].function)}, to change it."
            )
        reached: dict[CallSite, bool] = {}
        for node in flow.graph.nodes:
            if node.op not in ("call_function", "call_method") or not function_name(node.target):
                continue
            name = function_name(node.target)
            hidden = self._is_hidden_node(node, flow, path, name)
            site = next((site for site in sites if site.is_at(node.meta["site"])), None)
            if site is not None:
                reached[site] = reached.get(site, False) or hidden
            elif hidden and not self._is_attribute(module, name):
                raise CannotTweak(
                    f"{type(module).__name__} calls {name} in {node.meta['site'][0].co_name}, not "
                    f"in a method of its own: make it a module, {as_attribute(name)}."
                )
        chosen = [site for site in sites if reached.get(site, not _BOUNDED.search(site.function))]
        if chosen:
            self.found.sites.append((module, chosen))

    def _add_attributes(self, module: nn.Module) -> None:
        for key, value in module.__dict__.items():
            if _is_activation_function(value):
                self.found.attributes.append((module, key))

    def _is_attribute(self, module: nn.Module, name: str) -> bool:
        return any(
            _is_activation_function(value) and function_name(value) == name
            for value in module.__dict__.values()
        )

    def _is_hidden_module(self, module: nn.Module, paths: list[str]) -> bool:
        kind = type(module).__name__
        answers = [answer for path in paths for answer in self._fates_of(path, kind)]
        if _BOUNDED.search(kind) and len(set(answers)) == 2:
            raise CannotTweak(
                f"{paths[0]} ({kind}) is both a hidden activation and a gate or the output's: give "
                "the output a module of its own, so that the hidden one can be changed."
            )
        return any(answers)

    def _fates_of(self, path: str, kind: str) -> Iterator[bool]:
        """Yield, for each call of the module at ``path``, whether it is hidden."""
        owner_path, owner = self._owner(path)
        if owner is None:
            yield self.root is not self._at(path)
            return
        flow = self._flow(owner)
        calls = [] if flow is None else flow.calls.get(id(self._at(path)), [])
        if flow is None or not calls:
            yield not _BOUNDED.search(kind) or self._weights_registered_after(path)
            return
        for node in calls:
            yield self._is_hidden_node(node, flow, owner_path, kind)

    def _is_hidden_node(self, node: fx.Node, flow: _Flow, path: str, kind: str) -> bool:
        if "sigmoid" in kind.lower() and _is_gate(node):
            return False
        if flow.reaches_weights(node):
            return True
        if path == "":
            return False
        return any(self._fates_of(path, kind))

    def _owner(self, path: str) -> tuple[str, nn.Module | None]:
        """Return the nearest module around ``path`` whose forward calls what is in it."""
        while path:
            path = path.rpartition(".")[0]
            module = self._at(path)
            if not isinstance(module, _CONTAINERS) or not path:
                return path, module
        return "", None

    def _at(self, path: str) -> nn.Module:
        return self.root.get_submodule(path)

    def _flow(self, owner: nn.Module) -> _Flow | None:
        if id(owner) not in self.flows:
            graph, _ = traced(owner, lambda module: not isinstance(module, _CONTAINERS))
            self.flows[id(owner)] = None if graph is None else _Flow(graph, owner)
        return self.flows[id(owner)]

    def _weights_registered_after(self, path: str) -> bool:
        if self.last_weight <= self.order[path]:
            return False
        # What is in the module itself is registered right after it, and before all else.
        return not self.places[self.last_weight][0].startswith(f"{path}.")


def is_layer_of_torch(module: nn.Module) -> bool:
    """Return whether PyTorch wrote the forward of ``module``."""
    return type(module).__module__.startswith("torch.")


class _Flow:
    """What a traced forward hands on to what, each node looked at once.

    Attributes:
        graph: of the owner's forward; the nodes stand in the order of their calls.
        calls: the calls of each module, by its identity.
    """

    def __init__(self, graph: fx.Graph, owner: nn.Module) -> None:
        self.graph = graph
        self.calls: dict[int, list[fx.Node]] = {}
        # Nodes that have weights, such as self.W, and that come from a signal.
        of_weights: set[fx.Node] = set()
        of_signals: set[fx.Node] = set()
        taking_weights: set[fx.Node] = set()
        for node in graph.nodes:
            sources = node.all_input_nodes
            if node.op == "call_module":
                module = owner.get_submodule(str(node.target))
                self.calls.setdefault(id(module), []).append(node)
                if any(_is_weight(parameter) for parameter in module.parameters()):
                    taking_weights.add(node)
            if _is_weight_of(node, owner) or not of_weights.isdisjoint(sources):
                of_weights.add(node)
            if node.op in ("placeholder", "call_module") or not of_signals.isdisjoint(sources):
                of_signals.add(node)
            # What is computed from weights and no signal, as self.W.T is, is a weight.
            if any(source in of_weights and source not in of_signals for source in sources):
                taking_weights.add(node)
        self._weighty: set[fx.Node] = set()
        for node in reversed(graph.nodes):
            if node in taking_weights or not self._weighty.isdisjoint(node.users):
                self._weighty.add(node)

    def reaches_weights(self, node: fx.Node) -> bool:
        """Return whether something behind ``node`` takes it in together with weights."""
        return not self._weighty.isdisjoint(_users(node))


def _is_activation_function(value: Any) -> bool:
    home = str(getattr(value, "__module__", None) or "torch")
    return (
        callable(value)
        and not isinstance(value, type | nn.Module)
        and home.startswith("torch")
        and bool(function_name(value))
    )


def _is_weight(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and (is_lazy(parameter) or parameter.dim() >= 2)


def _is_weight_of(node: fx.Node, owner: nn.Module) -> bool:
    if node.op != "get_attr":
        return False
    path, _, name = str(node.target).rpartition(".")
    return _is_weight(owner.get_submodule(path)._parameters.get(name))


def _users(node: fx.Node) -> list[fx.Node]:
    # In-place calls by themselves hand their result on through their input.
    return list(node.users) or [
        user for source in node.all_input_nodes for user in source.users if user > node
    ]


def _followers(node: fx.Node, through: Callable[[fx.Node], bool]) -> Iterator[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = _users(node)
    while waiting:
        follower = waiting.pop()
        if follower not in seen:
            seen.add(follower)
            yield follower
            if through(follower):
                waiting.extend(follower.users)


def _is_gate(node: fx.Node) -> bool:
    def reshapes(follower: fx.Node) -> bool:
        return follower.op == "call_method" and follower.target in _RESHAPING

    return any(
        (follower.target in _MULTIPLYING or follower.target in ("mul", "mul_"))
        # A parameter that it is multiplied by, such as a learned scale, is no other signal.
        and sum(source.op != "get_attr" for source in follower.all_input_nodes) > 1
        for follower in _followers(node, reshapes)
    )

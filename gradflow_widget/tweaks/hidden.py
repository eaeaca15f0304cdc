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
from .nonlinearities import function_name
from .rewriting import CallSite, call_sites
from .tracing import inputs_of, traced

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
        self.graphs: dict[int, tuple[fx.Graph | None, str]] = {}
        self.places = list(root.named_modules(remove_duplicate=False))
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
        graph, reason = self._graph(module)
        if graph is None:
            if not sites:
                return
            raise CannotTweak(
                f"{type(module).__name__}.{sites[0].method} calls {sites[0].function} as a "
                f"function where torch.fx can't follow it ({reason.rstrip('.')}): make it a "
                "module, such as self.act = nn.ReLU(), to change it."
            )
        reached: dict[CallSite, bool] = {}
        for node in graph.nodes:
            if node.op not in ("call_function", "call_method") or not function_name(node.target):
                continue
            name = function_name(node.target)
            hidden = self._is_hidden_node(node, module, path, name)
            site = next((site for site in sites if site.is_at(node.meta["site"])), None)
            if site is not None:
                reached[site] = reached.get(site, False) or hidden
            elif hidden and not self._is_attribute(module, name):
                raise CannotTweak(
                    f"{type(module).__name__} calls {name} in {node.meta['site'][0].co_name}, not "
                    "in a method of its own: make it a module, such as self.act = nn.ReLU()."
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
        graph, _ = self._graph(owner) if owner is not None else (None, "")
        calls = _calls_of(graph, owner, self._at(path)) if graph and owner else []
        if owner is None:
            yield self.root is not self._at(path)
        elif not calls:
            yield not _BOUNDED.search(kind) or self._weights_registered_after(path)
        for node in calls:
            yield self._is_hidden_node(node, owner, owner_path, kind)

    def _is_hidden_node(self, node: fx.Node, owner: nn.Module | None, path: str, kind: str) -> bool:
        assert owner is not None
        if "sigmoid" in kind.lower() and _is_gate(node):
            return False
        if _reaches_weights(node, owner):
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

    def _graph(self, owner: nn.Module) -> tuple[fx.Graph | None, str]:
        if id(owner) not in self.graphs:
            self.graphs[id(owner)] = traced(
                owner, lambda module: not isinstance(module, _CONTAINERS)
            )
        return self.graphs[id(owner)]

    def _weights_registered_after(self, path: str) -> bool:
        paths = [place for place, _ in self.places]
        later = self.places[paths.index(path) + 1 :]
        return any(
            _is_weight(parameter)
            for place, module in later
            if not place.startswith(f"{path}.")
            for parameter in module._parameters.values()
        )


def is_layer_of_torch(module: nn.Module) -> bool:
    """Return whether PyTorch wrote the forward of ``module``."""
    return type(module).__module__.startswith("torch.")


def _calls_of(graph: fx.Graph, owner: nn.Module, module: nn.Module) -> list[fx.Node]:
    return [
        node
        for node in graph.nodes
        if node.op == "call_module" and owner.get_submodule(node.target) is module
    ]


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


def _followers(node: fx.Node, through: Callable[[fx.Node], bool]) -> Iterator[fx.Node]:
    seen: set[fx.Node] = set()
    # In-place calls by themselves hand their result on through their input.
    waiting = list(node.users) or [
        user for source in node.all_input_nodes for user in source.users if user > node
    ]
    while waiting:
        follower = waiting.pop()
        if follower not in seen:
            seen.add(follower)
            yield follower
            if through(follower):
                waiting.extend(follower.users)


def _reaches_weights(node: fx.Node, owner: nn.Module) -> bool:
    for follower in _followers(node, lambda _: True):
        if follower.op == "call_module":
            module = owner.get_submodule(str(follower.target))
            if any(_is_weight(parameter) for parameter in module.parameters()):
                return True
        if any(_is_made_of_weights(source, owner) for source in follower.all_input_nodes):
            return True
    return False


def _is_made_of_weights(node: fx.Node, owner: nn.Module) -> bool:
    """Whether ``node`` is a weight, or computed from one and no signal, as ``self.W.T`` is."""
    sources = inputs_of([node])
    if any(source.op in ("placeholder", "call_module") for source in sources):
        return False
    for source in sources:
        if source.op == "get_attr":
            path, _, name = str(source.target).rpartition(".")
            if _is_weight(owner.get_submodule(path)._parameters.get(name)):
                return True
    return False


def _is_gate(node: fx.Node) -> bool:
    def reshapes(follower: fx.Node) -> bool:
        return follower.op == "call_method" and follower.target in _RESHAPING

    return any(
        (follower.target in _MULTIPLYING or follower.target in ("mul", "mul_"))
        # A parameter that it is multiplied by, such as a learned scale, is no other signal.
        and sum(source.op != "get_attr" for source in follower.all_input_nodes) > 1
        for follower in _followers(node, reshapes)
    )

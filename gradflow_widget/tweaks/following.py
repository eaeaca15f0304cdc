"""Which nonlinearity follows each weight layer.

A torch.fx graph tells where the model, or the part of it that the layer is in, traces;
elsewhere the order of the modules does, and the names of the functions that forward calls.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from .nonlinearities import LINEAR, Nonlinearity, as_nonlinearity, function_name
from .stand_in import StandIn
from .tracing import is_torch_layer, traced, ways_through

_ENDS = frozenset(
    {
        "softmax",
        "log_softmax",
        "matmul",
        "__matmul__",
        "bmm",
        "baddbmm",
        "einsum",
        "scaled_dot_product_attention",
    }
)
"""Functions and methods behind which a signal is no longer the one that came out of a layer."""

_SPARE = re.compile(r"(drop|short|skip|down|norm|pool|path|head|res)[^.]*$")
"""Names under which an Identity stands for something else than a nonlinearity."""


@dataclass(frozen=True)
class Following:
    """What comes behind a weight layer.

    Attributes:
        nonlinearity: the one that its output goes through; LINEAR if there is none.
        is_output: no other weight layer comes behind.
        is_hidden: a nonlinearity follows, and more of the model behind it.
        evidence: ``"graph"``, ``"order"`` of modules, ``"code"`` (functions named in a
            forward that does not trace), or ``""`` where nothing is known.
    """

    nonlinearity: Nonlinearity
    is_output: bool = False
    is_hidden: bool = False
    evidence: str = "graph"


def owns_matrix(module: nn.Module) -> bool:
    """Return whether ``module`` itself, or a closed layer of torch.nn, has a weight matrix."""
    deep = is_torch_layer(module) and not isinstance(module, nn.Identity)
    return any(is_lazy(p) or p.dim() >= 2 for p in module.parameters(recurse=deep))


def following(model: nn.Module) -> dict[nn.Module, Following]:
    """Return what follows each module with a weight matrix, in the order of ``modules()``."""
    survey = _Survey(model)
    found = survey.found
    layers = [
        module
        for module in model.modules()
        if not isinstance(module, ParametrizationList)
        and any(is_lazy(p) or p.dim() >= 2 for p in _own_parameters(module))
    ]
    if layers and not survey.traces:
        last = layers[-1]
        known = found.get(last, Following(LINEAR, evidence=""))
        found[last] = Following(known.nonlinearity, True, False, known.evidence)
    return {layer: found.get(layer, Following(LINEAR, evidence="")) for layer in layers}


def _own_parameters(module: nn.Module) -> Iterable[nn.Parameter]:
    yield from module.parameters(recurse=False)
    parametrized = module._modules.get("parametrizations")
    if parametrized is not None:
        yield from parametrized.parameters()


class _Survey:
    """Looks through a model from the root; where a part does not trace, into its parts."""

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[nn.Module, Following] = {}
        self._ways: dict[nn.Module, list[fx.Graph]] = {}
        self._partial: set[nn.Module] = set()
        self.traces = self._explore(model, is_root=True) is not None

    def _explore(self, module: nn.Module, *, is_root: bool = False) -> list[nn.Module] | None:
        """Note all in ``module``; return the layers whose output it hands out, if it traces."""
        compiled = module._modules.get("_orig_mod")
        if compiled is not None:
            return self._explore(compiled, is_root=is_root)
        if _is_childless(module):
            if owns_matrix(module):
                self._note(module, Following(LINEAR, is_output=is_root))
            return [module]
        if is_torch_layer(module):
            self._explore_torch_layer(module)
            return []
        ways = self._ways_through(module)
        if not ways:
            self._explore_in_order(module)
            return None
        is_partial = module in self._partial
        open_ended: list[nn.Module] = []
        for way in ways:
            open_ended += self._explore_graph(module, way, is_root and not is_partial)
        if not is_partial:
            return open_ended
        # Layers that no way meets may come behind any other.
        known = dict(self.found)
        self._explore_in_order(module)
        self.found.update(known)
        return None

    def _ways_through(self, module: nn.Module) -> list[fx.Graph]:
        """Return the graphs of ``module``, none if it can't be traced.

        Parts that can't be traced by themselves are single nodes.
        """
        if module not in self._ways:
            graph, _ = traced(module, _is_leaf)
            ways = [] if graph is None else [graph]
            if not ways:
                for child in module.children():
                    if not _is_leaf(child):
                        self._ways_through(child)
                ways = ways_through(module, lambda part: _is_leaf(part) or self._is_opaque(part))
                if not _call_all_layers(module, ways):
                    self._partial.add(module)
            self._ways[module] = ways
        return self._ways[module]

    def _is_opaque(self, module: nn.Module) -> bool:
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        return not is_list and not self._ways.get(module, [module])

    def _note(self, layer: nn.Module, following: Following) -> None:
        # A layer that is called twice counts where it is met first.
        known = self.found.setdefault(layer, following)
        if known.nonlinearity is LINEAR and following.nonlinearity is not LINEAR:
            # Another way through forward; is_output needs no nonlinearity behind.
            self.found[layer] = following

    def _explore_torch_layer(self, module: nn.Module) -> None:
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            nonlinearity = as_nonlinearity(module.activation) or LINEAR
            self._note(module.linear1, Following(nonlinearity, is_hidden=True))
        for child in module.modules():
            if child is not module and isinstance(
                child, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
            ):
                self._explore_torch_layer(child)
            elif any(True for _ in _own_parameters(child)):
                self._note(child, Following(LINEAR))

    def _explore_graph(self, module: nn.Module, graph: fx.Graph, is_root: bool) -> list[nn.Module]:
        open_ended: list[nn.Module] = []
        explored: set[nn.Module] = set()
        # Asked of one node again and again, where no nonlinearity stands between layers.
        ends = {node for node in graph.nodes if _is_end(module, node)}
        nonlinearity_at = functools.cache(functools.partial(_nonlinearity_at, module))
        for node in graph.nodes:
            if node.op != "call_module":
                continue
            layer = module.get_submodule(str(node.target))
            if not _is_leaf(layer) and layer not in explored:
                explored.add(layer)
                self._explore(layer)
            if not owns_matrix(layer):
                continue
            nonlinearity, at, reaches_end = _first_nonlinearity(node, ends, nonlinearity_at)
            beyond = _meets_matrix(module, at or node)
            following = Following(
                nonlinearity,
                is_output=is_root and not _meets_matrix(module, node),
                is_hidden=at is not None and (beyond or not is_root),
            )
            self._note(layer, following)
            if _is_leaf(layer) and not _is_childless(layer):
                self._explore(layer)
            if at is None and reaches_end:
                open_ended.append(layer)
        return open_ended

    def _explore_in_order(self, module: nn.Module) -> None:
        line: list[tuple[nn.Module, list[nn.Module] | None]] = []
        self._line_up(module, line)
        waiting: list[nn.Module] = []
        for part, ends in line:
            nonlinearity = as_nonlinearity(part) if not owns_matrix(part) else None
            if nonlinearity is not None and nonlinearity is not LINEAR:
                for layer in waiting:
                    self.found[layer] = Following(nonlinearity, is_hidden=True, evidence="order")
                waiting = []
            elif ends is None or _stands_for_matrix(part):
                waiting = [] if ends is None else list(ends)
        alone = [
            layer
            for part, ends in line
            if ends is not None and _stands_for_matrix(part)
            for layer in ends
            if layer not in self.found or self.found[layer].nonlinearity is LINEAR
        ]
        kinds = {n.name: n for part, _ in line if (n := as_nonlinearity(part)) and n is not LINEAR}
        called = _nonlinearities_called(module)
        for layer in alone:
            if len(kinds) == 1:
                only = next(iter(kinds.values()))
                self.found[layer] = Following(only, is_hidden=True, evidence="order")
            elif len(called) == 1 and not kinds:
                self.found[layer] = Following(called[0], is_hidden=True, evidence="code")
            elif called or kinds:
                self.found[layer] = Following(LINEAR, evidence="")

    def _line_up(
        self, module: nn.Module, line: list[tuple[nn.Module, list[nn.Module] | None]]
    ) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList | nn.ModuleDict):
                self._line_up(child, line)
            else:
                line.append((child, self._explore(child)))


def _stands_for_matrix(module: nn.Module) -> bool:
    inlined = isinstance(module, StandIn | nn.Sequential)
    return _has_matrix(module) if inlined else owns_matrix(module)


def _has_matrix(module: nn.Module) -> bool:
    return any(owns_matrix(part) for part in module.modules())


def _call_all_layers(module: nn.Module, ways: list[fx.Graph]) -> bool:
    called = {
        part
        for way in ways
        for node in way.nodes
        if node.op == "call_module"
        for part in module.get_submodule(str(node.target)).modules()
    }
    return bool(called) and all(
        part in called or not owns_matrix(part)
        for child in module.children()
        for part in _layers_within(child)
    )


def _layers_within(module: nn.Module) -> Iterable[nn.Module]:
    if _is_leaf(module):
        yield module
    else:
        for child in module.children():
            yield from _layers_within(child)


def _is_childless(module: nn.Module) -> bool:
    # What computes a weight is no layer.
    return all(name == "parametrizations" for name, _ in module.named_children())


def _is_leaf(module: nn.Module) -> bool:
    return is_torch_layer(module) or _is_childless(module)


def _first_nonlinearity(
    start: fx.Node,
    ends: Collection[fx.Node],
    nonlinearity_at: Callable[[fx.Node], Nonlinearity | None],
) -> tuple[Nonlinearity, fx.Node | None, bool]:
    """Return the nearest nonlinearity behind ``start``, its node, and whether the end is met."""
    placeholder: fx.Node | None = None
    reaches_end = False
    waiting, seen = deque(start.users), set(start.users)
    while waiting:
        node = waiting.popleft()
        if node.op == "output":
            reaches_end = True
            continue
        if node in ends:
            if placeholder is not None:
                return LINEAR, placeholder, reaches_end
            continue
        found = nonlinearity_at(node)
        if found is not None and found is not LINEAR:
            return found, node, reaches_end
        if found is LINEAR and placeholder is None and not _SPARE.search(str(node.target)):
            # An Identity stands for a nonlinearity only if no real one comes behind it.
            placeholder = node
        for user in node.users:
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return LINEAR, None, reaches_end


def _is_end(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return _has_matrix(module.get_submodule(str(node.target)))
    return _called(node) in _ENDS


def _called(node: fx.Node) -> str:
    target: Any = node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))


def _nonlinearity_at(module: nn.Module, node: fx.Node) -> Nonlinearity | None:
    if node.op == "call_module":
        return as_nonlinearity(module.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method") or not function_name(node.target):
        return None
    rest = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
    options = {
        key: value
        for key, value in node.kwargs.items()
        if not isinstance(value, fx.Node) and key != "input"
    }
    target: Any = node.target
    if isinstance(target, str):
        name = target

        def method(z: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(z, name)(*args, **kwargs)

        method.__name__ = function_name(name)
        target = method
    return as_nonlinearity(target, *rest, **options)


def _meets_matrix(module: nn.Module, start: fx.Node) -> bool:
    waiting, seen = list(start.users), set(start.users)
    while waiting:
        node = waiting.pop()
        if node.op == "call_module" and _has_matrix(module.get_submodule(str(node.target))):
            return True
        fresh = set(node.users) - seen
        seen |= fresh
        waiting.extend(fresh)
    return False


def _nonlinearities_called(module: nn.Module) -> list[Nonlinearity]:
    """Return the nonlinearities that forward names, for a forward that can't be traced."""
    codes = [
        getattr(vars(base).get("forward"), "__code__", None)
        for base in type(module).__mro__
        if not base.__module__.startswith("torch.")
    ]
    found: dict[str, Nonlinearity] = {}
    for name in (name for code in codes for name in getattr(code, "co_names", ())):
        known = function_name(name)
        if known:
            function: Any = getattr(nn.functional, known, None)
            nonlinearity = as_nonlinearity(function)
            if nonlinearity is not None:
                found[known] = nonlinearity
    return list(found.values())

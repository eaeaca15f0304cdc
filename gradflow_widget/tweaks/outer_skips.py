"""Whether whoever calls the blocks of a run adds their input to what they return."""

from __future__ import annotations

from itertools import pairwise

from torch import fx, nn

from .blocks import Run
from .member_loops import loops_over
from .sequence import methods_naming
from .tracing import traced

_ADDS = frozenset({"add", "add_", "__add__", "__iadd__", "iadd", "__radd__"})
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def sums_in(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return the nodes that add two signals, which come from the inputs, and these two."""
    signals: set[fx.Node] = set()
    sums: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or not signals.isdisjoint(node.all_input_nodes):
            signals.add(node)
        terms = [term for term in node.args if isinstance(term, fx.Node) and term in signals]
        if len(terms) == 2 and _adds(node):
            sums[node] = terms
    return sums


def has_skips_around(model: nn.Module, run: Run) -> bool:
    """Return whether the forward that calls the blocks of ``run`` has a skip around each.

    Two sources, the surer first: a torch.fx trace of it, and the source of its methods.
    """
    path, owner = "", model
    for prefix in _prefixes(run.at):
        module = model.get_submodule(prefix)
        if not isinstance(module, _CONTAINERS):
            path, owner = prefix, module
    if isinstance(owner, _CONTAINERS):
        return False
    found = _by_trace(owner, run)
    if found is not None:
        return found
    name = run.at[len(path) :].rpartition(".")[2]
    return any(
        loop.adds_around()
        for function in methods_naming(type(owner), name)
        for loop in loops_over(function, name)
    )


def _by_trace(owner: nn.Module, run: Run) -> bool | None:
    members = {id(module) for block in run.blocks for module in block}
    graph, _ = traced(owner, lambda m: id(m) in members or not isinstance(m, _CONTAINERS))
    if graph is None:
        return None
    paths = {id(module): path for path, module in owner.named_modules()}
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    called = {str(node.target): node for node in nodes if node.op == "call_module"}
    ends = [(called.get(paths[id(b[0])]), called.get(paths[id(b[-1])])) for b in run.blocks]
    calls = [(first, last) for first, last in ends if first is not None and last is not None]
    calls.sort(key=lambda ends: place[ends[0]])  # a list may be gone through from its end
    blocks = {called[paths[module]] for module in members if paths[module] in called}
    sums, start = sums_in(graph), 0
    for (first, last), (following, _) in pairwise(calls):
        # What came before the block before is of no other block than that. So each node is looked
        # at twice at most, however deep the model.
        near = nodes[start : place[following]]
        made = _made_of([last], near, blocks)
        around = _made_of(first.all_input_nodes, near, blocks) - made | _behind(first, near)
        # A sum of what all blocks return, or of the first input and the last output, goes into
        # none of them.
        for total in sums.keys() & _behind(following, near) & made:
            one, other = sums[total]
            if (one in made and other in around) or (other in made and one in around):
                return True
        start = place[last]
    return False


def _made_of(sources: list[fx.Node], near: list[fx.Node], blocks: set[fx.Node]) -> set[fx.Node]:
    """Return ``sources`` and what is computed from them nearby, but for what goes into a block."""
    made = set(sources)
    for node in near:
        if node not in blocks and not made.isdisjoint(node.all_input_nodes):
            made.add(node)
    return made


def _behind(call: fx.Node, near: list[fx.Node]) -> set[fx.Node]:
    """Return what the inputs of a call are computed from nearby."""
    behind = set(call.all_input_nodes)
    for node in reversed(near):
        if node in behind:
            behind.update(node.all_input_nodes)
    return behind.intersection(near)


def _adds(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in _ADDS


def _prefixes(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(1, len(parts))]

"""Whether whoever calls the blocks of a run adds their input to what they return."""

from __future__ import annotations

from itertools import pairwise

from torch import fx, nn

from .blocks import Run
from .member_loops import loops_over
from .sequence import methods_naming
from .tracing import inputs_of, traced

ADDS = frozenset({"add", "add_", "__add__", "__iadd__", "iadd", "__radd__"})
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def terms_of_sum(node: fx.Node) -> list[fx.Node]:
    """Return the two signals that a node adds, none where it is no such sum."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_function", "call_method") or name not in ADDS:
        return []
    terms = [term for term in node.args if isinstance(term, fx.Node)]
    return terms if len(terms) == 2 and all(map(_is_signal, terms)) else []


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
    paths: dict[int, str] = {}
    for path, module in owner.named_modules():
        paths.setdefault(id(module), path)
    called = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    ends = [(called.get(paths[id(b[0])]), called.get(paths[id(b[-1])])) for b in run.blocks]
    calls = [(first, last) for first, last in ends if first is not None and last is not None]
    outputs = {last for _, last in calls}
    sums = [(node, terms) for node in graph.nodes if (terms := terms_of_sum(node))]
    for (first, last), (following, _) in pairwise(calls):
        fed = set(first.all_input_nodes)
        before, comes_next = inputs_of([*fed]), inputs_of(following.all_input_nodes)
        for total, terms in sums:
            # A sum of what all blocks return, or of the first input and the last output, goes
            # into none of them.
            if total not in comes_next:
                continue
            behind = [inputs_of([term]) for term in terms]
            for (made, around), other in ((behind, terms[1]), (behind[::-1], terms[0])):
                is_of_block = made & outputs == before & outputs | {last}
                is_of_input = other in before or fed <= around
                if is_of_block and is_of_input and around & outputs == before & outputs:
                    return True
    return False


def _prefixes(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _is_signal(node: fx.Node) -> bool:
    return any(source.op == "placeholder" for source in inputs_of([node]))

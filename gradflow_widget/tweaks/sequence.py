"""Whether the members of a ModuleList run one after another or side by side."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import CodeType, FunctionType

from torch import fx, nn

from .member_loops import is_gathered, loops_over, mentions
from .tracing import inputs_of, traced

_SIDE_BY_SIDE = re.compile(r"expert|head|branch|tower|gate|group|path|scale|classifier|codebook")


def runs_in_sequence(owner: nn.Module, at: str) -> bool:
    """Return whether members of the ModuleList ``owner.<at>`` work on what others returned.

    Three sources, the surest first: a torch.fx trace of the owner's forward (is one member's
    output among its neighbour's inputs?); the source of its methods (does a loop over the list
    hand on what the last call returned?); and, where neither tells, the names (experts, heads
    and branches run side by side).
    """
    for evidence in (_by_trace(owner, at), _by_source(type(owner), at)):
        if evidence is not None:
            return evidence
    words = f"{at} {type(owner).__name__}".lower()
    return _SIDE_BY_SIDE.search(words) is None


def _by_trace(owner: nn.Module, at: str) -> bool | None:
    members = owner.get_submodule(at)
    graph, _ = traced(owner, lambda module: not isinstance(module, nn.ModuleList | nn.ModuleDict))
    if graph is None:
        return None
    paths: dict[int, str] = {}
    for path, module in owner.named_modules():
        paths.setdefault(id(module), path)
    calls_at: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls_at.setdefault(str(node.target), []).append(node)
    calls = [calls_at.get(paths[id(member)], []) for member in members.children()]
    called = [nodes for nodes in calls if nodes]
    if len(called) < 2:
        return None

    def feeds(first: list[fx.Node], second: list[fx.Node]) -> bool:
        return bool(set(first) & (inputs_of(second) - set(second)))

    # A decoder may go through its list from the end.
    return any(feeds(one, other) or feeds(other, one) for one, other in pairwise(called))


def methods_of(cls: type[nn.Module]) -> Iterator[tuple[str, FunctionType]]:
    """Yield the methods of a module's class that PyTorch did not write, __init__ left out."""
    seen = {"__init__"}
    for base in cls.__mro__:
        if base.__module__.startswith("torch.") or base is object:
            continue
        for name, value in vars(base).items():
            function = inspect.unwrap(value) if callable(value) else value
            if name not in seen and isinstance(function, FunctionType):
                seen.add(name)
                yield name, function


def syntax_of(function: FunctionType) -> ast.FunctionDef | None:
    """Return the syntax tree of a function, or None where its source is not to be had."""
    try:
        statement = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return statement if isinstance(statement, ast.FunctionDef) else None


def names_in(code: CodeType) -> set[object]:
    """Return the attributes, globals and constants that a function's code names."""
    found: set[object] = {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= names_in(constant)
    return found


def methods_naming(cls: type[nn.Module], name: str) -> Iterator[ast.FunctionDef]:
    """Yield the syntax trees of the methods of a module's class that name an attribute."""
    for _, function in methods_of(cls):
        # Reading the source of every method of a Hugging Face model takes 60 ms.
        if name in names_in(function.__code__):
            syntax = syntax_of(function)
            if syntax is not None:
                yield syntax


def walked_with(cls: type[nn.Module], name: str) -> set[str]:
    """Return the attributes of ``self`` that a loop over ``self.<name>`` goes through with it."""
    found: set[str] = set()
    for function in methods_naming(cls, name):
        for node in ast.walk(function):
            parts = list(ast.walk(node)) if isinstance(node, ast.For | ast.comprehension) else []
            if any(mentions(part, name) for part in parts):
                found |= {part.attr for part in parts if isinstance(part, ast.Attribute)}
    return found - {name}


def _by_source(cls: type[nn.Module], at: str) -> bool | None:
    name = at.rpartition(".")[2]
    found: list[bool] = []
    for function in methods_naming(cls, name):
        found += [loop.hands_on() for loop in loops_over(function, name)]
        found += [False] * is_gathered(function, name)
    return any(found) if found else None

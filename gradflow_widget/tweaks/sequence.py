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

from .tracing import inputs_of, traced

_SIDE_BY_SIDE = re.compile(r"expert|head|branch|tower|gate|group|path|scale|classifier|codebook")


def runs_in_sequence(owner: nn.Module, at: str) -> bool:
    """Return whether each member of the ModuleList ``owner.<at>`` works on the one before it.

    Three sources, the surest first: a torch.fx trace of the owner's forward (is one member's
    output among the next one's inputs?); the source of its methods (does a loop over the list
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
    return any(set(first) & (inputs_of(second) - set(second)) for first, second in pairwise(called))


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


def _methods_naming(cls: type[nn.Module], name: str) -> Iterator[ast.FunctionDef]:
    for _, function in methods_of(cls):
        # Reading the source of every method of a Hugging Face model takes 60 ms.
        if name in names_in(function.__code__):
            syntax = syntax_of(function)
            if syntax is not None:
                yield syntax


def walked_with(cls: type[nn.Module], name: str) -> set[str]:
    """Return the attributes of ``self`` that a loop over ``self.<name>`` goes through with it."""
    found: set[str] = set()
    for function in _methods_naming(cls, name):
        for node in ast.walk(function):
            parts = list(ast.walk(node)) if isinstance(node, ast.For | ast.comprehension) else []
            if any(_mentions(part, name) for part in parts):
                found |= {part.attr for part in parts if isinstance(part, ast.Attribute)}
    return found - {name}


def _by_source(cls: type[nn.Module], at: str) -> bool | None:
    name = at.rpartition(".")[2]
    found: list[bool] = []
    for function in _methods_naming(cls, name):
        found += _loops_that_hand_on(function, name)
    return any(found) if found else None


def _loops_that_hand_on(function: ast.FunctionDef, name: str) -> Iterator[bool]:
    for node in ast.walk(function):
        if isinstance(node, ast.For) and any(_mentions(part, name) for part in ast.walk(node)):
            found = _hands_on(node, name)
            if found is not None:
                yield found
        elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp) and any(
            _mentions(part, name)
            for generator in node.generators
            for part in ast.walk(generator.iter)
        ):
            yield False


def _hands_on(loop: ast.For, name: str) -> bool | None:
    members: set[str] = set()
    if any(_mentions(part, name) for part in ast.walk(loop.iter)):
        members |= _names(loop.target)
    body = [node for statement in loop.body for node in ast.walk(statement)]
    assignments = [
        (_assigned(target), node.value)
        for node in body
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    for targets, value in assignments:
        if isinstance(value, ast.Subscript) and _mentions(value.value, name):
            members |= targets

    def is_member_call(node: ast.AST) -> bool:
        # The member is called, or handed to what calls it, as in checkpoint(member, x).
        if not isinstance(node, ast.Call):
            return False
        parts = [node.func, *node.args]
        return any(
            (isinstance(part, ast.Name) and part.id in members)
            or (isinstance(part, ast.Subscript) and _mentions(part.value, name))
            or (isinstance(part, ast.Attribute) and _names(part.value) & members)
            for part in parts
        )

    calls = [node for node in body if is_member_call(node)]
    if not calls:
        return None
    carried: set[str] = set()
    grown = True
    while grown:
        before = len(carried)
        for targets, value in assignments:
            parts = list(ast.walk(value))
            if _names(value) & carried or any(is_member_call(part) for part in parts):
                carried |= targets - members
        grown = len(carried) > before
    return any(
        _names(argument) & carried
        for call in calls
        if isinstance(call, ast.Call)
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
    )


def _mentions(node: ast.AST, name: str) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == name) or (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and node.slice.value == name
    )


def _assigned(target: ast.expr) -> set[str]:
    # The i of a[i] = … is read, not written.
    if isinstance(target, ast.Tuple | ast.List):
        return set().union(*(_assigned(part) for part in target.elts))
    if isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        return _assigned(target.value)
    return _names(target)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"self"}

"""Classes whose forward calls another activation than it did, as edited source."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import torch
from torch import nn

from ..tweaks.rewriting import CallSite, rewritten_sites
from .definitions import Definitions
from .layers import plain_class
from .sources import Source, class_source, function_source, is_installed, method_tree, scope_of
from .values import Unwritable

_ACTIVATION = "_gradflow_activation"
_Edit = tuple[tuple[int, int], tuple[int, int], str]


def class_name(module: nn.Module, definitions: Definitions) -> str:
    """Return the name of a module's class, which is defined or imported if need be.

    Raises:
        Unwritable: its source is not to be had, or can't be edited.
    """
    cls: Any = plain_class(module)
    if not rewritten_sites(cls):
        return definitions.refer(cls)
    original = cls.__bases__[0]
    key, owners, function = _version(cls, definitions)
    if _is_edited_in_place(original, owners):
        if definitions.is_replaced(original, key):
            return definitions.refer(original)
        definitions.refer(original)  # which keeps its name
        text, source = _edited_class(original, owners, key[1], function)
        return definitions.version(key, original.__name__, text, source.scope)
    return _subclass(original, owners, key[1], function, key, definitions)


def replace_classes(model: nn.Module, definitions: Definitions) -> None:
    """Define the changed version of a class in its own place where ``model`` has no other.

    Raises:
        Unwritable: a source can't be edited.
    """
    versions: dict[type[Any], set[Any]] = {}
    for module in model.modules():
        cls = plain_class(module)
        original = cls.__bases__[0] if rewritten_sites(cls) else cls
        for base in original.__mro__[1:]:
            # What others inherit from stays as it is.
            versions.setdefault(base, set()).add(None)
        version = _version(cls, definitions)[0] if rewritten_sites(cls) else None
        versions.setdefault(original, set()).add(version)
    for original, found in versions.items():
        if len(found) == 1 and (key := next(iter(found))) is not None:
            owners = _owners(original, key[1])
            if _is_edited_in_place(original, owners):
                text, _ = _edited_class(original, owners, key[1], key[2])
                definitions.put_instead(original, key, text)


def _version(cls: Any, definitions: Definitions) -> tuple[Any, dict[str, type[Any]], str]:
    original, sites = cls.__bases__[0], rewritten_sites(cls)
    activation = getattr(cls, _ACTIVATION)
    function = "" if activation is torch.clone else definitions.refer(activation)
    return (original, sites, function), _owners(original, sites), function


def _owners(original: type[Any], sites: tuple[CallSite, ...]) -> dict[str, type[Any]]:
    """Return the class that defines each method with a swapped call."""
    return {
        site.method: next(base for base in original.__mro__ if site.method in vars(base))
        for site in sites
    }


def _is_edited_in_place(original: type[Any], owners: dict[str, type[Any]]) -> bool:
    return set(owners.values()) == {original} and not is_installed(original)


def _edited_class(
    original: type[Any], owners: dict[str, type[Any]], sites: tuple[CallSite, ...], function: str
) -> tuple[str, Source]:
    source = class_source(original)
    if source is None:
        raise Unwritable(f"the source of {original.__name__} is not to be had")
    edits = [
        edit
        for name in owners
        for edit in _edits(_tree(source, name, original), sites, name, function, source)
    ]
    return _edited(source, edits), source


def _subclass(
    original: type[nn.Module],
    owners: dict[str, type[Any]],
    sites: tuple[CallSite, ...],
    function: str,
    key: Any,
    definitions: Definitions,
) -> str:
    name = f"{original.__name__}With{(function or 'identity').rpartition('.')[2].title()}"
    text = f"class {name}({definitions.refer(original)}):\n"
    scope: dict[str, Any] = {}
    for method, owner in owners.items():
        plain = vars(owner)[method]
        source = function_source(plain)
        if source is None or "__class__" in plain.__code__.co_freevars:
            raise Unwritable(
                f"{owner.__name__}.{method} calls an activation that was swapped, and its source "
                "can't be edited outside its class"
            )
        tree = ast.parse(textwrap.dedent("".join(source.lines))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        indent = len(source.lines[0]) - len(source.lines[0].lstrip())
        _move(tree, source.first - 1, indent)
        edited = _edited(source, _edits(tree, sites, method, function, source))
        text += textwrap.indent(edited, "    ") + "\n"
        scope.update(scope_of(plain))
    return definitions.version(key, name, text.rstrip("\n") + "\n", {**scope, **_known(original)})


def _known(original: type[nn.Module]) -> dict[str, Any]:
    return {original.__name__: original}


def _move(tree: ast.AST, lines: int, columns: int) -> None:
    ast.increment_lineno(tree, lines)
    for node in ast.walk(tree):
        if hasattr(node, "col_offset"):
            node.col_offset += columns
        if getattr(node, "end_col_offset", None) is not None:
            node.end_col_offset += columns  # type: ignore[attr-defined]


def _tree(source: Source, method: str, cls: type[Any]) -> ast.FunctionDef:
    tree = method_tree(source, method)
    if tree is None:
        raise Unwritable(f"the source of {cls.__name__}.{method} is not to be had")
    return tree


def _edits(
    tree: ast.FunctionDef,
    sites: tuple[CallSite, ...],
    method: str,
    function: str,
    source: Source,
) -> list[_Edit]:
    """Return what is to be replaced, by start and end, outermost calls first."""
    ends = {site.end for site in sites if site.method == method}
    statements = {id(node.value): node for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    edits: list[_Edit] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or (node.end_lineno, node.end_col_offset) not in ends:
            continue
        start, end = _start(node), _end(node)
        inputs = [word.value for word in node.keywords if word.arg == "input"]
        arguments = [*node.args, *inputs]
        opening = f"{function}("
        if arguments:
            if id(node) in statements and isinstance(arguments[0], ast.Name):
                # A statement by itself works in place.
                opening = f"{arguments[0].id} = {opening}"
            edits.append((start, _start(arguments[0]), opening))
            edits.append((_end(arguments[0]), end, ")"))
        else:
            edits.append((start, start, opening))
            edits.append((_dot(node, source), end, ")"))
    if len(edits) != 2 * len(ends):
        raise Unwritable(f"the source of {method} has changed since it was run")
    return edits


def _dot(call: ast.Call, source: Source) -> tuple[int, int]:
    """Return where the dot before the name of a method stands."""
    assert isinstance(call.func, ast.Attribute)
    row, column = _end(call.func)
    column -= len(call.func.attr.encode())
    while True:
        line = source.lines[row - source.first].encode()
        found = line.rfind(b".", 0, column)
        if found >= 0:
            return row, found
        row, column = row - 1, 10**6


def _edited(source: Source, edits: list[_Edit]) -> str:
    lines = [line.encode() for line in source.lines]
    # From the end; of two that begin at one place the inner call's first, which ast.walk gives
    # later.
    for index in sorted(range(len(edits)), key=lambda one: (edits[one][0], one), reverse=True):
        (row, column), (end_row, end_column), text = edits[index]
        first, last = row - source.first, end_row - source.first
        lines[first : last + 1] = [
            lines[first][:column] + text.encode() + lines[last][end_column:],
            *[b""] * (last - first),
        ]
    return textwrap.dedent(b"".join(lines).decode()).rstrip() + "\n"


def _start(node: Any) -> tuple[int, int]:
    return int(node.lineno), int(node.col_offset)


def _end(node: Any) -> tuple[int, int]:
    return int(node.end_lineno or 0), int(node.end_col_offset or 0)

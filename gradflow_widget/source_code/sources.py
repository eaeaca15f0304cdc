"""The source of a user's classes and functions, from files and from notebook cells."""

from __future__ import annotations

import ast
import importlib
import inspect
import linecache
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

_INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Source:
    """The text of a definition, as it stands in its file.

    Attributes:
        lines: the file's lines that it covers, decorators included.
        first: the number of the first of them in the file.
        scope: what its global and free names stand for.
    """

    lines: tuple[str, ...]
    first: int
    scope: dict[str, Any]

    @property
    def text(self) -> str:
        """The definition, without indentation."""
        return textwrap.dedent("".join(self.lines)).rstrip() + "\n"


def is_installed(thing: Any) -> bool:
    """Return whether a class, function or module can be imported wherever Python packages can."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    if name is None or name == "builtins":
        return not isinstance(thing, FunctionType)
    if name == "__main__" or name.partition(".")[0] == _PACKAGE or name not in sys.modules:
        return False
    file = getattr(sys.modules[name], "__file__", None)
    return file is None or file.startswith(_INSTALLED)


def home_of(thing: Any) -> tuple[str, str] | None:
    """Return the shortest module, and the name in it, that an installed thing is imported from."""
    name = getattr(thing, "__name__", "")
    if not name:
        return None
    parts = (getattr(thing, "__module__", None) or "").split(".")
    modules = [".".join(parts[: count + 1]) for count in range(len(parts))] if parts[0] else []
    # Functions written in C don't say where they are to be had.
    candidates = [*modules, "torch", "torch.nn.functional", "math"]
    for module in sorted(candidates, key=lambda module: "._" in module):
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if found is thing:
            return module, name
    return None


def class_source(cls: type[Any]) -> Source | None:
    """Return the source of a class, or None where it is not to be had.

    ``inspect.getsource`` knows no class of a notebook cell; the code of its methods tells in
    which cell and line they stand.
    """
    for function in _own_functions(cls):
        code = function.__code__
        lines = linecache.getlines(code.co_filename, function.__globals__)
        for node in _nodes(lines):
            if (
                isinstance(node, ast.ClassDef)
                and node.name == cls.__name__
                and any(_first_line(part) == code.co_firstlineno for part in _functions(node))
            ):
                return _source(lines, node, _scope_of_class(cls))
    try:
        lines, _ = inspect.findsource(cls)
    except (OSError, TypeError):
        lines = []
    candidates = [lines]
    if cls.__module__ == "__main__":
        cells = [key for key in linecache.cache if "ipykernel" in key or "ipython" in key]
        candidates += [linecache.getlines(key) for key in reversed(cells)]
    for lines in candidates:
        for node in _nodes(lines):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                return _source(lines, node, _scope_of_class(cls))
    return None


def function_source(function: FunctionType) -> Source | None:
    """Return the source of a function (a lambda's as an expression), or None."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    wanted = ast.Lambda if function.__name__ == "<lambda>" else ast.FunctionDef
    found = [
        node
        for node in _nodes(lines)
        if isinstance(node, wanted) and _first_line(node) == code.co_firstlineno
    ]
    if len(found) != 1:
        return None
    if isinstance(found[0], ast.Lambda):
        segment = ast.get_source_segment("".join(lines), found[0]) or ""
        return Source((segment,), found[0].lineno, scope_of(function))
    return _source(lines, found[0], scope_of(function))


def scope_of(function: FunctionType) -> dict[str, Any]:
    """Return what the global and free names of a function stand for."""
    free: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            free[name] = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
    free.pop("__class__", None)
    return {**function.__globals__, **free}


def method_tree(source: Source, name: str) -> ast.FunctionDef | None:
    """Return the method ``name`` of a class's source, with the positions that it has there."""
    text = "".join(source.lines)
    indented = source.lines[0][:1].isspace()
    tree = ast.parse(("if 1:\n" if indented else "") + text)
    ast.increment_lineno(tree, source.first - (2 if indented else 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            return next(
                (
                    part
                    for part in node.body
                    if isinstance(part, ast.FunctionDef) and part.name == name
                ),
                None,
            )
    return None


def _own_functions(cls: type[Any]) -> Iterator[FunctionType]:
    for value in vars(cls).values():
        plain = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = inspect.unwrap(plain) if callable(plain) else plain
        if isinstance(function, FunctionType) and function.__qualname__.startswith(
            f"{cls.__qualname__}."
        ):
            yield function


def _scope_of_class(cls: type[Any]) -> dict[str, Any]:
    module = sys.modules.get(cls.__module__)
    scope = dict(vars(module)) if module is not None else {}
    for function in _own_functions(cls):
        scope.update(scope_of(function))
    return scope


def _nodes(lines: list[str]) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse("".join(lines))))
    except SyntaxError:  # a cell with magics; a file that was changed since
        return []


def _functions(node: ast.ClassDef) -> Iterator[ast.AST]:
    return (part for part in node.body if isinstance(part, ast.FunctionDef))


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", [])
    return int(min([node.lineno, *(decorator.lineno for decorator in decorators)]))


def _source(lines: list[str], node: Any, scope: dict[str, Any]) -> Source:
    first = _first_line(node)
    return Source(tuple(lines[first - 1 : node.end_lineno]), first, scope)


def code_names(code: CodeType) -> set[str]:
    """Return the names that a function's code mentions."""
    names = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= code_names(constant)
    return names

"""The imports, constants, functions and classes that stand above a model in its text."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
import textwrap
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from .sources import class_source, function_source, home_of, is_installed
from .values import Unwritable, written

_DEFINING = ("class ", "def ", "@")
_FUTURE = "from __future__ import annotations"


class Definitions:
    """What the text defines, each thing once and under a name of its own.

    Attributes:
        imports: the import statements.
        blocks: the definitions, each after what it needs.
    """

    def __init__(self) -> None:
        self.imports = {"import torch", "from torch import nn"}
        self.blocks: list[str] = []
        self._named: dict[str, Any] = {"torch": torch, "nn": nn}
        self._own: dict[int, tuple[Any, str]] = {}
        self._templates: dict[str, str] = {}
        self._instead: dict[int, tuple[Any, str]] = {}
        self._later: set[str] = set()

    @property
    def text(self) -> str:
        """Imports and definitions."""
        body = [block.rstrip("\n") for block in self.blocks]
        before = _written_imports(self.imports)
        end = "\n\n\n" if body and body[-1].startswith(_DEFINING) else "\n\n"
        return before + "".join(_spaced(block) for block in body) + end

    def refer(self, thing: Any) -> str:
        """Return an expression for a class, function or module; define or import it if need be.

        Raises:
            Unwritable: its source is not to be had, or its name stands for something else.
        """
        if id(thing) in self._own:
            return self._own[id(thing)][1]
        if isinstance(thing, ModuleType):
            return self._import_module(thing.__name__.rpartition(".")[2], thing)
        if is_installed(thing):
            home = home_of(thing)
            if home is None:
                raise Unwritable(f"{_title(thing)} can't be imported by its name")
            module, name = home
            for prefix, owner in (("nn", nn), ("torch", torch), ("nn.functional", nn.functional)):
                if getattr(owner, name, None) is thing:
                    return f"{prefix}.{name}"
            if module == "builtins":
                return name
            if module == "torch.optim":
                return f"torch.optim.{name}"
            return self._import_from(module, name, thing, name)
        return self._define(thing, getattr(thing, "__name__", ""))

    def template(self, name: str, source: str, imports: tuple[str, ...] = ()) -> str:
        """Define a class or function of this package's own text; return the name it has got.

        ``source`` calls it ``NAME``.
        """
        if source not in self._templates:
            free = self._templates[source] = self._free(name)
            self._named[free] = source
            self.imports |= set(imports)
            self.blocks.append(source.replace("NAME", free))
        return self._templates[source]

    def variable(self, name: str, text: str) -> str:
        """Give the value of an expression a name, ``name`` or one like it; return that."""
        free = self._free(name)
        self._named[free] = text
        self.blocks.append(f"{free} = {text}\n")
        return free

    def version(self, key: Any, name: str, text: str, scope: dict[str, Any]) -> str:
        """Define a changed version of a class under ``name`` or one like it; return that.

        Args:
            key: tells versions apart.
            name: what ``text`` calls the class.
            text: the class.
            scope: what the names in it stand for.
        """
        for version, known in self._own.values():
            if version == key:
                return known
        free = self._free(name)
        self._named[free] = key
        self._own[id(key)] = (key, free)
        self._needs(text, scope, name)
        self.blocks.append(text if free == name else _renamed(text, name, free))
        return free

    def put_instead(self, cls: type[Any], key: Any, text: str) -> None:
        """Let ``text``, a changed version of a class of its name, be defined in its place."""
        self._instead[id(cls)] = (key, text)

    def is_replaced(self, cls: type[Any], key: Any) -> bool:
        """Return whether the version ``key`` of a class is defined in its place."""
        return id(cls) in self._instead and bool(self._instead[id(cls)][0] == key)

    def _free(self, name: str) -> str:
        free, number = name, 2
        while free in self._named:
            free, number = f"{name}{number}", number + 1
        return free

    def _define(self, thing: Any, name: str) -> str:
        source = None
        if isinstance(thing, type):
            source = class_source(thing)
        elif isinstance(thing, FunctionType):
            source = function_source(thing)
        if source is None:
            raise Unwritable(f"the source of {_title(thing)} is not to be had")
        text = source.text
        if id(thing) in self._instead:
            key, text = self._instead[id(thing)]
            self._own[id(key)] = (key, name)
        if name == "<lambda>":
            name = "function"
            while name in self._named:
                name += "_"
        if name in self._later:
            return name
        self._take(name, thing)
        self._own[id(thing)] = (thing, name)
        if isinstance(thing, FunctionType) and thing.__name__ == "<lambda>":
            text = f"{name} = {text}"
        self._later.add(name)
        self._needs(text, source.scope, name)
        self._later.discard(name)
        self.blocks.append(text)
        return name

    def _take(self, name: str, thing: Any) -> None:
        known = self._named.get(name)
        if name in self._named and known is not thing and not _alike(known, thing):
            raise Unwritable(f"two different things in it are called {name}")
        self._named[name] = thing

    def _needs(self, text: str, scope: dict[str, Any], own_name: str) -> None:
        """Bind the names that a definition looks up outside itself."""
        tree = ast.parse(text)
        annotations = _take_off_annotations(tree)
        needed = _global_names(ast.unparse(tree))
        for name in sorted(annotations - needed):
            if name in scope and name != own_name:
                try:
                    self._bind(name, scope[name])
                    continue
                except Unwritable:
                    pass
            if name != own_name and not hasattr(builtins, name):
                self.imports.add(_FUTURE)
        for name in sorted(needed):
            if name in scope and name != own_name:
                self._bind(name, scope[name])

    def _bind(self, name: str, value: Any) -> None:
        if name in self._named and (self._named[name] is value or _alike(self._named[name], value)):
            return
        if isinstance(value, ModuleType):
            self._import_module(name, value)
        elif isinstance(value, type | FunctionType) and not is_installed(value):
            known = self.refer(value)
            if known != name:
                self._take(name, value)
                self.blocks.append(f"{name} = {known}\n")
        elif callable(value) and (home := home_of(value)) is not None:
            self._import_from(*home, value, name)
        else:
            try:
                text = written(value, self.refer)
            except Unwritable as error:
                raise Unwritable(f"it uses {name} from outside, and {error}") from None
            self._take(name, value)
            self.blocks.append(f"{name} = {text}\n")

    def _import_module(self, name: str, module: ModuleType) -> str:
        self._take(name, module)
        parent, _, last = module.__name__.rpartition(".")
        if name == module.__name__:
            self.imports.add(f"import {name}")
        elif name == last:
            self.imports.add(f"from {parent} import {name}")
        else:
            self.imports.add(f"import {module.__name__} as {name}")
        return name

    def _import_from(self, module: str, name: str, thing: Any, known_as: str) -> str:
        if module == "builtins":
            return name
        self._take(known_as, thing)
        self.imports.add(
            f"from {module} import {name}" + ("" if name == known_as else f" as {known_as}")
        )
        return known_as


def _title(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", getattr(thing, "__name__", repr(thing))))


def _alike(one: Any, other: Any) -> bool:
    simple = (bool, int, float, str, tuple, type(None))
    return type(one) is type(other) and isinstance(one, simple) and bool(one == other)


def _written_imports(statements: set[str]) -> str:
    """Return import statements in their usual order and groups, one for each module."""
    members: dict[str, list[str]] = {}
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for statement in sorted(statements):
        if statement.startswith("from"):
            _, module, _, what = statement.split(" ", 3)
            members.setdefault(module, []).append(what)
        else:
            groups[_group_of(statement.split()[1])].append(statement)
    for module, names in members.items():
        line = f"from {module} import {', '.join(sorted(names))}"
        if len(line) > 100:
            line = f"from {module} import (\n    " + ",\n    ".join(sorted(names)) + ",\n)"
        groups[_group_of(module)].append(line)
    return "\n\n".join("\n".join(lines) for _, lines in sorted(groups.items()) if lines)


def _group_of(module: str) -> int:
    if module == "__future__":
        return 0
    return 1 if module.partition(".")[0] in sys.stdlib_module_names else 2


def _spaced(block: str) -> str:
    return ("\n\n\n" if block.startswith(_DEFINING) else "\n\n") + block


def _renamed(text: str, name: str, new: str) -> str:
    for keyword in ("class", "def"):
        text = text.replace(f"{keyword} {name}(", f"{keyword} {new}(", 1)
        text = text.replace(f"{keyword} {name}:", f"{keyword} {new}:", 1)
    return text.replace(f"super({name},", f"super({new},")


def _take_off_annotations(tree: ast.AST) -> set[str]:
    """Take annotations off a syntax tree; return the names in them."""
    names: set[str] = set()

    def collect(node: ast.expr | None) -> None:
        if node is not None:
            names.update(part.id for part in ast.walk(node) if isinstance(part, ast.Name))

    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            collect(node.returns)
            node.returns = None
        elif isinstance(node, ast.arg):
            collect(node.annotation)
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            collect(node.annotation)
            node.annotation = ast.Constant(None)
    return names


def _global_names(text: str) -> set[str]:
    """Return the names that a piece of source looks up outside itself."""
    found: set[str] = set()

    def search(table: symtable.SymbolTable) -> None:
        at_top = table.get_type() == "module"
        for symbol in table.get_symbols():
            outside = symbol.is_referenced() and not symbol.is_assigned() if at_top else False
            if outside or (not at_top and symbol.is_global()):
                found.add(symbol.get_name())
        for child in table.get_children():
            search(child)

    top = symtable.symtable(textwrap.dedent(text), "text", "exec")
    search(top)
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()}
    return found - defined

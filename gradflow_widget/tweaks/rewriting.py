"""Puts another activation where a module's methods call one: F.relu(x), torch.tanh(x), x.relu().

The methods' syntax trees are changed and compiled into a subclass of the module's class, so that
loops, branches and ``self.training`` go on working as written, where a traced graph would freeze
them. Line numbers, closures and globals stay those of the original.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from .errors import CannotTweak
from .nonlinearities import as_attribute, function_name
from .sequence import methods_of
from .tracing import Site

Position = tuple[int, int]
"""Where a call ends in its file: line and column; column -1 where Python tells no columns."""

_ORIGINAL = "_gradflow_rewritten_from"
_CALL = "_gradflow_activation"
_SITES = "_gradflow_sites"


@dataclass(frozen=True)
class CallSite:
    """A call of an activation in a method: which function, and where it stands."""

    method: str
    function: str
    file: str
    start: Position
    end: Position

    def is_at(self, site: Site) -> bool:
        """Return whether an instruction belongs to this call."""
        code, index = site
        if code.co_filename != self.file:
            return False
        line, end_line, end_column = _position_of(code, index)
        if end_column >= 0:
            return (end_line, end_column) == self.end
        return self.start[0] <= line <= self.end[0]


def call_sites(module: nn.Module) -> list[CallSite]:
    """Return where the methods of ``module`` call activations as functions.

    Raises:
        CannotTweak: a method that seems to do so has no source to read.
    """
    return [
        CallSite(
            name,
            called,
            function.__code__.co_filename,
            (call.lineno, call.col_offset),
            (call.end_lineno or 0, call.end_col_offset or 0),
        )
        for name, function in _methods_with_activations(module)
        for call, called in _calls(_parsed(module, function), function, module)
    ]


def rewrite(
    module: nn.Module, sites: list[CallSite], activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Call ``activation`` at ``sites`` instead, for this module alone.

    Raises:
        CannotTweak: a site's method is decorated, or works in place on more than a name.
    """
    cls: Any = type(module)
    module.__class__ = _rewritten(cls, tuple(sites), activation)


# Blocks of one class share what is compiled for it, and so do a model's copies.
@lru_cache(maxsize=256)
def _rewritten(
    cls: Any, sites: tuple[CallSite, ...], activation: Callable[[torch.Tensor], torch.Tensor]
) -> type[nn.Module]:
    methods: dict[str, Any] = {}
    for name, function in methods_of(cls):
        ends = {site.end for site in sites if site.method == name}
        if ends:
            if inspect.getattr_static(cls, name) is not function:
                called = next(site.function for site in sites if site.method == name)
                raise CannotTweak(
                    f"{cls.__name__}.{name} is decorated, so the activation that it calls can't "
                    f"be swapped: make it a module, {as_attribute(called)}."
                )
            methods[name] = _compiled(cls, function, ends)

    def reduced(self: Any, _: object) -> tuple[Any, ...]:
        # Pickle finds classes by name, and there it would find the original.
        return _unfilled, (cls, sites, activation), self.__getstate__()

    kept = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    body = {
        **methods,
        **kept,
        "__reduce_ex__": reduced,
        _ORIGINAL: cls,
        _SITES: sites,
        _CALL: staticmethod(activation),
    }
    return types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(body))


def _unfilled(
    cls: Any, sites: tuple[CallSite, ...], activation: Callable[[torch.Tensor], torch.Tensor]
) -> nn.Module:
    empty: nn.Module = object.__new__(_rewritten(cls, sites, activation))
    return empty


def rewritten_sites(cls: type[nn.Module]) -> tuple[CallSite, ...]:
    """Return where a class that ``rewrite`` has made calls another activation; its base does not.

    Empty for every other class.
    """
    sites: tuple[CallSite, ...] = vars(cls).get(_SITES, ())
    return sites


def restore(module: nn.Module) -> None:
    """Undo ``rewrite``.

    Raises:
        CannotTweak: the module's class was changed again since.
    """
    original = getattr(type(module), _ORIGINAL, None)
    if original is None:
        return
    if _ORIGINAL not in vars(type(module)):
        raise CannotTweak(
            f"The class of {type(module).__name__} was changed after its activation was swapped, "
            "so the activation can't be changed again."
        )
    module.__class__ = original


def _methods_with_activations(module: nn.Module) -> Iterator[tuple[str, FunctionType]]:
    for name, function in methods_of(type(module)):
        names = _names(function.__code__)
        if any(
            function_name(called) or _torch_function(_looked_up(ast.Name(called), function))
            for called in names
        ):
            yield name, function


def _names(code: CodeType) -> set[str]:
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def _parsed(owner: nn.Module | type[nn.Module], function: FunctionType) -> ast.FunctionDef:
    try:
        lines, first = inspect.getsourcelines(function)
        # A method is indented; taking the indent away would move the columns.
        indented = lines[0][:1].isspace()
        tree = ast.parse(("if 1:\n" if indented else "") + "".join(lines))
        body: list[ast.stmt] = tree.body[0].body if indented else tree.body  # type: ignore[attr-defined]
        ast.increment_lineno(tree, first - (2 if indented else 1))
        if isinstance(body[0], ast.FunctionDef):
            return body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        pass
    called = sorted(name for name in _names(function.__code__) if function_name(name))
    own = [name for name in called if not hasattr(owner, name)]
    if not own:
        return ast.FunctionDef(name=function.__name__, body=[], decorator_list=[])  # type: ignore[call-arg]
    cls = owner if isinstance(owner, type) else type(owner)
    raise CannotTweak(
        f"The source of {cls.__name__}.{function.__name__} can't be read, and it calls "
        f"{own[0]}: make the activation a module, such as self.act = nn.ReLU()."
    )


def _calls(
    tree: ast.FunctionDef, function: FunctionType, module: nn.Module
) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _activation_called(node.func, function, module)
            if called:
                yield node, called


def _activation_called(target: ast.expr, function: FunctionType, module: nn.Module) -> str:
    if isinstance(target, ast.Name):
        return _torch_function(_looked_up(target, function))
    if not isinstance(target, ast.Attribute) or not function_name(target.attr):
        return ""
    base = _looked_up(target.value, function)
    if base is not None:
        return _torch_function(getattr(base, target.attr, None))
    # What hangs on self is mostly a layer that is called; on anything else, a tensor's method is.
    parts: list[str] = []
    value = target.value
    while isinstance(value, ast.Attribute):
        parts.insert(0, value.attr)
        value = value.value
    if isinstance(value, ast.Name) and value.id == function.__code__.co_varnames[0]:
        found: Any = module
        for part in parts:
            found = getattr(found, part, None)
        return function_name(target.attr) if isinstance(found, torch.Tensor) else ""
    return function_name(target.attr)


def _looked_up(node: ast.expr, function: FunctionType) -> Any:
    """Return what a name stands for outside the function, or None."""
    if isinstance(node, ast.Attribute):
        base = _looked_up(node.value, function)
        return None if base is None else getattr(base, node.attr, None)
    if not isinstance(node, ast.Name) or node.id in function.__code__.co_varnames:
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if node.id in cells:
        try:
            return cells[node.id].cell_contents
        except ValueError:  # a name that has no value yet
            return None
    return function.__globals__.get(node.id)


def _torch_function(value: Any) -> str:
    if isinstance(value, type | nn.Module) or not callable(value):
        return ""
    home = str(getattr(value, "__module__", None) or "torch")
    return function_name(value) if home.startswith("torch") else ""


class _Swap(ast.NodeTransformer):
    def __init__(self, ends: set[Position], self_name: str, where: str) -> None:
        self.ends = ends
        self.self_name = self_name
        self.where = where

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        swapped = self.generic_visit(node)
        if isinstance(call, ast.Call) and self._is_chosen(call) and isinstance(swapped, ast.Expr):
            # A statement by itself works in place.
            argument = swapped.value.args[0]  # type: ignore[attr-defined]
            if not isinstance(argument, ast.Name):
                raise CannotTweak(
                    f"{self.where} applies an activation in place: assign its result to a name."
                )
            target = ast.Name(argument.id, ast.Store())
            return ast.copy_location(ast.Assign([target], swapped.value), node)
        return swapped

    def visit_Call(self, node: ast.Call) -> ast.AST:
        chosen = self._is_chosen(node)
        self.generic_visit(node)
        if not chosen:
            return node
        inputs = [keyword.value for keyword in node.keywords if keyword.arg == "input"]
        is_function = bool(node.args) or bool(inputs)
        argument = [*node.args, *inputs][0] if is_function else node.func.value  # type: ignore[attr-defined]
        call = ast.Attribute(ast.Name(self.self_name, ast.Load()), _CALL, ast.Load())
        return ast.copy_location(ast.Call(call, [argument], []), node)

    def _is_chosen(self, node: ast.Call) -> bool:
        return (node.end_lineno, node.end_col_offset) in self.ends


def _compiled(cls: type[nn.Module], function: FunctionType, ends: set[Position]) -> FunctionType:
    tree = _parsed(cls, function)
    tree.decorator_list = []
    tree.returns = None
    parameters = tree.args
    for parameter in [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs]:
        parameter.annotation = None
    for star in (parameters.vararg, parameters.kwarg):
        if star is not None:
            star.annotation = None
    parameters.defaults = [ast.Constant(None) for _ in parameters.defaults]
    parameters.kw_defaults = [value and ast.Constant(None) for value in parameters.kw_defaults]
    where = f"{cls.__name__}.{function.__name__}"
    tree = _Swap(ends, function.__code__.co_varnames[0], where).visit(tree)
    # A class around it, for names such as self.__hidden; a function, for its free variables.
    owner = function.__qualname__.split(".")[-2] if "." in function.__qualname__ else "Module"
    around = ast.parse(
        f"def factory({', '.join(function.__code__.co_freevars)}):\n class {owner}: pass"
    )
    around.body[0].body[0].body = [tree]  # type: ignore[attr-defined]
    code = compile(ast.fix_missing_locations(around), function.__code__.co_filename, "exec")
    for name in ("factory", owner, function.__name__):
        code = next(
            constant
            for constant in code.co_consts
            if isinstance(constant, CodeType) and constant.co_name == name
        )
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    made.__doc__ = function.__doc__
    made.__dict__.update(function.__dict__)
    made.__wrapped__ = function  # type: ignore[attr-defined]
    return made


def _position_of(code: CodeType, index: int) -> tuple[int, int, int]:
    if hasattr(code, "co_positions"):
        line, end_line, _, end_column = list(code.co_positions())[index // 2]
        if end_line is not None and end_column is not None:
            return line or end_line, end_line, end_column
    for start, stop, line in code.co_lines():
        if start <= index < stop and line is not None:
            return line, line, -1
    return 0, 0, -1

"""The loops, in a class's source, that call the members of a ModuleList."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Methods by which a list or a dict takes up its arguments.
_PUTS_IN = frozenset({"append", "appendleft", "extend", "insert", "update", "setdefault"})


def mentions(node: ast.AST, name: str) -> bool:
    """Whether ``node`` is the attribute ``name`` of something, or its item of that name."""
    return (isinstance(node, ast.Attribute) and node.attr == name) or (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and node.slice.value == name
    )


def loops_over(function: ast.FunctionDef, name: str) -> Iterator[MemberLoop]:
    """Yield the ``for`` loops of a method that call members of ``self.<name>``."""
    for node in ast.walk(function):
        if isinstance(node, ast.For) and _is_about(node, name):
            loop = MemberLoop(node, name)
            if loop.calls:
                yield loop


def is_gathered(function: ast.FunctionDef, name: str) -> bool:
    """Whether a method goes through ``self.<name>`` in a comprehension, each by itself."""
    return any(
        isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp)
        and any(_is_about(generator.iter, name) for generator in node.generators)
        for node in ast.walk(function)
    )


class MemberLoop:
    """A ``for`` loop in whose body members of a ModuleList are called.

    Args:
        loop: the loop.
        name: the attribute that the list is.

    Attributes:
        calls: the calls of members; handed to what calls it, as in checkpoint(member, x), a
            member is called too.
    """

    def __init__(self, loop: ast.For, name: str) -> None:
        self._name = name
        self._members = _bound_to_members(loop.target, loop.iter, name)
        self._body = [node for statement in loop.body for node in ast.walk(statement)]
        self._assignments = [
            (_assigned(target), node.value)
            for node in self._body
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
            and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        ]
        self._assignments += [
            (_assigned(node.func.value), argument)
            for node in self._body
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _PUTS_IN
            for argument in node.args
        ]
        for targets, value in self._assignments:
            if isinstance(value, ast.Subscript) and mentions(value.value, name):
                self._members |= targets
        self.calls = [
            node for node in self._body if isinstance(node, ast.Call) and self._calls_member(node)
        ]

    def hands_on(self) -> bool:
        """Whether what one call returned is among the arguments of the next."""
        carried = self._made()
        return any(
            _names(argument) & carried
            for call in self.calls
            for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
        )

    def adds_around(self) -> bool:
        """Whether what a member is called with is added to what it returns, for the next one."""
        made, fed = self._made(), self._fed()

        def is_skip(one: ast.AST, other: ast.AST) -> bool:
            calls = any(self._calls_member(part) for part in ast.walk(one))
            if not (calls or _names(one) & made):
                return False
            around = _names(other) & fed
            return bool(around if calls else around - _names(one))

        sums: list[tuple[ast.expr, ast.expr]] = [
            (node.target, node.value)
            for node in self._body
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add)
            if _assigned(node.target) & fed
        ]
        # A sum of what all members return goes into none of them.
        sums += [
            (part.left, part.right)
            for targets, value in self._assignments
            if targets & fed
            for part in ast.walk(value)
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add)
        ]
        return any(is_skip(one, other) or is_skip(other, one) for one, other in sums)

    def _made(self) -> set[str]:
        """Return the variables that are made of what members return."""
        made: set[str] = set()
        grown = True
        while grown:
            before = len(made)
            for targets, value in self._assignments:
                calls = any(self._calls_member(part) for part in ast.walk(value))
                if calls or _names(value) & made:
                    made |= targets - self._members
            grown = len(made) > before
        return made

    def _fed(self) -> set[str]:
        """Return the variables that members are called with first, and others of their value."""
        fed: set[str] = set()
        for call in self.calls:
            others = [one for one in call.args if not self._is_member(one)]
            others += [keyword.value for keyword in call.keywords]
            fed |= _names(others[0]) - self._members if others else set()
        grown = True
        while grown:
            before = len(fed)
            for targets, value in self._assignments:
                if isinstance(value, ast.Name) and value.id in fed:  # residual = x
                    fed |= targets
                calls = any(self._calls_member(part) for part in ast.walk(value))
                if isinstance(value, ast.Call) and not calls and targets & fed:  # h = norm(x)
                    fed |= _names(value) - self._members
            grown = len(fed) > before
        return fed

    def _calls_member(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        return any(map(self._is_member, [node.func, *node.args]))

    def _is_member(self, node: ast.AST) -> bool:
        """Whether it is a member, or something of one, such as its forward."""
        if isinstance(node, ast.Attribute):
            return bool(_names(node.value) & self._members)
        if isinstance(node, ast.Subscript):
            return mentions(node.value, self._name)
        return isinstance(node, ast.Name) and node.id in self._members


def _is_about(node: ast.AST, name: str) -> bool:
    return any(mentions(part, name) for part in ast.walk(node))


def _bound_to_members(target: ast.expr, iterable: ast.expr, name: str) -> set[str]:
    """Return the names that a loop binds to members of ``self.<name>``, and not to their index."""
    if not _is_about(iterable, name):
        return set()
    if not isinstance(iterable, ast.Call):
        return _names(target)
    parts = target.elts if isinstance(target, ast.Tuple | ast.List) else []
    function, arguments = iterable.func, iterable.args
    if isinstance(function, ast.Attribute) and _is_about(function.value, name):
        if function.attr == "keys":
            return set()
        return _names(parts[-1] if function.attr == "items" and parts else target)
    called = function.id if isinstance(function, ast.Name) else ""
    if called == "range":
        return set()
    if called == "enumerate" and len(parts) == 2 and arguments:
        return _bound_to_members(parts[1], arguments[0], name)
    if called == "zip" and len(parts) == len(arguments):
        pairs = zip(parts, arguments, strict=True)
        return set().union(*(_bound_to_members(*pair, name) for pair in pairs))
    if len(arguments) == 1:  # reversed(...), list(...), tqdm(...)
        return _bound_to_members(target, arguments[0], name)
    return _names(target)


def _assigned(target: ast.expr) -> set[str]:
    # The i of a[i] = … is read, not written.
    if isinstance(target, ast.Tuple | ast.List):
        return set().union(*(_assigned(part) for part in target.elts))
    if isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        return _assigned(target.value)
    return _names(target)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"self"}

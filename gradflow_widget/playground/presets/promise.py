"""Promises: what a preset says of its run, as an expression over the run's numbers.

``decades < -5 and accuracy < 0.2``. There are names of numbers, plain numbers, ``+ - * /``,
comparisons, ``and``, ``or``, and the flags, alone or after ``not``. A name behind ``other.`` is
that of the run that a preset is compared with. Nothing else can be written, and nothing is
called, so a promise out of a file is safe to read. A comparison with NaN does not hold,
whichever way round it is; for that reason ``!=`` and ``not`` before a comparison are left out:
no promise is kept for want of a number.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping

OTHER = "other"
_LONGEST = 500
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
_WRITE = "write comparisons of numbers joined by and, or, such as 'decades < -5 and accuracy < 0.2'"


class Promise:
    """A condition on the numbers of a recorded run.

    Args:
        text: the expression.
        numbers: the names that it may use.
        flags: those that are true or false; numbers that are 1 or 0.

    Attributes:
        text: the expression as written.
        compares: whether it speaks of another run as well.

    Raises:
        ValueError: it can't be read; the sentence says what is wrong and what would do.
    """

    def __init__(self, text: str, *, numbers: Collection[str], flags: Collection[str]) -> None:
        if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
            raise ValueError(f"promise must be a text of 1 to {_LONGEST} characters: {_WRITE}.")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"promise {text!r} can't be read: {_WRITE}.") from error
        self.text = text
        self._numbers, self._flags = numbers, flags
        self._check_condition(tree)
        self._tree = tree
        self.compares = any(isinstance(node, ast.Attribute) for node in ast.walk(tree))

    def __repr__(self) -> str:
        """Return the expression."""
        return f"Promise({self.text!r})"

    def holds(self, numbers: Mapping[str, float], other: Mapping[str, float] | None = None) -> bool:
        """Say whether the promise is kept.

        Args:
            numbers: the run's, by name.
            other: those of the run that it is compared with.

        Raises:
            ValueError: the promise compares two runs and ``other`` is None.
        """
        if self.compares and other is None:
            raise ValueError(
                f"the promise {self.text!r} compares two runs: give the numbers of the other."
            )
        return self._holds(self._tree, numbers, other or {})

    # -- reading -----------------------------------------------------------------------

    def _check_condition(self, node: ast.expr) -> None:
        if isinstance(node, ast.BoolOp):
            for part in node.values:
                self._check_condition(part)
        elif isinstance(node, ast.Compare):
            for comparison in node.ops:
                if type(comparison) not in _COMPARISONS:
                    raise ValueError(
                        f"promise compares by {ast.unparse(node)!r}: choose <, <=, >, >= or ==."
                    )
            for number in (node.left, *node.comparators):
                self._check_number(number)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            if not self._is_flag(node.operand):
                raise ValueError(
                    f"promise says {ast.unparse(node)!r}: not goes before {self._listed_flags()} "
                    "alone; turn the comparison round instead."
                )
        elif not self._is_flag(node):
            raise ValueError(f"promise says {ast.unparse(node)!r}: {_WRITE}.")

    def _check_number(self, node: ast.expr) -> None:
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            self._check_number(node.left)
            self._check_number(node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            self._check_number(node.operand)
        elif self._is_flag(node):
            raise ValueError(
                f"promise compares {ast.unparse(node)!r}, which is true or false: "
                f"write {ast.unparse(node)} or not {ast.unparse(node)}."
            )
        elif (name := _name_in(node)) is not None:
            if name not in self._numbers:
                raise ValueError(
                    f"promise has no number {name!r}: choose among {', '.join(self._numbers)}."
                )
        elif not (isinstance(node, ast.Constant) and _is_finite(node.value)):
            raise ValueError(f"promise says {ast.unparse(node)!r}: {_WRITE}.")

    def _is_flag(self, node: ast.expr) -> bool:
        return _name_in(node) in self._flags

    def _listed_flags(self) -> str:
        return " or ".join(self._flags)

    # -- judging -----------------------------------------------------------------------

    def _holds(
        self, node: ast.expr, numbers: Mapping[str, float], other: Mapping[str, float]
    ) -> bool:
        if isinstance(node, ast.BoolOp):
            parts = (self._holds(part, numbers, other) for part in node.values)
            return all(parts) if isinstance(node.op, ast.And) else any(parts)
        if isinstance(node, ast.Compare):
            values = [_number(part, numbers, other) for part in (node.left, *node.comparators)]
            pairs = zip(node.ops, values, values[1:], strict=False)
            return all(_COMPARISONS[type(by)](left, right) for by, left, right in pairs)
        if isinstance(node, ast.UnaryOp):
            return _number(node.operand, numbers, other) == 0
        return _number(node, numbers, other) == 1


def _is_finite(value: object) -> bool:
    try:
        # Exactly these types: True is an int.
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _name_in(node: ast.expr) -> str | None:
    """Return the name that stands for a number, without its ``other.``; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == OTHER
    ):
        return node.attr
    return None


def _number(node: ast.expr, numbers: Mapping[str, float], other: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp):
        return -_number(node.operand, numbers, other)
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left, numbers, other), _number(node.right, numbers, other)
        try:
            return _ARITHMETIC[type(node.op)](left, right)
        except ZeroDivisionError:
            return math.nan
    name = _name_in(node)
    assert name is not None
    return float((other if isinstance(node, ast.Attribute) else numbers)[name])

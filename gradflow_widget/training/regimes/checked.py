"""Checks of the numbers that a regime is made of, each with a sentence that names them."""

from __future__ import annotations

import math
import reprlib
from numbers import Integral, Real


def as_float(value: object) -> float:
    """Return a real number as a float, infinite where it is too large; NaN for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def checked_number(
    name: str, value: object, *, above: float = -math.inf, up_to: float = math.inf
) -> float:
    """Return ``value`` as a float if it is finite, greater than ``above`` and at most ``up_to``.

    Raises:
        ValueError: it is not.
    """
    number = as_float(value)
    if math.isfinite(number) and above < number <= up_to:
        return number
    limit = "" if up_to == math.inf else f" and at most {up_to:g}"
    raise ValueError(
        f"{name} must be a finite number above {above:g}{limit}, not {reprlib.repr(value)}."
    )


def checked_share(name: str, value: object, *, below_one: bool = False) -> float:
    """Return ``value`` as a float if it is from 0 to 1, or where asked for, below 1.

    Raises:
        ValueError: it is not.
    """
    number = as_float(value)
    if 0 <= number < 1 or (number == 1 and not below_one):
        return number
    end = "below 1" if below_one else "1"
    raise ValueError(f"{name} must be a share from 0 to {end}, not {reprlib.repr(value)}.")


def checked_whole(name: str, value: object, *, least: int) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``least``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    raise ValueError(
        f"{name} must be a whole number of at least {least}, not {reprlib.repr(value)}."
    )

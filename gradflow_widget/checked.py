"""Checks of what users give for a number or a switch, with a sentence that names it."""

from __future__ import annotations

import math
import threading
from numbers import Integral, Real

import numpy as np

from .quoting import quoted


def as_float(value: object) -> float:
    """Return a real number as a float, infinite where it is too large; NaN for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def as_whole(value: object) -> int | None:
    """Return a Python or NumPy integer as an int; None for anything else, bool among it."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def checked_positive(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a positive, finite number.

    Raises:
        ValueError: it is not.
    """
    number = as_float(value)
    if math.isfinite(number) and number > 0:
        return number
    raise ValueError(f"{name} must be a positive, finite number, not {quoted(value)}.")


def checked_from_zero(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number from 0.

    Raises:
        ValueError: it is not.
    """
    number = as_float(value)
    if math.isfinite(number) and number >= 0:
        return number
    raise ValueError(f"{name} must be a finite number from 0, not {quoted(value)}.")


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
    raise ValueError(f"{name} must be a finite number above {above:g}{limit}, not {quoted(value)}.")


def checked_share(name: str, value: object, *, below_one: bool = False) -> float:
    """Return ``value`` as a float if it is from 0 to 1, or where asked for, below 1.

    Raises:
        ValueError: it is not.
    """
    number = as_float(value)
    if 0 <= number < 1 or (number == 1 and not below_one):
        return number
    end = "below 1" if below_one else "1"
    raise ValueError(f"{name} must be a share from 0 to {end}, not {quoted(value)}.")


def checked_whole(
    name: str, value: object, least: int = 1, most: int | None = None, *, multiple_of: int = 1
) -> int:
    """Return ``value`` as an int if it is a whole number in range that can be divided.

    Raises:
        ValueError: it is not.
    """
    number = as_whole(value)
    is_in_range = number is not None and least <= number and (most is None or number <= most)
    if number is not None and is_in_range and number % multiple_of == 0:
        return number
    limits = f"of at least {least}" if most is None else f"from {least:,} to {most:,}"
    divisible = f" that {multiple_of} divides" if multiple_of > 1 else ""
    raise ValueError(f"{name} must be a whole number {limits}{divisible}, not {quoted(value)}.")


def checked_switch(name: str, value: object) -> bool:
    """Return ``value``, which may be NumPy's, as a bool.

    Raises:
        ValueError: it is neither True nor False.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name} must be True or False, not {quoted(value)}.")


def checked_seed(seed: object) -> int:
    """Return ``seed`` as an int if every generator can be seeded with it.

    Raises:
        ValueError: it is no whole number from 0 to 2**63 - 1.
    """
    number = as_whole(seed)
    if number is not None and 0 <= number < 2**63:
        return number
    raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, not {quoted(seed)}.")


def checked_timeout(timeout: object) -> float | None:
    """Return a number of seconds as locks take it; None, infinity and centuries are no limit.

    Raises:
        ValueError: it is neither None nor a number from 0.
    """
    if timeout is None:
        return None
    seconds = as_float(timeout)
    if seconds >= 0:
        return seconds if seconds <= threading.TIMEOUT_MAX else None
    raise ValueError(f"timeout must be a number of seconds from 0, or None, not {quoted(timeout)}.")

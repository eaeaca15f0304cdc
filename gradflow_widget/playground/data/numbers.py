"""Numbers that a data set is given, checked before anything is drawn."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def checked_whole(name: str, value: Any, least: int, most: int) -> int:
    """Return ``value`` as an int if it is a whole number from ``least`` to ``most``.

    Raises:
        ValueError: it is not.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and least <= int(value) <= most:
        return int(value)
    raise ValueError(f"{name} must be a whole number from {least:,} to {most:,}, not {value!r}.")


def checked_noise(value: Any) -> float:
    """Return ``value`` as a float if it can be a standard deviation.

    Raises:
        ValueError: it is negative, not finite or no number.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if is_number and 0 <= float(value) < math.inf:
        return float(value)
    raise ValueError(f"noise must be a finite number of at least 0, not {value!r}.")


def checked_seed(value: Any) -> int:
    """Return ``value`` as an int if every generator can be seeded with it.

    Raises:
        ValueError: it is no whole number from 0 to 2**63 - 1.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and 0 <= int(value) < 2**63:
        return int(value)
    raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, not {value!r}.")

"""An axis that never lies: it holds still while the values fit, and moves with hysteresis."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

_SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
# In px: between a label and the plot, and letters of a label in DejaVu Sans, the widest of the
# fonts that browsers take.
_TICK, _DIGIT, _SIGN, _RAISED, _DOT = 9, 7, 10, 5, 4


class HeldRange:
    """Limits of an axis, in steps of ``grain``.

    They widen at once when a value falls outside, and narrow only after the values have
    filled less than ``loose`` of them for ``patience`` looks in a row. What they span at
    ``least`` is made up above the values, or below where those are bound to fall.
    """

    def __init__(
        self,
        *,
        grain: float,
        least: float,
        loose: float = 0.45,
        patience: int = 40,
        headroom: float = 0.0,
        falling: bool = False,
    ) -> None:
        self._falling = falling
        self._grain, self._least = grain, least
        self._loose, self._patience = loose, patience
        self._headroom = headroom
        self.forget()

    def forget(self) -> None:
        """Begin anew with the next values."""
        self.limits: tuple[float, float] | None = None
        self._loose_looks = 0

    def with_grain(self, grain: float) -> HeldRange:
        """Take another grain from now on, for values whose scale is not known beforehand."""
        self._grain = self._least = grain
        return self

    def fit(self, low: float, high: float) -> tuple[float, float]:
        """Return limits that hold ``low`` and ``high``, moved no more than needed."""
        wanted = self._around(low, high)
        if self.limits is None:
            self.limits = wanted
            return wanted
        bottom, top = self.limits
        if low < bottom or high > top:
            self.limits = (min(bottom, wanted[0]), max(top, wanted[1]))
            self._loose_looks = 0
            return self.limits
        span = wanted[1] - wanted[0]
        self._loose_looks = self._loose_looks + 1 if span < self._loose * (top - bottom) else 0
        if self._loose_looks >= self._patience:
            self.limits = wanted
            self._loose_looks = 0
        return self.limits

    def _around(self, low: float, high: float) -> tuple[float, float]:
        grain = self._grain
        bottom = math.floor(low / grain) * grain
        top = math.ceil((high + self._headroom) / grain) * grain
        missing = max(0, math.ceil((self._least - (top - bottom)) / grain))
        fewer = missing // 2
        below, above = (missing - fewer, fewer) if self._falling else (fewer, missing - fewer)
        return bottom - below * grain, top + above * grain


def decade_ticks(low: float, high: float, most: int = 7) -> tuple[list[float], dict[str, str]]:
    """Return whole decades between the limits and their labels, for an axis of log10."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / most))
    ticks = [float(t) for t in range(first, last + 1) if t % stride == 0]
    return ticks, {number_key(t): _power(int(t)) for t in ticks}


# In the order in which they are wanted: 1, 2 and 5 first, finer ones where there is room.
_MANTISSAS = ((1.0,), (2.0, 5.0), (3.0, 4.0, 7.0), (1.5, 2.5), (6.0, 8.0, 9.0))


def log_ticks(low: float, high: float) -> tuple[list[float], dict[str, str]]:
    """Return ticks for an axis of log10 of any span: decades, 1-2-5, finer, or linear ones."""
    span = high - low
    if span >= 3:
        return decade_ticks(low, high)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    chosen: dict[float, float] = {}
    for mantissas in _MANTISSAS:
        for value in (m * 10.0**power for m in mantissas for power in powers):
            tick = math.log10(value)
            inside = low - 1e-9 <= tick <= high + 1e-9
            if inside and all(abs(tick - other) >= span / 9 for other in chosen):
                chosen[tick] = value
        if len(chosen) >= 3:
            break
    if len(chosen) < 2:
        values = linear_ticks(10.0**low, 10.0**high)
        digits = _enough_digits(values)
        return [math.log10(v) for v in values], {
            number_key(math.log10(v)): plain_number(v, digits) for v in values
        }
    ticks = sorted(chosen)
    return ticks, {number_key(t): plain_number(chosen[t]) for t in ticks}


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between the limits: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def linear_labels(ticks: list[float]) -> dict[str, str]:
    """Return a label for each of these ticks, with as many digits as tell them apart."""
    digits = _enough_digits(ticks)
    return {number_key(t): plain_number(t, digits) for t in ticks}


def step_labels(ticks: list[float]) -> dict[str, str]:
    """Return short labels for numbers of steps: 500, 20k, 1.5M."""

    def short(value: float) -> str:
        if value >= 1e6:
            return f"{value / 1e6:g}M"
        return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"

    return {number_key(t): short(t) for t in ticks}


def number_key(value: float) -> str:
    """Return ``value`` as JavaScript writes it, which is how bqplot looks a label up."""
    if value == 0:
        return "0"
    if 1e-6 <= abs(value) < 1e21:
        return np.format_float_positional(value, trim="-")
    mantissa, _, exponent = repr(float(value)).partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def plain_number(value: float, digits: int = 3) -> str:
    """Return a number as a person writes it: 0.02, −1500, 3×10⁶; 1234567 in seven digits."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    sign = "−" if value < 0 else ""
    size = abs(value)
    if -4 <= exponent <= max(4, digits - 1):
        text = f"{size:.{max(0, digits - 1 - exponent)}f}"
        return sign + (text.rstrip("0").rstrip(".") if "." in text else text)
    mantissa = f"{size / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
    power = f"10{_superscript(exponent)}"
    return sign + (power if mantissa == "1" else f"{mantissa}×{power}")


def label_room(labels: Iterable[str]) -> int:
    """Return what the widest of an axis's labels needs beside the plot, in px."""
    return _TICK + max((sum(map(_width, label)) for label in labels), default=0)


def _width(letter: str) -> int:
    if letter in _SUPERSCRIPTS:
        return _RAISED
    return {".": _DOT, "×": _SIGN, "−": _SIGN}.get(letter, _DIGIT)


def _enough_digits(ticks: list[float]) -> int:
    """Return with how many digits each tick is told to a hundredth of their distance."""
    distance = ticks[1] - ticks[0] if len(ticks) > 1 else 0.0
    for digits in range(3, 17):
        told = (float(f"{tick:.{digits - 1}e}") for tick in ticks)
        if all(abs(t - tick) <= distance / 100 for t, tick in zip(told, ticks, strict=True)):
            return digits
    return 17


def _power(exponent: int) -> str:
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return f"10{_superscript(exponent)}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", _SUPERSCRIPTS))

"""An axis that never lies: it holds still while the values fit, and moves with hysteresis."""

from __future__ import annotations

import math


class HeldRange:
    """Limits of an axis, in steps of ``grain``.

    They widen at once when a value falls outside, and narrow only after the values have
    filled less than ``loose`` of them for ``patience`` looks in a row.
    """

    def __init__(
        self,
        *,
        grain: float,
        least: float,
        loose: float = 0.45,
        patience: int = 40,
        headroom: float = 0.0,
    ) -> None:
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
        while top - bottom < self._least:
            top += grain
            if top - bottom < self._least:
                bottom -= grain
        return bottom, top


def decade_ticks(low: float, high: float, most: int = 7) -> tuple[list[float], dict[str, str]]:
    """Return whole decades between the limits and their labels, for an axis of log10."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / most))
    ticks = [float(t) for t in range(first, last + 1) if t % stride == 0]
    return ticks, {str(int(t)): _power(int(t)) for t in ticks}


def _between(low: float, high: float, steps: list[float]) -> list[float]:
    return [s for s in steps if low - 1e-9 <= s <= high + 1e-9]


def log_ticks(low: float, high: float) -> tuple[list[float], dict[str, str]]:
    """Return ticks for an axis of log10 of any span: decades, or 1-2-5, or finer."""
    if high - low >= 3:
        return decade_ticks(low, high)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    for mantissas in ((1, 2, 5), range(1, 10), [m / 10 for m in range(10, 100)]):
        ticks = _between(low, high, [math.log10(m) + p for p in powers for m in mantissas])
        if len(ticks) >= 3:
            break
    ticks = ticks[:: max(1, len(ticks) // 6)]
    return ticks, {number_key(t): f"{10**t:.3g}" for t in ticks}


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between the limits: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def number_key(value: float) -> str:
    """Return ``value`` as JavaScript writes it, which is how bqplot looks a label up."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    mantissa, e, exponent = repr(value).partition("e")
    return mantissa if not e else f"{mantissa}e{int(exponent):+d}"


def _power(exponent: int) -> str:
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return f"1e{exponent}"

"""The mean field of wide networks: how variance and gradient go from layer to layer.

Var W = σ_w²/fan_in, Var b = σ_b²: q' = σ_w² E[φ(√q z)²] + σ_b², χ₁ = σ_w² E[φ'(√q z)²] at the
fixed point q*, and the gradient grows by g = ½ ln χ₁ a layer (Poole et al. 2016, Schoenholz et
al. 2017). The critical line is where χ₁ = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .gains import moments
from .nonlinearities import Nonlinearity

_STABLE = 1 + 1e-4
_LEAST_Q, _USUAL_Q, _LARGEST_Q = 1e-12, 0.5, 1e3


@dataclass(frozen=True)
class CriticalPoint:
    """A point of the critical line, and the variance q* to which signals go there."""

    sigma_w: float
    sigma_b: float
    q: float


def critical_point(
    nonlinearity: Nonlinearity, sigma_b: float | None = None
) -> CriticalPoint | None:
    """Return the point of the critical line with ``sigma_b``, or None where there is none.

    On the line q* determines all: σ_w² = 1/E[φ'²] and σ_b² = q* − σ_w² E[φ²]. Only points where
    signals do go to q* count (|dq'/dq| ≤ 1). ReLU and its like have one point, σ_b = 0.

    Args:
        nonlinearity: φ.
        sigma_b: None takes the point with the least q* ≥ ½, large enough for a depth of some
            tens of layers to reach it and small enough to stay out of saturation.
    """
    if sigma_b is None:
        for q in np.geomspace(_USUAL_Q, _LARGEST_Q, 200):
            slope, excess = _slope_and_bias(nonlinearity, float(q))
            if slope <= _STABLE and excess >= -1e-9:
                return _point(nonlinearity, float(q))
        return None
    target = sigma_b**2
    # At σ_b = 0 the line ends in q* = 0, or has every q* on one point.
    for q in (1.0, _LEAST_Q) if target == 0 else ():
        slope, excess = _slope_and_bias(nonlinearity, q)
        if slope <= _STABLE and abs(excess) <= 1e-9:
            return CriticalPoint(_point(nonlinearity, q).sigma_w, 0.0, q)
    below: float | None = None
    for q in map(float, np.geomspace(1e-8, _LARGEST_Q, 200)):
        _, excess = _slope_and_bias(nonlinearity, q)
        if excess < target:
            below = q
        elif below is not None:
            root = _crossing(nonlinearity, target, below, q)
            if _slope_and_bias(nonlinearity, root)[0] <= _STABLE:
                return _point(nonlinearity, root)
            below = None
    return None


def _crossing(nonlinearity: Nonlinearity, target: float, low: float, high: float) -> float:
    for _ in range(50):
        middle = math.sqrt(low * high)
        if _slope_and_bias(nonlinearity, middle)[1] < target:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _slope_and_bias(nonlinearity: Nonlinearity, q: float) -> tuple[float, float]:
    """Return dq'/dq and the σ_b² that makes q a fixed point, where χ₁ = 1."""
    value, slope, growth = moments(nonlinearity, q)
    if slope == 0:
        return math.inf, -math.inf
    return growth / slope, q - value / slope


def _point(nonlinearity: Nonlinearity, q: float) -> CriticalPoint:
    value, slope, _ = moments(nonlinearity, q)
    return CriticalPoint(1 / math.sqrt(slope), math.sqrt(max(0.0, q - value / slope)), q)

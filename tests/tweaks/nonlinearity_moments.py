"""Nonlinearities as formulas, apart from torch, and what schemes draw for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import nn

from gradflow_widget.tweaks.mean_field import critical_point
from gradflow_widget.tweaks.nonlinearities import Nonlinearity, as_nonlinearity

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Phi:
    """A nonlinearity and its derivative as formulas, apart from torch."""

    module: Callable[[], nn.Module]
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def _normal_cdf(z: Array) -> Array:
    return special.ndtr(z)


def _normal_pdf(z: Array) -> Array:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _elu(z: Array, scale: float = 1.0, alpha: float = 1.0) -> Array:
    return scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _elu_slope(z: Array, scale: float = 1.0, alpha: float = 1.0) -> Array:
    return scale * np.where(z > 0, 1.0, alpha * np.exp(np.minimum(z, 0)))


_SELU = (1.0507009873554805, 1.6732632423543772)

PHI = {
    "linear": Phi(nn.Identity, lambda z: z, np.ones_like),
    "ReLU": Phi(nn.ReLU, lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "LeakyReLU": Phi(
        lambda: nn.LeakyReLU(0.2),
        lambda z: np.where(z > 0, z, 0.2 * z),
        lambda z: np.where(z > 0, 1, 0.2),
    ),
    "tanh": Phi(nn.Tanh, np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "sigmoid": Phi(nn.Sigmoid, special.expit, lambda z: special.expit(z) * special.expit(-z)),
    "ELU": Phi(nn.ELU, _elu, _elu_slope),
    "SELU": Phi(nn.SELU, lambda z: _elu(z, *_SELU), lambda z: _elu_slope(z, *_SELU)),
    "GELU": Phi(
        nn.GELU, lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_pdf(z)
    ),
    "SiLU": Phi(
        nn.SiLU,
        lambda z: z * special.expit(z),
        lambda z: special.expit(z) * (1 + z * special.expit(-z)),
    ),
}

_Z = np.linspace(-12, 12, 200_001)
_DENSITY = _normal_pdf(_Z) * (_Z[1] - _Z[0])


@cache
def moments(name: str, q: float) -> tuple[float, float]:
    """E[φ²] and E[φ'²] at variance q, by the trapezoid rule."""
    phi = PHI[name]
    z = math.sqrt(q) * _Z
    return float(_DENSITY @ phi.value(z) ** 2), float(_DENSITY @ phi.slope(z) ** 2)


def nonlinearity(module: nn.Module) -> Nonlinearity:
    found = as_nonlinearity(module)
    assert found is not None
    return found


SCHEMES_WITH_A_NUMBER = ("default", "normal", "xavier", "lecun", "he", "orthogonal", "critical")
"""Those whose σ_w and σ_b are known beforehand; zeros and constants have none, LSUV the batch's."""


def scheme_options(scheme: str) -> dict[str, float]:
    """Options under which a scheme's number is one worth testing."""
    return {"std": 0.08} if scheme == "normal" else {}


def sigmas(scheme: str, name: str, width: int) -> tuple[float, float, float]:
    """σ_w and σ_b of a hidden layer, and σ_w of the output layer, by the definitions."""
    gain = 1 / math.sqrt(moments(name, 1.0)[0])
    if scheme == "critical":
        point = critical_point(nonlinearity(PHI[name].module()))
        assert point is not None
        return point.sigma_w, point.sigma_b, 1.0
    third = math.sqrt(1 / 3)
    return {
        "default": (third, third / math.sqrt(width), third),
        "normal": (0.08 * math.sqrt(width), 0.0, 0.08 * math.sqrt(width)),
        "xavier": (1.0, 0.0, 1.0),
        "lecun": (1.0, 0.0, 1.0),
        "he": (gain, 0.0, 1.0),
        "orthogonal": (gain, 0.0, 1.0),
    }[scheme]

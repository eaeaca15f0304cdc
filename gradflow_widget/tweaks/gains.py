"""Moments of a nonlinearity under a Gaussian, and the gain that keeps a signal's size.

It is 1/√E[φ²] over z ~ N(0, 1), and 1/√E[φ'²] that of a gradient's size (theory.md, "Initialisation
gains"; He et al. 2015 for ReLU, Klambauer et al. 2017 for SELU, whose gain is 1).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .nonlinearities import Nonlinearity
from .random_state import random_state_kept
from .silence import nothing_printed

_REACH, _PANELS, _NODES = 12.0, 960, 8


@cache
def _quadrature() -> tuple[Tensor, Tensor]:
    # Gauss–Hermite with 200 nodes misses ELU's and SELU's gains in the third digit and
    # hardtanh's in the second, for their kinks fall between nodes; Gauss–Legendre on short
    # panels has the Gaussian in its weights and is exact to 1e-4 or better wherever they fall.
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)
    half = _REACH / _PANELS
    z = ((edges[:-1] + edges[1:])[:, None] / 2 + half * nodes).ravel()
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return torch.tensor(z, device="cpu"), torch.tensor(
        np.tile(half * weights, _PANELS) * density, device="cpu"
    )


def moments(nonlinearity: Nonlinearity, q: float = 1.0) -> tuple[float, float, float]:
    """Return E[φ²], E[φ'²] and dE[φ²]/dq of φ(√q z) over z ~ N(0, 1)."""
    nodes, weights = _quadrature()
    with (
        random_state_kept(()),
        nothing_printed(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        z = (nodes.clone() * math.sqrt(q)).requires_grad_()
        # Some work in place, which a leaf does not allow.
        value = nonlinearity.function(z * 1)
        (slope,) = torch.autograd.grad(value.sum(), z)
    value = value.detach()
    return (
        float(weights @ value**2),
        float(weights @ slope**2),
        float(weights @ (value * slope * nodes)) / math.sqrt(q),
    )


def forward_gain(nonlinearity: Nonlinearity) -> float:
    """Return 1/√E[φ²]: with σ_w of this size a signal of variance 1 keeps it."""
    return 1 / math.sqrt(moments(nonlinearity)[0])

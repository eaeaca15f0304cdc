"""Slope and decades: how the signal gradient changes from the output to the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .layers import Layer

FloatArray = NDArray[np.float64]


_latest: tuple[tuple[Layer, ...], tuple[tuple[int, ...], ...]] = ((), ())


def comparable_groups(layers: tuple[Layer, ...]) -> tuple[tuple[int, ...], ...]:
    """Return groups of layers, as indices in forward order, that may be compared.

    Weight layers of one role form a group; groups of fewer than three are left out, and
    where that leaves none, all weight layers form one group but for those that enclose others,
    such as a whole network with an embedding of its own: their output is no place before those.
    """
    global _latest
    # A run's readings share their layers; hashing the layers takes longer than grouping them.
    known, groups = _latest
    if known is not layers:
        groups = _groups(layers)
        _latest = layers, groups
    return groups


def _groups(layers: tuple[Layer, ...]) -> tuple[tuple[int, ...], ...]:
    by_role: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.is_weight_layer:
            by_role.setdefault(layer.role, []).append(index)
    groups = tuple(tuple(group) for group in by_role.values() if len(group) >= 3)
    if groups:
        return groups
    together = tuple(
        i for i, layer in enumerate(layers) if layer.is_weight_layer and not layer.encloses
    )
    return (together,) if together else ()


def measured_groups(signal: FloatArray, layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """Return the comparable groups without the layers that have no number, such as frozen ones."""
    known = ~np.isnan(signal)
    groups = [tuple(i for i in group if known[i]) for group in comparable_groups(tuple(layers))]
    return [group for group in groups if group]


def _long_groups(signal: FloatArray, layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """Return the measured groups of at least three layers; where there is none, of two."""
    groups = measured_groups(signal, layers)
    enough = [group for group in groups if len(group) >= 3]
    return enough or [group for group in groups if len(group) >= 2]


def decades_of_groups(
    signal: FloatArray, layers: Sequence[Layer]
) -> list[tuple[tuple[int, ...], float]]:
    """Return each measured group with its own decades; without those that have no number."""
    found = []
    for group in _long_groups(signal, layers):
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.log10(signal[group[0]]) - np.log10(signal[group[-1]]))
        if not np.isnan(value):
            found.append((group, value))
    return found


def decades(signal: FloatArray, layers: Sequence[Layer]) -> float:
    """Return D = log10(‖∂L/∂h_1‖ / ‖∂L/∂h_L‖), the median over the comparable groups.

    ``signal`` holds ‖∂L/∂h_l‖ of each layer, shape (layers,), in forward order. −inf where
    nothing at all arrives at the first layer. A group whose last layer has no signal either, or
    of which fewer than two layers have a number, has no part in it; NaN where that leaves none.
    """
    values = [value for _, value in decades_of_groups(signal, layers)]
    return float(np.median(values)) if values else float("nan")


def slope(signal: FloatArray, layers: Sequence[Layer]) -> float:
    """Return g, the growth of ln‖∂L/∂h‖ per layer toward the input (g < 0 vanishes).

    The least-squares line through ln‖∂L/∂h_l‖ of each comparable group, and the median of
    their slopes. Layers with a zero or non-finite signal have no logarithm and are left
    out; NaN where fewer than two remain.
    """
    slopes = []
    for members in _long_groups(signal, layers):
        group = signal[list(members)]
        depth = np.arange(len(group), dtype=np.float64)
        usable = np.isfinite(group) & (group > 0)
        if usable.sum() < 2:
            continue
        x = depth[usable] - depth[usable].mean()
        y = np.log(group[usable])
        slopes.append(-float(x @ (y - y.mean())) / float(x @ x))
    return float(np.median(slopes)) if slopes else float("nan")

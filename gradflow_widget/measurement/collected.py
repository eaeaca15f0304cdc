"""What a capture has measured in a step, lined up for the one transfer and for the reading."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .activations import Counts, dead_in_all
from .passes import Call, Scalar
from .through_time import ThroughTime

FloatArray = NDArray[np.float64]


class Collected:
    """A capture's scalars, ready for the one transfer, and how to read them afterwards.

    Attributes:
        norms: L2 norms, numbers or 0-d tensors: signals, then activations.
        counts: counts, likewise: dead and saturated in turn, where any can be.
        through_time: of the recurrent layers.
        ways: by layer's name, those of the layers that its output is computed from; told once.
    """

    def __init__(
        self,
        calls: Sequence[tuple[int, Call]],
        layers: int,
        through_time: ThroughTime,
        ways: Mapping[str, Collection[str]],
    ) -> None:
        self._layers = layers
        self.through_time = through_time
        self.ways = ways
        signals = [(layer, call, s) for layer, call in calls for s in call.signals]
        counted: list[tuple[int, tuple[Scalar | None, int]]] = []
        for layer, one in _counts_of(calls):
            counted += [(layer, (one.dead, one.units)), (layer, (one.saturated, one.outputs))]
        self.norms: list[Scalar] = [s for _, _, s in signals]
        self.norms += [call.activation for _, call in calls]
        self.counts = [scalar for _, (scalar, _) in counted if scalar is not None]
        self._counted = [i for i, (_, (scalar, _)) in enumerate(counted) if scalar is not None]
        self._signals = len(signals)
        self._norm_layers = [layer for layer, _, _ in signals] + [layer for layer, _ in calls]
        self._norm_numbers = [call.samples for _, call, _ in signals]
        self._norm_numbers += [call.number for _, call in calls]
        self._count_layers = [layer for layer, _ in counted]
        self._count_numbers = [number for _, (_, number) in counted]

    def columns(self, norms: FloatArray, counts: FloatArray) -> FloatArray:
        """Return signal, activation, dead and saturated, shape (4, layers).

        Signal and activation are roots of sums of squares over the number of samples and
        of elements; dead and saturated are shares. NaN where nothing was seen.
        """
        first, columns = self._signals, np.empty((4, self._layers))
        layers, numbers = self._norm_layers, self._norm_numbers
        columns[0] = self._root_means(layers[:first], norms[:first], numbers[:first])
        columns[1] = self._root_means(layers[first:], norms[first:], numbers[first:])
        layers, numbers = self._count_layers, self._count_numbers
        every = np.zeros(len(layers))
        every[self._counted] = counts
        counts = every
        columns[2] = self._means(layers[::2], counts[::2], numbers[::2])
        columns[3] = self._means(layers[1::2], counts[1::2], numbers[1::2])
        return columns

    def _root_means(self, layers: list[int], norms: FloatArray, numbers: list[int]) -> FloatArray:
        """Return the root of each layer's sum of squares over its numbers."""
        # In units of each layer's largest, for of doubles the squares overflow and underflow.
        largest, of = np.zeros(self._layers), np.array(layers, dtype=np.intp)
        np.fmax.at(largest, of, norms)
        unit = np.where((largest > 0) & (largest < np.inf), largest, 1.0)
        with np.errstate(over="ignore"):  # beside one that is infinite
            squares = np.square(norms / unit[of])
        return unit * np.sqrt(self._means(layers, squares, numbers))

    def _means(self, layers: list[int], values: FloatArray, numbers: list[int]) -> FloatArray:
        if not layers:
            return np.full(self._layers, np.nan)
        sums = np.bincount(layers, weights=values, minlength=self._layers)
        of = np.bincount(layers, weights=numbers, minlength=self._layers)
        with np.errstate(invalid="ignore"):  # 0/0 where a layer was not seen
            means: FloatArray = sums / of
        return means


def _counts_of(calls: Sequence[tuple[int, Call]]) -> list[tuple[int, Counts]]:
    """Return the counts of each call; a unit of a layer called more than once is dead in all."""
    counted = [(layer, call.counts) for layer, call in calls if call.counts is not None]
    of_layer: dict[int, list[Counts]] = {}
    for layer, counts in counted:
        of_layer.setdefault(layer, []).append(counts)
    if len(of_layer) == len(counted):
        return counted
    return [(layer, one) for layer, counts in of_layer.items() for one in dead_in_all(counts)]

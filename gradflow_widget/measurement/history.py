"""All readings, as columns, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .reading import Reading

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
Statistic = Literal["min", "mean", "max"]

STEP_COLUMNS = (
    "step",
    "loss",
    "learning_rate",
    "total_norm",
    "clip_scale",
    "decades",
    "slope",
)
LAYER_COLUMNS = (
    "weight_grad_norm",
    "unclipped_grad_norm",
    "weight_grad_max",
    "weight_norm",
    "update_ratio",
    "signal_grad_norm",
    "activation_rms",
    "dead_fraction",
    "saturated_fraction",
)
# Measured at every step; NaN in them means NaN and must survive thinning.
_EVERY_STEP = frozenset(
    ("step", "loss", "learning_rate", "total_norm", "clip_scale")
    + ("weight_grad_norm", "unclipped_grad_norm")
)
_BUDGET_BYTES = 200_000_000


class History:
    """Every step's numbers as columns of shape (steps,) or (steps, layers), float64.

    The newest steps are kept one by one. When they fill their share of the memory, the
    older half is thinned to blocks of steps with their minimum, mean and maximum, and
    blocks are joined in pairs when they in turn fill theirs. A column therefore has one
    row for each recent step and one for each block: ``history.step`` says where a row
    stands (the mean of a block's steps), ``steps_per_row`` how many steps it holds.

    Columns are attributes: ``history.loss``, ``history.weight_grad_norm`` …; see
    ``STEP_COLUMNS`` and ``LAYER_COLUMNS``. Quantities of full readings are NaN where a
    step was not read in full.
    """

    def __init__(self, *, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self.latest: Reading | None = None
        self.clear()

    def clear(self) -> None:
        """Forget every reading."""
        self.latest = None
        self.steps_recorded = 0
        self._layers: tuple[str, ...] = ()
        self._length = 0
        self._capacity = 0
        self._most = 0
        self._scalars = np.empty((0, len(STEP_COLUMNS)))
        self._by_layer: dict[str, FloatArray] = {}
        self._blocks: _Blocks | None = None

    def __len__(self) -> int:
        """Return the number of rows: recent steps and blocks of older ones."""
        return self._length + (self._blocks.length if self._blocks else 0)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in forward order."""
        return self._layers

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take."""
        own = self._scalars.nbytes + sum(array.nbytes for array in self._by_layer.values())
        return own + (self._blocks.nbytes if self._blocks else 0)

    def append(self, reading: Reading) -> None:
        """Record one reading.

        Raises:
            ValueError: its layers are others than those recorded so far.
        """
        if not self._capacity:
            self._layers = reading.layers
            row_bytes = 8 * (len(STEP_COLUMNS) + len(LAYER_COLUMNS) * len(self._layers))
            # Half as many blocks as steps, with three statistics each: 2.5 rows a step.
            self._most = int(np.clip(self._budget / (2.5 * row_bytes), 64, 100_000))
            self._grow(min(256, self._most))
        elif len(reading.described) != len(self._layers):
            raise ValueError("a History holds one network: the reading's layers are others.")
        if self._length == self._capacity:
            if self._capacity < self._most:
                self._grow(min(2 * self._capacity, self._most))
            else:
                self._thin()
        row = self._length
        full = reading.is_full
        self._scalars[row] = (
            reading.step,
            reading.loss,
            reading.learning_rate,
            reading.total_norm,
            reading.clip_scale,
            reading.decades if full else np.nan,
            reading.slope if full else np.nan,
        )
        columns = self._by_layer
        columns["weight_grad_norm"][row] = reading.weight_grad_norm
        columns["unclipped_grad_norm"][row] = reading.unclipped_grad_norm
        for name in LAYER_COLUMNS[2:]:
            values = getattr(reading, name) if full else None
            columns[name][row] = np.nan if values is None else values
        self._length += 1
        self.steps_recorded += 1
        self.latest = reading

    def _grow(self, capacity: int) -> None:
        shape = (capacity, len(self._layers))
        scalars = np.empty((capacity, len(STEP_COLUMNS)))
        scalars[: self._length] = self._scalars[: self._length]
        self._scalars = scalars
        for name in LAYER_COLUMNS:
            wider = np.empty(shape)
            if self._length:
                wider[: self._length] = self._by_layer[name][: self._length]
            self._by_layer[name] = wider
        self._capacity = capacity

    def _thin(self) -> None:
        """Move the older half of the single steps into blocks of two."""
        half = self._length // 2 // 2 * 2
        if self._blocks is None:
            self._blocks = _Blocks(len(self._layers), max(self._most // 2, 32))
        moved = {name: self._column(name)[:half] for name in (*STEP_COLUMNS, *LAYER_COLUMNS)}
        self._blocks.extend(moved)
        kept = self._length - half
        self._scalars[:kept] = self._scalars[half : self._length].copy()
        for array in self._by_layer.values():
            array[:kept] = array[half : self._length].copy()
        self._length = kept

    def _column(self, name: str) -> FloatArray:
        if name in self._by_layer:
            return self._by_layer[name][: self._length]
        return self._scalars[: self._length, STEP_COLUMNS.index(name)]

    def column(self, name: str, statistic: Statistic = "mean") -> FloatArray:
        """Return one column as a fresh array, shape (rows,) or (rows, layers).

        ``statistic`` chooses what stands for a block of older steps; a recent step is its
        own minimum, mean and maximum.

        Raises:
            KeyError: no column has that name.
        """
        if name not in STEP_COLUMNS and name not in LAYER_COLUMNS:
            raise KeyError(f"no column {name!r}; there are {', '.join(STEP_COLUMNS)} and "
                           f"{', '.join(LAYER_COLUMNS)}.")
        if not self._capacity:
            return np.empty((0,) if name in STEP_COLUMNS else (0, 0))
        recent = self._column(name)
        if self._blocks is None:
            return recent.copy()
        return np.concatenate([self._blocks.column(name, statistic), recent])

    def __getattr__(self, name: str) -> FloatArray:
        if name in STEP_COLUMNS or name in LAYER_COLUMNS:
            return self.column(name)
        raise AttributeError(f"History has no column {name!r}.")

    @property
    def steps_per_row(self) -> NDArray[np.int64]:
        """How many steps each row stands for, shape (rows,)."""
        recent = np.ones(self._length, dtype=np.int64)
        if self._blocks is None:
            return recent
        return np.concatenate([self._blocks.steps_per_row, recent])

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each row of the columns.

        ``frame["loss"]`` is a Series, ``frame["weight_grad_norm"]`` a frame with a column
        for each layer. Needs pandas.
        """
        import pandas as pd

        data: dict[tuple[str, str], FloatArray] = {}
        for name in STEP_COLUMNS:
            data[(name, "")] = self.column(name)
        for name in LAYER_COLUMNS:
            values = self.column(name)
            for index, layer in enumerate(self._layers):
                data[(name, layer)] = values[:, index]
        frame = pd.DataFrame(data)
        frame.columns = pd.MultiIndex.from_tuples(list(data), names=["quantity", "layer"])
        return frame


class _Blocks:
    """Blocks of older steps: minimum, mean and maximum of every column."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.length = 0
        self._capacity = capacity
        self._steps = np.zeros(capacity, dtype=np.int64)
        self._arrays: dict[str, dict[str, FloatArray]] = {}
        self._counts: dict[str, FloatArray] = {}
        for name in (*STEP_COLUMNS, *LAYER_COLUMNS):
            shape = (capacity,) if name in STEP_COLUMNS else (capacity, layers)
            self._arrays[name] = {s: np.empty(shape) for s in ("min", "mean", "max")}
            if name not in _EVERY_STEP:
                # How many numbers the mean is of: full readings come only now and then.
                self._counts[name] = np.empty(capacity if name in STEP_COLUMNS else shape)

    @property
    def nbytes(self) -> int:
        arrays = sum(a.nbytes for stats in self._arrays.values() for a in stats.values())
        return arrays + sum(counts.nbytes for counts in self._counts.values())

    @property
    def steps_per_row(self) -> NDArray[np.int64]:
        return self._steps[: self.length].copy()

    def column(self, name: str, statistic: Statistic) -> FloatArray:
        return self._arrays[name][statistic][: self.length]

    def extend(self, columns: dict[str, FloatArray]) -> None:
        """Append an even number of single steps as blocks of two."""
        steps = len(columns["step"])
        start = 0
        while start < steps:
            while self.length == self._capacity:
                self._halve()
            room = 2 * (self._capacity - self.length)
            stop = min(steps, start + room)
            into = slice(self.length, self.length + (stop - start) // 2)
            self._steps[into] = 2
            for name, values in columns.items():
                part = values[start:stop]
                count = (~np.isnan(part)).astype(np.float64)
                self._join(name, into, {"min": part, "mean": part, "max": part}, count)
            self.length = into.stop
            start = stop

    def _halve(self) -> None:
        """Join the blocks in pairs, so that half the rows are free again."""
        even = self.length // 2 * 2
        into = slice(0, even // 2)
        weights = self._steps[:even].astype(np.float64)
        for name, stats in self._arrays.items():
            count = self._counts[name][:even] if name in self._counts else weights
            if count.ndim < stats["mean"].ndim:
                count = np.broadcast_to(count[:, None], stats["mean"][:even].shape)
            self._join(name, into, {s: a[:even].copy() for s, a in stats.items()}, count.copy())
        self._steps[into] = self._steps[0:even:2] + self._steps[1:even:2]
        if even < self.length:
            odd = self.length - 1
            self._steps[into.stop] = self._steps[odd]
            for name, stats in self._arrays.items():
                for array in stats.values():
                    array[into.stop] = array[odd]
                if name in self._counts:
                    self._counts[name][into.stop] = self._counts[name][odd]
        self.length = into.stop + (self.length - even)

    def _join(
        self, name: str, into: slice, parts: dict[str, FloatArray], count: FloatArray
    ) -> None:
        stats = self._arrays[name]
        first, second = slice(0, None, 2), slice(1, None, 2)
        stats["min"][into] = np.fmin(parts["min"][first], parts["min"][second])
        stats["max"][into] = np.fmax(parts["max"][first], parts["max"][second])
        a, b = parts["mean"][first], parts["mean"][second]
        if name in _EVERY_STEP:
            n, m = np.maximum(count[first], 1.0), np.maximum(count[second], 1.0)
            with np.errstate(invalid="ignore", over="ignore"):
                stats["mean"][into] = (a * n + b * m) / (n + m)
            return
        n, m = count[first], count[second]
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.where(n > 0, a * n, 0.0) + np.where(m > 0, b * m, 0.0)
            stats["mean"][into] = np.where(n + m > 0, total / (n + m), np.nan)
        self._counts[name][into] = n + m

"""All readings, as columns, in bounded memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ..checked import checked_whole
from ..quoting import counted, quoted
from ..uninterrupted import uninterrupted
from .blocks import Blocks, Statistic, widened
from .layers import Layer
from .reading import Reading

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]

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
    "missing",
    "weight_grad_max",
    "weight_norm",
    "update_ratio",
    "signal_grad_norm",
    "activation_rms",
    "dead_fraction",
    "saturated_fraction",
)
# Measured at every step; NaN in them means NaN and must survive thinning. The step columns
# and the layer columns both begin with them.
_EVERY_STEP = (5, 3)
_FIRST = len(STEP_COLUMNS)  # where a row's first layer column begins
_BUDGET_BYTES = 200_000_000
# There are a quarter as many blocks as single steps, and a block takes four times as much:
# minimum, mean, maximum and counts.
_ROWS_PER_STEP = 1 + 4 / 4
# So many parts, of which the oldest is thinned at a time, have the single steps.
_PARTS = 32


class Rows(NamedTuple):
    """Steps of which nothing was clipped and only the gradients were measured, as columns.

    Attributes:
        loss, total_norm: shape (steps,).
        learning_rates: shape (steps, parameter groups); NaN where a step had no such group.
        weight_grad_norm: shape (steps, layers).
    """

    loss: FloatArray
    learning_rates: FloatArray
    total_norm: FloatArray
    weight_grad_norm: FloatArray


class History:
    """Every step's numbers as columns of shape (steps,) or (steps, layers), float64.

    The newest steps are kept one by one. When they fill their share of the memory, the
    oldest are thinned to blocks of steps with their minimum, mean and maximum, and all
    blocks are joined in pairs when they in turn fill theirs. A column therefore has one
    row for each recent step and one for each block: ``history.step`` says where a row
    stands (the mean of a block's steps), ``steps_per_row`` how many steps it holds.

    Columns are attributes: ``history.loss``, ``history.weight_grad_norm`` …; see
    ``STEP_COLUMNS`` and ``LAYER_COLUMNS``. Where the optimizer has several parameter groups,
    ``learning_rate`` is the first one's, and ``learning_rate_1``, ``learning_rate_2`` …, of
    shape (steps,), are those of ``optimizer.param_groups[1]`` and so on: NaN, and no part of a
    block's mean, where a group was not there yet or has no rate of its own. Quantities of full
    readings are NaN where a step was not read in full. ``missing`` is 1 where a layer's weights
    had no gradient: their norm is NaN then and no part of a block's mean, while a gradient that
    holds NaN is.

    One thread may append while others read; :meth:`columns` reads several columns of the
    same moment. A copy, or what was pickled, holds the steps up to then and goes on by itself.

    Attributes:
        catch_up: brings in what has been measured and is not here yet; called ahead of reading.
    """

    def __init__(self, *, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._budget = checked_whole("budget_bytes", budget_bytes)
        # Not to be called with the lock held: it waits for whoever appends.
        self.catch_up: Callable[[], None] = nothing_is_missing
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget every reading; a probe that goes on recording goes on numbering its steps."""
        self.catch_up()
        with self._lock:
            # How many steps were recorded, and the newest reading: a step is in by one assignment,
            # which no interrupt can halve.
            self._recorded: tuple[int, Reading | None] = 0, None
            self._in_blocks = 0
            self._described: tuple[Layer, ...] = ()
            self._most = 0
            # The oldest single step stands here; the rows are a ring once they are full.
            self._start = 0
            # One row a step: the step columns, each layer column, then the learning rates of
            # parameter groups beyond the first.
            self._rows = np.empty((0, 0))
            self._further_rates: tuple[str, ...] = ()
            self._blocks: Blocks | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: all that was recorded, as it is at this moment."""
        self.catch_up()
        with self._lock:
            state = vars(self).copy()
            # Whoever appends next writes into these.
            state["_rows"], state["_blocks"] = self._rows.copy(), copy.deepcopy(self._blocks)
        del state["_lock"], state["catch_up"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what another held; there is nobody to catch up with."""
        self.__dict__.update(state)
        self.catch_up = nothing_is_missing
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        """Return how much it holds, and where the numbers are."""
        steps, layers = self.steps_recorded, len(self.layers)
        extent = counted(steps, "step")
        if layers:
            extent += f" of {counted(layers, 'layer')}"
        return f"<History: {extent}; to_dataframe() gives the numbers>"

    @property
    def _length(self) -> int:
        """The number of single steps."""
        return self._recorded[0] - self._in_blocks

    def __len__(self) -> int:
        """Return the number of rows: recent steps and blocks of older ones."""
        self.catch_up()
        return self._length + (self._blocks.length if self._blocks else 0)

    @property
    def latest(self) -> Reading | None:
        """The newest reading; None while there is none."""
        self.catch_up()
        return self._recorded[1]

    @property
    def steps_recorded(self) -> int:
        """How many steps it holds, those in blocks counted one by one."""
        self.catch_up()
        return self._recorded[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in forward order."""
        self.catch_up()
        return self._names()

    def _names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self._described)

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take."""
        return self._rows.nbytes + (self._blocks.nbytes if self._blocks else 0)

    def ends_with(self, reading: Reading) -> bool:
        """Whether this very reading was recorded last, of those that were recorded one by one."""
        return self._recorded[1] is reading

    def append(self, reading: Reading) -> None:
        """Record one reading.

        Raises:
            ValueError: its layers are others than those recorded so far.
        """
        with self._lock:
            rates = reading.learning_rates
            self._take_layers(reading.described, len(rates))
            self._make_room()
            row = self._rows[(self._start + self._length) % len(self._rows)]
            count = len(self._described)
            first, second, third, fourth = (_FIRST + place * count for place in range(4))
            row[: _EVERY_STEP[0]] = (
                reading.step,
                reading.loss,
                reading.learning_rate,
                reading.total_norm,
                reading.clip_scale,
            )
            row[first:second] = reading.weight_grad_norm
            row[second:third] = reading.unclipped_grad_norm
            row[third:fourth] = reading.missing
            row[_EVERY_STEP[0] : first] = np.nan
            row[fourth:] = np.nan
            if len(rates) > 1:
                row[self._end : self._end + len(rates) - 1] = rates[1:]
            if reading.is_full:
                row[_EVERY_STEP[0] : first] = (reading.decades, reading.slope)
                by_layer = row[first : self._end].reshape(len(LAYER_COLUMNS), count)
                for index in range(_EVERY_STEP[1], len(LAYER_COLUMNS)):
                    values = getattr(reading, LAYER_COLUMNS[index])
                    if values is not None:
                        by_layer[index] = values
            self._recorded = self._recorded[0] + 1, reading

    def append_rows(self, described: tuple[Layer, ...], first_step: int, steps: Rows) -> None:
        """Record steps that were not read in full, the first of them number ``first_step``.

        Raises:
            ValueError: their layers are others than those recorded so far.
        """
        with self._lock:
            groups = steps.learning_rates.shape[1]
            self._take_layers(described, groups)
            count, done = len(described), 0
            first, second, third, fourth = (_FIRST + place * count for place in range(4))
            while done < len(steps.loss):
                self._make_room()
                start = (self._start + self._length) % len(self._rows)
                room = min(len(self._rows) - self._length, len(self._rows) - start)
                now = slice(done, done + room)
                norms = steps.weight_grad_norm[now]
                rows = self._rows[start : start + len(norms)]
                rows[:, 0] = np.arange(len(norms)) + first_step + done
                rows[:, 1] = steps.loss[now]
                rows[:, 2] = steps.learning_rates[now, 0]
                rows[:, 3] = steps.total_norm[now]
                rows[:, 4] = 1.0
                rows[:, _EVERY_STEP[0] : first] = np.nan
                rows[:, first:second] = rows[:, second:third] = norms
                rows[:, third:fourth] = 0.0
                rows[:, fourth:] = np.nan
                rows[:, self._end : self._end + groups - 1] = steps.learning_rates[now, 1:]
                done += len(norms)
                recorded, latest = self._recorded
                self._recorded = recorded + len(norms), latest

    def _make_room(self) -> None:
        if self._length == len(self._rows):
            if self._length < self._most:
                self._grow(min(2 * self._length, self._most))
            else:
                with uninterrupted():
                    self._thin()

    def _take_layers(self, described: tuple[Layer, ...], groups: int) -> None:
        """Make columns for the layers, and for the learning rates of so many groups."""
        if described is not self._described:
            if self._most:
                if tuple(layer.name for layer in described) != self._names():
                    raise ValueError(
                        "a History holds one network: the reading's layers are others."
                    )
                self._described = described
            else:
                with uninterrupted():
                    self._lay_out(described, groups)
        if groups > len(self._further_rates) + 1:
            with uninterrupted():
                # A group that is added later takes a little more than the budget.
                further = self._name_rates(groups)
                self._rows = widened(self._rows, further)
                if self._blocks is not None:
                    self._blocks.widen(further)

    def _lay_out(self, described: tuple[Layer, ...], groups: int) -> None:
        self._described = described
        self._end = _FIRST + len(LAYER_COLUMNS) * len(described)
        width = self._end + self._name_rates(groups)
        rows = np.clip(self._budget / (_ROWS_PER_STEP * 8 * width), 2 * _PARTS, 100_000)
        self._part = 2 ** int(np.log2(rows / _PARTS))  # a power of two, as blocks are
        self._most = _PARTS * self._part
        self._rows = np.empty((0, width))
        self._grow(min(256, self._most))

    def _name_rates(self, groups: int) -> int:
        """Name the rates of so many groups; return how many have got a name now."""
        before = len(self._further_rates)
        self._further_rates = tuple(f"learning_rate_{group}" for group in range(1, groups))
        return len(self._further_rates) - before

    def _grow(self, capacity: int) -> None:
        rows = np.empty((capacity, self._rows.shape[1]))
        rows[: self._length] = self._rows[: self._length]
        self._rows = rows

    def _thin(self) -> None:
        """Move the oldest part of the single steps into blocks.

        Part by part, so that no step waits for long.
        """
        if self._blocks is None:
            count = len(self._described)
            every_step = np.zeros(self._rows.shape[1], dtype=np.bool_)
            every_step[: _EVERY_STEP[0]] = True
            every_step[_FIRST : _FIRST + _EVERY_STEP[1] * count] = True
            norms, missing = _FIRST + 2 * count, _FIRST + 3 * count
            self._blocks = Blocks(
                self._most // 4,
                every_step,
                norms=slice(_FIRST, norms),
                missing=slice(norms, missing),
            )
        self._blocks.extend(self._rows[self._start : self._start + self._part])
        self._start = (self._start + self._part) % self._most
        self._in_blocks += self._part

    def _recent(self, place: int | slice) -> FloatArray:
        """Return a column of the single steps, oldest first, as a fresh array."""
        end = self._start + self._length
        first = self._rows[self._start : end, place]
        return np.concatenate([first, self._rows[: max(0, end - len(self._rows)), place]])

    def _step_columns(self) -> tuple[str, ...]:
        """Return the names of the columns of shape (rows,), all learning rates together."""
        after = STEP_COLUMNS.index("learning_rate") + 1
        return (*STEP_COLUMNS[:after], *self._further_rates, *STEP_COLUMNS[after:])

    def _place(self, name: str) -> int | slice:
        """Return where a column stands in a row."""
        if name in STEP_COLUMNS:
            return STEP_COLUMNS.index(name)
        if name in self._further_rates:
            return self._end + self._further_rates.index(name)
        if name not in LAYER_COLUMNS:
            there = ", ".join(self._step_columns())
            raise KeyError(f"no column {name!r}; there are {there} and {', '.join(LAYER_COLUMNS)}.")
        count = len(self._described)
        start = _FIRST + LAYER_COLUMNS.index(name) * count
        return slice(start, start + count)

    def column(self, name: str, statistic: Statistic = "mean") -> FloatArray:
        """Return one column as a fresh array, shape (rows,) or (rows, layers).

        ``statistic`` chooses what stands for a block of older steps; a recent step is its
        own minimum, mean and maximum.

        Raises:
            KeyError: no column has that name.
            ValueError: there is no such statistic.
        """
        _check_statistic(statistic)
        self.catch_up()
        return self._column(name, statistic)

    def _column(self, name: str, statistic: Statistic) -> FloatArray:
        with self._lock:
            place = self._place(name)
            if not self._most:
                return np.empty((0,) if name in STEP_COLUMNS else (0, 0))
            recent = self._recent(place)
            if self._blocks is None:
                return recent
            return np.concatenate([self._blocks.rows(statistic)[:, place], recent])

    def columns(self, *names: str, statistic: Statistic = "mean") -> tuple[FloatArray, ...]:
        """Return several columns with the same rows, though a step may end meanwhile.

        Raises:
            KeyError, ValueError: see :meth:`column`.
        """
        _check_statistic(statistic)
        self.catch_up()
        return self._columns(names, statistic)

    def _columns(self, names: Sequence[str], statistic: Statistic) -> tuple[FloatArray, ...]:
        with self._lock:
            return tuple(self._column(name, statistic) for name in names)

    def __getattr__(self, name: str) -> FloatArray:
        if name.startswith("learning_rate_"):
            self.catch_up()  # a step that is not here yet may have brought the group with it
            is_column = name in self._further_rates
        else:
            is_column = name in STEP_COLUMNS or name in LAYER_COLUMNS
        if is_column:
            return self.column(name)
        raise AttributeError(f"History has no column {name!r}.")

    @property
    def steps_per_row(self) -> NDArray[np.int64]:
        """How many steps each row stands for, shape (rows,)."""
        self.catch_up()
        with self._lock:
            recent = np.ones(self._length, dtype=np.int64)
            if self._blocks is None:
                return recent
            return np.concatenate([self._blocks.steps_per_row, recent])

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each row of the columns.

        ``frame["loss"]`` is a Series, ``frame["weight_grad_norm"]`` a frame with a column
        for each layer; one without a name, the model itself, is called "(model)". The learning
        rates of further parameter groups stand behind the first one's.
        """
        import pandas as pd

        self.catch_up()
        with self._lock:
            layers, of_steps = self._names(), self._step_columns()
            columns = self._columns((*of_steps, *LAYER_COLUMNS), "mean")
        keys = [(name, "") for name in of_steps]
        # Under an empty name pandas would give a Series.
        keys += [(name, layer or "(model)") for name in LAYER_COLUMNS for layer in layers]
        values = np.concatenate([c[:, None] if c.ndim == 1 else c for c in columns], axis=1)
        labels = pd.MultiIndex.from_tuples(keys, names=["quantity", "layer"])
        return pd.DataFrame(values, columns=labels)


def nothing_is_missing() -> None:
    """Catch up with nobody."""


def _check_statistic(statistic: object) -> None:
    known = get_args(Statistic)
    if not isinstance(statistic, str) or statistic not in known:
        raise ValueError(
            f"statistic {quoted(statistic)} is unknown: choose one of {', '.join(known)}."
        )

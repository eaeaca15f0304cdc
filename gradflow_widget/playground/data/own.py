"""Your own table: a CSV file or a pandas DataFrame, one row for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...checked import checked_seed
from .holding_out import held_out_rows, loaded
from .source import Loaded

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["classification", "regression"]
# A column of whole numbers with more different values counts something.
MOST_WHOLE_CLASSES = 20


def from_csv(
    path: str | Path,
    target: str,
    *,
    columns: Sequence[str] | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> Loaded:
    """Return the table in a CSV file, its first line the columns' names.

    The arguments, and what becomes of the columns, are those of ``from_dataframe``. For
    other dialects (another separator, say) read it with ``pandas.read_csv`` and use that.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be read as CSV, or ``from_dataframe`` won't have it.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} can't be read as CSV ({error}): give a comma between values and a first "
            "line of names, in UTF-8."
        ) from error
    return from_dataframe(frame, target, columns=columns, task=task, seed=seed)


def from_dataframe(
    frame: pd.DataFrame,
    target: str,
    *,
    columns: Sequence[str] | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> Loaded:
    """Return a DataFrame as vectors, a fifth of the rows held out by the seed.

    Every input column is shifted and scaled to mean 0 and deviation 1 over the training
    rows (a constant one to 0).

    Args:
        frame: one row for each sample.
        target: the column to predict. Text, categories, truth values, and whole numbers of
            at most 20 different values are classes: their sorted names are ``classes``,
            with cross entropy. Other numbers are fitted with the mean squared error after
            the same scaling, so that always answering the mean costs about 1.
        columns: the input columns, numbers or truth values; None is all but the target.
        task: "classification" or "regression" where that rule is not meant.
        seed: decides what is held out.

    Raises:
        ValueError: a column is absent, named twice, has gaps or holds no numbers; the target
            has one value only; there are fewer than two rows, or the task is unknown.
    """
    seed = checked_seed(seed)
    if task not in (None, "classification", "regression"):
        raise ValueError(f"task must be classification, regression or None, not {task!r}.")
    names = list(frame.columns)
    if isinstance(columns, str):
        raise ValueError(f"columns must be a list of names, not {columns!r}.")
    inputs = [name for name in names if name != target] if columns is None else list(columns)
    for name in (target, *inputs):
        if name not in names:
            raise ValueError(
                f"column {name!r} is not in the table: choose among {', '.join(map(str, names))}."
            )
        if names.count(name) > 1:
            raise ValueError(f"column {name!r} stands in the table twice: rename one of them.")
        if gaps := int(frame[name].isna().sum()):
            raise ValueError(
                f"column {name!r} has {gaps} missing value{'s' if gaps > 1 else ''}: "
                "fill them in or drop those rows."
            )
    if not inputs or target in inputs:
        raise ValueError("columns must name at least one column, and not the target.")
    rows = held_out_rows(len(frame), seed)
    x = np.stack([_values(frame[name], name) for name in inputs], axis=1)
    vectors = _scaled(torch.tensor(x), rows[0])
    column = frame[target]
    if task == "classification" or (task is None and _holds_classes(column)):
        return _classified(vectors, column, rows)
    y = _scaled(torch.tensor(_values(column, target))[:, None], rows[0])
    return loaded(vectors, y, rows, nn.MSELoss(), 1)


def _classified(
    vectors: torch.Tensor, column: pd.Series[Any], rows: tuple[torch.Tensor, torch.Tensor]
) -> Loaded:
    given = column.tolist()
    is_number = all(isinstance(value, (int, float)) for value in given)
    names = sorted(set(given), key=None if is_number else str)
    if len(names) < 2:
        raise ValueError(f"target {column.name!r} is {names[0]!r} in every row: give two classes.")
    places = {name: place for place, name in enumerate(names)}
    targets = torch.tensor([places[value] for value in given])
    classes = tuple(map(str, names))
    return loaded(vectors, targets, rows, nn.CrossEntropyLoss(), len(classes), classes)


def _holds_classes(column: pd.Series[Any]) -> bool:
    if column.dtype.kind in "iu":
        return bool(column.nunique() <= MOST_WHOLE_CLASSES)
    return column.dtype.kind not in "fc"


def _values(column: pd.Series[Any], name: str) -> NDArray[np.float64]:
    """Return a column of numbers.

    Raises:
        ValueError: it holds something else, or infinity.
    """
    if column.dtype.kind not in "iufb":
        raise ValueError(
            f"column {name!r} is of dtype {column.dtype}, which is no number: encode it "
            "(pandas.get_dummies), or leave it out with columns=[...]."
        )
    values: NDArray[np.float64] = column.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"column {name!r} holds infinity: replace it or drop those rows.")
    return values


def _scaled(columns: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """Return each column with mean 0 and deviation 1 over the training rows, as float32."""
    known = columns[training]
    deviation = known.std(dim=0, correction=0)
    constant = deviation <= 1e-12 * known.abs().amax(dim=0)
    scale = torch.where(constant, torch.inf, deviation)
    return ((columns - known.mean(dim=0)) / scale).to(torch.float32)

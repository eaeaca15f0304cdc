"""Your own arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ...checked import checked_seed
from .holding_out import held_out_rows, loaded
from .image_dataset import from_dataset
from .next_token import NextTokenLoss
from .source import Loaded, kind_of


def as_loaded(data: object, seed: int = 0) -> Loaded:
    """Return what ``GradientFlow.playground(data=...)`` takes besides names, as ``Loaded``.

    Args:
        data: a ``Loaded``, returned as it is; a pair of arrays or tensors
            (``from_arrays``); or a dataset in torchvision's manner (``from_dataset``).
        seed: decides what is held out.

    Raises:
        TypeError: it is none of these.
        ValueError: the numbers in it won't do.
    """
    if isinstance(data, Loaded):
        return data
    if isinstance(data, Dataset):
        return from_dataset(data, seed=seed)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return from_arrays(data[0], data[1], seed=seed)
    raise TypeError(
        f"data is of type {type(data).__name__}: give the name of a data set, a pair of arrays, "
        "a dataset of images, or what from_csv, from_dataframe or from_wav_folder returns."
    )


def from_arrays(inputs: Any, targets: Any, *, seed: int = 0) -> Loaded:
    """Return arrays or tensors of your own, a fifth of the samples held out by the seed.

    The shape of the inputs tells their kind: (samples, features) vectors,
    (samples, length, features) sequences, (samples, channels, height, width) images.
    Whole-number inputs (samples, length) with targets of the same shape are tokens. Bytes
    (uint8) of three or more dimensions are pixels and divided by 255; nothing else is
    scaled. Whole-number targets (samples,) are classes counted from 0, with cross entropy;
    others (samples,) or (samples, values) are numbers to fit, with the mean squared error.

    Rows are held out one by one: where rows belong together (a speaker's, a day's), make a
    ``Loaded`` with a division of your own.

    Raises:
        TypeError: one of them is no array of numbers.
        ValueError: shapes don't fit, there are fewer than two samples, a number is NaN or
            infinite, or classes are negative or more than there are samples.
    """
    x, y = _numbers("inputs", inputs), _numbers("targets", targets)
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y):
        raise ValueError(
            f"inputs have shape {tuple(x.shape)} but targets {tuple(y.shape)}: "
            "both need the same number of samples."
        )
    rows = held_out_rows(len(x), checked_seed(seed))
    if _is_whole(x) and _is_whole(y) and x.dim() == y.dim() == 2 and x.shape == y.shape:
        tokens = _counted("inputs and targets", torch.stack([x, y]).to(torch.int64), y.numel())
        return loaded(x.long(), y.long(), rows, NextTokenLoss(), tokens)
    pixels = x.dtype is torch.uint8 and x.dim() >= 3
    x = x.to(torch.float32) / 255 if pixels else x.to(torch.float32)
    if kind_of(x) is None:
        raise ValueError(
            f"inputs have shape {tuple(x.shape)}: give (samples, features), "
            "(samples, length, features) or (samples, channels, height, width)."
        )
    if _is_whole(y):
        y = y.flatten() if y.dim() == 2 and y.shape[1] == 1 else y
        if y.dim() != 1:
            raise ValueError(
                f"targets are whole numbers of shape {tuple(y.shape)}: give one class for each "
                "sample, or floats where they are numbers to fit."
            )
        y = y.to(torch.int64)
        return loaded(x, y, rows, nn.CrossEntropyLoss(), _counted("targets", y, len(y)))
    y = y.to(torch.float32)
    y = y[:, None] if y.dim() == 1 else y
    if y.dim() != 2:
        raise ValueError(
            f"targets have shape {tuple(y.shape)}: give (samples,) or (samples, values)."
        )
    return loaded(x, y, rows, nn.MSELoss(), y.shape[1])


def _numbers(name: str, values: Any) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        numbers = values.detach().cpu().clone()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"{name} hold values of dtype {array.dtype}, which are no numbers: "
                "convert them to floats or whole numbers."
            )
        # torch has no unsigned arithmetic beyond bytes.
        is_wide = array.dtype.kind == "u" and array.dtype.itemsize > 1
        numbers = torch.tensor(array.astype(np.int64) if is_wide else array)
    if numbers.is_complex():
        raise TypeError(f"{name} are complex: give real numbers, such as real and imaginary parts.")
    if numbers.is_floating_point() and not numbers.isfinite().all():
        row = int((~numbers.isfinite()).reshape(len(numbers), -1).any(dim=1).nonzero()[0])
        raise ValueError(f"{name} hold NaN or infinity in row {row}: fill it in or drop the row.")
    return numbers


def _is_whole(values: torch.Tensor) -> bool:
    return not values.is_floating_point()


def _counted(name: str, classes: torch.Tensor, most: int) -> int:
    """Return how many classes there are, counted from 0 to the greatest."""
    least, count = int(classes.min()), int(classes.max()) + 1
    if least < 0:
        raise ValueError(f"{name} hold the class {least}: count classes from 0.")
    if count > max(most, 2):
        raise ValueError(
            f"{name} hold whole numbers up to {count - 1:,}, more classes than there are samples: "
            "number the classes from 0, or give floats where they are numbers to fit."
        )
    return count

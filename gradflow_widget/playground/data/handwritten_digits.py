"""Handwritten digits: scikit-learn's, 8×8 pixels."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .holding_out import generator, held_out_rows, loaded, standardized
from .source import Kind, Loaded

_SHAPES: dict[str, tuple[int, ...]] = {"vector": (64,), "image": (1, 8, 8), "sequence": (8, 8)}
KINDS: tuple[Kind, ...] = ("vector", "image", "sequence")


@cache
def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    return images, targets


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return scikit-learn's 1,797 handwritten digits, shuffled once.

    Inputs of shape (1797, 64), float32, 8×8 pixels scaled to mean 0 and deviation 1 over
    the whole set; targets of shape (1797,), int64, the digits 0 to 9.
    """
    images, targets = _read()
    inputs = torch.tensor(images, dtype=torch.float32)
    inputs = (inputs - inputs.mean()) / inputs.std()
    order = torch.randperm(len(inputs), generator=generator(0))
    return inputs[order], torch.tensor(targets, dtype=torch.int64)[order]


def load(kind: str, seed: int) -> Loaded:
    """Return them with 1,438 to train on and 359 held out, scaled by the first.

    As vectors (64,), as images (1, 8, 8) or as sequences (8, 8): row by row from the top,
    each row the eight pixels of one time step. The classes are the digits.
    """
    images, digits = _read()
    rows = held_out_rows(len(images), seed)
    inputs = standardized(torch.tensor(images, dtype=torch.float32), rows[0])
    targets = torch.tensor(digits, dtype=torch.int64)
    names = tuple(str(digit) for digit in range(10))
    shaped = inputs.reshape(-1, *_SHAPES[kind])
    return loaded(shaped, targets, rows, nn.CrossEntropyLoss(), 10, names)

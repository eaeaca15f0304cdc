"""Curriculum learning: easy samples first (Bengio et al. 2009; Hacohen & Weinshall 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...checked import checked_number, checked_whole
from ...measurement.loss_modules import modules_of
from ...measurement.single import everything_kept
from ..batches import (
    DEFAULT_BATCH_SIZE,
    Batches,
    DatasetBatches,
    IndexedBatches,
    TensorBatches,
    on_device,
)
from ..objective import Objective

FloatArray = NDArray[np.float64]


class CurriculumBatches:
    """Samples rows from the easiest part of the data, which grows until it is all of them.

    Of n samples, batch t (from 0) is drawn, without repetition within it, from the easiest
    max(batch size, ⌈n·(start + (1 − start)·t/over)⌉). From batch ``over`` on, the batches are
    those of the data without a curriculum. The same seed gives the same order.

    Args:
        batches: the data, sample by sample.
        scores: how hard each sample is, shape (samples,); those of equal score stay in their
            order.
        start: the share of the data that the first batch is drawn from.
        over: how many batches it takes until all data are in use.

    Raises:
        ValueError: there are not as many finite scores as samples, or a number can't be used.
    """

    def __init__(
        self,
        batches: IndexedBatches,
        scores: Sequence[float] | FloatArray | torch.Tensor,
        *,
        start: float,
        over: int,
    ) -> None:
        values = np.asarray(scores, dtype=np.float64)
        if batches.size is None or values.shape != (batches.size,):
            raise ValueError(
                f"curriculum needs one score for each of the {batches.size} samples, "
                f"not an array of shape {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ValueError(
                "curriculum needs finite scores, and some are not: a first model that has "
                "diverged can't tell easy samples from hard ones."
            )
        self.size: int | None = batches.size
        self._size = batches.size
        self._start = checked_number("start", start, above=0, up_to=1)
        self._over = checked_whole("over", over, least=1)
        self._batches = batches
        self._easy_first = torch.from_numpy(np.argsort(values, kind="stable"))
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Go back to the easiest samples; ``seed`` decides the order."""
        self._batches.restart(seed)
        self._generator = np.random.default_rng(seed)
        self._given = 0

    @property
    def available(self) -> int:
        """How many samples the next batch is drawn from, of those of at least one batch."""
        share = self._start + (1 - self._start) * min(1.0, self._given / self._over)
        return min(self._size, math.ceil(share * self._size))

    def next(self, batch_size: int | None) -> Any:
        """Return the next batch."""
        if self._given >= self._over:
            return self._batches.next(batch_size)
        batch = self._drawn(self._generator, self.available, batch_size)
        self._given += 1
        return batch

    def first(self, seed: int, batch_size: int | None) -> Any:
        """Return what ``next`` gives after ``restart(seed)``; the present place is kept."""
        available = min(self._size, math.ceil(self._start * self._size))
        return self._drawn(np.random.default_rng(seed), available, batch_size)

    def _drawn(self, generator: np.random.Generator, available: int, batch_size: int | None) -> Any:
        count = min(batch_size or DEFAULT_BATCH_SIZE, self._size)
        places = generator.choice(max(available, count), size=count, replace=False)
        return self._batches.rows(self._easy_first[torch.from_numpy(places)])


def checked_indexed(batches: Batches) -> IndexedBatches:
    """Return ``batches`` if their samples can be told apart.

    Raises:
        ValueError: they are an iterable of batches.
    """
    if isinstance(batches, TensorBatches | DatasetBatches):
        return batches
    raise ValueError(
        "curriculum orders single samples, and an iterable of batches does not offer them: "
        "give a pair of tensors or a Dataset."
    )


def lengths_of(batches: IndexedBatches) -> FloatArray:
    """Return the length of every sequence without its padding, shape (samples,).

    A sequence is an input of shape (time,) in whole numbers, or (time, ...); steps at its end
    that are all the same count as padding, whatever they are filled with.

    Raises:
        ValueError: inputs are no sequences, or all of one length.
    """
    lengths = np.array(
        [_length(batches.rows(torch.tensor([i], device="cpu"))) for i in range(batches.size or 0)]
    )
    if len(set(lengths.tolist())) < 2:
        raise ValueError(
            "curriculum by 'length' needs sequences of different lengths, and all are of one: "
            "choose by='loss'."
        )
    return lengths.astype(np.float64)


def _length(batch: Any) -> int:
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    is_sequence = isinstance(inputs, torch.Tensor) and (
        inputs.dim() >= 3 or (inputs.dim() == 2 and not inputs.is_floating_point())
    )
    if not is_sequence:
        raise ValueError(
            "curriculum by 'length' needs inputs that are sequences, of shape (time, features) "
            "or whole numbers of shape (time,): choose by='loss'."
        )
    steps = inputs[0].reshape(inputs.shape[1], -1)
    differ = torch.nonzero((steps != steps[-1]).any(dim=1)).reshape(-1)
    last = int(differ[-1]) if len(differ) else -1
    padding = len(steps) - 1 - last
    return len(steps) if padding < 2 else last + 1


def losses_of_samples(
    model: nn.Module, objective: Objective, batches: IndexedBatches
) -> FloatArray:
    """Return the loss of every sample by itself, in eval mode, shape (samples,).

    One forward pass a sample; nothing of the model or the random state changes.
    """
    device = next(model.parameters()).device
    losses: list[torch.Tensor] = []
    with everything_kept(model, *modules_of(objective)), torch.no_grad():
        model.eval()
        for index in range(batches.size or 0):
            batch = on_device(batches.rows(torch.tensor([index], device="cpu")), device)
            losses.append(objective(model, batch).detach().reshape(()).double())
    return torch.stack(losses).cpu().numpy() if losses else np.zeros(0)

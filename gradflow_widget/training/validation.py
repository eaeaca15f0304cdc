"""Validation: accuracy and loss on held-out data, evaluated beside the training.

Nothing that training sees is moved: an evaluation runs in eval mode without autograd, on
batches that were made once, and leaves buffers, modes, random state, what the loss holds and a
probe's step as they were. When it runs depends on the clock, what it changes in the training is
nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..checked import checked_positive, checked_seed, checked_whole
from ..measurement.layers import first_tensor
from ..measurement.loss_modules import modules_of
from ..measurement.single import everything_kept
from .batches import (
    Batches,
    DatasetBatches,
    TensorBatches,
    as_batches,
    check_filled,
    no_batch_of,
    on_device,
)
from .failure import FirstBatchError, described
from .loader_workers import begun
from .objective import Objective
from .randomness import RandomStream

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]

MOST_SAMPLES = 1_000
# Of text each character has a label: of so many, an accuracy is known to half a percent.
MOST_LABELS = 10_000
# The labels of one sample are alike, those of a picture's pixels above all.
FEWEST_SAMPLES = 100
BATCH = 256
SHARE = 0.05
# A curve that moves more often tells no more, and on two cores an evaluation holds up the page.
INTERVAL = 0.3
_COLUMNS = ("step", "accuracy", "loss", "samples", "seconds")


@dataclass(frozen=True)
class Validation:
    """What a network achieves on data that it was not trained on.

    Attributes:
        step: after how many steps.
        accuracy: share of the labels that are the class of the highest output; NaN where the
            targets are no classes. An output with a NaN in it is wrong.
        loss: mean over the samples of the objective, in eval mode.
        samples: how many were evaluated.
        seconds: what the evaluation took.
    """

    step: int
    accuracy: float
    loss: float
    samples: int
    seconds: float


class Validator:
    """Evaluates a network on held-out data every so many steps, at a bounded cost.

    An evaluation looks at ``samples`` samples at most, the same ones each time. One is due
    every ``every`` steps, but at most one each ``interval`` seconds, and only once ``share`` of
    the time that the steps so far have taken has made up for all evaluations before it; so
    evaluations take at most that share, and the last of them. What is evaluated beyond that, at
    rest, is not in this account.

    Args:
        objective: ``objective(model, batch)``, as in training.
        data: what training takes: a pair of tensors, a Dataset or an iterable of batches.
        every: steps from one evaluation to the next, where they are cheap.
        share: of the training time.
        interval: the shortest time from one evaluation to the next, in seconds.
        samples: the largest number of samples to look at, chosen by ``seed``; of an iterable,
            the first ones; of tensors fewer, down to ``FEWEST_SAMPLES``, where they have more
            than ``MOST_LABELS`` labels.
        seed: chooses the samples.
        clock: gives seconds.
        floating: see :func:`as_batches`.

    Raises:
        TypeError, ValueError: the data or a number can't be used.
    """

    def __init__(
        self,
        objective: Objective,
        data: Any,
        *,
        every: int = 10,
        share: float = SHARE,
        interval: float = INTERVAL,
        samples: int = MOST_SAMPLES,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        floating: torch.dtype | None = None,
    ) -> None:
        self._objective = objective
        self._every = checked_whole("every", every)
        self._share = checked_positive("share", share)
        self._interval = checked_positive("interval", interval)
        most, seed = checked_whole("samples", samples), checked_seed(seed)
        # A loader may draw, or start processes, whenever it is gone through: here it is, once.
        source = as_batches(data, "validation", floating)
        self._is_tensors = isinstance(source, TensorBatches)
        with RandomStream(seed, every_source=True)():
            self._batches = list(_some_batches(source, data, most, seed))
        self._samples = sum(map(_length, self._batches))
        self.clock = clock
        self.restart()

    @property
    def samples(self) -> int:
        """How many samples an evaluation looks at."""
        return self._samples

    def restart(self) -> None:
        """Begin a new account of training and evaluation times."""
        self._spent = self._trained = 0.0
        self._latest = -math.inf

    @contextmanager
    def timing_a_step(self) -> Iterator[None]:
        """Count the time inside the ``with`` as training."""
        begin = self.clock()
        try:
            yield
        finally:
            self.count_training(self.clock() - begin)

    def count_training(self, seconds: float) -> None:
        """Count so many seconds as training."""
        self._trained += seconds

    def is_due(self, step: int) -> bool:
        """Say whether an evaluation is due after ``step`` steps."""
        return (
            step % self._every == 0
            and self._spent <= self._share * self._trained
            and self.clock() - self._latest >= self._interval
        )

    def check(self, model: nn.Module) -> None:
        """Try ``model`` on two samples, or where only batches are known on the first of them.

        Raises:
            FirstBatchError: the model, the objective or the data raised something.
        """
        first = self._batches[0]
        if self._is_tensors:
            first = tuple(part[:2] for part in first)
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        try:
            with self._everything_kept(model), torch.no_grad():
                model.eval()
                self._measured(model, on_device(first, device))
        except Exception as error:
            raise FirstBatchError(
                f"validation failed on the first batch with {described(error)}: "
                "give samples like those of the training."
            ) from error

    def evaluate(
        self,
        model: nn.Module,
        step: int,
        *,
        looking_away: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_account: bool = True,
    ) -> Validation:
        """Evaluate ``model``, and leave it and all random state as they are.

        Args:
            model: the network.
            step: after how many steps.
            looking_away: of the probe that watches it, ``probe.looking_away``.
            on_account: whether its time goes on the account that :meth:`is_due` looks at.

        Raises:
            Exception: what the model or the objective raised.
        """
        begin = self.clock()
        losses: list[torch.Tensor] = []
        counts: list[torch.Tensor] = []
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        with looking_away(), self._everything_kept(model), torch.no_grad():
            model.eval()
            for batch in self._batches:
                mean, count = self._measured(model, on_device(batch, device))
                losses.append(mean)
                counts.append(count)
        # One transfer for all losses, one for all counts.
        sums = zip(torch.stack(losses).tolist(), map(_length, self._batches), strict=True)
        loss = sum(mean * length for mean, length in sums) / self._samples
        right, labels = torch.stack(counts).sum(dim=0).tolist()
        accuracy = right / labels if labels else math.nan
        seconds = self.clock() - begin
        if on_account:
            self._spent += seconds
            self._latest = begin
        return Validation(step, accuracy, loss, self._samples, seconds)

    def _everything_kept(self, model: nn.Module) -> AbstractContextManager[None]:
        return everything_kept(model, *modules_of(self._objective))

    def _measured(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss, and how many labels are right of how many, shape (2,)."""
        outputs: list[Any] = []
        # The objective keeps the outputs to itself; a second pass for them would cost twice.
        handle = model.register_forward_hook(lambda _, __, output: outputs.append(output))
        try:
            loss = self._objective(model, batch)
        finally:
            handle.remove()
        if not isinstance(loss, torch.Tensor):
            loss = torch.as_tensor(loss, device="cpu")
        loss = loss.detach().reshape(())
        targets = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
        output = first_tensor(outputs[-1]) if outputs else None
        if not isinstance(targets, torch.Tensor) or output is None:
            return loss, torch.zeros(2, dtype=torch.int64, device=loss.device)
        return loss, correct(output, targets).to(loss.device)


def correct(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how many labels are right, and of how many, shape (2,), int64.

    The classes are the last dimension of ``outputs``, (N, C) with targets (N,) or (N, T, C)
    with (N, T); where that does not fit, the second, as cross entropy has it: (N, C, T) with
    (N, T). Negative labels, which losses ignore, don't count. (0, 0) where targets are no
    whole numbers or no dimension of ``outputs`` is that of the classes.
    """
    dimension: int | None = None
    if (
        _are_whole(targets)
        and targets.dtype is not torch.bool
        and outputs.dim() == targets.dim() + 1
    ):
        shape = tuple(outputs.shape)
        if shape[:-1] == targets.shape:
            dimension = -1
        elif (shape[0], *shape[2:]) == tuple(targets.shape):
            dimension = 1
    if dimension is None or outputs.is_complex():
        return torch.zeros(2, dtype=torch.int64, device=outputs.device)
    counted = targets >= 0
    right = (outputs.argmax(dim=dimension) == targets) & ~outputs.isnan().any(dim=dimension)
    return torch.stack([(right & counted).sum(), counted.sum()])


def _are_whole(targets: torch.Tensor) -> bool:
    return not (targets.is_floating_point() or targets.is_complex())


def _length(batch: Any) -> int:
    """Return the number of samples of a batch: the length of its first tensor."""
    tensor = first_tensor(batch, any_dtype=True)
    return int(tensor.shape[0]) if tensor is not None and tensor.dim() else 1


def _some_batches(batches: Batches, data: Any, most: int, seed: int) -> Iterator[Any]:
    if isinstance(batches, TensorBatches | DatasetBatches):
        generator = torch.Generator("cpu").manual_seed(seed)
        if isinstance(batches, TensorBatches) and _are_whole(batches.targets):
            labels = max(1, batches.targets[0].numel())
            most = min(most, max(FEWEST_SAMPLES, MOST_LABELS // labels))
        rows = (
            torch.randperm(batches.size or 0, generator=generator, device="cpu")[:most]
            .sort()
            .values
        )
        for begin in range(0, len(rows), BATCH):
            yield batches.rows(rows[begin : begin + BATCH])
        return
    taken = 0
    # Whole batches, at least one: what is in them is not known here.
    for batch in begun(data):
        check_filled(batch, "validation")
        taken += _length(batch)
        if taken > most and taken > _length(batch):
            return
        yield batch
    if not taken:
        raise no_batch_of("validation")


class ValidationCurve:
    """All validations of a run as columns, in bounded memory.

    When it is full, every second row of the older ones is dropped; the newest and the best
    are kept as :attr:`latest` and :attr:`best`. One thread may append while others read.

    Args:
        capacity: the largest number of rows, at least 2.

    Raises:
        ValueError: ``capacity`` is too small.
    """

    def __init__(self, capacity: int = 2_000) -> None:
        if checked_whole("capacity", capacity) < 2:
            raise ValueError(f"capacity must be at least 2, not {capacity}.")
        self._capacity = capacity
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget every validation."""
        with self._lock:
            self._rows: list[Validation] = []
            self.latest: Validation | None = None
            self.best: Validation | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, validation: Validation) -> None:
        """Record one validation.

        :attr:`best` is the one of the highest accuracy, of the lowest loss among equals and
        where there is no accuracy.
        """
        with self._lock:
            if len(self._rows) == self._capacity:
                self._rows = self._rows[::2]
            self._rows.append(validation)
            self.latest = validation
            if self.best is None or _rank(validation) > _rank(self.best):
                self.best = validation

    def columns(self) -> dict[str, FloatArray]:
        """Return step, accuracy, loss, samples and seconds, each of shape (rows,), float64."""
        with self._lock:
            rows = [astuple(row) for row in self._rows]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(_COLUMNS))
        return dict(zip(_COLUMNS, values.T.copy(), strict=True))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each validation."""
        import pandas as pd

        with self._lock:
            rows = [astuple(row) for row in self._rows]
        return pd.DataFrame(rows, columns=list(_COLUMNS))


def _rank(validation: Validation) -> tuple[float, float]:
    numbers = validation.accuracy, -validation.loss
    accuracy, loss = (-math.inf if math.isnan(number) else number for number in numbers)
    return accuracy, loss

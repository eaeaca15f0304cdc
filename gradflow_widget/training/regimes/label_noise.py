"""Label noise: a share of the training labels exchanged for another class."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from ...checked import checked_share
from ..batches import Batches, DatasetBatches, TensorBatches


def noisy_labels(labels: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    """Return a copy of ``labels`` of which ``share`` are another class than before.

    Exactly the nearest whole number of them is exchanged, each for one of the other classes
    that occur, all equally likely. Negative labels, which losses ignore, stay.

    Args:
        labels: class numbers, of any shape.
        share: from 0 to 1.
        seed: decides which labels, and for what.

    Raises:
        ValueError: ``share`` is out of range, the labels are no whole numbers, or are all one
            class.
    """
    share = checked_share("label_noise", share)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(
            f"label_noise exchanges class numbers, but the targets are {kind}: "
            "it is for classification with whole numbers as targets."
        )
    noisy = labels.detach().cpu().clone().reshape(-1)
    counted = torch.nonzero(noisy >= 0).reshape(-1)
    classes, place = torch.unique(noisy[counted], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            "label_noise needs at least two classes among the targets, to exchange one for another."
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    chosen = torch.randperm(len(counted), generator=generator, device="cpu")[
        : round(share * len(counted))
    ]
    onward = torch.randint(1, len(classes), (len(chosen),), generator=generator, device="cpu")
    noisy[counted[chosen]] = classes[(place[chosen] + onward) % len(classes)]
    return noisy.reshape(labels.shape).to(labels.device)


def with_label_noise(batches: Batches, share: float, seed: int = 0) -> Batches:
    """Return the same batches in the same order, with ``share`` of the labels exchanged.

    The same samples are wrong in every epoch. A Dataset is gone through once for its labels.

    Raises:
        ValueError: see :func:`noisy_labels`; or the data are an iterable of batches, whose
            samples can't be told from one another.
    """
    if isinstance(batches, TensorBatches):
        return TensorBatches(batches.inputs, noisy_labels(batches.targets, share, seed))
    if isinstance(batches, DatasetBatches):
        dataset = _Relabelled(batches.dataset, batches.size or 0, share, seed)
        return DatasetBatches(dataset, batches.size or 0, batches.generators)
    raise ValueError(
        "label_noise needs data whose samples can be told apart, and an iterable of batches "
        "does not: give a pair of tensors or a Dataset."
    )


class _Relabelled(Dataset[Any]):
    """A Dataset of pairs whose second parts are exchanged for other labels."""

    def __init__(self, dataset: Dataset[Any], size: int, share: float, seed: int) -> None:
        self._dataset = dataset
        pairs = (dataset[index] for index in range(size))
        self._labels = noisy_labels(default_collate([_label(pair) for pair in pairs]), share, seed)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Any:
        inputs, *_ = self._dataset[index]
        return inputs, self._labels[index]


def _label(pair: Any) -> Any:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError("label_noise needs samples that are pairs (input, label).")
    return pair[1]

"""Datasets in torchvision's manner: items are pairs of an image and its class."""

from __future__ import annotations

import operator
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from ...checked import checked_seed, checked_whole
from .holding_out import generator, held_out_rows, loaded
from .source import Loaded, kind_of


def from_dataset(
    dataset: Dataset[Any],
    validation: Dataset[Any] | None = None,
    *,
    samples: int = 5_000,
    seed: int = 0,
) -> Loaded:
    """Return a dataset such as ``torchvision.datasets.MNIST(folder)``, read into memory.

    Args:
        dataset: with a length; items are (tensor, class) or (PIL image, class). PIL images
            become tensors (channels, height, width) from 0 to 1, as ``ToTensor`` makes
            them; grey and RGB images stay, all others become RGB.
        validation: what to hold out, such as ``MNIST(folder, train=False)``; without it a
            fifth of ``dataset``.
        samples: how many items of each dataset to read at most, drawn by the seed.
        seed: decides what is drawn and what is held out.

    Raises:
        TypeError: it is no dataset with a length, or an item is no such pair.
        ValueError: there are fewer than two items, or images of different sizes.
    """
    seed = checked_seed(seed)
    samples = checked_whole("samples", samples, 2, 1_000_000)
    classes = tuple(str(name) for name in getattr(dataset, "classes", ()))
    inputs, targets = _read("dataset", dataset, samples, seed)
    if validation is None:
        rows = held_out_rows(len(inputs), seed)
    else:
        held_out, their_targets = _read("validation", validation, samples, seed)
        if held_out.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"validation has items of shape {tuple(held_out.shape[1:])} but dataset "
                f"{tuple(inputs.shape[1:])}: give both the same transform."
            )
        places = torch.arange(len(inputs) + len(held_out))
        rows = places[: len(inputs)], places[len(inputs) :]
        inputs, targets = torch.cat([inputs, held_out]), torch.cat([targets, their_targets])
    outputs = max(int(targets.max()) + 1, len(classes))
    return loaded(inputs, targets, rows, nn.CrossEntropyLoss(), outputs, classes)


def _read(
    name: str, dataset: Dataset[Any], samples: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise TypeError(
            f"{name} of type {type(dataset).__name__} has no length: give one that has."
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty: give one with at least two items.")
    order = torch.randperm(len(dataset), generator=generator(seed))[:samples].tolist()
    images: list[torch.Tensor] = []
    targets: list[int] = []
    for row in order:
        image, target = _pair(name, dataset[row], row)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{name} holds images of shapes {tuple(images[0].shape)} and "
                f"{tuple(image.shape)}: give it a transform that resizes them to one."
            )
        images.append(image)
        targets.append(target)
    inputs = torch.stack(images)
    if kind_of(inputs) is None:
        raise ValueError(
            f"{name} holds items of shape {tuple(images[0].shape)}: "
            "give (channels, height, width), (length, features) or (features,)."
        )
    return inputs, torch.tensor(targets)


def _pair(name: str, item: Any, row: int) -> tuple[torch.Tensor, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(
            f"{name}[{row}] is of type {type(item).__name__}: give pairs of an image and its class."
        )
    image, target = item
    if is_pil_image(image):
        image = _as_tensor(image)
    if not isinstance(image, torch.Tensor):
        raise TypeError(
            f"{name}[{row}] holds a {type(image).__name__}: give tensors or PIL images, "
            "by a transform where need be."
        )
    try:
        number = operator.index(target)
    except TypeError:  # a float is no class, however round
        number = -1
    if number < 0:
        raise TypeError(f"{name}[{row}] has the class {target!r}: give whole numbers from 0.")
    scale = 255 if image.dtype is torch.uint8 and image.dim() >= 2 else 1
    return image.to(torch.float32) / scale, number


def is_pil_image(value: object) -> bool:
    """Whether ``value`` is one of Pillow's images; Pillow itself need not be there."""
    return any(parent.__module__ == "PIL.Image" for parent in type(value).__mro__)


def _as_tensor(image: Any) -> torch.Tensor:
    pixels = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    tensor = torch.tensor(pixels)
    return tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)

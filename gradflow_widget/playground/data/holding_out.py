"""Which samples are held out for validation: a fifth, fixed by the seed."""

from __future__ import annotations

import torch
from torch import nn

from ...quoting import counted
from .source import Loaded

SHARE = 0.2


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own; the global random state stays as it is."""
    return torch.Generator().manual_seed(seed)


def held_out_rows(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows to train on and the rows held out, each in a shuffled order.

    A fifth of the rows is held out, at least one.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if count < 2:
        raise ValueError(
            f"data has {counted(count, 'sample')}: "
            "give at least two, one to train on and one to hold out."
        )
    order = torch.randperm(count, generator=generator(seed))
    held_out = max(1, round(SHARE * count))
    return order[held_out:], order[:held_out]


def held_out_groups(
    groups: list[str], seed: int, *, kept: frozenset[str] = frozenset()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows as ``held_out_rows`` does, no group (a voice, say) on both sides.

    A fifth of the groups is held out, at least one, and none of those that are ``kept`` to train
    on. ``groups`` names the group of each row.

    Raises:
        ValueError: there are fewer than two groups.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(
            f"data comes from {counted(len(names), 'speaker')}: "
            "give at least two, one to train on and one to hold out."
        )
    order = torch.randperm(len(names), generator=generator(seed)).tolist()
    drawn = [names[i] for i in order if names[i] not in kept]
    held_out = set(drawn[: max(1, round(SHARE * len(names)))])
    is_held_out = torch.tensor([group in held_out for group in groups])
    shuffled = torch.randperm(len(groups), generator=generator(seed))
    return shuffled[~is_held_out[shuffled]], shuffled[is_held_out[shuffled]]


def standardized(inputs: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """Return inputs shifted and scaled to mean 0 and deviation 1 over the training rows.

    One mean and one deviation for all numbers; what is held out decides neither.
    """
    known = inputs[training]
    return (inputs - known.mean()) / known.std().clamp(min=torch.finfo(torch.float32).tiny)


def loaded(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    rows: tuple[torch.Tensor, torch.Tensor],
    loss: nn.Module,
    outputs: int,
    classes: tuple[str, ...] = (),
) -> Loaded:
    """Return the data divided into the training and the held-out ``rows``."""
    training, held_out = rows
    return Loaded(
        inputs[training],
        targets[training],
        inputs[held_out],
        targets[held_out],
        tuple(inputs.shape[1:]),
        outputs,
        loss,
        classes,
    )

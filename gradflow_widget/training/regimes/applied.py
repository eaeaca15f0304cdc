"""A regime at the three places where it acts: the model, the data, and each step's batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from ...tweaks.copying import changed_in_place, copied
from ...tweaks.record import record
from ..batches import Batches, IndexedBatches
from ..objective import Objective
from .adversarial import perturbed
from .curriculum import CurriculumBatches, FloatArray, checked_indexed, lengths_of
from .dropout import with_dropout
from .freezing import freeze
from .label_noise import with_label_noise
from .regime import Regime, SavedState
from .transfer import load_saved


def model_under(
    regime: Regime, model: nn.Module, called: Callable[[nn.Module], Sequence[nn.Module]]
) -> nn.Module:
    """Return a copy of ``model`` with what the regime does to it: saved state, dropout, freeze.

    ``model`` itself is returned where the regime does nothing to models.

    Args:
        regime: the regime.
        model: the model, which is left as it is.
        called: given a model, its modules in forward order; see ``forward_order``. Asked only
            where layers are to be frozen.

    Raises:
        FileNotFoundError, ValueError: the saved state can't be had or does not fit, or no
            layer would learn.
        CannotTweak: the model can't be copied, or has no place for dropout.
    """
    transfer = regime.transfer
    if transfer is None and regime.dropout is None:
        return model
    twin = copied(model)
    if transfer is not None and transfer.state is not None:
        state = transfer.state
        source = state.tensors if isinstance(state, SavedState) else state
        load_saved(twin, source, strict=transfer.strict)
    if regime.dropout is not None:
        with changed_in_place(twin):
            twin = with_dropout(twin, regime.dropout)
    if transfer is not None:
        if transfer.freeze:
            freeze(twin, transfer.freeze, called(twin))
        record(twin, "transfer", transfer.sentence, transfer)
    return twin


def batches_under(
    regime: Regime, batches: Batches, first_losses: Callable[[IndexedBatches], FloatArray]
) -> Batches:
    """Return the batches that training gets: labels exchanged, easy samples first.

    ``batches`` themselves are returned where the regime does nothing to data.

    Args:
        regime: the regime.
        batches: the data as they are.
        first_losses: given them (their labels exchanged), every sample's loss in a first
            model; asked only for a curriculum by loss.

    Raises:
        ValueError: the data are an iterable of batches, or do not fit; the sentence says why.
        Exception: what the first model's training raised.
    """
    if regime.label_noise:
        batches = with_label_noise(batches, regime.label_noise, regime.noise_seed)
    curriculum = regime.curriculum
    if curriculum is None:
        return batches
    indexed = checked_indexed(batches)
    scores = lengths_of(indexed) if curriculum.by == "length" else first_losses(indexed)
    over = curriculum.steps * regime.accumulation
    return CurriculumBatches(indexed, scores, start=curriculum.start, over=over)


def batches_of_step(
    regime: Regime,
    model: nn.Module,
    objective: Objective,
    draw: Callable[[], Any],
    *,
    origin: str = "objective",
    looking_away: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Any]:
    """Return the micro-batches of one step, ready to be trained on; usually there is one.

    Args:
        regime: the regime.
        model: the network, which an attack is made on.
        objective: ``objective(model, batch)``, which an attack raises.
        draw: gives the next batch.
        origin: the name of the argument that ``objective`` came from, for error messages.
        looking_away: of the probe that watches the model, ``probe.looking_away``.

    Raises:
        TypeError, ValueError: the inputs can't be attacked; see :func:`perturbed`.
        Exception: what the model, the objective or the data raised.
    """
    drawn = [draw() for _ in range(regime.accumulation)]
    if regime.adversarial is None:
        return drawn
    with looking_away():
        return [
            perturbed(model, objective, batch, regime.adversarial, origin=origin) for batch in drawn
        ]

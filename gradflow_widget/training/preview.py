"""A look at a network before any step: one forward and backward pass on the first batch."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ..measurement.reading import Reading
from ..measurement.single import read_objective
from .batches import Batches, NoBatchError, PictureError, on_device
from .failure import FirstBatchError, came_from, described
from .objective import NoPairError, Objective
from .penalty import whole_objective
from .randomness import RandomStream, python_and_numpy_state
from .regimes.adversarial import perturbed
from .settings import Settings


class Preview(NamedTuple):
    """What the look has shown.

    Attributes:
        reading: the reading.
        draws_elsewhere: whether the objective drew from Python's or NumPy's generator.
    """

    reading: Reading
    draws_elsewhere: bool


def preview(
    model: nn.Module, objective: Objective, batches: Batches, settings: Settings, origin: str
) -> Preview:
    """Look at ``model``; it, the loss, the batches and every random state stay as they are.

    ``origin`` is the name of the argument that ``objective`` came from. Under an adversarial
    regime the batch is the one that an attack has made of it.

    Raises:
        TypeError, ValueError: the objective returns no scalar with a graph, or the data
            no usable batch, or none that the regime can attack.
        FirstBatchError: the model, the objective or the data raised something.
    """

    def failed(culprit: str, error: Exception) -> FirstBatchError:
        return FirstBatchError(
            f"{culprit} failed on the first batch with {described(error)}: "
            "check that model, loss and data fit together."
        )

    draws_elsewhere = False

    def tried(objective: Objective, model: nn.Module, batch: Any) -> torch.Tensor:
        try:
            return objective(model, batch)
        except NoPairError:
            raise
        except Exception as error:
            raise failed("model" if came_from(error, model) else origin, error) from error

    def watched(objective: Objective, model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal draws_elsewhere
        before = python_and_numpy_state()
        loss = tried(objective, model, batch)
        draws_elsewhere = python_and_numpy_state() != before
        whole: torch.Tensor = whole_objective(model, loss, origin)
        return whole

    with RandomStream(settings.seed, every_source=True)():
        try:
            batch = batches.first(settings.seed, settings.batch_size)
            batch = on_device(batch, next(model.parameters()).device)
        except (NoBatchError, PictureError):
            raise
        except Exception as error:
            raise failed("data", error) from error
        try:
            attack = settings.regime.adversarial
            if attack is not None:
                batch = perturbed(model, partial(tried, objective), batch, attack, origin=origin)
            reading = read_objective(model, partial(watched, objective), batch, origin=origin)
        except (TypeError, ValueError, FirstBatchError):
            raise
        except Exception as error:
            raise failed("model", error) from error
    return Preview(reading, draws_elsewhere)

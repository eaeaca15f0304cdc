"""What a tweak adds to the objective."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..measurement.single import checked_loss
from ..tweaks.orthogonality import penalty_of


def whole_objective(model: nn.Module, loss: Any, origin: str) -> Any:
    """Return ``loss`` and the penalty that ``model`` adds to it; ``loss`` itself without one.

    What is differentiated is what is shown: the loss of a step and of the preview is this sum.

    Args:
        model: the model; soft orthogonality leaves its penalty with it.
        loss: what the user's objective gave.
        origin: the name of the argument that the objective came from, for error messages.

    Raises:
        TypeError, ValueError: there is a penalty, and ``loss`` is no scalar with a graph.
    """
    penalty = penalty_of(model)
    if penalty is None:
        return loss
    checked: torch.Tensor = checked_loss(loss, origin)
    return checked + penalty().to(checked.device)

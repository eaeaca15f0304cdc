"""The loss of predicting, at every place, the token that comes next."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class NextTokenLoss(nn.Module):
    """Cross entropy in nats, averaged over samples and places.

    Guessing all of V tokens alike costs ln V.
    """

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of ``outputs`` (samples, length, V) at ``targets`` (samples, length)."""
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

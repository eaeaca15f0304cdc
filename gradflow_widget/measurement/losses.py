"""The losses that a step's backward passes started from."""

from __future__ import annotations

import torch

from .loss_watch import Root
from .norms import stacked
from .step import Step


class Losses:
    """Losses seen since the last step: they add up, as the gradients do.

    Attributes:
        scale: what a GradScaler multiplied the last one by; None without one.
    """

    def __init__(self) -> None:
        self.scale: torch.Tensor | None = None
        self._values: list[float | torch.Tensor] = []

    def forget(self) -> None:
        """Start anew: what was summed is used, or has been thrown away."""
        self.scale = None
        self._values = []

    def add(self, root: Root) -> None:
        """Add where a backward pass has started from."""
        self.scale = root.scale
        if root.loss is not None:
            # A copy, because the loop may change its loss in place.
            self._values.append(root.loss.item() if root.loss.is_cpu else root.loss.clone())

    @property
    def any_seen(self) -> bool:
        """Whether there was one since the last step."""
        return bool(self._values)

    @property
    def so_far(self) -> float | None:
        """Their sum; None where there is none, or one is not on the CPU."""
        numbers = [loss for loss in self._values if isinstance(loss, float)]
        return sum(numbers) if numbers and len(numbers) == len(self._values) else None

    def read(self, step: Step) -> None:
        """Add them to a step."""
        numbers = [loss for loss in self._values if isinstance(loss, float)]
        tensors = [loss for loss in self._values if isinstance(loss, torch.Tensor)]
        step.loss_seen = bool(numbers or tensors)
        if step.loss_seen:
            step.loss = sum(numbers)
        if tensors:
            step.add("loss", stacked(tensors))  # yet to come from the device

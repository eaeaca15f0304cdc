"""The weights before a step, and how far it moved them."""

from __future__ import annotations

import torch

from .norms import has_norm
from .step import Step, Watched


class WeightChange:
    """Keeps a copy of the weights over a step, in memory that is allocated once.

    Args:
        watched: the layers whose weights they are.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._before: list[torch.Tensor] | None = None
        self._has_codes = not all(map(has_norm, watched.weights))

    def keep(self, step: Step) -> None:
        """Copy the weights, and measure them, before a step."""
        if self._before is None or self._have_moved(self._before):
            self._before = [torch.empty_like(w, requires_grad=False) for w in self._watched.weights]
        with torch.no_grad():
            torch._foreach_copy_(self._before, list[torch.Tensor](self._watched.weights))
        step.add("weight_norm", self._watched.weight_plan.norms(self._before))

    def _have_moved(self, kept: list[torch.Tensor]) -> bool:
        """Whether the model was cast, or moved to another device, since."""
        pairs = zip(kept, self._watched.weights, strict=True)
        return any((k.dtype, k.device) != (weight.dtype, weight.device) for k, weight in pairs)

    def read(self, step: Step) -> None:
        """Measure what the step has made of them."""
        kept = self._before
        if kept is None:
            return
        moving, to = kept, list[torch.Tensor](self._watched.weights)
        if self._has_codes:
            places = [place for place, weight in enumerate(to) if has_norm(weight)]
            moving, to = [kept[place] for place in places], [to[place] for place in places]
        with torch.no_grad():
            torch._foreach_sub_(moving, to)
        step.add("change", self._watched.weight_plan.norms(kept))

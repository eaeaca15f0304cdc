"""The tweaks by which weights are computed from other numbers, and what takes them off."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality

Tweak = Callable[[nn.Module], nn.Module]
TWEAKS: dict[str, Tweak] = {
    "weight": lambda model: with_normalization(model, "weight"),
    "spectral": lambda model: with_normalization(model, "spectral"),
    "hard": lambda model: with_orthogonality(model, "hard"),
}
UNDO: dict[str, Tweak] = {
    "weight": lambda model: with_normalization(model, None),
    "spectral": lambda model: with_normalization(model, None),
    "hard": lambda model: with_orthogonality(model, None),
}

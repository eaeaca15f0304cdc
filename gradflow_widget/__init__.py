"""Watch the gradient flow through a PyTorch model, live, in Jupyter.

Names are imported when they are first used: the Jupyter server loads
``gradflow_widget.server`` and must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .measurement.history import History
    from .measurement.layers import Layer
    from .measurement.probe import GradientProbe
    from .measurement.reading import Reading
    from .measurement.single import take_reading
    from .training.regimes.regime import Regime
    from .training.settings import Settings
    from .tweaks.activation import with_activation
    from .tweaks.depth import depth_of, with_depth
    from .tweaks.errors import CannotTweak
    from .tweaks.initialization import with_initialization
    from .tweaks.normalization import with_normalization
    from .tweaks.orthogonality import with_orthogonality
    from .tweaks.skips import with_skips
    from .widget import GradientFlow
    from .widget_recipe import recipe

_HOMES = {
    "CannotTweak": "tweaks.errors",
    "GradientFlow": "widget",
    "GradientProbe": "measurement.probe",
    "History": "measurement.history",
    "Layer": "measurement.layers",
    "Reading": "measurement.reading",
    "Regime": "training.regimes.regime",
    "Settings": "training.settings",
    "depth_of": "tweaks.depth",
    "recipe": "widget_recipe",
    "take_reading": "measurement.single",
    "with_activation": "tweaks.activation",
    "with_depth": "tweaks.depth",
    "with_initialization": "tweaks.initialization",
    "with_normalization": "tweaks.normalization",
    "with_orthogonality": "tweaks.orthogonality",
    "with_skips": "tweaks.skips",
}

__all__ = [
    "CannotTweak",
    "GradientFlow",
    "GradientProbe",
    "History",
    "Layer",
    "Reading",
    "Regime",
    "Settings",
    "depth_of",
    "recipe",
    "take_reading",
    "with_activation",
    "with_depth",
    "with_initialization",
    "with_normalization",
    "with_orthogonality",
    "with_skips",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

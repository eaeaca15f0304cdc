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
    from .training.settings import Settings
    from .widget import GradientFlow

_HOMES = {
    "GradientFlow": "widget",
    "GradientProbe": "measurement.probe",
    "History": "measurement.history",
    "Layer": "measurement.layers",
    "Reading": "measurement.reading",
    "Settings": "training.settings",
    "take_reading": "measurement.single",
}

__all__ = [
    "GradientFlow",
    "GradientProbe",
    "History",
    "Layer",
    "Reading",
    "Settings",
    "take_reading",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

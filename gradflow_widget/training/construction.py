"""How a run's model and optimizer are made: given ready made, or by factories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..measurement.layers import find_layers
from ..tweaks.knobs import ColdKnob, knobs_of_factory, knobs_of_module
from .randomness import RandomStream
from .settings import Settings

ModelSource = nn.Module | Callable[..., nn.Module]
OptimizerSource = Optimizer | Callable[..., Optimizer]


class Construction:
    """Makes the model and the optimizer for given settings.

    Args:
        model: a module, or a factory called with the cold knobs that it names.
        optimizer: an optimizer, or a factory called with the parameters.

    Raises:
        TypeError: something else was given, or a model factory with a ready-made optimizer,
            whose parameters can't be the new model's.
    """

    def __init__(self, model: ModelSource, optimizer: OptimizerSource) -> None:
        self.is_factory = not isinstance(model, nn.Module)
        if self.is_factory and not callable(model):
            raise TypeError(
                "model must be a torch.nn.Module or a function that makes one, "
                f"not {type(model).__name__}."
            )
        if not isinstance(optimizer, Optimizer) and not callable(optimizer):
            raise TypeError(
                "optimizer must be a torch.optim.Optimizer or a function of the parameters "
                f"that makes one, not {type(optimizer).__name__}."
            )
        if self.is_factory and isinstance(optimizer, Optimizer):
            raise TypeError(
                "model is a factory but optimizer is ready made: give a function of the "
                "parameters, such as lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
            )
        self._model, self._optimizer = model, optimizer
        self.knobs: dict[str, ColdKnob] = (
            knobs_of_module() if isinstance(model, nn.Module) else knobs_of_factory(model)
        )

    def build(self, settings: Settings) -> tuple[nn.Module, Optimizer]:
        """Return the model and its optimizer; a factory starts from the settings' seed.

        Raises:
            TypeError: a factory returned something else.
            ValueError: the model has no parameters, or lazy ones.
            Exception: what a factory raised.
        """
        with RandomStream(settings.seed, every_source=True)():
            return self._build(settings)

    def _build(self, settings: Settings) -> tuple[nn.Module, Optimizer]:
        model: Any = self._model
        if self.is_factory:
            model = model(**settings.cold)
            if not isinstance(model, nn.Module):
                raise TypeError(
                    f"model is a factory that returned {type(model).__name__}: "
                    "it must return a torch.nn.Module."
                )
        find_layers(model)  # an optimizer would complain of the parameters in its own words
        optimizer: Any = self._optimizer
        if not isinstance(optimizer, Optimizer):
            optimizer = optimizer(model.parameters())
            if not isinstance(optimizer, Optimizer):
                raise TypeError(
                    f"optimizer is a factory that returned {type(optimizer).__name__}: "
                    "it must return a torch.optim.Optimizer."
                )
        return model, optimizer

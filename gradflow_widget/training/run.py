"""Run: a model and its optimizer under watch, with the beginning to come back to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..measurement.probe import GradientProbe
from ..measurement.reading import Reading
from .first_fault import FirstFault
from .settings import Settings
from .snapshot import Snapshot
from .steering import Steering

_watched: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Run]] = weakref.WeakKeyDictionary()


def check_unwatched(optimizer: object) -> None:
    """Raise ValueError where another run has its hooks on ``optimizer``."""
    if isinstance(optimizer, Optimizer):
        holder = _watched.get(optimizer)
        if holder is not None and holder() is not None:
            raise ValueError(
                "optimizer is watched by another GradientFlow already: close() that one first."
            )


class Run:
    """Keeps hooks on a model and an optimizer: steering, probe, and the session's own.

    Args:
        model: what is trained.
        optimizer: what trains it.
        settings_of_step: the settings of the step under way.
        on_reading: takes a step's reading.
        before_step: called before an optimizer step, ahead of all reading of it.
        after_step: called when an optimizer step is over and read.

    Raises:
        TypeError, ValueError: the pair can't be watched; see :class:`GradientProbe`.
    """

    probe: GradientProbe
    steering: Steering
    fault: FirstFault

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        settings_of_step: Callable[[], Settings],
        *,
        on_reading: Callable[[Reading], None],
        before_step: Callable[..., None],
        after_step: Callable[..., None],
    ) -> None:
        check_unwatched(optimizer)
        self.model, self.optimizer = model, optimizer
        self._settings_of_step = settings_of_step
        self._on_reading = on_reading
        self._before_step, self._after_step = before_step, after_step
        # Its device is the model's, wherever that is moved.
        self.a_parameter = next(model.parameters())
        self._snapshot = Snapshot(model, optimizer)
        self._handles: list[Any] = []
        self._watch()
        _watched[optimizer] = weakref.ref(self)

    def _watch(self) -> None:
        steering = Steering(self.optimizer, self._settings_of_step)
        try:
            probe = GradientProbe(self.model, self.optimizer)
        except BaseException:
            steering.close()
            raise
        steering.follow(probe)
        probe.on_reading = self._on_reading
        self.probe, self.steering = probe, steering
        self.fault = FirstFault(self.model)
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]

    def _unwatch(self) -> None:
        self.probe.close()
        self.steering.close()
        self.fault.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def rewind(self) -> None:
        """Go back to the beginning: weights, buffers, optimizer; with an empty history."""
        self._unwatch()
        self._snapshot.restore(self.model, self.optimizer)
        self._watch()

    def close(self) -> None:
        """Take every hook off; what was recorded stays."""
        self._unwatch()
        if (holder := _watched.get(self.optimizer)) is not None and holder() is self:
            del _watched[self.optimizer]

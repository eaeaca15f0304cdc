"""Finds the place where a run's first NaN or inf came up, while it still can be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..measurement.hooks import Hook, is_being_traced
from ..measurement.layers import tensors_in
from ..measurement.nonfinite import (
    NonFinite,
    all_finite,
    first_nonfinite,
    first_nonfinite_of_pass,
    nonfinite_output,
)
from ..measurement.reading import Reading


class FirstFault:
    """The first non-finite tensor of a run, once there is one.

    A step's numbers tell that the loss is not finite, and after the step every weight is
    spoilt. So a forward pass whose loss is not finite is run once more, before the weights
    change, and watched layer by layer. That asks for the loss's value, which would stall a
    device: there only what the readings show is known. An output that is not finite, with a loss
    that is, is no fault, for it may be meant so; but it was there first where a fault comes of it.

    Attributes:
        found: the first non-finite tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found: NonFinite | None = None
        # By layer, the first output that a full reading has shown not finite.
        self._outputs: dict[str, NonFinite] = {}
        self._model = model
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._handle = model.register_forward_pre_hook(Hook(self._note_inputs), with_kwargs=True)

    def close(self) -> None:
        """Take the hook off."""
        self._handle.remove()
        self._inputs = None

    def _note_inputs(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.found is None and torch.is_grad_enabled() and not is_being_traced():
            self._inputs = args, kwargs

    def look_again(
        self, step: int, forward: Callable[[], object] | None = None, targets: object = None
    ) -> None:
        """Find the place; ``forward`` repeats the pass, else the last one is repeated.

        The weights must still be those that the pass was made with. ``targets`` are those that
        its loss was of, where they are known.
        """
        if self.found is not None:
            return
        inputs = self._inputs
        if forward is None and inputs is not None:
            args, kwargs = inputs

            def forward() -> object:
                return self._model(*args, **kwargs)

        found = None if forward is None else first_nonfinite_of_pass(self._model, forward, step)
        if found is None:
            spoilt = not all(map(all_finite, tensors_in(targets)))
            found = NonFinite(step, "", "target" if spoilt else "loss")
        self.found = self._outputs.get(found.layer, found) if found.where == "output" else found
        self._inputs = None

    def step_is_over(self) -> None:
        """Let go of what the model was called with."""
        self._inputs = None

    def take(self, reading: Reading) -> None:
        """Look at a step's reading."""
        self.step_is_over()
        if self.found is not None:
            return
        found, output = first_nonfinite(reading), nonfinite_output(reading)
        if output is not None:
            output = self._outputs.setdefault(output.layer, output)
        elif not reading.is_full:  # nobody knows of its outputs, but of some before
            output = next(iter(self._outputs.values()), None)
        if found is not None:
            self.found = found if output is None else output

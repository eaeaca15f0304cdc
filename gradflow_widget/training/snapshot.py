"""Snapshot: weights, what else a model holds, and optimizer state, to come back to."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .model_state import ModelState
from .optimizer_attributes import OptimizerAttributes
from .strangers import Strangers


class Snapshot:
    """A copy of what a model and its optimizer hold.

    Of the model parameters, buffers and plain attributes; of the optimizer options, state and
    plain attributes. Restoring writes into the same tensors, so that every reference to the
    model and the optimizer stays valid, and drops the gradients.

    Args:
        model: the model.
        optimizer: its optimizer.
        strangers: what the optimizer trains besides the model.

    Attributes:
        strangers: as above.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, strangers: Strangers) -> None:
        self._of_model = ModelState(model)
        self._take(optimizer, strangers)

    def _take(self, optimizer: Optimizer, strangers: Strangers) -> None:
        self.strangers = strangers
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._optimizer: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
        self._attributes = OptimizerAttributes(optimizer)

    def with_optimizer(self, optimizer: Optimizer, strangers: Strangers) -> Snapshot:
        """Return the same of the model, with another optimizer as it now is."""
        other = copy.copy(self)
        other._take(optimizer, strangers)
        return other

    def check_fits(self, model: nn.Module) -> None:
        """Raise ValueError where the model has other modules or parameters than it had."""
        self._of_model.check_fits(model)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put everything back."""
        self.strangers.put()
        self._of_model.put(model)
        for parameter in model.parameters():
            parameter.grad = None
        # Groups may have been added, or taken away, since.
        groups = optimizer.param_groups
        del groups[len(self._groups) :]
        groups.extend({} for _ in self._groups[len(groups) :])
        for group, members in zip(groups, self._groups, strict=True):
            group["params"] = list(members)
        # A scheduler made since keeps numbers of its own there, without which it could not go on.
        since = [
            {name: value for name, value in group.items() if name not in saved}
            for group, saved in zip(groups, self._optimizer["param_groups"], strict=True)
        ]
        optimizer.load_state_dict(copy.deepcopy(self._optimizer))
        for group, others in zip(optimizer.param_groups, since, strict=True):
            group.update(others)
        self._attributes.restore()

    @contextmanager
    def as_at_first(self, model: nn.Module) -> Iterator[None]:
        """Let the model and the strangers be as at first within the ``with``, then as now again.

        Raises:
            ValueError: the model has other modules or parameters than it had.
        """
        self.check_fits(model)
        now = ModelState(model)
        try:
            self._of_model.put(model)
            with self.strangers.as_at_first():
                yield
        finally:
            now.put(model)

    def write_into(self, twin: nn.Module) -> None:
        """Give a copy of the model, made since, what the model began with."""
        self._of_model.write_into(twin)

    def optimizer_as_it_was(self, optimizer: Optimizer) -> Optimizer:
        """Return a stand-in for ``optimizer`` with the options and state that it began with.

        It is there to be read, and holds the same parameters.
        """
        stand_in: Optimizer = type(optimizer).__new__(type(optimizer))
        stand_in.__dict__.update(optimizer.__dict__ | self._attributes.values())
        saved = self._optimizer
        stand_in.param_groups = [
            {**then, "params": list(members)}
            for then, members in zip(saved["param_groups"], self._groups, strict=True)
        ]
        parameters = [one for group in stand_in.param_groups for one in group["params"]]
        stand_in.state = defaultdict(
            dict, {parameters[place]: state for place, state in saved["state"].items()}
        )
        return stand_in

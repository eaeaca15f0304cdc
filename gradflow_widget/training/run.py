"""Run: a model and its optimizer under watch, with the beginning to come back to."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from ..measurement.optimizers import rate_of
from ..measurement.probe import GradientProbe
from ..measurement.reading import Glance, Reading
from ..tweaks.copying import copied
from ..tweaks.knobs import AS_GIVEN
from .first_fault import FirstFault
from .optimizers import begin_anew, of_kind
from .settings import Settings
from .snapshot import Snapshot
from .steering import Steering

_watched: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Run]] = weakref.WeakKeyDictionary()


def check_unwatched(optimizer: object) -> None:
    """Raise ValueError where another run has its hooks on ``optimizer``."""
    if isinstance(optimizer, Optimizer):
        holder = _watched.get(optimizer)
        run = None if holder is None else holder()
        if run is not None and run.is_left:
            raise ValueError(
                "optimizer is in the hands of a GradientFlow that was closed, whose loop or step "
                "has not ended yet: wait until it has, or interrupt it."
            )
        if run is not None:
            raise ValueError(
                "optimizer is watched by another GradientFlow already: close() that one first."
            )


def check_rates(optimizer: Optimizer) -> None:
    """Raise ValueError where a parameter group's learning rate is negative or not finite."""
    for group in optimizer.param_groups:
        rate = rate_of(group)
        if rate is not None and not (math.isfinite(rate) and rate >= 0):
            raise ValueError(
                f"optimizer has a learning rate of {rate}: give it one that is finite and not "
                "negative."
            )


class Run:
    """Keeps hooks on a model and an optimizer: steering, probe, and the session's own.

    Args:
        model: what is trained.
        optimizer: what trains it.
        beginning: how both were at first.
        settings_of_step: the settings of the step under way.
        kind: the kind of optimizer that takes the place of ``optimizer``, or "as given".
        on_reading: takes a step's reading.
        on_glance: takes, in place of its reading, what there is to tell of an ordinary step.
        before_step: called before an optimizer step, ahead of all reading of it.
        after_step: called when an optimizer step is over and read.
        may_train_here: says whether it is for the caller's thread to train the model now.

    Attributes:
        is_left: its session was closed, but the step or loop under way has not ended.

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
        beginning: Snapshot,
        settings_of_step: Callable[[], Settings],
        *,
        kind: str = AS_GIVEN,
        on_reading: Callable[[Reading], None],
        on_glance: Callable[[Glance], None],
        before_step: Callable[..., None],
        after_step: Callable[..., None],
        may_train_here: Callable[[], bool],
    ) -> None:
        check_unwatched(optimizer)
        self.model, self.given_optimizer = model, optimizer
        self.optimizer = of_kind(kind, optimizer)
        self._kind, self._snapshot = kind, beginning
        self._settings_of_step = settings_of_step
        self._on_reading, self._on_glance = on_reading, on_glance
        self._before_step, self._after_step = before_step, after_step
        self._may_train_here = may_train_here
        # Its device is the model's, wherever that is moved.
        self.a_parameter = next(model.parameters())
        self._known = {id(one) for one in (*model.parameters(), *_held_by(self.optimizer))}
        self._looked_at, self._has_grown = 0, False
        self._handles: list[Any] = []
        self.is_left = False
        self._watch(None)

    def _watch(self, earlier: GradientProbe | None) -> None:
        """Put the hooks on; where there is an ``earlier`` probe, its history goes on."""
        hooks_of_others = len(self.optimizer._optimizer_step_pre_hooks)
        stepped = {id(one) for one in _held_by(self.optimizer)}
        self._not_stepped = [one for one in self.model.parameters() if id(one) not in stepped]
        with ExitStack() as undone:
            # The first: a step that it refuses must not read gradients that others are writing.
            before_step = self.optimizer.register_step_pre_hook(self._before_step)
            undone.callback(before_step.remove)
            steering = Steering(self.optimizer, self._settings_of_step)
            undone.callback(steering.close)
            probe = GradientProbe(
                self.model,
                self.optimizer,
                history=None if earlier is None else earlier.history,
            )
            undone.pop_all()
        probe.may_train_here = self._may_train_here
        if earlier is not None:
            probe.set_order(earlier.layers)
        steering.follow(probe)
        probe.on_reading, probe.on_glance = self._on_reading, self._on_glance
        self.probe, self.steering = probe, steering
        if earlier is None:
            self.fault = FirstFault(self.model)
        self._hooks_of_ours = len(self.optimizer._optimizer_step_pre_hooks) - hooks_of_others
        self._handles = [before_step, self.optimizer.register_step_post_hook(self._after_step)]
        # The given one is ours too while another kind is in its place.
        _watched[self.given_optimizer] = _watched[self.optimizer] = weakref.ref(self)

    def _unwatch(self) -> None:
        self.probe.close()
        self.steering.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for optimizer in (self.optimizer, self.given_optimizer):
            holder = _watched.get(optimizer)
            if holder is not None and holder() is self:
                del _watched[optimizer]

    @property
    def steps_as_torch_does(self) -> bool:
        """Whether a call of ``optimizer.step()`` comes to our hooks, and to nobody else's.

        A scheduler, or somebody who clips, may have put another function in the place of it.
        """
        return not (
            len(self.optimizer._optimizer_step_pre_hooks) > self._hooks_of_ours
            or _global_optimizer_pre_hooks
            or "step" in vars(self.optimizer)
            or not type(self.optimizer).__module__.startswith("torch.optim.")
        )

    @property
    def has_grown(self) -> bool:
        """Whether the optimizer has got parameters since of which the probe knows nothing."""
        held = sum(len(group["params"]) for group in self.optimizer.param_groups)
        if held != self._looked_at:
            self._looked_at = held
            self._has_grown = any(id(one) not in self._known for one in _held_by(self.optimizer))
        return self._has_grown

    def zero_grad(self) -> None:
        """Drop every gradient: those too of parameters that the optimizer does not hold."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self._not_stepped:
            parameter.grad = None

    def use(self, kind: str) -> None:
        """Go on with an optimizer of another kind; weights and history stay.

        It begins without state; the one that was given has again what it had when it left.
        """
        full = self.probe.full
        self._unwatch()
        try:
            self.optimizer, self._kind = of_kind(kind, self.given_optimizer), kind
        finally:
            self._watch(self.probe)
            self.probe.full = full

    def at_the_beginning(self) -> nn.Module:
        """Return a copy of the model with the weights, buffers and modes that it began with."""
        twin = copied(self.model)
        self._snapshot.write_into(twin)
        return twin

    @contextmanager
    def as_at_first(self) -> Iterator[None]:
        """Let the model be as at the beginning within the ``with``, and then as it is now again.

        Nothing of what it does there is recorded.

        Raises:
            ValueError: the model has got other modules or parameters since.
        """
        with self._snapshot.as_at_first(self.model), self.probe.looking_away():
            yield

    def rewind(self) -> None:
        """Go back to the beginning: weights, buffers, optimizer; with an empty history.

        An optimizer of another kind than the given one begins anew, and is the same object.

        Raises:
            ValueError: the model has got other modules or parameters since.
        """
        self._snapshot.check_fits(self.model)
        self._unwatch()
        self.fault.close()
        self._snapshot.restore(self.model, self.given_optimizer)
        if self.optimizer is not self.given_optimizer:
            begin_anew(self.optimizer, self._kind, self.given_optimizer)
        self._watch(None)

    def close(self) -> None:
        """Take every hook off; what was recorded stays."""
        self._unwatch()
        self.fault.close()


def _held_by(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

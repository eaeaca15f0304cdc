"""How a run's model and optimizer are made: given ready made, or by factories; then tweaked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from ..measurement.layers import find_layers
from ..measurement.optimizers import check_watchable
from ..quoting import quoted
from ..tweaks.copying import changed_in_place, copied, refusing_without_room
from ..tweaks.knobs import (
    ColdKnob,
    completed,
    is_as_given,
    knobs_of_factory,
    knobs_of_module,
    without_training,
)
from ..tweaks.optimizer import rebuilt_optimizer
from ..tweaks.recurrent import in_one_piece
from .failure import noting
from .loss_state import LossState
from .randomness import RandomStream
from .regimes.applied import model_under
from .settings import Settings
from .snapshot import Snapshot
from .strangers import Strangers
from .tweaking import NEEDS_INPUTS, InputsOf, changed_copy

ModelSource = nn.Module | Callable[..., nn.Module]
OptimizerSource = Optimizer | Callable[..., Optimizer]
# So many layers have hidden ones, and blocks that repeat.
_DEEP = 12


class Built(NamedTuple):
    """A model and its optimizer, and how both are at first."""

    model: nn.Module
    optimizer: Optimizer
    beginning: Snapshot

    def at_the_beginning(self) -> tuple[nn.Module, Optimizer]:
        """Return copies of both as they were at first; they themselves may have trained since.

        Raises:
            CannotTweak: the model can't be copied.
        """
        twin = copied(self.model)
        self.beginning.write_into(twin)
        then = self.beginning.optimizer_as_it_was(self.optimizer)
        return twin, rebuilt_optimizer(then, self.model, twin)


class Looks(NamedTuple):
    """What the first batch tells of a model.

    Attributes:
        inputs_of: what it is called with.
        called: its modules in forward order.
    """

    inputs_of: InputsOf
    called: Callable[[nn.Module], Sequence[nn.Module]]


class Construction:
    """Makes the model and the optimizer for given settings.

    A module that was given is never restructured: what the knobs ask for is done to a copy
    of it as it was at first. Where they ask for nothing, the module itself trains again, from
    its beginning. A factory is called with the knobs that it names, and its product is
    tweaked for the others.

    Args:
        model: a module, or a factory called with the cold knobs that it names.
        optimizer: an optimizer, or a factory called with the parameters.
        loss: the modules that the loss is made of, which every run finds as they are now.

    Raises:
        TypeError: something else was given, or a model factory with a ready-made optimizer,
            whose parameters can't be the new model's.
    """

    def __init__(
        self, model: ModelSource, optimizer: OptimizerSource, loss: Sequence[nn.Module] = ()
    ) -> None:
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
        self._last_arguments: dict[str, Any] = {}
        self._given: Built | None = None
        # Of what is trained besides the model, when it was first seen.
        self._first_values = WeakTensorKeyDictionary()
        self._loss = LossState(loss, model)
        self.knobs: dict[str, ColdKnob] = (
            {} if isinstance(model, nn.Module) else knobs_of_factory(model)
        )

    @property
    def given_optimizer(self) -> Optimizer | None:
        """The optimizer that was given; None where a factory makes each."""
        return self._optimizer if isinstance(self._optimizer, Optimizer) else None

    # -- what the knobs may say ------------------------------------------------------

    def first_settings(self, settings: Settings) -> Settings:
        """Return ``settings`` with what a factory's own knobs say before anybody turns them."""
        return _with_first_values(settings, self.knobs)

    def look_at(self, model: nn.Module, settings: Settings, *, trains: bool) -> Settings:
        """Find the knobs of the model that :meth:`build` made first; return their settings.

        ``trains``: whether there is something to train a changed copy with.
        """
        if self.is_factory:
            knobs = completed(self.knobs, model)
            if not all(knob.offered for knob in knobs.values()):
                deeper = completed(self.knobs, self._deeper(model, settings))
                knobs = {n: knob if knob.offered else deeper[n] for n, knob in knobs.items()}
        else:
            knobs = knobs_of_module(model)
        self.knobs = knobs if trains else without_training(knobs)
        return _with_first_values(settings, self.knobs)

    def _deeper(self, model: nn.Module, settings: Settings) -> nn.Module:
        """Return the factory's product at a depth where it has all that it can have."""
        depth = self.knobs["depth"]
        if not (depth.is_named and depth.offered) or (settings.depth or 0) >= _DEEP:
            return model
        factory: Any = self._model
        with RandomStream(settings.seed, every_source=True)():
            try:
                deeper = factory(**{**self._arguments(settings), "depth": _DEEP})
            except Exception:  # it may refuse that depth, and then it is what it is
                return model
        return deeper if isinstance(deeper, nn.Module) else model

    def meant(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``changes`` with what a knob began with in the place of "as given"."""
        return {
            name: self.knobs[name].value
            if name in self.knobs and self.knobs[name].offered and is_as_given(value)
            else value
            for name, value in changes.items()
        }

    def turned(self, settings: Settings) -> dict[str, Any]:
        """Return the knobs that the model is tweaked for, and their values."""
        return {
            name: getattr(settings, name)
            for name, knob in self.knobs.items()
            if knob.offered and not knob.is_named and getattr(settings, name) != knob.value
        }

    def depends_on_seed(self, settings: Settings) -> bool:
        """Whether another seed makes another model."""
        # The order of a curriculum by loss is that of a first model, which is drawn from it.
        return self.is_factory or _is_by_loss(settings) or bool(self.turned(settings))

    def depends_on_batch_size(self, settings: Settings) -> bool:
        """Whether another batch size makes another model, or another order of the data."""
        return _is_by_loss(settings) or self.turned(settings).get("initialization") == NEEDS_INPUTS

    # -- building --------------------------------------------------------------------

    def build(
        self, settings: Settings, looks: Looks | None = None, *, present: Built | None = None
    ) -> Built:
        """Return the model and its optimizer; what is drawn comes from the settings' seed.

        Args:
            settings: what the knobs say.
            looks: what the first batch tells; None: there is none.
            present: what is trained now. Where the answer is the same, it is returned as it
                is, and for whoever takes it to rewind.

        Raises:
            TypeError: a factory returned something else, or an optimizer's takes other arguments.
            ValueError: the model has no parameters, or lazy ones, or a saved state does not fit.
            FileNotFoundError: there is no saved state.
            CannotTweak: the model can't be changed so; one sentence says why.
            Exception: what a factory raised.
        """
        with RandomStream(settings.seed, every_source=True)():
            if self.is_factory:
                return self._from_factory(settings, looks)
            if self._given is None:
                model: Any = self._model
                find_layers(model)  # an optimizer would complain in its own words
                optimizer = self._optimizer_for(model)
                self._given = Built(model, optimizer, self._snapshot(model, optimizer))
                return self._given
            if self.turned(settings) or settings.regime.changes_model:
                return self._from_given(self._given, settings, looks)
            if self._given is not present:
                self._given.beginning.restore(self._given.model, self._given.optimizer)
                self._given = self.renewed(self._given, settings)
            return self._given

    def renewed(self, built: Built, settings: Settings) -> Built:
        """Return the model of a run with an optimizer made anew, where a factory makes it.

        What an optimizer does not tell in its state, such as a scheduler on its hooks, begins
        anew only so. The model is to be as at first meanwhile. Where the optimizer was given, or
        is the same again, ``built`` is returned as it is.

        Raises:
            TypeError: the factory returned something else, or takes other arguments.
            Exception: what it raised.
        """
        with RandomStream(settings.seed, every_source=True)():
            optimizer = self._optimizer_for(built.model)
        if optimizer is self._optimizer or optimizer is built.optimizer:
            return built
        strangers = Strangers(built.model, optimizer, self._first_values, self._loss)
        return Built(built.model, optimizer, built.beginning.with_optimizer(optimizer, strangers))

    def take(self, built: Built) -> None:
        """Let what :meth:`renewed` has made stand for the given model from now on, if it is its."""
        if self._given is not None and built.model is self._given.model:
            self._given = built

    def _from_factory(self, settings: Settings, looks: Looks | None) -> Built:
        factory: Any = self._model
        arguments = self._arguments(settings)
        with noting(f"The model factory failed{self._new_in(arguments)}"):
            model = factory(**arguments)
        self._last_arguments = arguments
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model is a factory that returned {type(model).__name__}: "
                "it must return a torch.nn.Module."
            )
        find_layers(model)
        if self.turned(settings) or settings.regime.changes_model:
            # A copy of it too, for a factory may return one and the same module each time.
            model = self._changed(model, None, settings, looks)
        optimizer = self._optimizer_for(model)
        return Built(model, optimizer, self._snapshot(model, optimizer))

    def _from_given(self, given: Built, settings: Settings, looks: Looks | None) -> Built:
        model = self._changed(given.model, given.beginning, settings, looks)
        with refusing_without_room():
            if isinstance(self._optimizer, Optimizer):
                before = given.beginning.optimizer_as_it_was(self._optimizer)
                optimizer = rebuilt_optimizer(before, given.model, model)
            else:
                optimizer = self._optimizer_for(model)
            return Built(model, optimizer, self._snapshot(model, optimizer))

    def _changed(
        self, model: nn.Module, beginning: Snapshot | None, settings: Settings, looks: Looks | None
    ) -> nn.Module:
        """Return a copy under the knobs, and then under the regime."""
        inputs_of = None if looks is None else looks.inputs_of
        twin = changed_copy(model, beginning, self.turned(settings), settings.seed, inputs_of)
        with changed_in_place(twin):
            called = _unknown if looks is None else looks.called
            return in_one_piece(model_under(settings.regime, twin, called))

    def _snapshot(self, model: nn.Module, optimizer: Optimizer) -> Snapshot:
        strangers = Strangers(model, optimizer, self._first_values, self._loss)
        return Snapshot(model, optimizer, strangers)

    def _arguments(self, settings: Settings) -> dict[str, Any]:
        """Return what a factory is called with."""
        arguments = {}
        for name, knob in self.knobs.items():
            if knob.is_named and knob.offered:
                value = getattr(settings, name)
                arguments[name] = knob.argument if value == knob.value else value
        return arguments

    def _new_in(self, arguments: Mapping[str, Any]) -> str:
        """Return which arguments are others than the factory last made a model with."""
        last = self._last_arguments
        new = [
            f"{name} {quoted(value)}"
            for name, value in arguments.items()
            if name not in last or last[name] != value
        ]
        return f" for {', '.join(new)}" if new else ""

    def _optimizer_for(self, model: nn.Module) -> Optimizer:
        optimizer: Any = self._optimizer
        if isinstance(optimizer, Optimizer):
            check_watchable(optimizer)
            return optimizer
        try:
            with noting("The optimizer factory failed"):
                optimizer = optimizer(model.parameters())
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # from within
            raise TypeError(
                f"optimizer is a factory that can't be called with the parameters alone ({error}): "
                "give a function of them, such as "
                "lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
            ) from None
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer is a factory that returned {type(optimizer).__name__}: "
                "it must return a torch.optim.Optimizer."
            )
        check_watchable(optimizer)
        return optimizer


def _with_first_values(settings: Settings, knobs: Mapping[str, ColdKnob]) -> Settings:
    offered = {name: knob.value for name, knob in knobs.items() if knob.offered}
    return settings.replaced(**offered)


def _is_by_loss(settings: Settings) -> bool:
    curriculum = settings.regime.curriculum
    return curriculum is not None and curriculum.by == "loss"


def _unknown(_: nn.Module) -> Sequence[nn.Module]:
    """Return no module: without a batch, layers stand in the order of their registration."""
    return ()

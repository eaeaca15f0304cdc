"""GradientFlow: the widget that puts the rooms together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import ipywidgets as widgets
from torch import nn
from torch.optim import Optimizer

from .backstage import Backstage
from .cells import CellRegistry, around_each_cell, cell_that_begins
from .display.controls import Controls
from .display.stage import Stage
from .fresh_traits import FreshTraits
from .knob_traits import KnobTraits
from .layout import close_buttons, close_parts, controls_of, exchange, laid_out
from .measurement.history import History
from .misnamed import no_such_knob
from .playback import Playback
from .playground.assembly import Playground, PlaygroundNetwork, assemble
from .playground.presets import preset_of, presets
from .training.construction import ModelSource, OptimizerSource
from .training.objective import Objective
from .training.preparation import Preparation, prepare
from .training.run import check_unwatched
from .training.session import TrainingSession
from .training.validation import ValidationCurve
from .tweaks.knobs import COLD_KNOBS
from .tweaks.record import Tweak

_cells = CellRegistry()
# How many presets may be loaded within the time that a click takes to come here.
_LATEST = 8


class GradientFlow(KnobTraits, Playback, FreshTraits, widgets.VBox):
    """Shows live how the error signal flows back through every layer of a model.

    Args:
        model: a ``torch.nn.Module``, or a factory called with the cold knobs that it names
            as parameters: ``def build(depth=8, activation="tanh")``.
        optimizer: an optimizer over the model's parameters, or a factory called with them. Step
            hooks, such as a scheduler's, are on every new network's optimizer where a factory
            puts them there; else they stay with the one that was given.
        loss_fn: ``loss_fn(model(inputs), targets)`` returns the loss.
        data: a pair of tensors, a Dataset, or an iterable of batches such as a DataLoader.
            ``loss_fn`` and ``data`` may be absent: then your own loop trains, in a cell or
            through :meth:`run`, and the widget watches and steers.
        objective: ``objective(model, batch)`` returns the loss, for anything else.
        clip_norm: clip the gradients to this global L2 norm; None is off.
        seed: of weights (of a factory), batch order and dropout.
        validation: data of the same kind that are kept from training. Accuracy and loss on at
            most 1,000 samples of them, always the same, are evaluated every 10 steps or less
            often, about three times a second at most and in at most 5 % of the training time, and
            where training comes to rest; the run is the same, bit for bit, with and without.

    Raises:
        TypeError, ValueError: an argument can't be used; the sentence says what would do.
        RuntimeError: the model failed on the first batch.
    """

    def __init__(
        self,
        model: ModelSource,
        optimizer: OptimizerSource,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        data: Any = None,
        *,
        objective: Objective | None = None,
        clip_norm: float | None = None,
        seed: int = 0,
        validation: Any = None,
    ) -> None:
        self._closed = self._ready = False
        preparation = prepare(
            model,
            optimizer,
            loss_fn,
            data,
            objective=objective,
            clip_norm=clip_norm,
            seed=seed,
            validation=validation,
            shares_cores=not isinstance(model, PlaygroundNetwork),
        )
        # An earlier run of this cell may be training the very same model.
        _cells.replace_earlier()
        check_unwatched(optimizer)
        self._backstage = Backstage(self)
        self._stage = self._backstage.stage = Stage(self._backstage)
        self._session: TrainingSession | None = None
        self._controls: Controls | None = None
        # Of the controls before: the page may have sent a click before it saw the new ones.
        self._late_buttons: list[list[widgets.Button]] = []
        self._stop_listening: Callable[[], None] = lambda: None
        try:
            self._begin(preparation, preparation.session(self._backstage))
            self._controls = controls_of(self)
            super().__init__(laid_out(self._stage, self._controls))
            self.add_class("gradflow")
            self._stop_listening = around_each_cell(self._cell_begins, self._cell_ended)
            self._ready = True
            self._backstage.made()
            self._backstage.say()
            _cells.define(self)
        except BaseException:
            self._closed = True
            # What went wrong first is what the user hears of.
            with suppress(Exception):
                self._release()
            raise

    def _begin(self, preparation: Preparation, session: TrainingSession) -> None:
        """Begin a session, in the place of the one before; the knobs are its own."""
        self._construction, self._session = preparation.construction, session
        self._loss_fn, self._objective = preparation.loss_fn, preparation.objective
        self._samples = preparation.samples
        self._offers_presets = isinstance(preparation.model, PlaygroundNetwork)
        self._backstage.session = session
        session.begin()
        self._adopt()

    def __setattr__(self, name: str, value: Any) -> None:
        # Python would take `flow.lr = 0.1` for a new attribute and `flow.step = 3` for a new
        # method, and nothing would change. A subclass may have attributes of its own.
        if not name.startswith("_") and type(self) is GradientFlow and self.__dict__.get("_ready"):
            method = getattr(type(self), name, None)
            # Not those of traitlets, which puts a method aside while it holds notifications.
            if inspect.isroutine(method) and method.__module__.startswith(f"{__package__}."):
                raise AttributeError(f"{name} is a method: call it, as flow.{name}(...).")
            if name not in self.__dict__ and not hasattr(type(self), name):
                raise AttributeError(no_such_knob(name))
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        # A saved notebook shows it where no widget can be drawn.
        return f"<GradientFlow: {self.status}>" if self._ready else super().__repr__()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if self._ready and not self._closed:
            self._backstage.shown()
        return bundle

    @classmethod
    def playground(
        cls, network: str = "mlp", data: Any = "digits", *, seed: int = 0, **knobs: Any
    ) -> GradientFlow:
        """Return a widget with everything provided, validation data among it.

        Args:
            network: "mlp", "linear" (deep, without activations) or "residual" for vectors;
                "cnn", "vgg" or "resnet" for images; "rnn", "lstm", "gru" or "transformer" for
                sequences and text.
            data: "digits" (for every network), "spoken_digits", "text", "adding", "moons",
                "spirals" or "regression"; or your own: a pair of arrays (inputs, targets), a
                dataset of images such as torchvision's, or what ``from_csv``,
                ``from_dataframe``, ``from_wav_folder`` and their kin in
                ``gradflow_widget.playground.data`` return.
            seed: of weights and batch order.
            **knobs: first values of the knobs: ``depth``, ``activation``,
                ``initialization``, ``normalization``, ``skips``, ``orthogonality``,
                ``learning_rate``, ``clip_norm``, ``clip_value``, ``batch_size``,
                ``optimizer_kind``, ``weight_decay``, ``regime``, ``speed``; and the parameters
                of the network (such as ``width``) and of the data (such as ``noise``).

        Raises:
            ValueError: a name or a value is unknown, or network and data don't fit; the
                message lists what would do.
            TypeError: ``data`` are none of these.
        """
        parts = assemble(network, data, knobs)
        flow = cls(*parts.arguments, seed=seed, validation=parts.loaded.validation)
        try:
            flow._turn_first(parts, knobs)
        except BaseException:
            flow.close()
            raise
        return flow

    @classmethod
    def preset(cls, name: str, seed: int | None = None) -> GradientFlow:
        """Return a playground as a preset has it; :meth:`presets` tells which there are.

        Args:
            name: of the preset, such as "vanishing sigmoid".
            seed: of weights and batch order, in the place of the preset's.

        Raises:
            ValueError: there is no such preset, or the seed can't be used.
        """
        flow = cls.playground(**preset_of(name).arguments(seed))
        flow.set_trait("loaded_preset", name)
        return flow

    @staticmethod
    def presets() -> dict[str, str]:
        """Return the presets by name, and for each what to watch when it runs."""
        return {name: preset.watch for name, preset in presets().items()}

    def load_preset(self, name: str, seed: int | None = None) -> None:
        """Put a preset in the place of what is trained.

        The run before stays as the ghost where it was of the same task, so that the two can be
        compared: the same kind of loss, and as many samples.

        Network, data, knobs and regime are the preset's, only the speed stays. A model of
        one's own is let go as it then is. Where the preset's network can't be made, what is
        trained goes on.

        Raises:
            ValueError: there is no such preset, or the seed can't be used.
            RuntimeError: the widget is closed, or a cell makes steps, or runs a loop of yours.
            Exception: what was raised in making the preset's network, for want of memory say.
        """
        preset = preset_of(name)
        present = self._training
        present.check()
        if present.foreign_loop:
            raise RuntimeError(
                "your own loop is under way under another widget: pause it there first."
                if present.loop_of_another
                else "your own loop is under way in a cell: load a preset when the cell has ended."
            )
        if present.steps_are_awaited:
            raise RuntimeError("a cell is making steps: load a preset when they are done.")
        knobs = preset.arguments(seed)
        network, data, seed = (knobs.pop(key) for key in ("network", "data", "seed"))
        parts = assemble(network, data, knobs)
        preparation = prepare(
            *parts.arguments,
            seed=seed,
            validation=parts.loaded.validation,
            shares_cores=False,
        )
        with present.standing_still():
            coming = preparation.session(self._backstage)
        before = self._controls
        assert before is not None
        before.close()
        present.stop()
        task = type(self._loss_fn), self._samples
        # Else the network would be seen, and judged, as it is before its knobs are turned.
        with self._stage.publisher.holding():
            self._ready = False
            try:
                self._begin(preparation, coming)
            finally:
                self._ready = True
            if task != (type(self._loss_fn), self._samples):
                self._stage.forget_ghosts()
            self._controls = controls_of(self)
            self.set_trait("loaded_preset", name)
            exchange(self, before, self._controls)
            self._stage.hearing.controls_made()
            self._late_buttons.append(before.buttons)
            if len(self._late_buttons) > _LATEST:
                close_buttons(self._late_buttons.pop(0))
            self._turn_first(parts, knobs)
            self._backstage.state_changed()

    def _turn_first(self, parts: Playground, knobs: dict[str, Any]) -> None:
        """Give the knobs those of their first values that the network is not built with."""
        tweaked = {name: knobs[name] for name in COLD_KNOBS[2:] if name in knobs}
        for name, value in {**tweaked, **parts.hot}.items():
            setattr(self, name, value)

    # -- properties ------------------------------------------------------------------

    @property
    def _training(self) -> TrainingSession:
        assert self._session is not None
        return self._session

    @property
    def model(self) -> nn.Module:
        """The model as it now stands."""
        return self._training.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer as it now stands."""
        return self._training.optimizer

    @property
    def history(self) -> History:
        """All readings of the present run."""
        return self._training.history

    @property
    def tweaks(self) -> tuple[Tweak, ...]:
        """What has been changed in the model as it now stands: knob, sentence and value."""
        return self._training.tweaks

    @property
    def validations(self) -> ValidationCurve:
        """The validations of the present run, as columns; see ``validation`` above.

        While training rests, reading it validates the latest step, should that not have been.

        Raises:
            Exception: what the model or the loss raised on the validation data.
        """
        return self._training.validations

    @property
    def accuracy(self) -> float:
        """The latest validation accuracy, a share from 0 to 1; NaN before the first.

        NaN too where nothing is validated, or the targets are no classes.
        """
        latest = self.validations.latest
        return math.nan if latest is None else latest.accuracy

    # -- the end --------------------------------------------------------------------

    def close(self) -> None:
        """Stop training, take every hook off and close every part of the widget."""
        # ipywidgets also calls this for an object whose construction has failed.
        if not getattr(self, "_ready", False) or self._closed:
            return
        self._closed = True
        self._refresh_status()
        self._release()

    def _release(self) -> None:
        """Let go of everything: where one part fails to, the others do all the same."""
        parts: list[Callable[[], object]] = [self._stop_listening]
        if self._session is not None:
            # A thread that waited for its turn has not told that it plays no more.
            parts += [self._session.stop, self._backstage.state_changed]
        if self._controls is not None:
            parts.append(self._controls.close)
        parts += [partial(close_buttons, buttons) for buttons in self._late_buttons]
        parts += [self._stage.close, partial(close_parts, self, self._stage, self._controls)]
        with ExitStack() as released:  # which takes the last first
            for part in reversed(parts):
                released.callback(part)

    # -- the latest --------------------------------------------------------------------

    def _refresh_status(self) -> None:
        if self.__dict__.get("_ready"):
            self._backstage.refresh_status()

    def _cell_begins(self, info: object) -> None:
        cell = cell_that_begins(info)
        if _cells.has_defined(cell, self):
            # It trains by the notebook's names: once the cell has given these to another model and
            # optimizer it would train that one, past the hooks that could end it. One that comes
            # to no step in time is ended where it does.
            with suppress(RuntimeError):
                self._training.end_loop()
        self._training.cell_begins(cell)
        self._backstage.cell_begins()

    def _cell_ended(self) -> None:
        self._training.cell_ends()
        self._backstage.cell_ended()
        if self._training.foreign_loop and not self._training.loop_of_another:
            try:
                self._training.loop_has_ended()
            finally:
                self._backstage.say()
        elif self._training.steps_are_missed:
            self._backstage.say()

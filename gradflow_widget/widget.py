"""GradientFlow: the widget that puts the rooms together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets
import traitlets
from torch import nn
from torch.optim import Optimizer

from .backstage import Backstage
from .cells import CellRegistry, after_each_cell
from .display.closing import close_tree
from .display.controls import Actions, Controls, Offer, legend
from .display.stage import SPEEDS, Speed, Stage
from .fresh_traits import FreshTraits
from .knob_traits import Knob, KnobTraits
from .measurement.history import History
from .measurement.reading import Reading
from .playground.assembly import Playground, PlaygroundNetwork, assemble
from .playground.presets import preset_of, presets
from .training.batches import DEFAULT_BATCH_SIZE, as_batches
from .training.construction import Construction, ModelSource, OptimizerSource
from .training.objective import Objective, as_objective
from .training.optimizers import KINDS
from .training.run import check_unwatched
from .training.session import TrainingSession
from .training.settings import Settings, checked_count
from .training.validation import ValidationCurve, Validator
from .tweaks.depth import DEEPEST, SHALLOWEST
from .tweaks.knobs import AS_GIVEN, COLD_KNOBS
from .tweaks.record import Tweak

_cells = CellRegistry()


class GradientFlow(KnobTraits, FreshTraits, widgets.VBox):
    """Shows live how the error signal flows back through every layer of a model.

    Args:
        model: a ``torch.nn.Module``, or a factory called with the cold knobs that it names
            as parameters: ``def build(depth=8, activation="tanh")``.
        optimizer: an optimizer over the model's parameters, or a factory called with them.
        loss_fn: ``loss_fn(model(inputs), targets)`` returns the loss.
        data: a pair of tensors, a Dataset, or an iterable of batches such as a DataLoader.
            ``loss_fn`` and ``data`` may be absent: then your own loop trains, in a cell or
            through :meth:`run`, and the widget watches and steers.
        objective: ``objective(model, batch)`` returns the loss, for anything else.
        clip_norm: clip the gradients to this global L2 norm; None is off.
        seed: of weights (of a factory), batch order and dropout.
        validation: data of the same kind that are kept from training. Accuracy and loss on at
            most 1,000 samples of them, always the same, are evaluated every 10 steps or less
            often, in at most 5 % of the training time, and where training comes to rest; the
            run is the same, bit for bit, with and without.

    Raises:
        TypeError, ValueError: an argument can't be used; the sentence says what would do.
        RuntimeError: the model failed on the first batch.
    """

    speed = Knob(1, help="Every how many steps one is drawn, or 'max'.")
    playing = traitlets.Bool(False, help="Whether steps follow one another.")

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
        begin = self._prepared(
            model,
            optimizer,
            loss_fn,
            data,
            objective=objective,
            clip_norm=clip_norm,
            seed=seed,
            validation=validation,
        )
        # An earlier run of this cell may be training the very same model.
        _cells.replace_earlier()
        check_unwatched(optimizer)
        self._backstage = Backstage(self)
        self._stage = self._backstage.stage = Stage(self._backstage)
        self._session: TrainingSession | None = None
        self._controls: Controls | None = None
        self._stop_listening: Callable[[], None] = lambda: None
        try:
            begin()
            self._controls = self._make_controls()
            super().__init__(self._children(self._controls))
        except BaseException:
            self._release()
            raise
        self.add_class("gradflow")
        self._stop_listening = after_each_cell(self._cell_ended)
        self._ready = True
        self._backstage.say()
        _cells.define(self)

    def _prepared(
        self,
        model: ModelSource,
        optimizer: OptimizerSource,
        loss_fn: Callable[[Any, Any], Any] | None,
        data: Any,
        *,
        objective: Objective | None = None,
        clip_norm: float | None = None,
        seed: int,
        validation: Any,
    ) -> Callable[[], None]:
        """Check what a session is made of; return what begins it.

        Raises:
            TypeError, ValueError: see the class.
        """
        construction = Construction(model, optimizer)
        # Where only a loop of the user's own trains, the loss is there to validate with.
        learns_from, called = (validation, "validation") if data is None else (data, "data")
        minimised, origin = as_objective(loss_fn, objective, learns_from, called)
        batches = as_batches(data) if data is not None else None
        samples = batches.size if batches is not None else None
        settings = Settings(
            clip_norm=clip_norm,
            batch_size=None if samples is None else min(DEFAULT_BATCH_SIZE, samples),
            seed=seed,
        )
        validator = None
        if minimised is not None and validation is not None:
            validator = Validator(minimised, validation)

        def begin() -> None:
            session = TrainingSession(
                construction,
                minimised,
                batches,
                settings,
                self._backstage,
                origin=origin,
                validator=validator,
            )
            self._construction, self._session = construction, session
            self._loss_fn, self._objective = loss_fn, objective
            self._samples = samples
            self._offers_presets = isinstance(model, PlaygroundNetwork)
            self._backstage.session = session
            self._adopt()

        return begin

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
        if "learning_rate" in knobs:
            Settings(learning_rate=knobs["learning_rate"])
        flow = cls(
            parts.build,
            parts.optimize,
            parts.loss_fn,
            parts.data,
            seed=seed,
            validation=parts.loaded.validation,
        )
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
        return cls.playground(**preset_of(name).arguments(seed))

    @staticmethod
    def presets() -> dict[str, str]:
        """Return the presets by name, and for each what to watch when it runs."""
        return {name: preset.watch for name, preset in presets().items()}

    def load_preset(self, name: str, seed: int | None = None) -> None:
        """Put a preset in the place of what is trained; the run before stays as the ghost.

        Network, data, knobs and regime are the preset's, only the speed stays. A model of
        one's own is let go as it then is.

        Raises:
            ValueError: there is no such preset, or the seed can't be used.
            RuntimeError: the widget is closed, or your own loop is under way in a cell.
        """
        preset = preset_of(name)
        self._training.check()
        if self._training.foreign_loop:
            raise RuntimeError(
                "your own loop is under way in a cell: load a preset when the cell has ended."
            )
        knobs = preset.arguments(seed)
        network, data, seed = (knobs.pop(key) for key in ("network", "data", "seed"))
        parts = assemble(network, data, knobs)
        begin = self._prepared(
            parts.build,
            parts.optimize,
            parts.loss_fn,
            parts.data,
            seed=seed,
            validation=parts.loaded.validation,
        )
        before = self._controls
        assert before is not None
        before.close()
        self._training.stop()
        self._ready = False
        try:
            begin()
        finally:
            self._ready = True
        self._exchange_controls(before, self._make_controls())
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

    # -- training --------------------------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another on the session's thread.

        Raises:
            RuntimeError: there is nothing to train with, or the widget is closed.
        """
        self._training.play()

    def pause(self) -> None:
        """Stop after the step under way."""
        self._training.pause()

    def step(self, n: int = 1) -> None:
        """Run ``n`` steps and return when they are done.

        Raises:
            ValueError: ``n`` is no whole number of at least 1.
            RuntimeError: there is nothing to train with, or the widget is closed.
            Exception: what the model or the data raised, with its traceback.
        """
        self._training.step(n)

    def steps(self, n: int) -> Iterator[Reading]:
        """Train ``n`` steps in the calling thread and yield each step's Reading.

        Raises:
            ValueError: ``n`` is no whole number of at least 1.
            RuntimeError: there is nothing to train with, or the widget is closed.
            Exception: what the model or the data raised.
        """
        return self._training.steps(n)

    def run(self, loop: Callable[[], object]) -> None:
        """Run your own training function on the session's thread; the controls stay live.

        ``loop()`` is called without arguments. Play, pause, step, learning rate and
        clipping act at its optimizer steps; :meth:`wait` waits for its end.

        Raises:
            TypeError: ``loop`` can't be called.
            RuntimeError: another loop is under way, the regime needs steps of the widget's
                own, or the widget is closed.
        """
        self._training.run(loop)
        if self._controls is not None:
            self._controls.allow_playing()

    def wait(self, steps: int | None = None, timeout: float | None = None) -> bool:
        """Wait until ``steps`` more steps are done, or until training comes to rest.

        Returns:
            False where ``timeout`` seconds ran out first.

        Raises:
            RuntimeError: nothing is training, so that no step would ever come.
            Exception: what the model or the data raised, with its traceback.
        """
        return self._training.wait(steps, timeout)

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step, to the same run again or with another seed.

        With another seed a model from a factory gets new weights; one given ready made
        keeps its own and sees other batches.

        Raises:
            ValueError: ``seed`` is no whole number from 0 to 2**63 - 1.
            RuntimeError: the widget is closed, or your own loop is under way in a cell.
        """
        self._training.reset(seed)

    def close(self) -> None:
        """Stop training, take every hook off and close every part of the widget."""
        # ipywidgets also calls this for an object whose construction has failed.
        if not getattr(self, "_ready", False) or self._closed:
            return
        self._closed = True
        self._refresh_status()
        self._release()

    def _release(self) -> None:
        self._stop_listening()
        try:
            if self._session is not None:
                self._session.stop()
                # A thread that waited for its turn has not told that it plays no more.
                self._backstage.state_changed()
        finally:
            if self._controls is not None:
                self._controls.close()
            self._stage.close()
            roots = [self, self._stage.panel, self._stage.table]
            roots += [self._stage.bars.figure, self._stage.loss.figure]
            if self._controls is not None:
                controls = self._controls
                roots += [controls.toolbar, controls.knobs, controls.views]
            for root in roots:
                close_tree(root)

    # -- traits ----------------------------------------------------------------------

    @traitlets.validate("speed")
    def _check_speed(self, proposal: Any) -> Speed:
        value: Any = proposal["value"]
        if value == "max":
            return "max"
        try:
            return checked_count("speed", value)
        except ValueError:
            raise ValueError(
                f"speed must be a whole number of at least 1 or 'max', not {value!r}; "
                f"the menu offers {', '.join(map(str, SPEEDS))}."
            ) from None

    @traitlets.observe("speed")
    def _turn_speed(self, change: Any) -> None:
        self._stage.speed = change["new"]

    @traitlets.observe("playing")
    def _turn_playing(self, change: Any) -> None:
        if not self._ready or self._backstage.is_following():
            return
        if not change["new"]:
            self._training.pause()
            return
        try:
            self._training.play()
        except RuntimeError:
            self.playing = False
            raise

    def _refresh_status(self) -> None:
        if self.__dict__.get("_ready"):
            self._backstage.refresh_status()

    # -- parts -----------------------------------------------------------------------

    def _make_controls(self) -> Controls:
        knobs, session = self._construction.knobs, self._training
        return Controls(
            self,
            Actions(
                toggle=lambda: self._press("toggle"),
                step=lambda: self._press("step"),
                reset=lambda: self._press("reset"),
                new_seed=lambda: self._press("new seed"),
                look_at=self._stage.look_at,
                failed=self._backstage.say_error,
                load_preset=self.load_preset,
            ),
            cold={
                name: Offer(knob.value, knob.reason, knob.options) for name, knob in knobs.items()
            },
            hot={
                "optimizer_kind": Offer(
                    AS_GIVEN,
                    _sentence(session.why_no_other_optimizer()),
                    (
                        (f"as given ({type(self.optimizer).__name__})", AS_GIVEN),
                        *((kind, kind) for kind in KINDS),
                    ),
                ),
                "weight_decay": Offer(self.weight_decay, _sentence(self._refusal("weight_decay"))),
            },
            depths=(SHALLOWEST, DEEPEST),
            samples=self._samples,
            can_train=session.can_train,
            regime=Offer(self.regime, _sentence(session.why_no_regime())),
            presets=tuple(self.presets().items()) if self._offers_presets else (),
        )

    def _exchange_controls(self, before: Controls, controls: Controls) -> None:
        """Show other controls in the place of those before; what is looked at stays."""
        self._controls = controls
        for name in ("measure_choice", "relative_choice", "loss_choice"):
            getattr(controls, name).value = getattr(before, name).value
        parts = ("toolbar", "knobs", "views")
        others = {id(getattr(before, part)): getattr(controls, part) for part in parts}
        shown: Any = self
        shown.children = [others.get(id(child), child) for child in shown.children]
        for part in parts:
            close_tree(getattr(before, part))

    def _children(self, controls: Controls) -> list[Any]:
        stage = self._stage
        charts = widgets.Box([stage.bars.figure, stage.loss.figure])
        charts.add_class("gradflow-charts")
        return [
            controls.toolbar,
            controls.knobs,
            stage.panel,
            controls.views,
            charts,
            legend(),
            stage.table,
        ]

    def _press(self, action: str) -> None:
        """Do what a button or a key asks for: "toggle", "step", "reset" or "new seed"."""
        session = self._training
        try:
            if action == "toggle":
                (session.pause if session.playing else session.play)()
            elif action == "step":
                session.request_steps(1)
            elif action == "reset":
                session.reset()
            elif action == "new seed":
                session.reset(session.settings.seed + 1)
        except Exception as error:
            self._backstage.say_error(error)

    def _cell_ended(self) -> None:
        if self._training.foreign_loop:
            self._training.loop_has_ended()
            self._backstage.say()


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:]

"""Bench: the present run and its settings, and how both are changed.

One step at a time holds the step lock; whatever changes the run (reset, rebuild, another
optimizer) announces itself to the pace first, so that a session that plays makes way for it,
and then takes the same lock. The step lock comes before the pace's own, which nobody holds
while calling anybody else. Settings are one immutable value, replaced whole and read once
per step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from ..measurement.history import History
from ..measurement.making_way import MakeWay, is_trained_by
from ..measurement.reading import Glance, Reading
from ..uninterrupted import uninterrupted
from .audience import Audience, Telling
from .batches import Batches
from .construction import Built, Construction, Looks
from .cores import is_small, on_one_core
from .openmp import end_idle_threads
from .optimizers import has_step_hooks
from .pace import Pace
from .run import Run, check_rates, check_unwatched
from .settings import Settings
from .sparse import check_takes_sparse
from .steering import learning_rate_of
from .trainer import Trainer
from .validating import Validating

_CLOSED = "this GradientFlow is closed: make a new one."
_LEFT_BEHIND = (
    "Optimizer: the step hooks of the given one, such as a scheduler's, do not act on the one in "
    "its place"
)
Hook = Callable[..., None]
_UNTIMED = nullcontext()


class Made(NamedTuple):
    """A run in waiting: what it is made of, its batches, and a look at it before any step.

    Batches are None where those in use stay, or the user's own loop trains; then there is no
    look either. The batch size is that with which both were drawn.
    """

    built: Built
    batches: Batches | None
    preview: Reading | None
    batch_size: int | None = None


class Bench:
    """What is trained now: a run under the hand of its settings.

    Args:
        construction: makes models and optimizers.
        trainer: does our own steps; None where only the user's loop trains.
        settings: the first settings.
        audience: who looks on.
        telling: where readings go.
        pace: who may step when.
        validating: validates; None where there is nothing to validate with.
        shares_cores: whether a small model's steps may use all of torch's threads, as the
            process has it; else they use one.

    Attributes:
        settings: what the knobs say now.
        run: the present run, once :meth:`make_first` has made it.
    """

    run: Run
    _make_way: MakeWay
    _built: Built | None = None
    _first_look: Reading | None = None
    _drawn_with: int | None = None

    def __init__(
        self,
        construction: Construction,
        trainer: Trainer | None,
        settings: Settings,
        audience: Audience,
        telling: Telling,
        pace: Pace,
        validating: Validating | None,
        *,
        shares_cores: bool = True,
    ) -> None:
        self._shares_cores = shares_cores
        self._cores: Callable[[], AbstractContextManager[None]] = nullcontext
        self._construction, self._trainer = construction, trainer
        self.settings = self._settings_of_step = construction.first_settings(settings)
        self._settings_lock = threading.Lock()
        self._audience, self._telling, self._pace = audience, telling, pace
        self._validating = validating
        self._step_lock = threading.RLock()
        self._own_step_on: int | None = None
        self._hooks: tuple[Hook, Hook, Callable[[], bool]] | None = None

    def make_first(
        self,
        before_step: Hook,
        after_step: Hook,
        may_train_here: Callable[[], bool],
        make_way: MakeWay,
    ) -> None:
        """Make the first run; the hooks are called around each of its optimizer steps.

        Nobody is told of it before :meth:`begin`. ``may_train_here`` says whether it is for the
        caller's thread to train, ``make_way`` keeps steps away from who looks at the model.

        Raises:
            TypeError, ValueError: the model, optimizer, data or objective can't be used.
            RuntimeError: the model, objective or data failed on the first batch.
        """
        self._hooks, self._make_way = (before_step, after_step, may_train_here), make_way
        built = self._construction.build(self.settings, self._looks(self.settings))
        check_unwatched(built.optimizer)
        check_rates(built.optimizer)
        made = self._completed(built, self.settings)
        if self._validating is not None:
            self._validating.check(built.model)
        self.settings = self._settings_of_step = self._construction.look_at(
            built.model, self.settings, trains=self._trainer is not None
        )
        self._take_batches(made)
        self._first_look = made.preview
        # The last of all: nobody takes the hooks off again where something fails after it.
        self.run, self._built = self._watch(built, self.settings), built

    def begin(self) -> None:
        """Begin the first run."""
        self._begin_run(self._first_look)
        self._first_look = None

    # -- what a run is made of ---------------------------------------------------------

    def _looks(self, settings: Settings) -> Looks | None:
        trainer = self._trainer
        if trainer is None:
            return None
        return Looks(
            lambda model: trainer.first_inputs(model, settings),
            lambda model: trainer.forward_order(model, settings),
        )

    def _made(self, settings: Settings) -> Made:
        built = self._construction.build(settings, self._looks(settings), present=self._built)
        return self._completed(built, settings)

    def _completed(self, built: Built, settings: Settings) -> Made:
        trainer = self._trainer
        if trainer is None:
            return Made(built, None, None)
        with self._as_at_first(built):
            batches = trainer.batches_for(settings, built)
            preview = trainer.preview(built.model, settings, batches)
            if built is self._built:
                built = self._construction.renewed(built, settings)
            return Made(built, batches, preview, settings.batch_size)

    def _again(self, built: Built, settings: Settings, *, keeps_optimizer: bool) -> Made:
        """Return the present run as it began, on the batches in use."""
        if self._trainer is None:
            return Made(built, None, None)
        with self._as_at_first(built):
            preview = self._trainer.preview(built.model, settings)
            if not keeps_optimizer:
                built = self._construction.renewed(built, settings)
            return Made(built, None, preview)

    def _as_at_first(self, built: Built) -> AbstractContextManager[None]:
        """Let a run in waiting, or the present one, find all as it begins with it."""
        if built is self._built:
            return self.run.as_at_first()
        return built.beginning.strangers.as_at_first()

    def _take_batches(self, made: Made) -> None:
        if self._trainer is not None and made.batches is not None:
            self._trainer.use(made.batches)
            self._drawn_with = made.batch_size

    def _watch(self, built: Built, settings: Settings) -> Run:
        assert self._hooks is not None
        before_step, after_step, may_train_here = self._hooks
        is_trained_by(built.model, self._make_way)
        return Run(
            *built,
            self._read_settings,
            kind=settings.optimizer_kind,
            on_reading=self._on_reading,
            on_glance=self._on_glance,
            before_step=before_step,
            after_step=after_step,
            may_train_here=may_train_here,
        )

    def _begin_run(self, preview: Reading | None) -> None:
        self._settings_of_step = self.settings
        if self._trainer is not None:
            self._trainer.restart(self.settings.seed)
        if preview is not None:
            self.run.probe.set_order(preview.layers)
        if self._validating is not None:
            self._validating.begin_run()
        if not self._shares_cores:
            self._cores = on_one_core if is_small(self.run.model) else nullcontext
        self._telling.forget()
        self._audience.begin_run(preview)
        self.run.probe.full = self._audience.next_is_drawn(1, may_wait=False)

    # -- settings ----------------------------------------------------------------------

    def checked(self, changes: dict[str, Any]) -> Settings:
        """Return the settings as ``changes`` would make them.

        Raises:
            ValueError: a value is out of range, the batch size larger than the data, or the kind
                of optimizer none that takes the gradients.
        """
        settings = self.settings.replaced(**self._construction.meant(changes))
        size = None if self._trainer is None else self._trainer.samples
        if size is not None and (settings.batch_size or 0) > size:
            raise ValueError(
                f"batch_size is {settings.batch_size} but data has only {size} samples: "
                f"choose at most {size}."
            )
        if settings.optimizer_kind != self.settings.optimizer_kind:
            check_takes_sparse(settings.optimizer_kind, self.run.model, self.run.given_optimizer)
        return settings

    def turn_hot(self, changes: dict[str, Any]) -> bool:
        """Take changes over that need no more than that; False where there are others."""
        with self._settings_lock:
            settings, now = self._turned(changes), self.settings
            if (settings.regime, settings.optimizer_kind) != (now.regime, now.optimizer_kind):
                return False
            if settings.cold != now.cold:
                return False
            self.settings = settings
            if "learning_rate" in changes:
                self.run.steering.set_rate_anew()
            if "weight_decay" in changes:
                self.run.steering.set_decay_anew()
            return True

    def _take_over(self, changes: dict[str, Any]) -> None:
        with self._settings_lock:
            self.settings = self._turned(changes)

    def _turned(self, changes: dict[str, Any]) -> Settings:
        """Return the settings with ``changes``, and with a turn of the rate counted.

        One that goes back to where the optimizer still is takes those before it back.
        """
        settings = self.checked(changes)
        if "learning_rate" not in changes:
            return settings
        count, last = settings.rate_turns + 1, self.run.probe.settings
        is_back = settings.learning_rate == learning_rate_of(self.run.optimizer.param_groups)
        if is_back and isinstance(last, Settings):
            count = last.rate_turns
        return settings.replaced(rate_turns=count)

    # -- changing the run --------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the step lock, ahead of a session that plays.

        Raises:
            RuntimeError: the session is closed.
        """
        with self._pace.changing(), self._step_lock:
            self.check_open()
            try:
                yield
            finally:
                end_idle_threads()

    def makes_another_model(self, seed: int | None) -> bool:
        """Whether a reset to ``seed`` makes another model; None stands for the present seed."""
        if seed is None or seed == self.settings.seed:
            return False
        return self._construction.depends_on_seed(self.settings)

    def begins_anew(self, changes: dict[str, Any]) -> bool:
        """Whether changes are such that a new run begins by them.

        Raises:
            TypeError, ValueError: a value can't be used, or not with this model and these data.
        """
        return self.checked(changes).cold != self.settings.cold

    def turn(self, changes: dict[str, Any], make_way: Callable[[], None]) -> bool:
        """Make changes while :meth:`changing`; return whether a new run begins by them.

        ``make_way`` is called when all that may fail is behind us, to end a loop on the
        present run.

        Raises:
            TypeError, ValueError: a value can't be used, or not with this model and these data.
            CannotTweak: the model can't be changed so; the present run goes on unchanged.
            Exception: what a factory raised; likewise.
        """
        settings = self.checked(changes)
        if settings.cold == self.settings.cold:
            if self._trainer is not None and self.settings.regime.adversarial is None:
                self._trainer.check_attack(self.run, settings)
            with uninterrupted():
                if settings.optimizer_kind != self.settings.optimizer_kind:
                    self.run.use(settings.optimizer_kind)
                self._take_over(changes)
            return False
        made = self._made(settings)
        make_way()
        with uninterrupted():
            self._replace(made, changes)
        return True

    def reset(
        self, seed: int | None, make_way: Callable[[], None], *, keeps_optimizer: bool
    ) -> None:
        """Go back to the first step while :meth:`changing`; a new seed may make a new model.

        An optimizer that a factory makes is made anew, unless a loop of the user's holds it. So
        is what was drawn with another batch size than the present one.

        Raises:
            ValueError: the model has got other modules or parameters since.
            Exception: see :meth:`turn`; the present run goes on unchanged.
        """
        changes = {} if seed is None else {"seed": seed}
        settings, built = self.checked(changes), self._built
        assert built is not None
        is_stale = (
            settings.batch_size != self._drawn_with
            and self._construction.depends_on_batch_size(settings)
            and not keeps_optimizer
        )
        if is_stale or self.makes_another_model(seed):
            made = self._made(settings)
        else:
            made = self._again(built, settings, keeps_optimizer=keeps_optimizer)
        make_way()
        with uninterrupted():
            self._replace(made, changes)

    def _replace(self, made: Made, changes: dict[str, Any]) -> None:
        if made.built is self._built:
            self.run.rewind()
            self._take_batches(made)
            self._take_over(changes)
            self._begin_run(made.preview)
            return
        settings = self.checked(changes)
        if made.built.model is self.run.model:
            self.run.close()
            made.built.beginning.restore(made.built.model, made.built.optimizer)
            self._construction.take(made.built)
            run = self._watch(made.built, settings)
        elif made.built.optimizer is self.run.given_optimizer:
            self.run.close()
            run = self._watch(made.built, settings)
        else:
            run = self._watch(made.built, settings)
            self.run.close()
        self.run, self._built = run, made.built
        made.built.beginning.strangers.put()
        self._take_batches(made)
        self._take_over(changes)
        self._begin_run(made.preview)

    def close(self) -> None:
        """Take every hook off; what was recorded stays."""
        with self._step_lock:
            self.run.close()
            if self._trainer is not None:
                self._trainer.restart(self.settings.seed)

    def check_open(self) -> None:
        """Raise RuntimeError where the session is closed."""
        if self._pace.stopped:
            raise RuntimeError(_CLOSED)

    # -- a step ------------------------------------------------------------------------

    @property
    def hooks_left_behind(self) -> str:
        """A sentence where step hooks of the user's are on another optimizer than the present.

        A hook may be about the very optimizer that it is on, as a scheduler's is, so none is
        handed on.
        """
        run, given = self.run, self._construction.given_optimizer
        if given is not None and given is not run.given_optimizer and has_step_hooks(given):
            return f"{_LEFT_BEHIND}: give a function that makes it, hooks and all, to have them."
        if run.optimizer is not run.given_optimizer and has_step_hooks(run.given_optimizer):
            return f"{_LEFT_BEHIND}."
        return ""

    @property
    def history(self) -> History:
        """The readings of the present run; waits for those still on the device."""
        history = self.run.probe.history
        self._telling.tell()
        return history

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Hold the step lock, on as many cores as steps and validations may use."""
        with self._step_lock, self._cores():
            yield

    @property
    def is_in_own_step(self) -> bool:
        """Whether the caller's thread is within :meth:`own_step`."""
        return self._own_step_on == threading.get_ident()

    def own_step(self, drawn: bool) -> None:
        """Do one step of our own, the step lock held.

        Raises:
            Exception: what the user's model, loss, data or optimizer raised.
        """
        assert self._trainer is not None
        probe = self.run.probe
        probe.full = drawn
        probe.nothing_comes_between = self.run.steps_as_torch_does
        self._own_step_on = threading.get_ident()
        settings = self._settings_of_step = self.settings
        try:
            with self._timing():
                self._trainer.step(self.run, settings)
        finally:
            self._own_step_on = None
            probe.nothing_comes_between = False

    def validate_if_due(self) -> None:
        """Validate after a step where it is time, on the thread that steps.

        Raises:
            Exception: what the user's model or objective raised.
        """
        if self._validating is not None and not self._pace.stopped:
            self._validating.if_due(self.run)

    def validate_at_rest(self, *, whatever_it_takes: bool = False) -> None:
        """Validate the latest step unless it has been, while nobody steps.

        Raises:
            Exception: what the user's model or objective raised.
        """
        if self._validating is not None and not self._pace.stopped:
            self._validating.at_rest(self.run, whatever_it_takes=whatever_it_takes)

    def _timing(self) -> AbstractContextManager[None]:
        return _UNTIMED if self._validating is None else self._validating.own_step()

    def _read_settings(self) -> Settings:
        """Return the settings of the step under way: in our own, those it began with.

        In a loop of the user's, whose batches are its own, no other batch size begins to hold.
        """
        if self._own_step_on is None:
            settings, batch_size = self.settings, self._settings_of_step.batch_size
            if settings.batch_size != batch_size:
                settings = settings.replaced(batch_size=batch_size)
            self._settings_of_step = settings
        return self._settings_of_step

    def _on_reading(self, reading: Reading) -> None:
        self.run.fault.take(reading)
        self._telling.note(reading)

    def _on_glance(self, glance: Glance) -> None:
        self.run.fault.step_is_over()
        self._telling.note(glance)

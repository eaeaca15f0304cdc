"""Backstage: between the session and the stage, with the traits, verdicts and notices."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import jupyter
from .cells import cell_runs
from .diagnosis.rules import judge, layer_problems
from .diagnosis.through_time import step_problems
from .diagnosis.verdict import UNDECIDED, Verdict
from .output_place import OutputPlace
from .training.failure import sentence_of
from .training.openmp import end_idle_threads

if TYPE_CHECKING:
    from .display.stage import Stage
    from .measurement.reading import Glance, Reading
    from .training.regimes.regime import Regime
    from .training.session import TrainingSession
    from .training.settings import Settings
    from .training.validation import Validation
    from .widget import GradientFlow


# In s.
_SHORT_CELL = 0.5
_UNTRAINED = Verdict(
    "",
    "",
    "No step yet: run your own loop in a cell, or hand it to run(loop).",
)
_NOT_STEPPED = Verdict(
    "",
    "",
    "No step yet: gradients have come, but step() of the optimizer that the widget was given was "
    "not called. Give it the one that your loop steps; of weights changed by hand there are no "
    "steps to record.",
)


class Backstage:
    """The session's audience and the stage's director.

    It holds the widget weakly and is called on any thread; what it writes on the widget are
    traits that no page sets, and ``playing``, which follows the session.
    """

    stage: Stage
    session: TrainingSession | None = None

    def __init__(self, flow: GradientFlow) -> None:
        self._flow = weakref.ref(flow)
        self._notice = ""
        # Of the latest step; None before the first.
        self._settings: Settings | None = None
        self._status_is_stale = False
        self._changes_told: tuple[str, ...] = ()
        self._following = threading.local()
        self._cell_began: float | None = None
        self._output = OutputPlace()

    # -- what the session tells ------------------------------------------------------

    def next_is_drawn(self, step: int, *, may_wait: bool, must: bool = False) -> bool:
        """Say whether the coming step is drawn; what it prints has its place from then on."""
        session = self.session
        if session is not None and session.is_on_its_thread:
            self._output.choose(has_loop=session.has_loop)
        return self.stage.next_is_drawn(step, may_wait=may_wait, must=must)

    def record(self, reading: Reading | Glance) -> None:
        """Take in a step: traits, markers where it is the first with other settings, charts."""
        settings = reading.settings
        if settings is not self._settings:
            for text in _markers(self._settings, settings):  # type: ignore[arg-type]
                self.stage.mark(text)
            self._settings = settings  # type: ignore[assignment]
        self._status_is_stale = True
        self.stage.record(reading)
        flow = self._flow()
        if flow is None:
            return
        flow.take_numbers(reading.step, reading.loss)
        if self.stage.hearing.controls_are_beside and self._loop_is_in_cell():
            self.stage.hearing.hear_in_turn(flow)

    def validated(self, validation: Validation) -> None:
        """Take in a validation; where there is no accuracy, it draws nothing."""
        if not math.isnan(validation.accuracy):
            self._status_is_stale = True
            self.stage.validation(validation.step, validation.accuracy)

    def begin_run(self, preview: Reading | None) -> None:
        """Take in that a new run begins."""
        self._notice = ""
        self._settings = None
        self.stage.begin_run(preview)
        self._status_is_stale = True
        flow = self._flow()
        if flow is not None:
            flow.take_numbers(0, math.nan)

    def state_changed(self) -> None:
        """Take in that the session plays, pauses, has failed or has finished."""
        flow, session = self._flow(), self.session
        if flow is None or session is None:
            return
        self._notice = ""
        # Again where another thread has changed it meanwhile: the last one leaves it right.
        while flow.playing != session.playing:
            self._following.now = True
            flow.playing = session.playing
        self._following.now = False
        flow._offer_playing()
        self.say()

    def is_following(self) -> bool:
        """Whether ``playing`` was just set because the session plays or rests; ask once."""
        following = getattr(self._following, "now", False)
        self._following.now = False
        return following

    # -- what the stage asks ---------------------------------------------------------

    def verdict(self, readings: Sequence[Reading]) -> Verdict:
        """Judge the flow."""
        session = self.session
        if session is None:
            return UNDECIDED
        if self._settings is None and not session.can_train:
            return _NOT_STEPPED if session.steps_are_missed else _UNTRAINED
        return judge(readings, session.first_nonfinite)

    def layer_problems(self, reading: Reading) -> Sequence[str]:
        """Judge each layer."""
        return layer_problems(reading)

    def step_problems(self, reading: Reading, name: str) -> Sequence[str]:
        """Judge each time step of a recurrent layer."""
        return step_problems(reading, name)

    def notice(self) -> tuple[str, bool]:
        """Return what else to say, and whether it is an error."""
        session = self.session
        if session is None:
            return "", False
        failure = session.failure
        if failure:
            return f"Training stopped: {failure}. {self._notice}".rstrip(), True
        if self._notice:
            return self._notice, True
        if session.has_grown:
            return (
                "The optimizer has got parameters since that have no bar and count in no norm: "
                "make a new GradientFlow to see them."
            ), True
        if session.loop_of_another:
            return "Your loop runs under another widget: play and pause it there.", False
        if session.foreign_loop and jupyter.shell() is not None:
            return "Your loop is running in a cell: the controls apply when the cell ends.", False
        if self._controls_wait():
            return "A cell is running: the controls apply when it ends.", False
        return "", False

    def _controls_wait(self) -> bool:
        """Say whether training goes on while a cell keeps the controls from being heard."""
        began = self._cell_began
        if began is None or self.stage.hearing.controls_are_beside:
            return False
        # Most cells are over before anybody could read that the controls wait.
        return time.monotonic() - began > _SHORT_CELL and (self.is_playing() or self.is_stepping())

    def _changes(self) -> tuple[str, ...]:
        """Return what there is to say of the model and its optimizer, and of the regime.

        A sentence for each change in the model, for hooks that its optimizer has not, and for
        each switch of the regime.
        """
        session = self.session
        if session is None:
            return ()
        regime = session.settings.regime.sentences
        changes = [tweak.sentence for tweak in session.tweaks]
        if session.hooks_left_behind:
            changes.append(session.hooks_left_behind)
        return (*(sentence for sentence in changes if sentence not in regime), *regime)

    def is_playing(self) -> bool:
        """Say whether steps follow one another now."""
        session = self.session
        return session is not None and (session.foreign_loop or not session.at_rest)

    def is_stepping(self) -> bool:
        """Say whether somebody makes steps in a cell."""
        session = self.session
        return session is not None and session.has_callers

    def on_heard(self) -> None:
        """Take in that the page is heard; beside a running cell it is on a thread of its own.

        The controls are to be heard there too, except beside a plain loop of the user's.
        """
        # A cell that computes while training goes on gets OpenMP threads of its own, which slow it.
        end_idle_threads()
        flow, hearing = self._flow(), self.stage.hearing
        if flow is None or self._loop_is_in_cell() or not hearing.controls_are_elsewhere:
            return
        if self._cell_began is not None or hearing.controls_are_beside:
            hearing.hear_beside(flow)

    @property
    def loop_holds_cell(self) -> bool:
        """Whether a cell is running that is a plain loop of the user's."""
        return self._cell_began is not None and self._loop_is_in_cell()

    def _loop_is_in_cell(self) -> bool:
        session = self.session
        return session is not None and session.foreign_loop and not session.loop_of_another

    def on_key(self, action: str) -> None:
        """Do what a key in the page asks for."""
        flow = self._flow()
        if flow is not None:
            flow._press(action)

    def on_status(self, status: str) -> None:
        """Take in the status line; what the page shows of changes elsewhere goes with it."""
        flow = self._flow()
        if flow is not None:
            flow.set_trait("status", " · ".join([status, *self._changes()]))

    # -- what the widget asks and tells ----------------------------------------------

    def cell_begins(self) -> None:
        """Take in that a cell runs; where it is on the main thread, it keeps that."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._cell_began = time.monotonic()
        self._output.cell_begins()
        flow, session, hearing = self._flow(), self.session, self.stage.hearing
        if flow is None or session is None or not self.stage.publisher.visible:
            return
        # Anew where it matters most: it costs some 10 ms, and they hardly go astray.
        if hearing.controls_are_elsewhere or not session.at_rest:
            hearing.hear_beside(flow)

    def cell_ended(self) -> None:
        """Take in that the cell is done."""
        if threading.current_thread() is threading.main_thread():
            self._cell_began = None
            self._output.cell_ended()

    def made(self) -> None:
        """Take in that the widget is made, by a cell perhaps."""
        jupyter.let_captured_cells_be_told()
        if cell_runs():
            self.cell_begins()
        self._output.made()

    def loop_handed_over(self) -> None:
        """Take in that the user's own loop is about to run on our thread."""
        self._output.loop_handed_over()

    def shown(self) -> None:
        """Take in that the widget was displayed; the page can't say so while cells run."""
        if self._cell_began is not None:
            self.stage.publisher.assume_page()

    def say(self) -> None:
        """Bring the status line, what was changed, and at rest the steered knobs up to date."""
        flow, session = self._flow(), self.session
        if flow is not None and session is not None and session.at_rest and not session.closed:
            flow.take_coming()
        if flow is not None:
            flow._offer_resetting()
        self._status_is_stale = False
        changes = self._changes()
        if changes != self._changes_told:
            self._changes_told = changes
            self.stage.changes_told(changes)
        self.stage.state_changed()

    def refresh_status(self) -> None:
        """Bring the status line up to date where steps have gone on since."""
        session = self.session
        if session is None or session.closed:
            return
        if self._status_is_stale or session.steps_are_missed:
            self._status_is_stale = False
            self.stage.refresh_status()

    def say_error(self, error: BaseException) -> None:
        """Tell of a value or a press that was refused, until the state next changes."""
        self._notice = sentence_of(error)
        self.say()


def _markers(before: Settings | None, after: Settings | None) -> list[str]:
    """Return what to write on the loss curve where hot knobs were turned."""
    if before is None or after is None:
        return []
    texts = []
    if after.rate_turns != before.rate_turns and after.learning_rate is not None:
        texts.append(f"lr {after.learning_rate:.3g}")
    if (after.clip_norm, after.clip_value) != (before.clip_norm, before.clip_value):
        if after.clip_norm is not None:
            texts.append(f"clip norm {after.clip_norm:.3g}")
        elif after.clip_value is not None:
            texts.append(f"clip value {after.clip_value:.3g}")
        else:
            texts.append("clip off")
    if after.batch_size != before.batch_size:
        texts.append(f"batch {after.batch_size}")
    if after.optimizer_kind != before.optimizer_kind:
        texts.append(f"optimizer {after.optimizer_kind}")
    if after.weight_decay != before.weight_decay:
        own = after.weight_decay is None
        texts.append(f"weight decay {'as given' if own else format(after.weight_decay, '.3g')}")
    return [*texts, *_markers_of_regime(before.regime, after.regime)]


def _markers_of_regime(before: Regime, after: Regime) -> list[str]:
    texts = []
    attack = after.adversarial
    if attack != before.adversarial:
        texts.append(f"attack {f'{attack.method} ε {attack.epsilon:.3g}' if attack else 'off'}")
    if after.accumulation != before.accumulation:
        texts.append(f"accumulation {after.accumulation}")
    return texts

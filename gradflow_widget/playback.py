"""Playback: play, pause, step, wait and reset, and at what speed steps are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import traitlets

from .checked import checked_whole
from .display.stage import SPEEDS, Speed
from .knob_traits import Knob
from .quoting import quoted

if TYPE_CHECKING:
    from .backstage import Backstage
    from .display.controls import Controls
    from .display.stage import Stage
    from .measurement.reading import Reading
    from .training.session import TrainingSession


class Playback(traitlets.HasTraits):
    """The user's hand on the session: from Python, by buttons and by keys."""

    speed = Knob(1, help="Every how many steps one is drawn, or 'max'.")
    playing = traitlets.Bool(False, help="Whether steps follow one another.")

    _ready: bool
    _backstage: Backstage
    _stage: Stage
    _controls: Controls | None

    @property
    def _training(self) -> TrainingSession:
        raise NotImplementedError

    def play(self) -> None:
        """Let steps follow one another on the session's thread.

        Raises:
            RuntimeError: there is nothing to train with, the widget is closed, or your own loop
                is under way in another thread.
        """
        self._training.play()

    def pause(self) -> None:
        """Stop after the step under way, and return when that is done.

        A step of more than ten seconds is not waited for any longer: :meth:`wait` does. Nor is
        one within which this is called.
        """
        self._training.pause_after_step()

    def step(self, n: int = 1) -> None:
        """Run ``n`` steps and return when they are done.

        Raises:
            ValueError: ``n`` is no whole number of at least 1.
            RuntimeError: there is nothing to train with, the widget is closed, or your own loop
                is under way in another thread.
            Exception: what the model or the data raised, with its traceback.
        """
        self._training.step(n)

    def steps(self, n: int) -> Iterator[Reading]:
        """Train ``n`` steps in the calling thread and yield each step's Reading.

        Raises:
            ValueError: ``n`` is no whole number of at least 1.
            RuntimeError: there is nothing to train with, the widget is closed, or your own loop
                is under way in another thread.
            Exception: what the model or the data raised.
        """
        return self._training.steps(n)

    def run(self, loop: Callable[[], object]) -> None:
        """Run your own training function on the session's thread; the controls stay live.

        ``loop()`` is called without arguments. Play, pause, step, learning rate and
        clipping act at its optimizer steps; :meth:`wait` waits for its end. One that was given
        before and is not over ends behind its next step, and this one goes on with the model as
        it then is; :meth:`reset` goes back to the first step.

        Raises:
            TypeError: ``loop`` can't be called without arguments.
            RuntimeError: the loop before is the caller itself or comes to no step within ten
                seconds, one runs in a cell, the regime needs steps of the widget's own, or the
                widget is closed.
        """
        self._backstage.loop_handed_over()
        self._training.run(loop)

    def wait(self, steps: int | None = None, timeout: float | None = None) -> bool:
        """Wait until ``steps`` more steps are done, or until training comes to rest.

        Meanwhile the controls act where the front end has them heard beside a cell, as
        JupyterLab does; elsewhere they wait for the cell to end.

        Returns:
            False where ``timeout`` seconds ran out first.

        Raises:
            ValueError: ``steps`` is no whole number of at least 1, or ``timeout`` no number from 0.
            RuntimeError: nothing is training, so that no step would ever come.
            Exception: what the model or the data raised, with its traceback.
        """
        return self._training.wait(steps, timeout)

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step, to the same run again or with another seed.

        With another seed a model from a factory gets new weights; one given ready made
        keeps its own and sees other batches. An optimizer from a factory is made anew, unless a
        loop of yours holds it. Of what such a loop uses, model and optimizer go back, and the
        random numbers; a plain loop's come back when its cell is run again. A scheduler, an average
        of the weights or a second network should be made within the function given to :meth:`run`,
        so that they begin anew too. Where another seed
        makes another model, from a factory or for knobs that are turned, such a loop ends, as by a
        cold knob.

        Raises:
            ValueError: ``seed`` is no whole number from 0 to 2**63 - 1.
            RuntimeError: the widget is closed, or your own loop is under way in a cell.
        """
        self._training.reset(seed)

    def _offer_playing(self) -> None:
        """Let play and step be pressed where there is something to train with now."""
        if self._controls is not None:
            self._stage.hearing.keeping(self._controls.offer_playing, self._training.can_train)

    def _offer_resetting(self) -> None:
        """Let reset and another seed be pressed where that is not done to a loop that is over.

        What is pressed while a cell runs the loop is heard when that has ended.
        """
        if self._controls is not None:
            can_reset = not self._backstage.loop_holds_cell
            self._stage.hearing.keeping(self._controls.offer_resetting, can_reset)

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

    # -- traits ----------------------------------------------------------------------

    @traitlets.validate("speed")
    def _check_speed(self, proposal: Any) -> Speed:
        value: Any = proposal["value"]
        if isinstance(value, str) and value == "max":
            return "max"
        try:
            return checked_whole("speed", value)
        except ValueError:
            raise ValueError(
                f"speed must be a whole number of at least 1 or 'max', not {quoted(value)}; "
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
            self._training.pause_after_step()
            return
        try:
            self._training.play()
        except RuntimeError:
            self.playing = False
            raise

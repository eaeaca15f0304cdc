"""The traits of the knobs: what they take, and what a turn of one does."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import traitlets

from .tweaks.knobs import AS_GIVEN, CAN_BE_OFF, COLD_KNOBS

if TYPE_CHECKING:
    from .backstage import Backstage
    from .training.construction import Construction
    from .training.session import TrainingSession

HOT_KNOBS = (
    "learning_rate",
    "clip_norm",
    "clip_value",
    "batch_size",
    "optimizer_kind",
    "weight_decay",
)
_CAN_BE_NONE = ("clip_norm", "clip_value", "weight_decay", "regime", *CAN_BE_OFF)


class _RefusedWhileHeld(ValueError, traitlets.TraitError):
    """A value set within ``hold_trait_notifications`` is refused at its end.

    Only for an error of its own kind does traitlets take back all that was set there.
    """


class Knob(traitlets.Any):
    """A value that its validator checks; traitlets would let None pass unseen."""

    def _validate(self, obj: Any, value: Any) -> Any:
        return value if obj._cross_validation_lock else self._cross_validate(obj, value)

    def _cross_validate(self, obj: Any, value: Any) -> Any:
        try:
            return super()._cross_validate(obj, value)
        except Exception as error:
            if obj._cross_validation_lock:
                raise _RefusedWhileHeld(str(error)) from error
            raise


class _HotKnob(Knob):
    """A knob that follows a schedule of the user's, or turns of other knobs."""

    def set(self, obj: Any, value: Any) -> None:
        """Take a value; one that was shown all along is a turn where it does not hold.

        What is told as the old one is what was shown: observers hear of every other value, and a
        hold that is refused at its end goes back to it.
        """
        assert self.name is not None
        new, shown = self._validate(obj, value), getattr(obj, self.name)
        obj._trait_values[self.name] = new
        obj._is_set(self.name)
        if new != shown or obj._is_left(self.name, new):
            obj._notify_trait(self.name, shown, new)


class KnobTraits(traitlets.HasTraits):
    """Knobs, settable from Python and bound to the controls.

    A refused value is not taken, a turn that fails is taken back, and the reason is raised
    and told in the status line.
    """

    learning_rate = _HotKnob(
        help="Of the first parameter group whose rate is not 0; others keep their ratio. Where a "
        "scheduler of yours has set another, the knob shows that as soon as training rests."
    )
    clip_norm = _HotKnob(None, help="Global L2 norm to clip to; None is off.")
    clip_value = _HotKnob(None, help="Magnitude to clip every element to; None is off.")
    batch_size = Knob(None, help="Samples a step; None where data come in batches.")
    optimizer_kind = Knob(
        AS_GIVEN, help="'as given', SGD, momentum, Nesterov, Adam, AdamW or RMSProp."
    )
    weight_decay = _HotKnob(
        None,
        help="Of the parameter groups that have most of it, others keep their ratio; setting "
        "None brings the optimizer's own back, which is what you have last given it. Where that "
        "was since, the knob shows it as soon as training rests. None where it has none.",
    )
    depth = Knob(None, help="Cold knob, 1 to 64; None where the model has none.")
    activation = Knob(
        None, help="Cold knob: a name, 'as given' where there are several; None where none."
    )
    initialization = Knob(AS_GIVEN, help="Cold knob: 'as given' or a scheme.")
    normalization = Knob(
        None, help="Cold knob: a kind, None for off, 'as given' for the model's own."
    )
    skips = Knob(None, help="Cold knob: None for off, a number, '1/sqrt(2L)' or 'learned'.")
    orthogonality = Knob(
        None,
        help="Cold knob: None for off, the strength of a penalty in the loss, or 'hard'.",
    )
    regime = Knob(
        None,
        help="How data and gradients reach the model: a Regime, a mapping of its switches, or "
        "None for none. Attack and gradient accumulation act at the next step, the others "
        "begin a new run.",
    )

    loaded_preset = traitlets.Unicode("", read_only=True, help="The preset that was loaded last.")

    _ready: bool
    _shown_on: int | None = None
    # Set within hold_trait_notifications, and not turned yet.
    _untold: frozenset[str] = frozenset()
    _construction: Construction
    _backstage: Backstage

    @property
    def _training(self) -> TrainingSession:
        raise NotImplementedError

    def _adopt(self) -> None:
        """Give the traits their first values."""
        session = self._training
        self.set_trait("loaded_preset", "")
        self.learning_rate, self.weight_decay = session.learning_rate, session.own_weight_decay
        for name in ("clip_norm", "clip_value", "batch_size", "optimizer_kind", "regime"):
            setattr(self, name, getattr(session.settings, name))
        for name, knob in self._construction.knobs.items():
            offered = knob.offered
            value = getattr(session.settings, name) if offered else self.trait_defaults(name)
            setattr(self, name, value)

    # -- checks ----------------------------------------------------------------------

    @traitlets.validate(*HOT_KNOBS, *COLD_KNOBS, "regime")
    def _check_knob(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if not self._ready or self._is_shown:
            return value
        if name == "weight_decay" and value is None:
            return self._training.own_weight_decay
        refusal = self._refusal(name)
        if value is None and name not in _CAN_BE_NONE:
            raise ValueError(f"{name} can't be set to None: {refusal or 'give one.'}")
        if refusal:
            raise ValueError(f"{name} can't be changed: {refusal}")
        return getattr(self._training.check(**_with_other_clip_off(name, value)), name)

    def _refusal(self, name: str) -> str:
        """Return why a knob can't be turned; "" where it can."""
        session = self._training
        if name in COLD_KNOBS:
            return self._construction.knobs[name].reason
        if name == "learning_rate" and session.learning_rate is None:
            return "the optimizer has no learning rate."
        if name == "weight_decay" and session.own_weight_decay is None:
            return "the optimizer has no weight decay."
        if name == "weight_decay" and session.decay_meets_sparse:
            return "the optimizer has none for the sparse gradients of the model's embeddings."
        if name == "batch_size":
            return session.refusals.of_batch_size(session.settings.batch_size)
        if name == "optimizer_kind":
            return session.refusals.of_optimizer(session.learning_rate)
        return ""

    def take_coming(self) -> None:
        """Show rate and decay of the coming step, which a schedule may have set: no turn."""
        if self._ready:
            for name, number in self._coming().items():
                if number is not None and 0 <= number < math.inf:
                    self._show(name, number)

    def _coming(self) -> dict[str, float | None]:
        session = self._training
        return {
            "learning_rate": session.coming_learning_rate,
            "weight_decay": session.coming_weight_decay,
        }

    def _show(self, name: str, value: Any) -> None:
        """Let a knob show ``value``, unless it was set meanwhile and that is still to be told."""
        if name in self._untold or value == getattr(self, name):
            return
        self._shown_on = threading.get_ident()
        try:
            setattr(self, name, value)
        finally:
            self._shown_on = None

    def _is_set(self, name: str) -> None:
        """Take in that a knob is set, of which nobody is told before a hold ends."""
        if self._ready and not self._is_shown and self._cross_validation_lock:
            self._untold |= {name}

    def _is_left(self, name: str, value: Any) -> bool:
        """Whether a knob's value is not what the coming step has: a schedule has left it."""
        if not self._ready or self._is_shown:
            return False
        return self._coming().get(name) not in (None, value)

    @property
    def _is_shown(self) -> bool:
        return self._shown_on == threading.get_ident()

    @contextmanager
    def hold_trait_notifications(self) -> Iterator[None]:
        """Tell of what is set within at its end; no turn told of first overwrites another."""
        try:
            with super().hold_trait_notifications():
                yield
        finally:
            if not self._cross_validation_lock:  # else this is within another
                self._untold = frozenset()

    # -- turns -----------------------------------------------------------------------

    @traitlets.observe(*HOT_KNOBS)
    def _turn_hot(self, change: Any) -> None:
        # Not the change's own value: another turn may have come, or been told of, first.
        name = change["name"]
        value = getattr(self, name)
        self._untold -= {name}
        if not self._ready or self._is_shown:
            return
        with self._taken_back_where_it_fails(name):
            self._make_hot_turn(name, value)

    def _make_hot_turn(self, name: str, value: Any) -> None:
        session = self._training
        # A schedule may have left the value that was set last.
        holds = self._coming().get(name, value) == value
        if name == "weight_decay" and value == session.own_weight_decay:
            value = None
        if name != "learning_rate":
            holds = holds and getattr(session.settings, name) == value
        if holds:
            return
        changes = _with_other_clip_off(name, value)
        self._training.turn(**changes)
        if name == "optimizer_kind" and self._follow_if_turned_back(name):
            return
        for other, off in changes.items():
            if other != name and other not in self._untold:
                setattr(self, other, off)
        if name == "optimizer_kind":
            self._show("weight_decay", session.coming_weight_decay)

    @traitlets.observe("regime")
    def _turn_regime(self, change: Any) -> None:
        value = change["new"]
        if not self._ready:
            return
        with self._taken_back_where_it_fails("regime"):
            if self._training.settings.regime != value:
                self._training.turn(regime=value)
                self._backstage.say()

    @traitlets.observe(*COLD_KNOBS)
    def _turn_cold(self, change: Any) -> None:
        name = change["name"]
        if not self._ready:
            return
        with self._taken_back_where_it_fails(name):
            value = getattr(self, name)
            if getattr(self._training.settings, name) != value:
                self._training.turn(**{name: value})
                self._follow_if_turned_back(name)

    def _follow_if_turned_back(self, name: str) -> bool:
        """Turn a knob once more that was turned back while its turn waited for a step to end.

        Then there seemed to be nothing to do.
        """
        value = getattr(self, name)
        if getattr(self._training.settings, name) == value:
            return False
        self._training.turn(**{name: value})
        return True

    @contextmanager
    def _taken_back_where_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # What was there goes on, and so does its knob.
            setattr(self, name, self._acting(name))
            if isinstance(error, Exception):
                self._backstage.say_error(error)
            raise

    def _acting(self, name: str) -> Any:
        """Return the value of a knob by which steps are made."""
        value = getattr(self._training.settings, name)
        never_turned = name == "learning_rate" and value is None
        return self._training.coming_learning_rate if never_turned else value


def _with_other_clip_off(name: str, value: Any) -> dict[str, Any]:
    """Return the changes that a turn of one knob makes: one clipping at a time."""
    other = {"clip_norm": "clip_value", "clip_value": "clip_norm"}.get(name)
    return {name: value} if other is None or value is None else {name: value, other: None}

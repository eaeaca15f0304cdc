"""GradientFlow: the widget that puts the rooms together."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ipywidgets as widgets
import traitlets
from torch import nn
from torch.optim import Optimizer

from .cells import CellRegistry, after_each_cell
from .diagnosis.rules import UNDECIDED, Verdict, judge, layer_problems
from .display.closing import close_tree
from .display.controls import Actions, Controls, Offer, legend
from .display.stage import SPEEDS, Speed, Stage
from .measurement.history import History
from .measurement.reading import Reading
from .playground.data import DATA
from .playground.networks import NETWORKS
from .training.batches import DEFAULT_BATCH_SIZE, as_batches
from .training.construction import Construction, ModelSource, OptimizerSource
from .training.session import Objective, TrainingSession
from .training.settings import Settings, checked_positive
from .tweaks.activation import ACTIVATIONS
from .tweaks.depth import DEEPEST, SHALLOWEST
from .tweaks.knobs import COLD_KNOBS, checked_knob

_cells = CellRegistry()
_watched: weakref.WeakKeyDictionary[Optimizer, GradientFlow] = weakref.WeakKeyDictionary()


class GradientFlow(widgets.VBox):
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

    Raises:
        TypeError, ValueError: an argument can't be used; the sentence says what would do.
        RuntimeError: the model failed on the first batch.
    """

    learning_rate = traitlets.Any(help="Of the first parameter group; others keep their ratio.")
    clip_norm = traitlets.Any(None, help="Global L2 norm to clip to; None is off.")
    clip_value = traitlets.Any(None, help="Magnitude to clip every element to; None is off.")
    batch_size = traitlets.Any(None, help="Samples a step; None where data come in batches.")
    depth = traitlets.Any(None, help="Cold knob, 1 to 64; None where the model has none.")
    activation = traitlets.Any(None, help="Cold knob, by name; None where the model has none.")
    speed = traitlets.Any(1, help="Every how many steps one is drawn, or 'max'.")
    playing = traitlets.Bool(False, help="Whether steps follow one another.")
    step_number = traitlets.Int(0, read_only=True, help="Steps done in the present run.")
    loss = traitlets.Float(math.nan, read_only=True, help="Loss of the latest step.")
    status = traitlets.Unicode("", read_only=True, help="The status line.")

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
    ) -> None:
        _cells.replace_earlier()
        self._closed = False
        self._ready = False
        if isinstance(optimizer, Optimizer) and optimizer in _watched:
            raise ValueError(
                "optimizer is watched by another GradientFlow already: close() that one first."
            )
        construction = Construction(model, optimizer)
        objective, origin = _as_objective(loss_fn, objective, data)
        batches = as_batches(data) if data is not None else None
        cold = {n: knob.value for n, knob in construction.knobs.items() if knob.offered}
        size = batches.size if batches is not None else None
        settings = Settings(
            clip_norm=clip_norm,
            batch_size=None if size is None else min(DEFAULT_BATCH_SIZE, size),
            seed=seed,
            **cold,
        )
        self._construction, self._batches = construction, batches
        self._notice: tuple[str, bool] = ("", False)
        backstage = _Backstage(self)
        self._stage = backstage.stage = Stage(backstage)
        try:
            self._session = TrainingSession(
                construction, objective, batches, settings, backstage, origin=origin
            )
        except BaseException:
            self._stage.close()
            raise
        if isinstance(optimizer, Optimizer):
            _watched[optimizer] = self
        self._adopt(settings)
        self._controls = self._make_controls(size)
        self._stop_listening = after_each_cell(self._cell_ended)
        super().__init__(self._children())
        self.add_class("gradflow")
        self._ready = True
        _cells.define(self)

    @classmethod
    def playground(
        cls, network: str = "mlp", data: str = "digits", *, seed: int = 0, **knobs: Any
    ) -> GradientFlow:
        """Return a widget with everything provided.

        Args:
            network: "mlp".
            data: "digits".
            seed: of weights and batch order.
            **knobs: first values of the knobs: ``depth``, ``activation``,
                ``learning_rate``, ``clip_norm``, ``clip_value``, ``batch_size``, ``speed``.

        Raises:
            ValueError: a name or a value is unknown; the message lists the known ones.
        """
        import torch

        if network not in NETWORKS:
            raise ValueError(
                f"network {network!r} is unknown: choose one of {', '.join(NETWORKS)}."
            )
        if data not in DATA:
            raise ValueError(f"data {data!r} is unknown: choose one of {', '.join(DATA)}.")
        known = ("learning_rate", "clip_norm", "clip_value", "batch_size", *COLD_KNOBS, "speed")
        for name in knobs:
            if name not in known:
                raise ValueError(f"knob {name!r} is unknown: choose among {', '.join(known)}.")
        make = NETWORKS[network]
        depth = checked_knob("depth", knobs.pop("depth", 8))
        activation = checked_knob("activation", knobs.pop("activation", "tanh"))
        rate = checked_positive("learning_rate", knobs.pop("learning_rate", 0.1))

        def build(depth: int = depth, activation: str = activation) -> nn.Module:
            return make(depth, activation)

        flow = cls(
            build,
            lambda parameters: torch.optim.SGD(parameters, lr=rate),
            torch.nn.CrossEntropyLoss(),
            DATA[data](),
            seed=seed,
        )
        for name, value in knobs.items():
            setattr(flow, name, value)
        return flow

    # -- properties ------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The model as it now stands."""
        return self._session.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer as it now stands."""
        return self._session.optimizer

    @property
    def history(self) -> History:
        """All readings of the present run."""
        return self._session.history

    # -- training --------------------------------------------------------------------

    def play(self) -> None:
        """Let steps follow one another on the session's thread.

        Raises:
            RuntimeError: there is nothing to train with, or the widget is closed.
        """
        self._session.play()

    def pause(self) -> None:
        """Stop after the step under way."""
        self._session.pause()

    def step(self, n: int = 1) -> None:
        """Run ``n`` steps and return when they are done.

        Raises:
            ValueError: ``n`` is no whole number of at least 1.
            RuntimeError: there is nothing to train with, or the widget is closed.
            Exception: what the model or the data raised, with its traceback.
        """
        self._session.step(n)

    def steps(self, n: int) -> Iterator[Reading]:
        """Train ``n`` steps in the calling thread and yield each step's Reading.

        Raises:
            Exception: what the model or the data raised.
        """
        yield from self._session.steps(n)

    def run(self, loop: Callable[[], object]) -> None:
        """Run your own training function on the session's thread; the controls stay live.

        ``loop()`` is called without arguments. Play, pause, step, learning rate and
        clipping act at its optimizer steps; :meth:`wait` waits for its end.

        Raises:
            TypeError: ``loop`` can't be called.
            RuntimeError: another loop is under way, or the widget is closed.
        """
        self._controls.allow_playing()
        self._session.run(loop)

    def wait(self, steps: int | None = None, timeout: float | None = None) -> bool:
        """Wait until ``steps`` more steps are done, or until training comes to rest.

        Returns:
            False where ``timeout`` seconds ran out first.

        Raises:
            RuntimeError: nothing is training, so that no step would ever come.
            Exception: what the model or the data raised, with its traceback.
        """
        return self._session.wait(steps, timeout)

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first step, to the same run again or with another seed.

        With another seed a model from a factory gets new weights; one given ready made
        keeps its own and sees other batches.
        """
        self._session.reset(seed)

    def close(self) -> None:
        """Stop training, take every hook off and close every part of the widget."""
        if getattr(self, "_closed", True):
            return
        self._closed = True
        if not self._ready:
            return
        self._stop_listening()
        self._session.stop()
        self._controls.close()
        self._stage.close()
        for optimizer, flow in list(_watched.items()):
            if flow is self:
                del _watched[optimizer]
        close_tree(self)
        close_tree(self._stage.panel)

    # -- traits ----------------------------------------------------------------------

    def _adopt(self, settings: Settings) -> None:
        """Give the traits their first values."""
        self.learning_rate = float(self.optimizer.param_groups[0]["lr"])
        for name in ("clip_norm", "clip_value", "batch_size", *COLD_KNOBS):
            setattr(self, name, getattr(settings, name))

    @traitlets.validate("learning_rate")
    def _check_learning_rate(self, proposal: Any) -> Any:
        value = proposal["value"]
        return checked_positive("learning_rate", value) if self._ready else value

    @traitlets.validate("clip_norm", "clip_value")
    def _check_clip(self, proposal: Any) -> Any:
        value = proposal["value"]
        return None if value is None else checked_positive(proposal["trait"].name, value)

    @traitlets.validate("batch_size")
    def _check_batch_size(self, proposal: Any) -> Any:
        value = proposal["value"]
        if self._ready:
            if self._batches is None or self._batches.size is None:
                raise ValueError(
                    "batch_size can't be set: the data come in batches of their own, "
                    "so change it where they are made."
                )
            if value is None:
                raise ValueError("batch_size must be a whole number of at least 1, not None.")
            self._session.check_batch_size(self._session.settings.replaced(batch_size=value))
        return value

    @traitlets.validate(*COLD_KNOBS)
    def _check_cold(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if not self._ready:
            return value
        knob = self._construction.knobs[name]
        if not knob.offered:
            raise ValueError(f"{name} can't be changed: {knob.reason}")
        return checked_knob(name, value)

    @traitlets.validate("speed")
    def _check_speed(self, proposal: Any) -> Speed:
        value: Any = proposal["value"]
        if value == "max" or (
            isinstance(value, int) and not isinstance(value, bool) and value >= 1
        ):
            return value  # type: ignore[no-any-return]
        raise ValueError(
            f"speed must be a whole number of at least 1 or 'max', not {value!r}; "
            f"the menu offers {', '.join(map(str, SPEEDS))}."
        )

    @traitlets.observe("learning_rate", "clip_norm", "clip_value", "batch_size")
    def _turn_hot(self, change: Any) -> None:
        if not self._ready:
            return
        name, value = change["name"], change["new"]
        if value is not None and name in ("clip_norm", "clip_value"):
            other = "clip_value" if name == "clip_norm" else "clip_norm"
            if getattr(self, other) is not None:
                setattr(self, other, None)
        self._session.apply(self._session.settings.replaced(**{name: value}))
        self._stage.mark(_marker(name, value))

    @traitlets.observe(*COLD_KNOBS)
    def _turn_cold(self, change: Any) -> None:
        if not self._ready:
            return
        name, value = change["name"], change["new"]
        settings = self._session.settings
        if getattr(settings, name) == value:
            return
        try:
            self._session.apply(settings.replaced(**{name: value}))
        except Exception:
            # The old model goes on, and so does its knob.
            setattr(self, name, change["old"])
            raise

    @traitlets.observe("speed")
    def _turn_speed(self, change: Any) -> None:
        self._stage.speed = change["new"]

    @traitlets.observe("playing")
    def _turn_playing(self, change: Any) -> None:
        if not self._ready or change["new"] == self._session.playing:
            return
        if change["new"]:
            try:
                self._session.play()
            except RuntimeError:
                self.playing = False
                raise
        else:
            self._session.pause()

    # -- parts -----------------------------------------------------------------------

    def _make_controls(self, samples: int | None) -> Controls:
        knobs = self._construction.knobs
        session = self._session
        return Controls(
            self,
            Actions(
                toggle=self._toggle,
                step=lambda: session.request_steps(1),
                reset=lambda: session.reset(),
                new_seed=lambda: session.reset(session.settings.seed + 1),
                look_at=self._stage.look_at,
                failed=self._say_error,
            ),
            cold={name: Offer(knob.value, knob.reason) for name, knob in knobs.items()},
            activations=list(ACTIVATIONS),
            depths=(SHALLOWEST, DEEPEST),
            samples=samples,
            can_train=session.can_train,
        )

    def _children(self) -> list[Any]:
        stage, controls = self._stage, self._controls
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

    def _toggle(self) -> None:
        if self._session.playing:
            self._session.pause()
        else:
            self._session.play()

    def _press(self, action: str) -> None:
        """Do what a key in the page asks for."""
        try:
            if action == "toggle":
                self._toggle()
            elif action == "step":
                self._session.request_steps(1)
            elif action == "reset":
                self._session.reset()
        except Exception as error:
            self._say_error(error)

    def _say_error(self, error: BaseException) -> None:
        self._notice = (str(error), True)
        self._stage.state_changed()

    def _cell_ended(self) -> None:
        if self._session.foreign_loop:
            self._session.loop_has_ended()
            self._stage.state_changed()


class _Backstage:
    """Between the session and the stage: the traits, the verdict and the notices."""

    def __init__(self, flow: GradientFlow) -> None:
        self._flow = weakref.ref(flow)
        self.stage: Stage

    @property
    def _session(self) -> TrainingSession | None:
        flow = self._flow()
        return getattr(flow, "_session", None)

    # What the session tells.

    def next_is_drawn(self, *, may_wait: bool, must: bool = False) -> bool:
        return self.stage.next_is_drawn(may_wait=may_wait, must=must)

    def record(self, reading: Reading) -> None:
        self.stage.record(reading)
        flow = self._flow()
        if flow is not None:
            flow.set_trait("step_number", reading.step)
            flow.set_trait("loss", reading.loss)

    def begin_run(self, preview: Reading | None) -> None:
        self.stage.begin_run(preview)
        flow = self._flow()
        if flow is not None:
            flow._notice = ("", False)
            flow.set_trait("step_number", 0)
            flow.set_trait("loss", math.nan)

    def state_changed(self) -> None:
        flow, session = self._flow(), self._session
        if flow is None or session is None:
            return
        if session.error is None:
            flow._notice = ("", False)
        if flow.playing != session.playing:
            flow.playing = session.playing
        self.stage.state_changed()

    # What the stage asks.

    def verdict(self, readings: Sequence[Reading]) -> Verdict:
        session = self._session
        return UNDECIDED if session is None else judge(readings, session.first_nonfinite)

    def layer_problems(self, reading: Reading) -> Sequence[str]:
        return layer_problems(reading)

    def notice(self) -> tuple[str, bool]:
        flow, session = self._flow(), self._session
        if flow is None or session is None:
            return "", False
        if session.error is not None:
            kind = type(session.error).__name__
            return f"Training stopped: {kind}: {session.error}", True
        if session.foreign_loop:
            return "Your loop is running in a cell: the controls apply when the cell ends.", False
        return flow._notice

    def is_playing(self) -> bool:
        session = self._session
        return session is not None and (session.playing or session.foreign_loop)

    def on_key(self, action: str) -> None:
        flow = self._flow()
        if flow is not None:
            flow._press(action)

    def on_status(self, status: str) -> None:
        flow = self._flow()
        if flow is not None:
            flow.set_trait("status", status)


def _as_objective(
    loss_fn: Callable[[Any, Any], Any] | None, objective: Objective | None, data: Any
) -> tuple[Objective | None, str]:
    """Return what a step minimises and the name of the argument that it came from.

    Raises:
        TypeError: a function can't be called.
        ValueError: ``loss_fn`` and ``objective`` are both given, or data without either.
    """
    if loss_fn is not None and objective is not None:
        raise ValueError("loss_fn and objective are both given: choose one.")
    for name, function in (("loss_fn", loss_fn), ("objective", objective)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, not {type(function).__name__}.")
    if data is None:
        return None, "objective"
    if objective is not None:
        return objective, "objective"
    if loss_fn is None:
        raise ValueError("data was given without loss_fn: give loss_fn or objective too.")
    loss = loss_fn

    def supervised(model: nn.Module, batch: Any) -> Any:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                "data gave a batch that is no pair (inputs, targets): "
                "use objective(model, batch) instead of loss_fn."
            )
        inputs, targets = batch
        return loss(model(inputs), targets)

    return supervised, "loss_fn"


def _marker(name: str, value: Any) -> str:
    words = {
        "learning_rate": "lr",
        "clip_norm": "clip norm",
        "clip_value": "clip value",
        "batch_size": "batch",
    }
    return f"{words[name]} {'off' if value is None else format(value, '.3g')}"

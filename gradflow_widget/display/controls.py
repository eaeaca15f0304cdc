"""The knobs: ipywidgets controls, bound to the traits of the widget that owns them."""

from __future__ import annotations

import html
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from .bars import MEASURES
from .stage import SPEEDS

_LABEL = {"description_width": "initial"}
_CLIPPING: dict[str, str | None] = {"off": None, "by norm": "clip_norm", "by value": "clip_value"}
_MOST_ECHOES = 32


@dataclass(frozen=True)
class Offer:
    """A cold knob: its value, or the reason why it can't be turned."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Actions:
    """What the buttons do."""

    toggle: Callable[[], None]
    step: Callable[[], None]
    reset: Callable[[], None]
    new_seed: Callable[[], None]
    look_at: Callable[..., None]
    failed: Callable[[Exception], None]


class Controls:
    """Buttons, sliders and menus, two-way bound to traits of ``owner`` by name.

    What the page sets goes to the trait, which checks it; a refused value is told by
    ``actions.failed`` and taken back. What code sets goes to the control.
    """

    def __init__(
        self,
        owner: Any,
        actions: Actions,
        *,
        cold: Mapping[str, Offer],
        activations: Sequence[str],
        depths: tuple[int, int],
        samples: int | None,
        can_train: bool,
    ) -> None:
        self._owner, self._actions = owner, actions
        self._unbind: list[Callable[[], None]] = []
        self._following = False
        self.toolbar = widgets.HBox(self._buttons(can_train))
        self.toolbar.add_class("gradflow-toolbar")
        self.knobs = widgets.Box(self._knobs(cold, activations, depths, samples))
        self.knobs.add_class("gradflow-knobs")
        self.views = widgets.Box(self._views())
        self.views.add_class("gradflow-views")
        self._bind("playing", self._show_playing)

    def close(self) -> None:
        """Let go of the owner's traits."""
        for unbind in self._unbind:
            unbind()
        self._unbind.clear()

    # -- binding ---------------------------------------------------------------------

    @contextmanager
    def _asked_by_page(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._actions.failed(error)

    def _bind(self, trait: str, show: Callable[[Any], None]) -> None:
        def observer(_: object) -> None:
            # Not the change's own value: two threads may tell of two changes in any order.
            show(getattr(self._owner, trait))

        self._owner.observe(observer, trait)
        self._unbind.append(lambda: self._owner.unobserve(observer, trait))
        show(getattr(self._owner, trait))

    def _link(self, control: Any, trait: str, *, to_control: Callable[[Any], None]) -> None:
        """Bind ``control.value`` and a trait of the same value."""

        def follow(change: Any) -> None:
            if self._following or change["new"] == getattr(self._owner, trait):
                return
            with self._asked_by_page():
                setattr(self._owner, trait, change["new"])
            show(getattr(self._owner, trait))  # a refused value is taken back

        def show(value: Any) -> None:
            if value is None or control.value == value:
                return
            self._following = True
            try:
                to_control(value)
            finally:
                self._following = False

        control.observe(follow, "value")
        self._bind(trait, show)

    def _link_log(
        self,
        slider: Any,
        traits: Sequence[str],
        *,
        value: Callable[[], float | None],
        move: Callable[[float], None],
    ) -> None:
        """Bind a logarithmic slider to the one of ``traits`` whose ``value`` there is.

        A page rounds whatever it is told to the slider's own grid and sends that back, when
        code may long have set another value. So what comes back is told from what a person
        has moved: an echo is the rounding of a value that code has set.
        """
        echoes: deque[float] = deque(maxlen=_MOST_ECHOES)

        def follow(change: Any) -> None:
            if self._following:
                return
            moved, present = change["new"], value()
            if present and _on_one_place(slider, moved, present):
                return
            late = next((e for e in echoes if _on_one_place(slider, moved, e)), None)
            if late is None:
                with self._asked_by_page():
                    move(_roundest(slider, moved))
            else:
                echoes.remove(late)
            show(None)

        def show(_: object) -> None:
            present = value()
            # A warm-up begins with a rate of 0, which has no place on the slider.
            if not present or _on_one_place(slider, slider.value, present):
                return
            if not _is_on_grid(slider, present):
                echoes.append(present)
            self._following = True
            try:
                _move_log(slider, present)
            finally:
                self._following = False

        slider.observe(follow, "value")
        for trait in traits:
            self._bind(trait, show)

    # -- toolbar ---------------------------------------------------------------------

    def _buttons(self, can_train: bool) -> list[Any]:
        def button(text: str, icon: str, tooltip: str, action: Callable[[], None]) -> Any:
            made = widgets.Button(description=text, icon=icon, tooltip=tooltip)

            def clicked(_: object) -> None:
                with self._asked_by_page():
                    action()

            made.on_click(clicked)
            return made

        actions = self._actions
        self.play_button = button("Play", "play", "Play or pause (space)", actions.toggle)
        self.play_button.button_style = "primary"
        self.step_button = button("Step", "step-forward", "One step (s)", actions.step)
        self.reset_button = button(
            "Reset", "rotate-left", "Back to the first step, same seed (r)", actions.reset
        )
        self.seed_button = button(
            "New seed", "random", "Another run: new weights and batches", actions.new_seed
        )
        if not can_train:
            reason = "Your own loop trains this model: use run(loop) to play and pause it."
            for one in (self.play_button, self.step_button):
                one.disabled, one.tooltip = True, reason
        self.speed_menu = widgets.Dropdown(
            options=[
                ("every step", 1),
                *((f"every {_ordinal(n)}", n) for n in SPEEDS if isinstance(n, int) and n > 1),
                ("what fits (max)", "max"),
            ],
            description="draw",
            style=_LABEL,
            tooltip="Which steps are drawn",
        )
        self._link(self.speed_menu, "speed", to_control=self._show_speed)
        return [
            self.play_button,
            self.step_button,
            self.reset_button,
            self.seed_button,
            self.speed_menu,
        ]

    def _show_speed(self, speed: Any) -> None:
        menu = self.speed_menu
        if speed not in [value for _, value in menu.options]:
            # Code may ask for any; "what fits" stays the last.
            *others, fits = menu.options
            menu.options = (*others, (f"every {_ordinal(speed)}", speed), fits)
        menu.value = speed

    def allow_playing(self) -> None:
        """Enable play and step: there is something to train with now."""
        self.play_button.disabled = self.step_button.disabled = False
        self.play_button.tooltip, self.step_button.tooltip = "Play or pause (space)", "One step (s)"

    def _show_playing(self, playing: bool) -> None:
        self.play_button.description = "Pause" if playing else "Play"
        self.play_button.icon = "pause" if playing else "play"

    # -- knobs -----------------------------------------------------------------------

    def _knobs(
        self,
        cold: Mapping[str, Offer],
        activations: Sequence[str],
        depths: tuple[int, int],
        samples: int | None,
    ) -> list[Any]:
        # On release: every place that a drag passes would be a run of its own, and a ghost.
        self.depth_slider = widgets.IntSlider(
            min=depths[0],
            max=depths[1],
            description="depth",
            style=_LABEL,
            continuous_update=False,
        )
        self._offer(self.depth_slider, "depth", cold)
        self.activation_menu = widgets.Dropdown(
            options=list(activations), description="activation", style=_LABEL
        )
        self._offer(self.activation_menu, "activation", cold)
        if self.depth_slider.disabled:
            self.depth_slider.readout = False
        if self.activation_menu.disabled:
            self.activation_menu.options = ["–"]
        reasons = " ".join(dict.fromkeys(offer.reason for offer in cold.values() if offer.reason))
        self.reasons = widgets.HTML(html.escape(reasons))
        self.reasons.add_class("gradflow-reasons")
        self.reasons.layout.display = "" if reasons else "none"
        return [
            self.depth_slider,
            self.activation_menu,
            self._learning_rate(),
            *self._clipping(),
            *self._batch_size(samples),
            self.reasons,
        ]

    def _offer(self, control: Any, name: str, cold: Mapping[str, Offer]) -> None:
        offer = cold[name]
        if offer.reason:
            control.disabled, control.tooltip = True, offer.reason
            return
        control.tooltip = f"{name}: rebuilds the network from the same seed"
        self._link(control, name, to_control=lambda value: setattr(control, "value", value))

    def _log_slider(self, description: str, tooltip: str, low: int, high: int) -> Any:
        return widgets.FloatLogSlider(
            value=1.0,
            base=10,
            min=low,
            max=high,
            step=0.01,
            description=description,
            readout_format=".2g",
            style=_LABEL,
            tooltip=tooltip,
        )

    def _learning_rate(self) -> Any:
        slider = self.rate_slider = self._log_slider(
            "learning rate", "Of the first parameter group; the others keep their ratio", -6, 1
        )
        self._link_log(
            slider,
            ["learning_rate"],
            value=lambda: self._owner.learning_rate,
            move=lambda rate: setattr(self._owner, "learning_rate", rate),
        )
        return slider

    def _clipping(self) -> list[Any]:
        menu = self.clip_menu = widgets.Dropdown(
            options=list(_CLIPPING),
            description="clipping",
            style=_LABEL,
            tooltip="Clip the gradients by their global norm, or every element by its value",
        )
        slider = self.clip_slider = self._log_slider(
            "threshold", "Threshold of the clipping", -4, 3
        )

        def threshold() -> float | None:
            norm: float | None = self._owner.clip_norm
            return self._owner.clip_value if norm is None else norm

        def choose(kind: str, limit: float) -> None:
            # The owner takes the other one off by itself.
            trait = _CLIPPING[kind]
            if trait is not None:
                setattr(self._owner, trait, limit)
            else:
                self._owner.clip_norm = self._owner.clip_value = None

        def follow_menu(change: Any) -> None:
            if self._following:
                return
            with self._asked_by_page():
                choose(change["new"], threshold() or slider.value)
            show_menu(None)

        def show_menu(_: object) -> None:
            kind = next(
                (k for k, t in _CLIPPING.items() if t and getattr(self._owner, t) is not None),
                "off",
            )
            self._following = True
            try:
                menu.value = kind
            finally:
                self._following = False
            slider.disabled = kind == "off"

        menu.observe(follow_menu, "value")
        self._link_log(
            slider,
            ["clip_norm", "clip_value"],
            value=threshold,
            move=lambda limit: choose(menu.value, limit),
        )
        self._bind("clip_norm", show_menu)
        self._bind("clip_value", show_menu)
        return [menu, slider]

    def _batch_size(self, samples: int | None) -> list[Any]:
        if samples is None:
            return []
        sizes = [2**k for k in range(int(math.log2(samples)) + 1)]
        if sizes[-1] != samples:
            sizes.append(samples)
        slider = self.batch_slider = widgets.SelectionSlider(
            options=sizes,
            description="batch size",
            style=_LABEL,
            tooltip="Samples in a step, from the next step on",
        )

        def move(size: int) -> None:
            if size not in slider.options:
                slider.options = sorted({*sizes, size})
            slider.value = size

        self._link(slider, "batch_size", to_control=move)
        return [slider]

    # -- views -----------------------------------------------------------------------

    def _views(self) -> list[Any]:
        look_at = self._actions.look_at

        def choice(options: list[Any], tooltip: str, chosen: Callable[[Any], None]) -> Any:
            buttons = widgets.ToggleButtons(
                options=options, tooltips=[tooltip] * len(options), style={"button_width": "auto"}
            )
            buttons.observe(lambda change: chosen(change["new"]), "value")
            return buttons

        self.measure_choice = choice(
            list(MEASURES), "What the bars show", lambda v: look_at(measure=v)
        )
        self.relative_choice = choice(
            [("absolute", False), ("relative to last", True)],
            "The values themselves, or their ratio to the last layer's",
            lambda v: look_at(relative=v),
        )
        self.loss_choice = choice(
            [("log loss", True), ("linear loss", False)],
            "Axis of the loss",
            lambda v: look_at(logarithmic_loss=v),
        )
        return [self.measure_choice, self.relative_choice, self.loss_choice]


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def _on_one_place(slider: Any, one: float, other: float) -> bool:
    """Whether two values lie within half a step of a logarithmic slider."""
    step: float = slider.step
    return abs(math.log10(one) - math.log10(other)) <= 0.51 * step


def _is_on_grid(slider: Any, value: float) -> bool:
    steps: float = math.log10(value) / slider.step
    return bool(math.isclose(steps, round(steps), abs_tol=1e-9))


def _roundest(slider: Any, value: float) -> float:
    """Return the number with the fewest digits at this place of a logarithmic slider."""
    rounded = (float(f"{value:.{digits}e}") for digits in range(16))
    return next((number for number in rounded if _on_one_place(slider, value, number)), value)


def _move_log(slider: Any, value: float) -> None:
    """Move a logarithmic slider, widening it where the value lies outside."""
    exponent = math.log10(value)
    if exponent < slider.min:
        slider.min = math.floor(exponent)
    if exponent > slider.max:
        slider.max = math.ceil(exponent)
    slider.value = value


LEGEND = (
    '<span class="gradflow-swatch-healthy">■</span> healthy '
    '<span class="gradflow-swatch-vanishing">■</span> ▼ vanishing '
    '<span class="gradflow-swatch-exploding">■</span> ▲ exploding '
    '<span class="gradflow-swatch-severed">■</span> ✕ severed '
    "· outline: before clipping · dashed: previous run "
    "· 0 exactly zero · ∅ no gradient · ∥ frozen · NaN · ∞ infinite"
)


def legend() -> Any:
    """Return the legend of the marks."""
    row = widgets.HTML(LEGEND)
    row.add_class("gradflow-legend")
    return row

"""Logarithmic sliders over traits of any positive value."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .parts import LABEL

_MOST_ECHOES = 32
_TWO_DIGITS = ".2g"
# What stands for 0 is small enough to be rounded to it.
_ROUNDED_TO_0 = ".0f"
# The class by which the page knows that its limits are exponents.
_LOGARITHMIC = "gradflow-logarithmic"


def log_slider(description: str, tooltip: str, low: int, high: int) -> Any:
    """Return a slider from 10^low to 10^high in hundredths of a decade."""
    slider = widgets.FloatLogSlider(
        value=1.0,
        base=10,
        min=low,
        max=high,
        step=0.01,
        description=description,
        readout_format=_TWO_DIGITS,
        style=LABEL,
        tooltip=tooltip,
    )
    slider.add_class(_LOGARITHMIC)
    return slider


def link_log(
    binding: Binding,
    slider: Any,
    traits: Sequence[str],
    *,
    value: Callable[[], float | None],
    move: Callable[[float], None],
) -> None:
    """Bind a logarithmic slider to the one of ``traits`` whose ``value`` there is.

    A page rounds whatever it is told to the slider's own grid and sends that back, when code
    may long have set another value. So what comes back is told from what a person has moved:
    an echo is the rounding of a value that code has set.

    A value of 0, with which a warm-up of the learning rate begins, has no place of its own: there
    the slider stands at its left end, and its readout says 0.
    """
    echoes: deque[float] = deque(maxlen=_MOST_ECHOES)

    def moved(place: float) -> None:
        present = value()
        if present is not None and _on_one_place(slider, place, _shown_for(slider, present)):
            return
        late = next((e for e in echoes if _on_one_place(slider, place, e)), None)
        if late is None:
            # A page tells of things in their order: what has not come back by now never will.
            echoes.clear()
            with binding.asked_by_page():
                move(_roundest(slider, place))
        else:
            echoes.remove(late)
        show(None)

    def show(_: object) -> None:
        present = value()
        if present is None:
            return
        shown = _shown_for(slider, present)
        with binding.following():
            slider.readout_format = _TWO_DIGITS if present else _ROUNDED_TO_0
            if _on_one_place(slider, slider.value, shown):
                return
            if not _is_on_grid(slider, shown):
                echoes.append(shown)
            _move_log(slider, shown)

    binding.on_move(slider, moved)
    for trait in traits:
        binding.bind(trait, show)


def _shown_for(slider: Any, value: float) -> float:
    """Return the value at whose place a logarithmic slider shows another one, which may be 0."""
    return value or slider.base**slider.min


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

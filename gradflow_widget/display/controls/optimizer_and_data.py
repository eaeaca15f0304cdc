"""The knobs under "Optimizer and data"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .choice import Choice
from .offers import Offer
from .parts import LABEL, PLACES, reasons_line, rest

_DECADES = range(-6, 0)
_LABELS = {"optimizer_kind": "optimizer", "weight_decay": "weight decay"}
_FIRST_MINI_BATCH = 64
_STOCHASTIC, _MINI, _FULL = "stochastic (1)", "mini-batch", "full batch"


class OptimizerAndData:
    """Optimizer, weight decay, and how much of the data a step sees.

    Args:
        binding: what binds them.
        hot: offers of ``optimizer_kind`` and ``weight_decay``, where there are any.
        samples: how many the data has; None where it comes in batches of its own.
    """

    def __init__(self, binding: Binding, hot: Mapping[str, Offer], samples: int | None) -> None:
        self._binding = binding
        self.optimizer_menu: Any = None
        self.decay_slider: Any = None
        self.batch_choice: Any = None
        self.batch_slider: Any = None
        self.children: list[Any] = []
        self._optimizer: Choice | None = None
        if "optimizer_kind" in hot:
            self._optimizer = Choice(
                binding,
                "optimizer_kind",
                hot["optimizer_kind"],
                description=_LABELS["optimizer_kind"],
                tooltip="From the next step on; what the optimizer remembered begins anew.",
            )
            self.optimizer_menu = self._optimizer.menu
            self.children.append(self.optimizer_menu)
        if "weight_decay" in hot:
            self.children.append(self._weight_decay(hot["weight_decay"]))
        if samples is not None:
            self._samples = samples
            self.children += self._batches()
        self.reasons = reasons_line({_LABELS[trait]: offer for trait, offer in hot.items()})
        if self.children:
            self.children.append(self.reasons)

    def in_short(self) -> str:
        """Return what is not as usual: "Adam, weight decay 0.01, full batch"."""
        parts = []
        if self._optimizer is not None and not self._optimizer.is_neutral:
            parts.append(self.optimizer_menu.value)
        if self.decay_slider is not None and self.decay_slider.value:
            parts.append(f"weight decay {self.decay_slider.value:g}")
        if self.batch_choice is not None and self.batch_choice.value != _MINI:
            parts.append(self.batch_choice.value)
        return ", ".join(parts)

    # -- weight decay ----------------------------------------------------------------

    def _weight_decay(self, offer: Offer) -> Any:
        # Places, not a logarithmic slider: 0 has no place on one.
        places = [0.0, *(float(f"{m}e{d}") for d in _DECADES for m in (1, 2, 5)), 1.0]
        slider = self.decay_slider = widgets.SelectionSlider(
            options=[(_decay_in_words(place), place) for place in places],
            value=0.0,
            description=_LABELS["weight_decay"],
            style=LABEL,
            tooltip="Pull of the weights toward 0, from the next step on; off at the left end",
        )
        slider.add_class(PLACES)
        if offer.reason:
            rest(slider, offer.reason)
            slider.readout = False
            return slider

        def moved(decay: float) -> None:
            if decay == (self._binding.owner.weight_decay or 0.0):
                return
            with self._binding.asked_by_page():
                self._binding.owner.weight_decay = decay
            show(self._binding.owner.weight_decay)  # a refused value is taken back

        def show(decay: float | None) -> None:
            decay = float(decay or 0.0)
            with self._binding.following():
                known = [place for _, place in slider.options]
                if decay not in known:
                    slider.options = [
                        (_decay_in_words(place), place) for place in sorted([*known, decay])
                    ]
                slider.value = decay

        self._binding.on_move(slider, moved)
        self._binding.bind("weight_decay", show)
        return slider

    # -- how much data a step sees ---------------------------------------------------

    def _batches(self) -> list[Any]:
        samples, binding = self._samples, self._binding
        sizes = [2**k for k in range(int(math.log2(samples)) + 1)]
        if sizes[-1] != samples:
            sizes.append(samples)
        self.batch_slider = widgets.SelectionSlider(
            options=sizes,
            description="batch size",
            style=LABEL,
            tooltip="Samples in a step, from the next step on",
        )
        self.batch_slider.add_class("gradflow-batch-size")
        self.batch_slider.add_class(PLACES)
        binding.link(self.batch_slider, "batch_size", self._move_batch)
        if samples < 2:
            return [self.batch_slider]
        kinds = [_STOCHASTIC, _MINI, _FULL] if samples > 2 else [_STOCHASTIC, _FULL]
        # The one that "mini-batch" goes back to.
        self._mini_batch = min(_FIRST_MINI_BATCH, samples - 1)
        self.batch_choice = widgets.ToggleButtons(
            options=kinds,
            description="data",
            tooltip="How much of the data a step sees",
            tooltips=[
                {
                    _STOCHASTIC: "One sample a step: the noisiest gradient, the quickest step",
                    _MINI: "A few samples a step, as many as the batch size says",
                    _FULL: f"All {samples:,} samples in every step: no noise, the slowest step",
                }[kind]
                for kind in kinds
            ],
            style={"button_width": "auto", "description_width": "initial"},
        )
        self.batch_choice.add_class("gradflow-batch-choice")
        binding.on_move(self.batch_choice, self._choose_batch)
        binding.bind("batch_size", self._show_batch_kind)
        return [self.batch_choice, self.batch_slider]

    def _move_batch(self, size: int) -> None:
        slider = self.batch_slider
        if size not in slider.options:
            slider.options = sorted({*slider.options, size})
        slider.value = size

    def _choose_batch(self, kind: str) -> None:
        owner = self._binding.owner
        size = {_STOCHASTIC: 1, _MINI: self._mini_batch, _FULL: self._samples}[kind]
        with self._binding.asked_by_page():
            owner.batch_size = size
        self._show_batch_kind(owner.batch_size)  # a refused value is taken back

    def _show_batch_kind(self, size: int | None) -> None:
        if size is None:
            return
        kind = _STOCHASTIC if size <= 1 else _FULL if size >= self._samples else _MINI
        if kind == _MINI:
            self._mini_batch = size
        with self._binding.following():
            self.batch_choice.value = kind


def _decay_in_words(decay: float) -> str:
    return f"{decay:g}" if decay else "off"

"""What a workshop needs, always in sight: depth, activation, learning rate, clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .choice import Choice
from .log_slider import link_log, log_slider
from .offers import Offer
from .parts import LABEL, box, reasons_line, rest

_CLIPPING: dict[str, str | None] = {"off": None, "by norm": "clip_norm", "by value": "clip_value"}


class KnobsInSight:
    """Depth, activation, learning rate, and clipping with its threshold."""

    def __init__(
        self, binding: Binding, cold: Mapping[str, Offer], depths: tuple[int, int]
    ) -> None:
        self._binding = binding
        # On release: every place that a drag passes would be a run of its own, and a ghost.
        self.depth_slider = widgets.IntSlider(
            min=depths[0],
            max=depths[1],
            description="depth",
            style=LABEL,
            tooltip="depth: rebuilds the network from the same seed",
            continuous_update=False,
        )
        if cold["depth"].reason:
            rest(self.depth_slider, cold["depth"].reason)
            self.depth_slider.readout = False
        else:
            binding.link(self.depth_slider, "depth", self._move_depth)
        self.activation_menu = Choice(
            binding,
            "activation",
            cold["activation"],
            description="activation",
            tooltip="activation: rebuilds the network from the same seed",
        ).menu
        self.rate_slider = log_slider(
            "learning rate",
            "Of the first parameter group whose rate is not 0; the others keep their ratio",
            -6,
            1,
        )
        link_log(
            binding,
            self.rate_slider,
            ["learning_rate"],
            value=lambda: binding.owner.learning_rate,
            move=lambda rate: setattr(binding.owner, "learning_rate", rate),
        )
        self.clip_menu = widgets.Dropdown(
            options=list(_CLIPPING),
            description="clipping",
            style=LABEL,
            tooltip="Clip the gradients by their global norm, or every element by its value",
        )
        self.clip_slider = log_slider("threshold", "Threshold of the clipping", -4, 3)
        self._bind_clipping()
        self.reasons = reasons_line({name: cold[name] for name in ("depth", "activation")})
        self.box = box(
            [
                self.depth_slider,
                self.activation_menu,
                self.rate_slider,
                box([self.clip_menu, self.clip_slider], "gradflow-clipping"),
                self.reasons,
            ],
            "gradflow-grid",
        )

    def _move_depth(self, depth: int) -> None:
        slider = self.depth_slider
        slider.min, slider.max = min(slider.min, depth), max(slider.max, depth)
        slider.value = depth

    def _threshold(self) -> float | None:
        owner = self._binding.owner
        norm: float | None = owner.clip_norm
        return owner.clip_value if norm is None else norm

    def _clip(self, kind: str, limit: float) -> None:
        # The owner takes the other one off by itself.
        trait, owner = _CLIPPING[kind], self._binding.owner
        if trait is not None:
            setattr(owner, trait, limit)
        else:
            owner.clip_norm = owner.clip_value = None

    def _bind_clipping(self) -> None:
        binding, menu, slider = self._binding, self.clip_menu, self.clip_slider

        def moved(kind: str) -> None:
            with binding.asked_by_page():
                self._clip(kind, self._threshold() or slider.value)
            show_menu(None)

        def show_menu(_: Any) -> None:
            kind = next(
                (k for k, t in _CLIPPING.items() if t and getattr(binding.owner, t) is not None),
                "off",
            )
            with binding.following():
                menu.value = kind
            slider.disabled = kind == "off"
            # A threshold of nothing would only take room.
            slider.layout.display = "none" if kind == "off" else ""

        binding.on_move(menu, moved)
        link_log(
            binding,
            slider,
            ["clip_norm", "clip_value"],
            value=self._threshold,
            move=lambda limit: self._clip(menu.value, limit),
        )
        binding.bind("clip_norm", show_menu)
        binding.bind("clip_value", show_menu)

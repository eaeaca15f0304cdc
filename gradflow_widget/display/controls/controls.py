"""Controls: all of them together, bound to one owner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..folds import Folds
from .binding import Binding, Showing
from .in_sight import KnobsInSight
from .network import NetworkKnobs
from .offers import Actions, Offer
from .optimizer_and_data import OptimizerAndData
from .parts import box
from .presets import Presets
from .regimes import RegimeKnobs
from .toolbar import Toolbar
from .views import Views


class Controls:
    """Buttons, sliders and menus, two-way bound to traits of ``owner`` by name.

    ``toolbar``, ``knobs`` and ``views`` are the widgets to show.

    Args:
        owner: has the traits ``learning_rate``, ``clip_norm``, ``clip_value``,
            ``batch_size``, ``speed``, ``playing``, those that are offered, and
            ``loaded_preset`` where there are presets.
        actions: what the buttons do.
        cold: offers of ``depth`` and ``activation``, and of ``initialization``,
            ``normalization``, ``skips`` and ``orthogonality`` where they are known.
        hot: offers of ``optimizer_kind`` and ``weight_decay`` where they are known.
        depths: the ends of the depth slider.
        samples: how many the data has; None where it comes in batches of its own.
        can_train: whether play and step have something to train with.
        layers: tells how many layers the network now has.
        regime: offer of ``regime``; None, and there is no such heading.
        presets: pairs of name and what to watch; none, and there is no such heading.
        showing: calls what moves a control because code has set a trait, with its value.
    """

    def __init__(
        self,
        owner: Any,
        actions: Actions,
        *,
        cold: Mapping[str, Offer],
        hot: Mapping[str, Offer],
        depths: tuple[int, int],
        samples: int | None,
        can_train: bool,
        layers: Callable[[], int],
        regime: Offer | None = None,
        presets: Sequence[tuple[str, str]] = (),
        showing: Showing | None = None,
    ) -> None:
        self._binding = binding = Binding(owner, actions.failed, showing)

        self._toolbar = bar = Toolbar(binding, actions, can_train=can_train)
        self.play_button, self.step_button = bar.play_button, bar.step_button
        self.reset_button, self.seed_button = bar.reset_button, bar.seed_button
        self.speed_menu = bar.speed_menu
        self.toolbar = bar.row

        sight = KnobsInSight(binding, cold, depths)
        self.depth_slider, self.activation_menu = sight.depth_slider, sight.activation_menu
        self.rate_slider = sight.rate_slider
        self.clip_menu, self.clip_slider = sight.clip_menu, sight.clip_slider
        self.reasons = sight.reasons

        self._network = NetworkKnobs(binding, cold)
        self.network_menus = self._network.menus
        self._training = training = OptimizerAndData(binding, hot, samples)
        self.optimizer_menu, self.decay_slider = training.optimizer_menu, training.decay_slider
        self.batch_choice, self.batch_slider = training.batch_choice, training.batch_slider
        self._regime = under = RegimeKnobs(binding, regime, layers, cold)
        self.regime_menus, self.epsilon_slider = under.menus, under.epsilon_slider
        self._presets = told = Presets(binding, actions, presets)
        self.preset_buttons = told.buttons

        folded = {
            "network": ("Network", self._network.children),
            "training": ("Optimizer and data", training.children),
            "regime": ("Training regime", under.children),
            "presets": ("Presets", told.children),
        }
        folded = {name: (title, parts) for name, (title, parts) in folded.items() if parts}
        self.folds = Folds(
            {name: title for name, (title, _) in folded.items()},
            _tooltips_in(
                [
                    bar.speed_menu,
                    sight.box,
                    *self._network.children,
                    *training.children,
                    *under.children,
                ]
            ),
        )
        self.knobs = box(
            [
                sight.box,
                self.folds,
                *(
                    box(parts, "gradflow-grid", "gradflow-folded", f"gradflow-folded-{name}")
                    for name, (_, parts) in folded.items()
                ),
            ],
            "gradflow-knobs",
        )
        regimes = ("regime",) if under.children else ()
        stories = ("loaded_preset",) if told.children else ()
        for trait in (*self.network_menus, *hot, *regimes, *stories, "batch_size"):
            binding.bind(trait, self._tell_folds)

        views = Views(actions.look_at)
        self.measure_choice, self.relative_choice = views.measure_choice, views.relative_choice
        self.loss_choice = views.loss_choice
        self.views = views.row

    @property
    def buttons(self) -> list[Any]:
        """Every button: what is pressed in them is meant for whatever is trained then."""
        bar = (self.play_button, self.step_button, self.reset_button, self.seed_button)
        return [*bar, *self.preset_buttons.values()]

    def offer_playing(self, can_train: bool) -> None:
        """Enable play and step where there is something to train with now."""
        self._toolbar.offer_playing(can_train)

    def offer_resetting(self, can_reset: bool) -> None:
        """Enable what begins another run, unless a press would be heard only after a cell."""
        self._toolbar.offer_resetting(can_reset)

    def close(self) -> None:
        """Let go of the owner's traits."""
        self._binding.close()

    def _tell_folds(self, _: Any) -> None:
        """Say beside each heading what is turned below it."""
        self.folds.in_short = {
            "network": self._network.in_short(),
            "training": self._training.in_short(),
            **({"regime": self._regime.in_short()} if self._regime.children else {}),
            **({"presets": self._presets.in_short()} if self._presets.children else {}),
        }


def _tooltips_in(parts: Sequence[Any]) -> dict[str, str]:
    """Return the tooltip for each label among these parts and their children."""
    found: dict[str, str] = {}
    for part in parts:
        found |= _tooltips_in(getattr(part, "children", ()))
        label, tooltip = getattr(part, "description", ""), getattr(part, "tooltip", None)
        if label and tooltip:
            found[label] = tooltip
    return found

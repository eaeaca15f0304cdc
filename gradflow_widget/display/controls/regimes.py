"""The knobs under "Training regime": how data and gradients reach the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets

from .binding import Binding
from .log_slider import link_log, log_slider
from .offers import Offer
from .parts import LABEL, reasons_line, rest

_FIRST_EPSILON = 0.1
_ATTACKS = {"off": None, "FGSM": "fgsm", "PGD": "pgd"}
_ORDERS = {"off": None, "by loss": "loss", "by length": "length"}
_LAYERS = {"off": 0, **{f"first {count}": count for count in (1, 2, 3, 4, 6, 8, 12, 16)}}
_BATCHES = {"off": 1, **{f"{count} batches": count for count in (2, 4, 8, 16)}}
_SHARES = {"off": 0.0, **{f"{percent} %": percent / 100 for percent in (5, 10, 20, 30, 40, 50)}}
_RATES = {"as given": None, **{f"{rate:g}": rate for rate in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)}}


class RegimeKnobs:
    """A menu for each switch of the trait ``regime``, and ε of the attack.

    The trait holds a value whose parts are attributes; a switch is turned by setting the trait
    to a mapping with all of them, one exchanged.

    Args:
        binding: what binds them.
        offer: with a reason, all of them rest.
        layers: tells how many layers the network now has.
        network: the traits that may change that.
    """

    def __init__(
        self,
        binding: Binding,
        offer: Offer | None,
        layers: Callable[[], int],
        network: Iterable[str],
    ) -> None:
        self._binding = binding
        self.menus: dict[str, Any] = {}
        self.epsilon_slider: Any = None
        self.children: list[Any] = []
        if offer is None:
            return
        self._offer = offer
        self._menu(
            "adversarial",
            "attack",
            "Adversarial training: every input is moved by up to ε against the network, in one "
            "step (FGSM) or several (PGD); the gradients stay large where they would fade",
            _ATTACKS,
            lambda regime: None if regime.adversarial is None else regime.adversarial.method,
            self._attack,
        )
        self.children.append(self._epsilon())
        self._menu(
            "curriculum",
            "curriculum",
            "Easy samples first, by a first model's loss or by length; begins a new run: where the "
            "easy ones are learned soon, the gradients fade, and grow again as hard ones come in",
            _ORDERS,
            lambda regime: None if regime.curriculum is None else regime.curriculum.by,
            self._curriculum,
        )
        show_frozen = self._menu(
            "freeze",
            "freeze",
            "The first layers keep their weights and are drawn as frozen; begins a new run",
            _LAYERS,
            lambda regime: 0 if regime.transfer is None else regime.transfer.freeze,
            self._transfer,
            # One at least has to learn.
            can_be=lambda frozen: frozen == 0 or frozen < layers(),
        )
        for trait in network:
            binding.bind(trait, lambda _: show_frozen(binding.owner.regime))
        self._menu(
            "accumulation",
            "accumulation",
            "The gradients of several batches are averaged into one step, so the bars are "
            "steadier and shorter; from the next step on",
            _BATCHES,
            lambda regime: regime.accumulation,
            lambda batches: {"accumulation": batches},
        )
        self._menu(
            "label_noise",
            "label noise",
            "A share of the training labels is another class, so the gradients stay large where "
            "they would fade; begins a new run",
            _SHARES,
            lambda regime: regime.label_noise,
            lambda share: {"label_noise": share},
        )
        self._menu(
            "dropout",
            "dropout",
            "Hidden units are silent with this probability and the others louder for it, so the "
            "gradients are larger and fade less; begins a new run",
            _RATES,
            lambda regime: regime.dropout,
            lambda rate: {"dropout": rate},
        )
        self.reasons = reasons_line({"regime": offer})
        self.children.append(self.reasons)

    def in_short(self) -> str:
        """Return what is on: "attack FGSM, dropout 0.5"."""
        return ", ".join(
            f"{menu.description} {menu.value}"
            for menu in self.menus.values()
            if not menu.disabled and menu.index
        )

    # -- parts of the regime -----------------------------------------------------------

    def _attack(self, method: str | None) -> dict[str, Any]:
        epsilon = self.epsilon_slider.value
        return {"adversarial": None if method is None else {"method": method, "epsilon": epsilon}}

    def _curriculum(self, by: str | None) -> dict[str, Any]:
        present = self._binding.owner.regime.curriculum
        others = {} if present is None else vars(present)
        return {"curriculum": None if by is None else {**others, "by": by}}

    def _transfer(self, layers: int) -> dict[str, Any]:
        present = self._binding.owner.regime.transfer
        others = {} if present is None else vars(present)
        is_on = layers or others.get("state") is not None
        return {"transfer": {**others, "freeze": layers} if is_on else None}

    def _turn(self, changes: Mapping[str, Any]) -> None:
        owner = self._binding.owner
        with self._binding.asked_by_page():
            owner.regime = {**vars(owner.regime), **changes}

    # -- controls ----------------------------------------------------------------------

    def _menu(
        self,
        name: str,
        description: str,
        tooltip: str,
        listed: Mapping[str, Any],
        value_of: Callable[[Any], Any],
        changes_for: Callable[[Any], dict[str, Any]],
        can_be: Callable[[Any], bool] = lambda _: True,
    ) -> Callable[[Any], None]:
        """Add a menu over a part of the regime; a value not listed gets an entry of its own.

        Returns:
            What shows a regime, with what then can be chosen.
        """
        values = dict(listed)
        menu = self.menus[name] = widgets.Dropdown(
            options=list(values), description=description, style=LABEL, tooltip=tooltip
        )
        self.children.append(menu)
        if self._offer.reason:
            rest(menu, self._offer.reason)
            return lambda _: None

        def show(regime: Any) -> None:
            value = value_of(regime)
            label = next((label for label, one in values.items() if one == value), None)
            if label is None:
                label = str(value)
                values[label] = value
            offered = tuple(name for name, one in values.items() if one == value or can_be(one))
            with self._binding.following():
                if menu.options != offered:
                    menu.options = offered
                menu.value = label

        def moved(label: str) -> None:
            self._turn(changes_for(values[label]))
            show(self._binding.owner.regime)  # a refused value is taken back

        self._binding.on_move(menu, moved)
        self._binding.bind("regime", show)
        return show

    def _epsilon(self) -> Any:
        slider = self.epsilon_slider = log_slider(
            "ε", "How far the attack may move each number of an input, in its own unit", -4, 1
        )
        slider.value = _FIRST_EPSILON
        slider.layout.display = "none"
        if self._offer.reason:
            rest(slider, self._offer.reason)
            return slider
        owner = self._binding.owner

        def epsilon() -> float | None:
            attack = owner.regime.adversarial
            return None if attack is None else attack.epsilon

        def move(epsilon: float) -> None:
            attack = owner.regime.adversarial
            if attack is not None:
                self._turn({"adversarial": {"method": attack.method, "epsilon": epsilon}})

        def show_or_hide(regime: Any) -> None:
            slider.layout.display = "none" if regime.adversarial is None else ""

        link_log(self._binding, slider, ["regime"], value=epsilon, move=move)
        self._binding.bind("regime", show_or_hide)
        return slider

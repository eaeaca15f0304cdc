"""The knobs under "Network": what is changed in the model besides depth and activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .binding import Binding
from .choice import Choice
from .offers import Offer
from .parts import reasons_line

# Trait, label beside the menu, what it does.
_KNOBS = (
    ("initialization", "initialisation", "How the weights are drawn; rebuilds from the same seed"),
    (
        "normalization",
        "normalisation",
        "A norm before each hidden activation; rebuilds from the same seed",
    ),
    (
        "skips",
        "skips",
        "Skip connections: each repeated block as x + scale·f(x); rebuilds from the same seed",
    ),
    (
        "orthogonality",
        "orthogonality",
        "‖WᵀW − I‖² added to the loss at this strength, or weights held orthogonal (hard)",
    ),
)


class NetworkKnobs:
    """Menus for those of the knobs that are given, and a line of reasons."""

    def __init__(self, binding: Binding, cold: Mapping[str, Offer]) -> None:
        given = [knob for knob in _KNOBS if knob[0] in cold]
        self.choices: dict[str, Choice] = {
            trait: Choice(
                binding, trait, cold[trait], description=description, tooltip=f"{tooltip}."
            )
            for trait, description, tooltip in given
        }
        self.menus: dict[str, Any] = {trait: choice.menu for trait, choice in self.choices.items()}
        self.reasons = reasons_line({label: cold[trait] for trait, label, _ in given})
        self.children = [*self.menus.values(), self.reasons] if given else []

    def in_short(self) -> str:
        """Return what is not as it was given: "skips 1"."""
        return ", ".join(
            f"{choice.menu.description} {choice.menu.value}"
            for choice in self.choices.values()
            if not choice.is_neutral
        )

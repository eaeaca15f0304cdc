"""What the controls are given: knobs that are offered, and what the buttons do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Offer:
    """A knob that not every model or optimizer has.

    Attributes:
        value: its first value.
        reason: why it can't be turned, as a sentence; "" where it can.
        options: what a menu offers, as pairs of label and value; the neutral one first.
    """

    value: Any
    reason: str = ""
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Actions:
    """What the buttons do, and who is told of an error behind one."""

    toggle: Callable[[], None]
    step: Callable[[], None]
    reset: Callable[[], None]
    new_seed: Callable[[], None]
    look_at: Callable[..., None]
    failed: Callable[[Exception], None]
    load_preset: Callable[[str], None] | None = None

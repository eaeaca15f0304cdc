"""Traits that change with every step and are brought up to date when somebody looks.

A trait that is set notifies, and that twice a step costs as much as drawing a batch. So the
latest numbers lie ready, and only for who observes them are they set.
"""

from __future__ import annotations

import math
from typing import Any

import traitlets

_NUMBERS = ("step_number", "loss")
_LOSS = "Loss of the latest step: the whole of what is minimised, a penalty among it."


class _FreshStatus(traitlets.Unicode[str, str]):
    """The status line."""

    def get(self, obj: Any, cls: type[Any] | None = None) -> str | None:
        """Return the line as it is now."""
        obj._refresh_status()
        return super().get(obj, cls)


class _FreshInt(traitlets.Int[int, int]):
    """A whole number of the latest step."""

    def get(self, obj: Any, cls: type[Any] | None = None) -> int | None:
        """Return the number as it is now."""
        latest: int = obj._latest[self.name]
        return latest


class _FreshFloat(traitlets.Float[float, float]):
    """A number of the latest step."""

    def get(self, obj: Any, cls: type[Any] | None = None) -> float | None:
        """Return the number as it is now."""
        latest: float = obj._latest[self.name]
        return latest


class FreshTraits(traitlets.HasTraits):
    """What every step changes: its number, its loss, and the status line."""

    step_number = _FreshInt(0, read_only=True, help="Steps done in the present run.")
    loss = _FreshFloat(math.nan, read_only=True, help=_LOSS)
    status = _FreshStatus("", read_only=True, help="The status line.")

    _latest: dict[str | None, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> FreshTraits:
        """Lay the first numbers ready, before anybody reads a trait."""
        made = super().__new__(cls, *args, **kwargs)
        made._latest = {"step_number": 0, "loss": math.nan}
        return made

    def take_numbers(self, step: int, loss: float) -> None:
        """Take in the numbers of the latest step; who observes them is notified."""
        before = self._latest
        self._latest = {"step_number": step, "loss": loss}
        if not self._are_observed():
            return
        for name in _NUMBERS:
            # What was not notified of is the old value of this change all the same.
            self._trait_values[name] = before[name]
            self.set_trait(name, self._latest[name])

    def _are_observed(self) -> bool:
        return any(
            callbacks
            for name in (*_NUMBERS, traitlets.All)
            for callbacks in self._trait_notifiers.get(name, {}).values()
        )

    def _refresh_status(self) -> None:
        """Bring the status line up to date."""

"""Refusals: what can't be had while the user's own loop makes the steps, and why."""

from __future__ import annotations

from .construction import Construction
from .loops import UserLoops
from .regimes.regime import Regime, listed

_MAKES_ITS_STEPS = "your own loop makes its steps itself"


class Refusals:
    """Says in a sentence why something can't be changed; "" where it can, as far as is known.

    Args:
        construction: makes the model and its optimizer.
        loops: the user's own loops.
        trains: whether there is an objective and data, for steps of our own.
    """

    def __init__(self, construction: Construction, loops: UserLoops, *, trains: bool) -> None:
        self._construction, self._loops, self._trains = construction, loops, trains

    def of_optimizer(self, learning_rate: float | None) -> str:
        """Say why the kind of optimizer can't be changed.

        ``learning_rate``: of the present one; None where it has none.
        """
        if not self._trains or self._loops.under_way:
            return "your own loop holds the optimizer that it steps with."
        if learning_rate is None:
            return "the optimizer has no learning rate to hand on."
        return ""

    def of_batch_size(self, batch_size: int | None) -> str:
        """Say why the batch size can't be changed; ``batch_size``: the present one."""
        loops = self._loops
        if not self._trains or loops.under_way or loops.is_in_another_thread:
            return "the batches come from your own loop, so change it there."
        if batch_size is None:
            return "the data come in batches of their own, so change it where they are made."
        return ""

    def of_all_regimes(self) -> str:
        """Say why most of a regime can't be had at all."""
        if not self._trains:
            return "your own loop trains this model: give data with loss_fn or objective."
        return ""

    def of_regime(self, regime: Regime, present: Regime) -> str:
        """Say why ``regime`` can't be had in the place of the present one."""
        ours = regime.of_our_steps
        if not self._trains:
            if ours:
                return (
                    f"{_MAKES_ITS_STEPS}, and {listed(ours)} needs ours: give data with loss_fn "
                    "or objective."
                )
            if regime.changes_model and not self._construction.is_factory:
                return (
                    "your own loop trains this model, and would not know of a changed copy: "
                    "give data with loss_fn or objective, or a factory as model."
                )
        # Any change of the cold part ends a loop that is under way.
        elif self._loops.under_way and ours and regime.cold == present.cold:
            return f"{_MAKES_ITS_STEPS}, and {listed(ours)} needs ours: wait() for it first."
        return ""

    def of_loop(self, regime: Regime) -> str:
        """Say why the user's own loop can't be run under ``regime``."""
        if ours := regime.of_our_steps:
            return f"{_MAKES_ITS_STEPS}, and {listed(ours)} needs ours: set regime to None first."
        return ""

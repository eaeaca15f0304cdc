"""StandIn: a module in the place of another, whose attributes foreign code finds here too."""

from __future__ import annotations

from typing import Any

from torch import nn


class StandIn(nn.Module):
    """Stands in the place of another module.

    Foreign code asks the modules of its model for attributes: a block for its attention, a
    norm for eps or for the dtype of its weight. Those that are not its own are the other's.
    """

    def _other(self) -> nn.Module:
        """Return the module in whose place this one stands."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Private ones, and what acts on a module's own parameters, are not handed on.
            if "_parameters" in name or name.startswith("_") or name == "parametrizations":
                raise
            return getattr(self._other(), name)

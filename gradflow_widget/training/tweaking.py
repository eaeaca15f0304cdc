"""The cold knobs on a model that is there: a changed copy of it, as it was at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..tweaks.activation import with_activation
from ..tweaks.copying import changed_in_place, copied, refusing_without_room
from ..tweaks.depth import with_depth
from ..tweaks.initialization import with_initialization
from ..tweaks.normalization import OF_WEIGHTS, check_norms_of_weights, with_normalization
from ..tweaks.orthogonality import with_orthogonality
from ..tweaks.skips import with_skips
from .snapshot import Snapshot

InputsOf = Callable[[nn.Module], Any]
"""Given a model, what it is called with in the first step."""

# Depth first, for it decides what else there is to change and the L in a skip's 1/√(2L);
# initialisation last, for its gains are those of the activations, and it draws all weights.
_ORDER = ("depth", "activation", "normalization", "skips", "orthogonality", "initialization")
NEEDS_INPUTS = "lsuv"


def changed_copy(
    model: nn.Module,
    beginning: Snapshot | None,
    changes: Mapping[str, Any],
    seed: int,
    inputs_of: InputsOf | None,
) -> nn.Module:
    """Return a copy of ``model`` with the changes made, one copy for all of them.

    Args:
        model: the model, which is left as it is.
        beginning: what the copy begins with; None: with what ``model`` has now.
        changes: by knob, the value.
        seed: of whatever is drawn.
        inputs_of: what drives LSUV.

    Raises:
        CannotTweak: a change can't be made, or there is no room in memory for the copy.
        Exception: what the objective or the data raised that drive LSUV.
    """
    with refusing_without_room():
        twin = copied(model)
        if beginning is not None:
            beginning.write_into(twin)
        with changed_in_place(twin):
            for name in _ORDER:
                if name in changes:
                    twin = _tweaked(twin, name, changes[name], seed, inputs_of)
        if changes.get("normalization") in OF_WEIGHTS and "initialization" not in changes:
            check_norms_of_weights(twin)
    return twin


def _tweaked(
    twin: nn.Module, name: str, value: Any, seed: int, inputs_of: InputsOf | None
) -> nn.Module:
    if name == "depth":
        return with_depth(twin, value, seed=seed)
    if name == "activation":
        return with_activation(twin, value)
    if name == "normalization":
        return with_normalization(twin, value)
    if name == "skips":
        return with_skips(twin, value)
    if name == "orthogonality":
        return with_orthogonality(twin, value)
    batch = inputs_of(twin) if value == NEEDS_INPUTS and inputs_of is not None else None
    return with_initialization(twin, value, seed=seed, batch=batch)

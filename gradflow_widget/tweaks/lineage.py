"""Which layer of a changed copy stands for which layer of the model it came from.

Names don't tell: a block put into the middle of a Sequential moves all later ones on by one. So
each layer of a copy carries the name that it had in the first model, through every tweak.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_PLACE = "_gradflow_lineage"


def mark_lineage(model: nn.Module) -> None:
    """Give each layer of a copy that has no lineage yet its name in ``model``."""
    for name, module in model.named_modules():
        module.__dict__.setdefault(_PLACE, name)


def descend(new: nn.Module, template: nn.Module, place: str) -> None:
    """Note that ``new`` was built after ``template`` and stands at ``place``, where none was."""
    origin = template.__dict__.get(_PLACE, "").partition("@")[0]
    new.__dict__[_PLACE] = f"{origin}@{place}"


def carry_lineage(old: nn.Module, new: nn.Module) -> None:
    """Note that ``new`` stands in the place of ``old``."""
    if _PLACE in old.__dict__:
        new.__dict__[_PLACE] = old.__dict__[_PLACE]


def lineage_of(module: nn.Module, name: str) -> str:
    """Return the lineage of a layer that is called ``name`` in its model."""
    lineage: str = module.__dict__.get(_PLACE, name)
    return lineage


def parameters_by_lineage(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield lineage, name and parameter for each parameter, a tied one once for each name."""
    for name, module in model.named_modules():
        origin = lineage_of(module, name)
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{origin}:{key}", f"{name}.{key}".lstrip("."), parameter

"""What has been changed in a model, tweak by tweak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

_PLACE = "_gradflow_tweaks"


@dataclass(frozen=True)
class Tweak:
    """One change: which knob, a sentence on what it did, for the panel to show, and its value."""

    knob: str
    sentence: str
    value: object = None


def tweaks_of(model: nn.Module) -> tuple[Tweak, ...]:
    """Return the changes that led to ``model``, the oldest first."""
    found: tuple[Tweak, ...] = model.__dict__.get(_PLACE, ())
    return found


def value_of(model: nn.Module, knob: str) -> Any:
    """Return the value that a knob was turned to, or None where it is as it was."""
    return next((tweak.value for tweak in tweaks_of(model) if tweak.knob == knob), None)


def record(model: nn.Module, knob: str, sentence: str, value: object = None) -> nn.Module:
    """Note a change in ``model``, in place of an earlier one by the same knob; return it."""
    kept = tuple(tweak for tweak in tweaks_of(model) if tweak.knob != knob)
    model.__dict__[_PLACE] = (*kept, Tweak(knob, sentence, value))
    return model


def forget(model: nn.Module, knob: str) -> nn.Module:
    """Drop the note of a change that has been undone; return ``model``."""
    model.__dict__[_PLACE] = tuple(tweak for tweak in tweaks_of(model) if tweak.knob != knob)
    return model


def carry_record(model: nn.Module, twin: nn.Module) -> None:
    """Give a copy the record of its model: a compiled module's copy is made without it."""
    if tweaks_of(model):
        twin.__dict__[_PLACE] = tweaks_of(model)

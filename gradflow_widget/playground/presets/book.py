"""The presets of the package, read from one file and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...quoting import quoted
from .preset import Preset, preset_from

FILE = Path(__file__).with_name("presets.json")


def read_presets(text: str) -> Mapping[str, Preset]:
    """Return presets by name, in their order, from JSON: one object, a preset for each name.

    Raises:
        ValueError: it is no such JSON, a name stands there twice, or a preset won't do; the
            sentence names it.
    """
    try:
        document = json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise ValueError(f"presets are no JSON: {error}.") from error
    if not isinstance(document, dict):
        raise ValueError(
            f"presets must be one object, a preset for each name, not {type(document).__name__}."
        )
    presets = {name: preset_from(name, entry) for name, entry in document.items()}
    for preset in presets.values():
        if preset.against is not None and preset.against not in presets:
            raise ValueError(
                f"preset {preset.name!r}: against {preset.against!r} is unknown: "
                f"choose among {', '.join(presets)}."
            )
    return MappingProxyType(presets)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"presets have {key!r} twice in one object: leave one of them out.")
        entries[key] = value
    return entries


@cache
def presets() -> Mapping[str, Preset]:
    """Return the presets of the package by name, in the order in which they tell their story."""
    return read_presets(FILE.read_text(encoding="utf-8"))


def preset_of(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    known = presets()
    if isinstance(name, str) and name in known:
        return known[name]
    raise ValueError(f"preset {quoted(name)} is unknown: choose one of {', '.join(known)}.")

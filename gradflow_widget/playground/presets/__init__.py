"""Presets: networks, data and knobs that each show one thing, with what they promise to show.

They stand in ``presets.json``, one file of data. What a promise may speak of is in
``outcome.NUMBERS``, and how it is written in ``promise.py``.
"""

from __future__ import annotations

from .book import preset_of, presets, read_presets
from .judging import kept
from .outcome import NUMBERS, Run, numbers_of
from .preset import Preset, preset_from
from .promise import Promise

__all__ = [
    "NUMBERS",
    "Preset",
    "Promise",
    "Run",
    "kept",
    "numbers_of",
    "preset_from",
    "preset_of",
    "presets",
    "read_presets",
]

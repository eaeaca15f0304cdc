"""Data for the playground, all offline: data sets by name, and one's own.

``DATA`` holds the sources by name; a split fixed by a seed belongs to each. Your own data
become the same by ``from_arrays``, ``from_csv``, ``from_dataframe``, ``from_dataset`` and
``from_wav_folder``.
"""

from __future__ import annotations

from . import (
    adding_problem,
    handwritten_digits,
    moons,
    python_topics,
    regression,
    spirals,
    spoken_digits,
)
from .arrays import as_loaded, from_arrays
from .handwritten_digits import digits
from .image_dataset import from_dataset
from .own import from_csv, from_dataframe
from .source import KINDS, Kind, Loaded, Source, source
from .wav_folder import from_wav_folder

DATA: dict[str, Source] = {
    each.name: each
    for each in (
        source("digits", handwritten_digits.KINDS, handwritten_digits.load),
        source("spoken_digits", spoken_digits.KINDS, spoken_digits.load),
        source("text", python_topics.KINDS, python_topics.load),
        source("adding", adding_problem.KINDS, adding_problem.load),
        source("moons", moons.KINDS, moons.load),
        source("spirals", spirals.KINDS, spirals.load),
        source("regression", regression.KINDS, regression.load),
    )
}

__all__ = [
    "DATA",
    "KINDS",
    "Kind",
    "Loaded",
    "Source",
    "as_loaded",
    "digits",
    "from_arrays",
    "from_csv",
    "from_dataframe",
    "from_dataset",
    "from_wav_folder",
]

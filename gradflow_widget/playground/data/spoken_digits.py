"""Spoken digits: ten words in eleven voices, as log-mel sequences.

``make_spoken_digits.py`` made the sound with espeak-ng, a formant synthesiser; its licence
covers the program, not what it says. Nobody's recorded voice is in it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .holding_out import held_out_groups, loaded, standardized
from .source import Kind, Loaded

FILE = Path(__file__).with_name("spoken_digits.npz")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS: tuple[Kind, ...] = ("sequence",)
# One voice under two names: among other names' clips of the same word, two thirds of either's
# are most like one of the other's. Held out, it would have been heard under its other name.
ONE_VOICE = frozenset(("en-us+f2", "en-us-nyc+f2"))


@cache
def _read() -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    with np.load(FILE, allow_pickle=False) as file:
        return file["decibels_below"], file["words"], file["voices"].tolist()


def load(kind: str, seed: int) -> Loaded:
    """Return 1,200 clips: each of ten words ten times in each of eleven voices, in one twice that.

    Every clip is one second, the word somewhere in it over faint noise, and becomes 39
    frames of 20 mel bands (``log_mel``), kept to the decibel. Whole voices are held out,
    two of the eleven, so that validation asks for what no training has heard: inputs of
    shape (1000, 39, 20) and (200, 39, 20), scaled to mean 0 and deviation 1 over training.
    The classes are the words.
    """
    decibels_below, words, voices = _read()
    rows = held_out_groups(voices, seed, kept=ONE_VOICE)
    inputs = standardized(-torch.tensor(decibels_below, dtype=torch.float32), rows[0])
    targets = torch.tensor(words, dtype=torch.int64)
    return loaded(inputs, targets, rows, nn.CrossEntropyLoss(), len(WORDS), WORDS)

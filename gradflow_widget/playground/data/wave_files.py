"""Reads WAV files, through soundfile and SciPy: the extra ``[audio]``."""

from __future__ import annotations

from math import gcd
from pathlib import Path

import torch

from .log_mel import SAMPLE_RATE


def read_wave(path: Path) -> torch.Tensor:
    """Return the sound in ``path`` at 16 kHz, its channels averaged: (samples,), float32.

    Other rates are resampled through SciPy's polyphase filter, which lets nothing alias.

    Raises:
        ModuleNotFoundError: soundfile or SciPy is not installed.
        ValueError: the file holds no sound that soundfile can read.
    """
    try:
        import soundfile
        from scipy.signal import resample_poly
    except ModuleNotFoundError as error:
        library = str(error.name).split(".")[0]
        raise ModuleNotFoundError(
            f"reading WAV files needs {library}, which is not installed: "
            'run pip install "gradflow_widget[audio]".',
            name=library,
        ) from error
    try:
        channels, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path} can't be read as sound ({error.error_string}): "
            "give WAV files, or another format that soundfile knows."
        ) from error
    if len(channels) == 0:
        raise ValueError(f"{path} holds no samples: remove it or record it again.")
    sound = channels.mean(axis=1)
    if rate != SAMPLE_RATE:
        common = gcd(rate, SAMPLE_RATE)
        sound = resample_poly(sound, SAMPLE_RATE // common, rate // common)
    return torch.tensor(sound, dtype=torch.float32)

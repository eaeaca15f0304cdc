"""Makes spoken_digits.npz: espeak-ng says ten digits in eleven voices, in one of them twice.

It was run once, with espeak-ng 1.51 (Debian: ``apt-get install espeak-ng``) and the extra
``[audio]``, and gives the same file again::

    python -m gradflow_widget.playground.data.make_spoken_digits

espeak-ng is free software under the GPL, version 3 or later. The licence covers the program
and its voice data; the sound that it makes of a text is no part of either, and none of its
files is in the package. The voices are its own formant voices: MBROLA's, some of which may
not be used freely, are left alone.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from .log_mel import SAMPLE_RATE, log_mel
from .spoken_digits import FILE, WORDS
from .wave_files import read_wave

# An accent and a timbre each: six low ones and six high ones. The two of spoken_digits.ONE_VOICE
# came out as one voice.
VOICES = (
    "en-us+m3",
    "en-us+f2",
    "en-gb+m7",
    "en-gb+f4",
    "en-gb-scotland+m2",
    "en-gb-scotland+f1",
    "en-gb-x-rp+m1",
    "en-gb-x-rp+f3",
    "en-029+m4",
    "en-029+f5",
    "en-gb-x-gbcwmd+m6",
    "en-us-nyc+f2",
)
TIMES = 10
PITCHES = (25, 75)  # of espeak-ng's 0 to 99
SPEEDS = (120, 190)  # words a minute: the longest word takes 0.81 s
NOISE_DECIBELS = (-40.0, -20.0)  # against the whole clip
QUIET = 0.01  # of the loudest sample: below it at both ends is no speech


def say(word: str, voice: str, pitch: int, speed: int) -> torch.Tensor:
    """Return ``word`` as espeak-ng says it, without the quiet at both ends: (samples,).

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        subprocess.CalledProcessError: espeak-ng could not say it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "word.wav")
        options = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(path)]
        subprocess.run(["espeak-ng", *options, word], check=True)
        sound = read_wave(path)
    heard = (sound.abs() > QUIET * sound.abs().max()).nonzero()
    return sound[int(heard[0]) : int(heard[-1]) + 1]


def recorded(sound: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Return a clip of one second with ``sound`` somewhere in it, over faint white noise.

    Raises:
        ValueError: the sound is longer than the clip.
    """
    if len(sound) > SAMPLE_RATE:
        raise ValueError(f"a word takes {len(sound) / SAMPLE_RATE:.2f} s: it must fit into one.")
    start = int(draw.integers(0, SAMPLE_RATE - len(sound) + 1))
    clip = torch.zeros(SAMPLE_RATE)
    clip[start : start + len(sound)] = sound
    loudness = float(clip.square().mean().sqrt()) * 10 ** (draw.uniform(*NOISE_DECIBELS) / 20)
    noise = torch.tensor(draw.standard_normal(SAMPLE_RATE), dtype=torch.float32)
    return clip + loudness * noise


def main() -> None:
    """Write the file beside this one."""
    draw = np.random.default_rng(0)
    decibels_below, words, voices = [], [], []
    for voice in VOICES:
        for digit, word in enumerate(WORDS):
            for _ in range(TIMES):
                pitch = int(draw.integers(PITCHES[0], PITCHES[1] + 1))
                speed = int(draw.integers(SPEEDS[0], SPEEDS[1] + 1))
                frames = log_mel(recorded(say(word, voice, pitch, speed), draw))
                decibels_below.append((-frames).round().to(torch.uint8).numpy())
                words.append(digit)
                voices.append(voice)
    np.savez_compressed(
        FILE,
        decibels_below=np.stack(decibels_below),
        words=np.array(words, dtype=np.uint8),
        voices=np.array(voices),
    )
    print(f"{FILE}: {len(words)} clips, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

"""Speech as a picture over time: log-mel frames, the same for every source of speech."""

from __future__ import annotations

import torch

SAMPLE_RATE = 16_000
WINDOW = 512
HOP = 400
MELS = 20
LOWEST_HZ, HIGHEST_HZ = 50.0, 8_000.0
FLOOR_DECIBELS = -80.0


def log_mel(sound: torch.Tensor) -> torch.Tensor:
    """Return the log-mel frames of ``sound``, in decibels below its loudest cell.

    Args:
        sound: samples at 16 kHz, shape (..., samples), at least one window (512) of them.

    Returns:
        Shape (..., frames, 20), float32, from -80 to 0: a frame every 25 ms (400 samples),
        each over a Hann window of 32 ms (512 samples), without padding at the ends, so that
        one second gives 39 frames. Silence is -80 throughout.
    """
    frames = sound.to(torch.float32).unfold(-1, WINDOW, HOP)
    power = torch.fft.rfft(frames * torch.hann_window(WINDOW)).abs().square()
    cells = power @ mel_filters()
    loudest = cells.amax(dim=(-2, -1), keepdim=True)
    # Below this is silence; without it a clip of zeros would be divided by zero.
    loudest = loudest.clamp(min=torch.finfo(torch.float32).tiny)
    return (10 * torch.log10(cells / loudest)).clamp(min=FLOOR_DECIBELS)


def mel_filters() -> torch.Tensor:
    """Return the weights of 20 triangular filters, shape (257 frequencies, 20), float32.

    Their corners are evenly spaced on the mel scale m = 2595 log10(1 + f/700) from 50 Hz to
    8 kHz; each peaks at 1 (O'Shaughnessy 1987, as in HTK).
    """
    ends = 2595 * torch.log10(1 + torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64) / 700)
    mels = torch.linspace(float(ends[0]), float(ends[1]), MELS + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies[:, None] - left) / (peak - left)
    falling = (right - frequencies[:, None]) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0).to(torch.float32)

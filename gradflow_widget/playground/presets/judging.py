"""Whether a recorded run kept what its preset had promised."""

from __future__ import annotations

from .book import preset_of
from .outcome import Run, numbers_of
from .preset import Preset
from .promise import OTHER


def kept(preset: Preset, run: Run, other: Run | None = None) -> tuple[bool, dict[str, float]]:
    """Say whether a run keeps its preset's promise, and return the numbers that tell.

    Args:
        preset: the preset that the run was made from.
        run: a GradientFlow at rest, say, after ``preset.steps`` steps.
        other: a run of ``preset.against``, for a promise that compares two.

    Returns:
        The verdict, and the run's numbers by name; those of the other under ``other.``

    Raises:
        ValueError: the promise compares two runs and ``other`` is None.
        RuntimeError: a run has done fewer than its preset's steps, or its last one was not
            read in full.
    """
    if preset.promise.compares and other is None:
        raise ValueError(
            f"preset {preset.name!r} is compared with a run of {preset.against!r}: "
            "give that as other."
        )
    numbers = _numbers(preset, run)
    if other is None or preset.against is None:
        return preset.promise.holds(numbers), numbers
    compared = _numbers(preset_of(preset.against), other)
    told = {**numbers, **{f"{OTHER}.{name}": value for name, value in compared.items()}}
    return preset.promise.holds(numbers, compared), told


def _numbers(preset: Preset, run: Run) -> dict[str, float]:
    numbers = numbers_of(run)
    if numbers["steps"] < preset.steps:
        raise RuntimeError(
            f"preset {preset.name!r} promises something after {preset.steps} steps, but the run "
            f"has done {numbers['steps']:.0f}: call step({preset.steps - numbers['steps']:.0f})."
        )
    return numbers

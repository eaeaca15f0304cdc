"""Every preset keeps its promise, over five seeds, run as a user would run it."""

from __future__ import annotations

from functools import cache

import pytest

from gradflow_widget import GradientFlow
from gradflow_widget.playground.presets import numbers_of, preset_of, presets

SEEDS = range(5)


@cache
def recorded(name: str, seed: int) -> dict[str, float]:
    """Return the numbers of a preset's run; once, for those that are compared with it too."""
    preset = preset_of(name)
    flow = GradientFlow.playground(**preset.arguments(seed))
    try:
        flow.step()
        flow.speed = 25  # what is read in full at few steps is cheaper, and no other run
        if preset.steps > 1:
            flow.step(preset.steps - 1)
        return numbers_of(flow)
    finally:
        flow.close()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", presets())
def test_a_preset_keeps_its_promise(name, seed):
    preset = preset_of(name)
    numbers = recorded(name, seed)
    other = None if preset.against is None else recorded(preset.against, seed)
    assert numbers["steps"] == preset.steps
    assert preset.promise.holds(numbers, other), (preset.promise, numbers, other)


def test_promises_tell_a_sick_network_from_its_mend():
    """What a network promises while it is sick, none of its mends would have kept."""
    vanishing, mended = preset_of("vanishing sigmoid"), preset_of("mended by BatchNorm")
    sick, sound = (recorded(preset.name, 0) for preset in (vanishing, mended))
    assert not vanishing.promise.holds(sound)
    assert not mended.promise.holds(sick)
    assert sick["accuracy"] < 0.2 < 0.8 < sound["accuracy"]

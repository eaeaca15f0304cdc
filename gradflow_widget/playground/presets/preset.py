"""Preset: a story of the field as data, and the outcome that it promises."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...checked import checked_seed, checked_whole
from ...tweaks.knobs import COLD_KNOBS, checked_knob
from ..assembly import KNOBS_OF_TRAINING, Playground, assemble
from ..data import DATA
from ..networks import NETWORKS
from .outcome import FLAGS, NUMBERS
from .promise import Promise

_NEEDED = ("network", "data", "steps", "watch", "promise")
_MOST_STEPS = 100_000


@dataclass(frozen=True, eq=False)
class Preset:
    """Network, data, knobs and regime that show one thing, and what they promise to show.

    Attributes:
        name: what ``GradientFlow.preset(name)`` calls it.
        network: as ``GradientFlow.playground`` takes it.
        data: as ``GradientFlow.playground`` takes it.
        steps: after how many steps the promise is kept.
        watch: what to look at while it runs, in sentences.
        promise: the condition on the recorded run.
        knobs: first values of the knobs, and the parameters of the network and of the data.
        regime: how data and gradients reach the model, by name; empty where as they are.
        seed: of weights and batch order.
        against: the preset whose run this one is compared with, or None.
    """

    name: str
    network: str
    data: str
    steps: int
    watch: str
    promise: Promise
    knobs: Mapping[str, Any]
    regime: Mapping[str, Any]
    seed: int
    against: str | None

    def arguments(self, seed: int | None = None) -> dict[str, Any]:
        """Return what ``GradientFlow.playground(**arguments)`` takes.

        ``regime`` is among them only where there is one. ``seed`` stands in for the preset's.

        Raises:
            ValueError: ``seed`` can't be used.
        """
        arguments = {
            "network": self.network,
            "data": self.data,
            "seed": self.seed if seed is None else checked_seed(seed),
            **self.knobs,
        }
        return {**arguments, "regime": dict(self.regime)} if self.regime else arguments

    def parts(self) -> Playground:
        """Return network, optimizer, loss and data; the data are loaded anew.

        Raises:
            ValueError: a knob can't have its value; the sentence names the preset.
        """
        try:
            return assemble(self.network, self.data, self.knobs)
        except ValueError as error:
            raise ValueError(f"preset {self.name!r}: {error}") from error


def preset_from(name: str, mapping: object) -> Preset:
    """Return the preset that a mapping, such as an entry of a file, describes.

    The keys are the attributes of :class:`Preset` but for the name; ``knobs``, ``regime``,
    ``seed`` and ``against`` may be absent. Numbers that only the loading of the data or the
    building of the network can refuse are checked by :meth:`Preset.parts`, and the regime
    where it is applied.

    Raises:
        ValueError: a key or a value won't do; the sentence names the preset, the key and what
            would do.
    """
    try:
        return _checked(name, mapping)
    except ValueError as error:
        raise ValueError(f"preset {name!r}: {error}") from error


def _checked(name: str, mapping: object) -> Preset:
    values = _mapping("it", mapping)
    known = (*_NEEDED, "knobs", "regime", "seed", "against")
    for key in values:
        if key not in known:
            raise ValueError(f"key {key!r} is unknown: {_choice(key, known)}.")
    missing = [key for key in _NEEDED if key not in values]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given.")
    network, data = values["network"], values["data"]
    for key, of in (("network", NETWORKS), ("data", DATA)):
        if not isinstance(values[key], str) or values[key] not in of:
            raise ValueError(f"{key} {values[key]!r} is unknown: {_choice(values[key], of)}.")
    if not set(NETWORKS[network].takes) & set(DATA[data].kinds):
        raise ValueError(
            f"network {network!r} takes {' or '.join(NETWORKS[network].takes)}, but data "
            f"{data!r} come as {' or '.join(DATA[data].kinds)}: choose a pair that fits."
        )
    against = values.get("against")
    if against is not None and (not isinstance(against, str) or against == name):
        raise ValueError(f"against must be the name of another preset, not {against!r}.")
    promise = Promise(values["promise"], numbers=tuple(NUMBERS), flags=FLAGS)
    if promise.compares != (against is not None):
        raise ValueError(
            "the promise speaks of an other run, but against names none: name the preset it is of."
            if promise.compares
            else f"against is {against!r}, but the promise says nothing of it: "
            "write other. before a number, such as 'loss < other.loss'."
        )
    return Preset(
        name=name,
        network=network,
        data=data,
        steps=checked_whole("steps", values["steps"], 1, _MOST_STEPS),
        watch=_sentences(values["watch"]),
        promise=promise,
        knobs=MappingProxyType(_checked_knobs(network, data, values.get("knobs", {}))),
        regime=MappingProxyType(dict(_mapping("regime", values.get("regime", {})))),
        seed=checked_seed(values.get("seed", 0)),
        against=against,
    )


def _checked_knobs(network: str, data: str, given: object) -> dict[str, Any]:
    knobs = _mapping("knobs", given)
    parameters = (*NETWORKS[network].parameters, *DATA[data].parameters)
    # A regime stands beside the knobs, not among them.
    of_training = tuple(name for name in KNOBS_OF_TRAINING if name != "regime")
    known = tuple(dict.fromkeys((*COLD_KNOBS, "learning_rate", *of_training, *parameters)))
    for key in knobs:
        if key not in known:
            raise ValueError(f"knob {key!r} is unknown: {_choice(key, known)}.")
    return {
        key: checked_knob(key, value) if key in COLD_KNOBS else value
        for key, value in knobs.items()
    }


def _mapping(key: str, value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    raise ValueError(f"{key} must be a mapping of names to values, not {value!r}.")


def _sentences(value: object) -> str:
    if isinstance(value, str) and value.strip().endswith("."):
        return value.strip()
    raise ValueError(f"watch must say in sentences what to look at, not {value!r}.")


def _choice(given: object, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(given), known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}choose among {', '.join(known)}"

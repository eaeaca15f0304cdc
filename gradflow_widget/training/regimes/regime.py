"""Regime: how data and gradients reach the model, as one immutable value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...checked import checked_number, checked_share, checked_switch, checked_whole
from ...quoting import quoted

METHODS = ("fgsm", "pgd")
ORDERS = ("loss", "length")
# Madry et al. 2018 let the steps add up to 2.5 times the radius of the ball.
_REACH = 2.5
_PGD_STEPS = 7

_Part = TypeVar("_Part", bound="Attack | Curriculum | Transfer | Regime")


@dataclass(frozen=True)
class Attack:
    """Adversarial training: inputs are moved so that the loss rises; see ``perturbed``.

    Attributes:
        method: "fgsm", one step of size ε, or "pgd", several smaller ones.
        epsilon: how far each number of an input may be moved, in the inputs' own unit.
        steps: of PGD; 7 unless given.
        step_size: of PGD; 2.5·ε/steps unless given.
        random_start: whether PGD starts from a random point of the ball.

    Raises:
        ValueError: a value can't be used, or belongs to PGD and was given to FGSM.
    """

    method: Literal["fgsm", "pgd"]
    epsilon: float
    steps: int = 0
    step_size: float = 0.0
    random_start: bool | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {quoted(self.method)} is unknown: choose one of fgsm, pgd.")
        epsilon = checked_number("epsilon", self.epsilon, above=0)
        steps, size, from_random = self.steps, self.step_size, self.random_start
        if self.method == "fgsm":
            if steps not in (0, 1) or size not in (0, epsilon) or from_random:
                raise ValueError(
                    "steps, step_size and random_start belong to method 'pgd': "
                    "'fgsm' makes one step of size epsilon."
                )
            steps, size, from_random = 1, epsilon, False
        else:
            steps = checked_whole("steps", steps or _PGD_STEPS, least=1)
            size = checked_number("step_size", size or _REACH * epsilon / steps, above=0)
            from_random = from_random is None or checked_switch("random_start", from_random)
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "step_size", size)
        object.__setattr__(self, "random_start", from_random)

    @property
    def sentence(self) -> str:
        """What it does and what the bars show of it."""
        how = "one step" if self.method == "fgsm" else f"{self.steps} steps"
        return (
            f"Adversarial training ({self.method.upper()}): every input is moved by up to "
            f"ε = {self.epsilon:g}, in {how} up the loss, so the loss falls more slowly and the "
            "gradients stay large where they would fade."
        )


@dataclass(frozen=True)
class Curriculum:
    """Easy samples first: the share of the data in use grows from ``start`` to all of them.

    Attributes:
        by: what is easy: a low "loss" of a first model, or a short "length" of the sequence.
        start: the share of the data that the first step may use.
        steps: after so many steps all data are in use.
        first_model_steps: how long the first model is trained; only by "loss".

    Raises:
        ValueError: a value can't be used.
    """

    by: Literal["loss", "length"] = "loss"
    start: float = 0.2
    steps: int = 200
    first_model_steps: int = 100

    def __post_init__(self) -> None:
        if self.by not in ORDERS:
            raise ValueError(f"by {quoted(self.by)} is unknown: choose one of loss, length.")
        object.__setattr__(self, "start", checked_number("start", self.start, above=0, up_to=1))
        for name in ("steps", "first_model_steps"):
            object.__setattr__(self, name, checked_whole(name, getattr(self, name), least=1))

    @property
    def sentence(self) -> str:
        """What it does and what the bars show of it."""
        easy = "of lowest loss in a first model" if self.by == "loss" else "of shortest length"
        return (
            f"Curriculum: training starts on the {self.start:.0%} of the samples {easy}, and has "
            f"all of them after {self.steps} steps; where the network learns the easy ones before "
            "hard ones come in, the gradients fade, and grow again with those."
        )


@dataclass(frozen=True, eq=False)
class SavedState:
    """A state dict in memory; two of them are equal only where they are the same object."""

    tensors: Mapping[str, Any]


@dataclass(frozen=True)
class Transfer:
    """Start from a saved state, and let the first layers keep it.

    Attributes:
        state: the path of a file that ``torch.save(model.state_dict(), path)`` wrote, or a
            state dict; None starts from the model's own weights.
        freeze: how many layers, from the input on, do not learn.
        strict: whether every name and shape must fit; if not, what does not fit stays as it
            is in the model.

    Raises:
        ValueError: a value can't be used, or there is nothing to do.
        TypeError: ``state`` is neither a path nor a mapping.
    """

    state: str | SavedState | None = None
    freeze: int = 0
    strict: bool = True

    def __post_init__(self) -> None:
        state: Any = self.state
        if isinstance(state, Mapping):
            state = SavedState(state)
        elif isinstance(state, Path):
            state = str(state)
        elif state is not None and not isinstance(state, str | SavedState):
            raise TypeError(
                f"state must be a path or a state dict, not {type(state).__name__}: "
                "save one with torch.save(model.state_dict(), path)."
            )
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "freeze", checked_whole("freeze", self.freeze, least=0))
        checked_switch("strict", self.strict)
        if state is None and not self.freeze:
            raise ValueError("transfer does nothing: give a state, or freeze at least one layer.")

    @property
    def sentence(self) -> str:
        """What it does and what the bars show of it."""
        origin = "" if self.state is None else "the network starts from a saved state"
        if not self.freeze:
            return f"Transfer: {origin}, so its bars begin as those of a network that has learned."
        layers = "first layer keeps its" if self.freeze == 1 else f"first {self.freeze} layers keep"
        weights = "weights" if self.freeze == 1 else "their weights"
        frozen = f"the {layers} {weights} and {'is' if self.freeze == 1 else 'are'} drawn as frozen"
        return f"Transfer: {origin + ', and ' if origin else ''}{frozen}, without a gradient."


@dataclass(frozen=True)
class Regime:
    """How data and gradients reach the model; by default, as they are.

    ``Regime(adversarial={"method": "pgd", "epsilon": 0.1}, accumulation=4)``: each of the first
    three is given as a mapping of its own attributes, and is an object that has them.

    Attributes:
        adversarial: move the inputs against the network; see :class:`Attack`.
        curriculum: easy samples first; see :class:`Curriculum`.
        transfer: start from a saved state, freeze the first layers; see :class:`Transfer`.
        accumulation: micro-batches whose gradients make one step.
        label_noise: the share of the training labels that are exchanged for another class.
        noise_seed: decides which labels, and for what.
        dropout: the rate of dropout behind every hidden activation; None leaves the model's.

    Raises:
        ValueError: a value is out of range, or a part has an unknown name or lacks one; the
            sentence names it and what would do.
        TypeError: a part is no mapping.
    """

    adversarial: Attack | None = None
    curriculum: Curriculum | None = None
    transfer: Transfer | None = None
    accumulation: int = 1
    label_noise: float = 0.0
    noise_seed: int = 0
    dropout: float | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                put(self, name, _part_from(kind, name, value))
        put(self, "accumulation", checked_whole("accumulation", self.accumulation, least=1))
        put(self, "label_noise", checked_share("label_noise", self.label_noise))
        put(self, "noise_seed", checked_whole("noise_seed", self.noise_seed, least=0))
        if self.dropout is not None:
            put(self, "dropout", checked_share("dropout", self.dropout, below_one=True))

    @property
    def cold(self) -> Regime:
        """What takes a new run: all but the attack, and the accumulation.

        Under a curriculum that is one too, for its pace is in steps.
        """
        accumulation = 1 if self.curriculum is None else self.accumulation
        return replace(self, adversarial=None, accumulation=accumulation)

    @property
    def changes_model(self) -> bool:
        """Whether a model under it is another one: saved state, frozen layers, dropout."""
        return self.transfer is not None or self.dropout is not None

    @property
    def changes_data(self) -> bool:
        """Whether it gives training other data, or the same in another order."""
        return self.curriculum is not None or self.label_noise > 0

    @property
    def of_our_steps(self) -> tuple[str, ...]:
        """What is on of that which the user's own loop can't be given: all but the model's."""
        on = {
            "adversarial": self.adversarial is not None,
            "curriculum": self.curriculum is not None,
            "accumulation": self.accumulation > 1,
            "label_noise": self.label_noise > 0,
        }
        return tuple(name for name, is_on in on.items() if is_on)

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence for each switch that is on: what it does and what the bars show of it.

        None for dropout at a rate of 0.
        """
        return tuple(self._sentences())

    def _sentences(self) -> Iterator[str]:
        for part in (self.adversarial, self.curriculum, self.transfer):
            if part is not None:
                yield part.sentence
        if self.accumulation > 1:
            yield (
                f"Gradient accumulation: the gradients of {self.accumulation} batches are "
                "averaged into one step, so the bars are steadier and, as the batches disagree, "
                "shorter."
            )
        if self.label_noise:
            yield (
                f"Label noise: {self.label_noise:.0%} of the training labels, always the same, "
                "are another class, so the loss does not come near 0 and the gradients stay large "
                "where they would fade."
            )
        if self.dropout:  # whether a rate of 0 does anything is for the model to say
            yield (
                f"Dropout: every hidden unit is silent with probability {self.dropout:g} in each "
                "step and the others are louder for it, so the gradients are larger and fade less."
            )


_PARTS: dict[str, type[Attack | Curriculum | Transfer]] = {
    "adversarial": Attack,
    "curriculum": Curriculum,
    "transfer": Transfer,
}

NOTHING = Regime()
"""The regime with everything off."""


def regime_from(mapping: object) -> Regime:
    """Return the regime that a mapping, such as a preset's, describes.

    ``{"adversarial": {"method": "pgd", "epsilon": 0.1}, "accumulation": 4}``; the names are
    the attributes of :class:`Regime`, :class:`Attack`, :class:`Curriculum` and
    :class:`Transfer`, which may stand in the mapping too. None is the regime with everything
    off.

    Raises:
        TypeError: it is no mapping, or a part of it is none.
        ValueError: a name is unknown (the message lists the known ones), one is missing, or a
            value can't be used.
    """
    return NOTHING if mapping is None else _part_from(Regime, "regime", mapping)


def _part_from(kind: type[_Part], name: str, values: object) -> _Part:
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be a mapping of names to values, not {quoted(values)}.")
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"{name} has no {quoted(key)}: choose from {', '.join(known)}.")
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}.")
    return kind(**values)


_IN_WORDS = {
    "adversarial": "adversarial training",
    "curriculum": "a curriculum",
    "accumulation": "gradient accumulation",
    "label_noise": "label noise",
}


def listed(switches: Sequence[str]) -> str:
    """Return names out of ``Regime.of_our_steps`` in words: "a curriculum and label noise"."""
    *others, last = (_IN_WORDS[name] for name in switches)
    return f"{', '.join(others)} and {last}" if others else last

"""with_initialization: a model's weights drawn anew by a scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..checked import as_float, checked_seed
from ..quoting import quoted
from .computed import computed_as, divided_by_zero, frozen_behind, hooked
from .copying import copied, refuse_lazy
from .defaults import reset_as_built
from .errors import CannotTweak
from .following import Following, following
from .gains import forward_gain, moments
from .mean_field import critical_point
from .nonlinearities import LINEAR, Nonlinearity, as_nonlinearity
from .record import record
from .unit_variance import scale_to_unit_variance
from .weights import (
    Weight,
    biases_of,
    computed_by_a_hook,
    drawn_normal,
    drawn_orthogonal,
    is_parametrized,
    weights_of,
)

SCHEMES = (
    "default",
    "zeros",
    "constant",
    "normal",
    "xavier",
    "he",
    "lecun",
    "orthogonal",
    "critical",
    "lsuv",
)
_OPTIONS: dict[str, dict[str, float | None]] = {
    "constant": {"value": 0.01},
    "normal": {"std": 0.02},
    "critical": {"sigma_b": None},
}
_WITH_GAIN = ("xavier", "he", "lecun", "orthogonal", "lsuv")
_TITLES = {
    "default": "as the classes do it",
    "zeros": "zeros",
    "constant": "constant",
    "normal": "normal",
    "xavier": "Xavier",
    "he": "He",
    "lecun": "LeCun",
    "orthogonal": "orthogonal",
    "critical": "critical",
    "lsuv": "LSUV",
}


def with_initialization(
    model: nn.Module,
    scheme: str,
    gain: float | None = None,
    seed: int = 0,
    *,
    batch: Any = None,
    **options: float,
) -> nn.Module:
    """Return a copy of ``model`` with weights drawn anew.

    - ``"default"``: ``reset_parameters`` of every layer, then the ``_init_weights`` of a
      Hugging Face model; with the same seed the weights of a freshly built Sequential.
    - ``"zeros"``, ``"constant"`` (``value=0.01``), ``"normal"`` (``std=0.02``).
    - ``"xavier"``: Var W = gain²·2/(fan_in + fan_out) (Glorot & Bengio 2010), gain 1.
    - ``"he"``: Var W = gain²/fan_in with gain = 1/√E[φ²] of the nonlinearity φ behind the
      layer: √2 for ReLU (He et al. 2015), 1 for SELU; ReLU's where φ can't be known.
    - ``"lecun"``: Var W = gain²/fan_in, gain 1 (LeCun et al. 1998).
    - ``"orthogonal"``: all singular values equal to the gain, that of He (Saxe et al. 2014);
      convolutions delta-orthogonal (Xiao et al. 2018), recurrent layers gate by gate.
    - ``"critical"``: Var W = σ_w²/fan_in, Var b = σ_b² at a point of φ's critical line
      (mean_field.py); ``sigma_b`` chooses it, None takes a stable one that is reached fast.
      A recurrent layer's two biases have σ_b² together, and the point is that of its recurrence
      alone: what inputs add comes on top, as with every scheme, and the more of it there is
      in a tanh, the faster the gradient shrinks from step to step.
    - ``"lsuv"``: orthogonal, then layer by layer scaled until the output on ``batch`` has
      the standard deviation ``gain``, 1 (Mishkin & Matas 2016). Attention's and recurrent
      layers' inner matrices stay orthogonal.

    In all but the default, biases are zero (σ_b where critical), norms start at scale 1 and
    shift 0, and the layer after which no other comes, the output, has the gain of a linear one.
    Embeddings, which multiply nothing, have their class's default except under zeros, constant
    and normal; a projection tied to one counts as embedding. Custom layers, whose connections
    can't be known, have their class's ``reset_parameters``; those without one keep their
    weights, and the record names them, as well as what hooks compute weights from, which stays:
    torch.nn.utils.weight_norm, spectral_norm and prune. Frozen weights stay.

    Args:
        model: the model, which is left as it is.
        scheme: one of the above.
        gain: in place of the scheme's own gain, for every layer; only where it has one.
        seed: the same seed gives the same weights on every device.
        batch: for LSUV, what the model is called with: a tensor, a tuple of arguments, or
            a dict of named ones. The others ignore it.
        options: those named above.

    Raises:
        ValueError: the scheme is unknown, or gain, seed, batch or an option is out of range.
        TypeError: ``model`` is no module, or the scheme has no such option.
        CannotTweak: the model has no weight that the scheme knows how to draw, weights that
            are kept orthogonal, which zeros and constants are not, or some under weight or
            spectral norm that would be 0.
    """
    checked_scheme(scheme)
    seed = checked_seed(seed)
    values = _checked_options(scheme, gain, options)
    if scheme == "lsuv" and batch is None:
        raise ValueError("LSUV is driven by a batch: give batch=, the inputs of the model.")
    refuse_lazy(model)
    _check_can_be_orthogonal(model, scheme)
    twin = copied(model)
    frozen = [p for p in twin.parameters() if not p.requires_grad]
    behind_hooks = _behind_hooks(twin)
    # A class draws these as it draws any of its parameters, but nothing leads to the weight.
    stay = [(p, p.detach().clone()) for p in (*frozen, *map(twin.get_parameter, behind_hooks))]
    behind_frozen = [(step, name, b.clone()) for step, name, b in frozen_behind(twin)]
    # What follows what is read off the twin before its weights change: PReLU's slope is one.
    behind = following(twin) if scheme != "default" else {}
    left = reset_as_built(twin, seed)
    notes = []
    if scheme != "default":
        drawn = _Drawing(twin, behind, _Scheme(scheme, gain, values), seed)
        left = [name for name in left if name not in drawn.names]
        notes = drawn.notes
    with torch.no_grad():
        for parameter, before in stay:
            parameter.copy_(before)
        for step, name, before in behind_frozen:
            step.get_buffer(name).copy_(before)
    _check_norms_are_not_zero(twin, scheme)
    if scheme == "lsuv":
        unscaled = scale_to_unit_variance(twin, batch, 1.0 if gain is None else gain)
        notes += [f"orthogonal but not scaled: {_listed(unscaled)}"] if unscaled else []
    if frozen:
        notes.append(f"{len(frozen)} frozen ones stay")
    named = dict(twin.named_parameters())
    for by in dict.fromkeys(behind_hooks.values()):
        computing = [name for name, one in behind_hooks.items() if one == by]
        notes.append(f"kept, for {by} computes weights from them: {_listed(computing)}")
    left = [name for name in left if named[name].requires_grad and name not in behind_hooks]
    if left:
        notes.append(f"kept, for their class does not say how to draw them: {_listed(left)}")
    sentence = f"Initialisation {_TITLES[scheme]}: {'; '.join([*notes, f'seed {seed}'])}."
    return record(twin, "initialization", sentence, scheme)


def _behind_hooks(model: nn.Module) -> dict[str, str]:
    """Return by what hooks compute other tensors from parameters, by the parameters' names."""
    return {
        f"{path}.{source}".lstrip("."): one.by
        for path, module in model.named_modules()
        for one in hooked(module)
        for source in one.sources
    }


def _check_can_be_orthogonal(model: nn.Module, scheme: str) -> None:
    if scheme in ("zeros", "constant") and any(
        computed_as(module) == "orthogonal" for module in model.modules()
    ):
        raise CannotTweak(
            f"Weights are kept orthogonal, which those of {scheme!r} are not: take "
            "orthogonality off before, or choose another initialisation."
        )


def _check_norms_are_not_zero(twin: nn.Module, scheme: str) -> None:
    if kind := divided_by_zero(twin):
        raise CannotTweak(
            f"{kind.capitalize()} norm divides weights by their norm, which is 0 for some with "
            f"{scheme!r}: take {kind} norm off before, or choose another initialisation."
        )


def check_initializable(model: nn.Module) -> None:
    """Raise where ``with_initialization`` would find nothing to draw; ``model`` is untouched.

    Raises:
        CannotTweak: as ``with_initialization`` does by every scheme but "default".
    """
    refuse_lazy(model)
    if not any(True for module in model.modules() for _ in weights_of(module)):
        _refuse_nothing_to_draw(model)


def _refuse_nothing_to_draw(model: nn.Module) -> NoReturn:
    if by := next(filter(None, map(computed_by_a_hook, model.modules())), ""):
        raise CannotTweak(
            f"The weights are computed already, by {by}: take that off before they can be drawn."
        )
    raise CannotTweak(
        "The model has no weight matrix that a scheme knows how to draw: that takes a linear, "
        "convolutional, attention or recurrent layer."
    )


def checked_scheme(scheme: object) -> str:
    """Return ``scheme`` if it is a known one.

    Raises:
        ValueError: it is not; the message lists the known ones.
    """
    if isinstance(scheme, str) and scheme in SCHEMES:
        return scheme
    known = ", ".join(SCHEMES)
    raise ValueError(f"initialization {quoted(scheme)} is unknown: choose one of {known}.")


@dataclass(frozen=True)
class _Scheme:
    """A scheme with its numbers."""

    name: str
    gain: float | None
    options: Mapping[str, float | None]

    def gain_for(self, nonlinearity: Nonlinearity | None) -> float:
        """Return the gain of a layer; None stands for a nonlinearity that is not known."""
        if self.gain is not None and self.name != "lsuv":
            return self.gain
        if self.name == "he" and nonlinearity is None:
            return math.sqrt(2)
        if self.name in ("he", "orthogonal") and nonlinearity is not None:
            return forward_gain(nonlinearity)
        return 1.0


class _Drawing:
    """Draws the weights of a model by a scheme, tied ones once.

    Attributes:
        names: the parameters that were set.
        notes: what was done, for people.
    """

    def __init__(
        self,
        model: nn.Module,
        behind: Mapping[nn.Module, Following],
        scheme: _Scheme,
        seed: int,
    ) -> None:
        self._behind, self._scheme = behind, scheme
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._done: set[int] = set()
        self._used: dict[str, int] = {}
        self._sigmas: dict[tuple[str | float, ...], tuple[float, float]] = {}
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                self._embed(module)
        for module in model.modules():
            for weight in weights_of(module):
                self._draw(weight)
        if not self._used:
            _refuse_nothing_to_draw(model)
        self.names = {name for name, p in model.named_parameters() if id(p) in self._done}
        self.notes = [f"{count} × {what}" for what, count in self._used.items()]

    def _embed(self, module: nn.Embedding | nn.EmbeddingBag) -> None:
        self._done.add(id(module.weight))
        if self._scheme.name not in ("zeros", "constant", "normal"):
            return
        with torch.no_grad():
            if self._scheme.name == "normal":
                drawn = torch.randn(module.weight.shape, generator=self._generator, device="cpu")
                module.weight.copy_(drawn * (self._scheme.options["std"] or 0.0))
            else:
                module.weight.fill_(self._scheme.options.get("value") or 0.0)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0

    def _draw(self, weight: Weight) -> None:
        if weight.tied_to is None:
            if not is_parametrized(weight.module, weight.name):
                return
        elif id(weight.tied_to) in self._done:
            return
        self._done |= {id(parameter) for parameter in weight.sources}
        value, sigma_b, note = self._value(weight)
        weight.put(value)
        # A module's name begins with a capital, a function's of the same kind does not.
        note = next((known for known in self._used if known.casefold() == note.casefold()), note)
        self._used[note] = self._used.get(note, 0) + 1
        for bias in biases_of(weight):
            self._done.add(id(bias))
            drawn = torch.zeros(bias.shape, device="cpu")
            if sigma_b:
                std = sigma_b / math.sqrt(weight.biases_added)
                drawn = torch.randn(bias.shape, generator=self._generator, device="cpu") * std
            with torch.no_grad():
                bias.copy_(drawn)

    def _value(self, weight: Weight) -> tuple[Tensor, float, str]:
        """Return the matrices, the standard deviation of an output's bias, and a note."""
        name, options, generator = self._scheme.name, self._scheme.options, self._generator
        nonlinearity = self._nonlinearity(weight)
        if name in ("zeros", "constant"):
            value = options.get("value") or 0.0
            return torch.full(weight.value.shape, value, device="cpu"), 0.0, f"{value:g}"
        if name == "normal":
            std = options["std"] or 0.0
            return drawn_normal(weight, std, generator), 0.0, f"N(0, {std:g}²)"
        if name == "critical":
            sigma_w, sigma_b = self._critical(nonlinearity or LINEAR)
            note = f"σ_w² {sigma_w**2:.4g}, σ_b² {sigma_b**2:.4g} {_after(nonlinearity)}"
            std = sigma_w / math.sqrt(weight.fan_in)
            return drawn_normal(weight, std, generator), sigma_b, note
        gain = self._scheme.gain_for(nonlinearity)
        note = f"gain {gain:.4g} {_after(nonlinearity)}"
        if name in ("orthogonal", "lsuv"):
            return drawn_orthogonal(weight, gain, generator), 0.0, note
        fan = weight.fan_in if name != "xavier" else (weight.fan_in + weight.fan_out) / 2
        return drawn_normal(weight, gain / math.sqrt(fan), generator), 0.0, note

    def _critical(self, nonlinearity: Nonlinearity) -> tuple[float, float]:
        # The search takes milliseconds, and most layers of a network share their nonlinearity.
        # Two classes may print alike, hence the moments.
        key = (nonlinearity.name, *moments(nonlinearity))
        if key not in self._sigmas:
            found = _critical_sigmas(nonlinearity, self._scheme.options["sigma_b"])
            self._sigmas[key] = found
        return self._sigmas[key]

    def _nonlinearity(self, weight: Weight) -> Nonlinearity | None:
        module = weight.module
        if isinstance(module, nn.RNN | nn.RNNCell):
            return as_nonlinearity(getattr(torch, module.nonlinearity))
        behind = self._behind[module]
        if behind.is_output:
            return LINEAR
        return behind.nonlinearity if behind.evidence else None


def _critical_sigmas(nonlinearity: Nonlinearity, sigma_b: float | None) -> tuple[float, float]:
    if nonlinearity is LINEAR:
        # A linear layer has the one critical point (1, 0), whatever the others' biases.
        return 1.0, 0.0
    point = critical_point(nonlinearity, sigma_b)
    if point is None and sigma_b is None:
        raise CannotTweak(
            f"{nonlinearity.name} has no critical line: no weights and biases keep both a "
            "signal and its gradient, so choose another initialisation or activation."
        )
    if point is None:
        raise ValueError(
            f"sigma_b={sigma_b:g} is not on the critical line of {nonlinearity.name}: "
            "leave it out to have a point that is."
        )
    return point.sigma_w, point.sigma_b


def _after(nonlinearity: Nonlinearity | None) -> str:
    return f"({nonlinearity.name})" if nonlinearity is not None else "(what follows is not known)"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _checked_options(
    scheme: str, gain: object, options: Mapping[str, object]
) -> dict[str, float | None]:
    if gain is not None:
        if scheme not in _WITH_GAIN:
            raise ValueError(
                f"gain has no meaning for {scheme!r}: only {', '.join(_WITH_GAIN)} have one."
            )
        if not _is_number(gain) or not gain > 0:  # type: ignore[operator]
            raise ValueError(f"gain must be a number above 0, not {quoted(gain)}.")
    values = dict(_OPTIONS.get(scheme, {}))
    for name, value in options.items():
        if name not in values:
            known = ", ".join(f"{key}=" for key in values) or "none"
            raise TypeError(f"initialization {scheme!r} has no option {name!r}: it has {known}.")
        if value is None and values[name] is None:
            continue
        if not _is_number(value) or (name != "value" and not value >= 0):  # type: ignore[operator]
            least = "" if name == "value" else " from 0"
            raise ValueError(f"{name} must be a number{least}, not {quoted(value)}.")
        values[name] = float(value)  # type: ignore[arg-type]
    return values


def _is_number(value: object) -> bool:
    return math.isfinite(as_float(value))

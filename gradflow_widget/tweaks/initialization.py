"""with_initialization: a model's weights drawn anew by a scheme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .copying import copied
from .defaults import reset_as_built
from .errors import CannotTweak
from .following import Following, following
from .fresh import seeded
from .gains import forward_gain
from .mean_field import critical_point
from .nonlinearities import LINEAR, Nonlinearity, as_nonlinearity
from .norms import is_norm, start_norm
from .record import record
from .unit_variance import scale_to_unit_variance
from .weights import Weight, biases_of, drawn_normal, drawn_orthogonal, weights_of

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
    - ``"lsuv"``: orthogonal, then layer by layer scaled until the output on ``batch`` has
      the standard deviation ``gain``, 1 (Mishkin & Matas 2016). Attention's and recurrent
      layers' inner matrices stay orthogonal.

    In all but the default, biases are zero (σ_b where critical), norms start at scale 1 and
    shift 0, and the layer after which no other comes, the output, has the gain of a linear one.
    Embeddings, which multiply nothing, keep their class's default except under zeros, constant
    and normal; a projection tied to one counts as embedding. Frozen weights stay. Parameters
    whose connections can't be known (custom layers) stay too, and the record names them.

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
        TypeError: the scheme has no such option.
        CannotTweak: the model has no weight that the scheme knows how to draw.
    """
    checked_scheme(scheme)
    values = _checked_options(scheme, gain, seed, options)
    if scheme == "lsuv" and batch is None:
        raise ValueError("LSUV is driven by a batch: give batch=, the inputs of the model.")
    twin = copied(model)
    if any(is_lazy(parameter) for parameter in twin.parameters()):
        raise CannotTweak(
            "The model has lazy layers whose shapes are not known yet: run one batch through it "
            "before changing it."
        )
    frozen = [(p, p.detach().clone()) for p in twin.parameters() if not p.requires_grad]
    if scheme == "default":
        with seeded(seed, "initialization") if seed else _exactly(seed):
            left = reset_as_built(twin)
        notes = ["by reset_parameters and _init_weights"]
    else:
        drawing = _Drawing(twin, scheme, gain, seed, values)
        left, notes = drawing.left, drawing.notes()
        if scheme == "lsuv":
            unreached = scale_to_unit_variance(twin, batch, 1.0 if gain is None else gain)
            if unreached:
                notes.append(f"left orthogonal: {_listed(unreached)}")
    with torch.no_grad():
        for parameter, before in frozen:
            parameter.copy_(before)
    if frozen:
        notes.append(f"{len(frozen)} frozen ones stay")
    named = dict(twin.named_parameters())
    left = [name for name in left if named[name].requires_grad]
    if left:
        notes.append(f"as before, for their connections are not known: {_listed(left)}")
    sentence = f"Initialisation {_TITLES[scheme]}: {'; '.join([*notes, f'seed {seed}'])}."
    return record(twin, "initialization", sentence)


def checked_scheme(scheme: object) -> str:
    """Return ``scheme`` if it is a known one.

    Raises:
        ValueError: it is not; the message lists the known ones.
    """
    if isinstance(scheme, str) and scheme in SCHEMES:
        return scheme
    raise ValueError(f"initialization {scheme!r} is unknown: choose one of {', '.join(SCHEMES)}.")

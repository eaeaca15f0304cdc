"""What a knob is called that a user has set under another name."""

from __future__ import annotations

import difflib

from .knob_traits import HOT_KNOBS
from .tweaks.knobs import COLD_KNOBS

_KNOBS = (*HOT_KNOBS, *COLD_KNOBS, "regime", "speed")
_ALIKE = 0.75  # "width" is no "depth"
_ALSO_CALLED = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "clip": "clip_norm",
    "max_norm": "clip_norm",
    "optim": "optimizer_kind",
    "act": "activation",
    "init": "initialization",
    "norm": "normalization",
    "layers": "depth",
    "num_layers": "depth",
    "residual": "skips",
    "orthogonal": "orthogonality",
    "seed": "reset(seed=...)",
}


def no_such_knob(name: str) -> str:
    """Return a sentence that names the knob that was meant, or all that there are."""
    meant = difflib.get_close_matches(name, (*_KNOBS, *_ALSO_CALLED), n=1, cutoff=_ALIKE)
    knob = _ALSO_CALLED.get(meant[0], meant[0]) if meant else ""
    hint = f"did you mean {knob}?" if knob else f"there are {', '.join(_KNOBS)}."
    return f"GradientFlow has no knob {name!r}: {hint}"

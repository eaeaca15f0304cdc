"""A desk: controls, the owner that they are bound to, and what was asked for by them."""

from __future__ import annotations

from typing import Any

import traitlets

from gradflow_widget.display.controls import Actions, Controls, Offer

REFUSED = (13, 10.0, 777, "lsuv", "learned", 0.5)


def same(*names: str) -> tuple[tuple[str, Any], ...]:
    """Menu entries that are called as their values are."""
    return tuple((name, name) for name in names)


COLD = {
    "depth": Offer(8),
    "activation": Offer("tanh", options=same("relu", "tanh")),
    "initialization": Offer("as given", options=same("as given", "he", "lsuv")),
    "normalization": Offer(
        "as given", options=(("as given", "as given"), ("none", None), ("batch", "batch"))
    ),
    "skips": Offer(
        None,
        options=(("off", None), ("1", 1.0), ("1/√(2L)", "1/sqrt(2L)"), ("learned", "learned")),
    ),
    "orthogonality": Offer(None, options=(("off", None), ("0.01", 0.01), ("hard", "hard"))),
}
HOT = {
    "optimizer_kind": Offer("as given", options=same("as given", "SGD", "Adam")),
    "weight_decay": Offer(0.0),
}


class Owner(traitlets.HasTraits):
    """What a GradientFlow is to its controls."""

    learning_rate = traitlets.Any(0.1)
    clip_norm = traitlets.Any(None)
    clip_value = traitlets.Any(None)
    batch_size = traitlets.Any(64)
    depth = traitlets.Any(8)
    activation = traitlets.Any("tanh")
    initialization = traitlets.Any("as given")
    normalization = traitlets.Any("as given")
    skips = traitlets.Any(None)
    orthogonality = traitlets.Any(None)
    optimizer_kind = traitlets.Any("as given")
    weight_decay = traitlets.Any(0.0)
    speed = traitlets.Any(1)
    loaded_preset = traitlets.Unicode("")
    playing = traitlets.Bool(False)

    @traitlets.validate(
        "learning_rate", "depth", "batch_size", "initialization", "skips", "weight_decay"
    )
    def _refuse(self, proposal: Any) -> Any:
        if proposal["value"] in REFUSED:
            raise ValueError(f"{proposal['value']} is refused")
        return proposal["value"]

    @traitlets.observe("clip_norm", "clip_value")
    def _only_one(self, change: Any) -> None:
        if change["new"] is not None:
            setattr(self, {"clip_norm": "clip_value"}.get(change["name"], "clip_norm"), None)


class Desk:
    """Controls with their owner, and what was asked for by them."""

    def __init__(self, owner: Owner | None = None, **given: Any) -> None:
        self.owner = owner or Owner()
        self.done: list[Any] = []
        self.errors: list[str] = []

        self.refuses = False

        def note(name: str) -> Any:
            def act(*named: str, **asked: Any) -> None:
                if self.refuses:
                    raise RuntimeError(f"{name} is refused")
                self.done.append(
                    (name, *named, *([asked] if asked else [])) if named or asked else name
                )

            return act

        self._note_preset = note("load preset")
        self.controls = Controls(
            self.owner,
            Actions(
                toggle=note("toggle"),
                step=note("step"),
                reset=note("reset"),
                new_seed=note("new seed"),
                look_at=note("look at"),
                failed=lambda error: self.errors.append(str(error)),
                load_preset=self._load_preset,
            ),
            **{
                "cold": COLD,
                "hot": HOT,
                "depths": (1, 64),
                "samples": 1000,
                "can_train": True,
                "layers": lambda: 64,
                **given,
            },
        )

    def _load_preset(self, name: str) -> None:
        self._note_preset(name)
        self.owner.loaded_preset = name

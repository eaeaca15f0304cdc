"""recipe: what a widget shows, as plain PyTorch code."""

from __future__ import annotations

import os

from .source_code.writing import recipe_of
from .widget import GradientFlow


def recipe(flow: GradientFlow, weights: str | os.PathLike[str] | None = None) -> str:
    """Return plain PyTorch code that makes the network and the optimizer of a widget.

    Structure and hyperparameters (learning rate, weight decay, clipping, batch size) are those
    of now, with every knob as it stands; weights are those that the present run began with, as
    after ``flow.reset()``, so that the first loss is the run's first loss. What was trained
    since is not in it. The text needs torch and whatever the model itself needs, not this
    package; it has been run once, and what it makes compared bit for bit.

    It defines ``model`` and ``optimizer``, ``loss_fn`` or ``objective`` where they can be
    written, and ``training_step``. Of a regime (adversarial examples, a curriculum, label noise,
    accumulation) it says only that the widget's steps have it besides.

    Args:
        flow: the widget; nothing of it is changed.
        weights: a file to save weights in where no seed gives them, as in a model that was
            given ready made; the text loads it. None keeps up to 64 kB of them in the text.

    Raises:
        TypeError: ``flow`` is no GradientFlow.
        ValueError: something can't be written as source, or there are too many weights for a
            text; one sentence says what.
        CannotTweak: the model can't be copied.
    """
    if not isinstance(flow, GradientFlow):
        raise TypeError(
            f"flow must be a GradientFlow, not {type(flow).__name__}: "
            "GradientFlow(model, optimizer) makes one."
        )
    session = flow._training
    settings = session.settings
    return recipe_of(
        session.model,
        session.optimizer,
        seed=settings.seed,
        beginning=session.model_at_the_beginning(),
        options=session.coming_options,
        loss_fn=flow._loss_fn,
        objective=flow._objective,
        clip_norm=settings.clip_norm,
        clip_value=settings.clip_value,
        batch_size=settings.batch_size,
        left_out=[name.replace("_", " ") for name in settings.regime.of_our_steps],
        weights=weights,
    )

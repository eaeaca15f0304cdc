"""Adversarial training: inputs moved against the network before the step is made on them.

FGSM: x + ε·sign(∂L/∂x) (Goodfellow, Shlens & Szegedy 2015). PGD: several smaller steps of the
same kind, each followed by the projection onto the L∞ ball of radius ε around x, from a random
point of it (Madry et al. 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...measurement.loss_modules import modules_of
from ...measurement.single import checked_loss, everything_kept
from ..objective import Objective
from ..randomness import RandomState
from .regime import Attack


def attackable_inputs(batch: Any) -> torch.Tensor:
    """Return the inputs of a batch that an attack can move: the batch itself or its first part.

    Raises:
        TypeError: they are no tensor, or whole numbers such as tokens, between which there is
            no small step.
    """
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(inputs, torch.Tensor):
        raise TypeError(
            "adversarial training moves the inputs of a batch (inputs, targets), but here they "
            f"are {type(inputs).__name__}: give batches whose first part is a tensor."
        )
    if not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise TypeError(
            f"adversarial training moves inputs by small steps, but here they are {kind}: "
            "give floating-point inputs, or switch it off."
        )
    return inputs


def perturbed(
    model: nn.Module,
    objective: Objective,
    batch: Any,
    attack: Attack,
    *,
    origin: str = "objective",
) -> Any:
    """Return ``batch`` with inputs moved, by at most ε in each number, so that the loss rises.

    The model is attacked as the step will find it: in the mode that it is in, and with the
    dropout that the step will draw. Only ∂L/∂inputs is asked for; weights, ``.grad``, buffers
    (BatchNorm's running statistics) and the random state stay as they are, but for one number
    that a random start draws. Hooks see these passes: a probe should be ``looking_away()``.

    An input whose gradient is NaN stays where it is, so that the step itself shows the NaN.

    Args:
        model: the network under attack.
        objective: ``objective(model, batch)`` is the scalar to raise.
        batch: inputs, or a tuple or list of inputs, targets, and whatever else.
        attack: the method and its numbers.
        origin: the name of the argument that ``objective`` came from, for error messages.

    Raises:
        TypeError: the inputs can't be moved, or ``objective`` returns no tensor.
        ValueError: the loss is no scalar, or does not depend on the inputs.
    """
    start = attackable_inputs(batch).detach()
    lowest, highest = start - attack.epsilon, start + attack.epsilon
    moved = start
    if attack.random_start:
        # From the run's own random state, which no step need have moved since the last attack.
        seed = int(torch.randint(2**62, (), device="cpu"))
        generator = torch.Generator(start.device).manual_seed(seed)
        within = torch.rand(start.shape, generator=generator, device=start.device)
        moved = (start + attack.epsilon * (2 * within - 1).to(start.dtype)).clamp(lowest, highest)
    kept = everything_kept(model, *modules_of(objective))
    with torch.inference_mode(False), torch.enable_grad(), kept:
        begins_at = RandomState(every_source=False)
        for _ in range(attack.steps):
            begins_at.put()
            slope = _input_gradient(model, objective, batch, moved, origin)
            moved = (moved + attack.step_size * slope.nan_to_num(0.0).sign()).clamp(lowest, highest)
    return _with_inputs(batch, moved)


def _input_gradient(
    model: nn.Module, objective: Objective, batch: Any, inputs: torch.Tensor, origin: str
) -> torch.Tensor:
    leaf = inputs.clone().requires_grad_(True)
    # A copy, because a network may work in place on what it is given.
    loss = checked_loss(objective(model, _with_inputs(batch, leaf.clone())), origin)
    (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "adversarial training needs a loss that depends on the batch's inputs: this one does "
            "not, so there is no direction to move them in."
        )
    return gradient


def _with_inputs(batch: Any, inputs: torch.Tensor) -> Any:
    if isinstance(batch, torch.Tensor):
        return inputs
    parts = [inputs, *batch[1:]]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)

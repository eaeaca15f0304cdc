"""The first model of a curriculum: trained on all data, it tells easy samples from hard ones."""

from __future__ import annotations

from torch import nn
from torch.optim import LBFGS, Optimizer

from ...tweaks.copying import copied
from ...tweaks.optimizer import rebuilt_optimizer
from ..batches import Batches, on_device
from ..objective import Objective
from ..randomness import RandomStream
from .accumulation import backward_over


def first_model(
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    batches: Batches,
    *,
    steps: int,
    batch_size: int | None,
    seed: int,
) -> nn.Module:
    """Return a copy of ``model`` that has been trained for ``steps`` steps.

    The copy has an optimizer like ``optimizer`` and draws from the random state of ``seed``;
    the model, its optimizer and everybody's random state stay as they are. The batches are at
    their start of ``seed`` afterwards.

    Raises:
        CannotTweak: the model can't be copied.
        Exception: what the model, the objective or the data raised.
    """
    twin = copied(model)
    stepper = rebuilt_optimizer(optimizer, model, twin)
    device = next(twin.parameters()).device
    batches.restart(seed)
    with RandomStream(seed, every_source=True)():
        for _ in range(steps):
            batch = on_device(batches.next(batch_size), device)

            def closure(batch: object = batch) -> object:
                stepper.zero_grad(set_to_none=True)
                return backward_over(lambda part: objective(twin, part), [batch])

            if isinstance(stepper, LBFGS):
                stepper.step(closure)  # type: ignore[no-untyped-call]
            else:
                closure()
                stepper.step()
    batches.restart(seed)
    return twin

"""take_reading: one forward and backward pass on a model that stays as it was."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils.hooks import RemovableHandle

from ..deep_copies import deep_copy
from ..random_generators import between_steps, python_and_numpy_kept
from .attributes import Contents, Known, have_room
from .capture import Capture
from .eager import uncompiled
from .layer_notes import NotePlan, NoteTaker
from .layers import find_layers, in_forward_order, with_ways
from .loss_modules import modules_of
from .making_way import nobody_trains
from .norms import exact_norms, joined_norms, largest_magnitudes, stacked
from .reading import FloatArray, Reading

LossFunction = Callable[[Any, Any], torch.Tensor]


@contextmanager
def everything_kept(model: nn.Module, *others: nn.Module) -> Iterator[None]:
    """Put back on leaving, bit for bit, what a forward pass may change.

    Buffers are restored in place, and as the same objects where the pass replaced them; so are
    plain attributes such as counters, weights, whether they ask for a gradient, train or eval
    mode, and the random state. Where there is no room for a copy of all weights, only those of
    embeddings that renormalise them are kept. Within the ``with`` there is no gradient; on
    leaving each parameter has again the one that it had. A graph made before, such as that of a
    loss whose backward pass is yet to come, can be gone back through as if nothing had been.

    Args:
        model: what is passed through.
        *others: what else has a part in the pass, such as a loss with a running centre.
    """
    modules = list(dict.fromkeys(part for one in (model, *others) for part in one.modules()))
    parameters = [one for module in modules for one in module.parameters(recurse=False)]
    known = Known()
    contents = Contents(modules, every_weight=have_room(modules), known=known)
    gradients = [(parameter, parameter.grad) for parameter in parameters]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with (
        ExitStack() as versions,
        between_steps(),
        torch.random.fork_rng(devices=[d.index for d in devices]),
        python_and_numpy_kept(),
    ):
        # A graph that has saved a tensor, as BatchNorm's has its running mean, would refuse one
        # of another version, though every value is the same again.
        for one in known.tensors:
            if not one.is_inference():  # those have none
                versions.enter_context(_unsafe_preserve_version_counter(one))
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            contents.put_back()
            for parameter, gradient in gradients:
                parameter.grad = gradient


def check_function(name: str, function: object) -> None:
    """Raise TypeError where ``function``, the argument ``name``, is nothing to compute a loss."""
    if isinstance(function, type):
        raise TypeError(
            f"{name} must be a function, not the class {function.__name__}: "
            f"give an instance, {function.__name__}()."
        )
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {type(function).__name__}.")


def checked_loss(loss: object, origin: str) -> torch.Tensor:
    """Return ``loss`` as a scalar with a graph.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is no real scalar, or has no graph to go back through.
    """
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"{origin} must return a scalar tensor, not {type(loss).__name__}: "
            "return the loss itself."
        )
    if loss.numel() != 1:
        raise ValueError(
            f"{origin} must return a scalar, not a tensor of shape {tuple(loss.shape)}: "
            "reduce it, for instance with .mean()."
        )
    if loss.is_complex():
        raise ValueError(
            f"{origin} must return a real scalar, not a complex one: take its real part or its "
            "magnitude."
        )
    if not loss.requires_grad:
        raise ValueError(
            f"{origin} returned a loss without a graph: compute it from the model's output "
            "without .detach(), .item() or torch.no_grad()."
        )
    return loss.reshape(())


def take_reading(model: nn.Module, loss_fn: LossFunction, inputs: Any, targets: Any) -> Reading:
    """Do one forward and backward pass and return a full Reading (without update ratio).

    Nothing of the model changes: weights, ``.grad``, buffers such as BatchNorm's running
    statistics, train or eval mode and the random state are as before, and so is what ``loss_fn``
    holds where it is a module. A widget that trains it on
    a thread of its own makes way for so long. What torch.compile has compiled runs as it is
    written, for compiling it anew would take longer than the pass.

    Args:
        model: the module to read, in the mode that it is in.
        loss_fn: ``loss_fn(model(inputs), targets)`` is the scalar to differentiate.
        inputs: what the model takes.
        targets: what ``loss_fn`` takes.

    Raises:
        TypeError, ValueError: no usable model, one that takes more than ``inputs``, or ``loss_fn``
            returns no scalar with a graph.
    """
    check_function("loss_fn", loss_fn)
    with nobody_trains(model):
        return read_objective(
            model,
            functools.partial(_loss_of_pair, loss_fn),
            (inputs, targets),
            origin="loss_fn",
        )


def _loss_of_pair(loss_fn: LossFunction, model: nn.Module, pair: tuple[Any, Any]) -> torch.Tensor:
    inputs, targets = pair
    instead = "give a module that calls it with all that it needs."
    return loss_fn(outputs_of(model, inputs, instead), targets)


def outputs_of(
    model: nn.Module, inputs: Any, instead: str, refusal: type[Exception] = TypeError
) -> Any:
    """Return ``model(inputs)``.

    Args:
        model: what is called.
        inputs: with what.
        instead: what would do for a model that takes more than that.
        refusal: what to raise then.

    Raises:
        Exception: ``refusal``, by the parameters of the model's forward; or what that raised.
    """
    try:
        return model(inputs)
    except TypeError as error:
        try:
            inspect.signature(model.forward).bind(inputs)
        except ValueError:  # some in C tell nothing
            raise error from None
        except TypeError as lacks:
            told = f"model can't be called with inputs alone ({lacks}): {instead}"
            raise refusal(told) from error
        raise


def read_objective(
    model: nn.Module,
    objective: Callable[[nn.Module, Any], torch.Tensor],
    batch: Any,
    *,
    origin: str = "objective",
) -> Reading:
    """Do as :func:`take_reading` does, for ``objective(model, batch)``."""
    check_function(origin, objective)
    try:
        return _read(model, objective, batch, origin, _differentiated)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
    # Reentrant checkpoints can be gone back through by backward() alone, which leaves its
    # gradients on the model: on a copy they are in nobody's way.
    return _read(deep_copy(model, {}), objective, batch, origin, _gone_back_through)


def _differentiated(
    loss: torch.Tensor, asking: Sequence[nn.Parameter]
) -> Sequence[torch.Tensor | None]:
    return torch.autograd.grad(loss, asking, allow_unused=True)


def _gone_back_through(
    loss: torch.Tensor, asking: Sequence[nn.Parameter]
) -> Sequence[torch.Tensor | None]:
    for parameter in asking:
        parameter.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad for parameter in asking]


def _read(
    model: nn.Module,
    objective: Callable[[nn.Module, Any], torch.Tensor],
    batch: Any,
    origin: str,
    gradients_of: Callable[[torch.Tensor, Sequence[nn.Parameter]], Sequence[torch.Tensor | None]],
) -> Reading:
    parts = find_layers(model)
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not asking:
        raise ValueError(
            "model has only frozen parameters: let at least one ask for a gradient with "
            ".requires_grad_(True)."
        )
    called: dict[nn.Module, None] = {}
    order: list[RemovableHandle] = []
    capture, notes = Capture(model, parts), NoteTaker(model, parts)
    try:
        for part in parts:
            note_call = part.module.register_forward_pre_hook(
                lambda module, _: called.setdefault(module)
            )
            order.append(note_call)
        capture.open()
        notes.open()
        with (
            uncompiled(),
            torch.inference_mode(False),
            torch.enable_grad(),
            everything_kept(model, *modules_of(objective)),
        ):
            loss = checked_loss(objective(model, batch), origin)
            capture.begin_backward()
            # A forward pass may freeze what it has seen enough of.
            asking = [parameter for parameter in asking if parameter.requires_grad]
            gradients = gradients_of(loss, asking)
            capture.end_backward(counts=True)
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f"{origin} returned a loss in which no parameter of the model has a part: "
                "compute it from the model's output."
            )
        ordered = in_forward_order(parts, called)
        collected = capture.collect(ordered)
        noted = notes.take(ordered)
    finally:
        for handle in order:
            handle.remove()
        capture.close()
        notes.close()

    gradient_of = {id(p): g for p, g in zip(asking, gradients, strict=True) if g is not None}
    every = list(gradient_of.values())
    norm_of = dict(zip(gradient_of, map(float, exact_norms(every)), strict=True))
    count = len(ordered)
    norms, largest, weight_norms = np.full((3, count), np.nan)
    missing, frozen, spoilt = np.zeros((3, count), dtype=np.bool_)
    for index, part in enumerate(ordered):
        here = [id(w) for w in part.weights if id(w) in gradient_of]
        weight_norms[index] = _joined(map(float, exact_norms([w.detach() for w in part.weights])))
        missing[index] = not here
        frozen[index] = not here and not any(w.requires_grad for w in part.weights)
        spoilt[index] = not all(math.isfinite(norm_of.get(id(p), 0.0)) for p in part.parameters)
        if here:
            norms[index] = _joined(norm_of[w] for w in here)
            magnitudes = largest_magnitudes([gradient_of[w] for w in here])
            largest[index] = max(map(float, magnitudes), key=_nan_first)
    columns = collected.columns(_on_cpu(collected.norms), _on_cpu(collected.counts))
    through_time = [norm for norms in collected.through_time.vectors for norm in norms]
    return Reading(
        step=0,
        loss=float(loss.detach()),
        learning_rate=math.nan,
        learning_rates=(),
        described=with_ways([part.layer for part in ordered], collected.ways),
        weight_grad_norm=norms,
        total_norm=_joined(norm_of.values()),
        clip_scale=1.0,
        unclipped_grad_norm=norms,
        missing=missing,
        frozen=frozen,
        spoilt=spoilt if spoilt.any() else None,
        weight_grad_max=largest,
        weight_norm=weight_norms,
        signal_grad_norm=columns[0],
        activation_rms=columns[1],
        dead_fraction=columns[2],
        saturated_fraction=columns[3],
        signal_grad_through_time=collected.through_time.arrays(_on_cpu(through_time)),
        layer_notes=None if noted is None else noted.arranged(_notes_on_cpu(noted)),
    )


def _on_cpu(scalars: Sequence[torch.Tensor | float]) -> FloatArray:
    return stacked(scalars).cpu().numpy().astype(np.float64) if scalars else np.zeros(0)


def _notes_on_cpu(plan: NotePlan) -> FloatArray:
    vector = plan.vector()
    return np.zeros(0) if vector is None else vector.cpu().numpy().astype(np.float64)


def _joined(norms: Iterable[float]) -> float:
    return float(joined_norms(np.array(list(norms))))


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value

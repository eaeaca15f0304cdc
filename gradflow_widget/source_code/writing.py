"""recipe_of: a model and its optimizer as one text of plain PyTorch, proved by running it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from .comparing import check_alike, check_same_groups, missing_weights, state_of
from .definitions import Definitions
from .drawn_weights import drawn_text
from .expressions import Expressions
from .layers import is_torch_class, layer_call, plain_class
from .optimizers import optimizer_text, plain_groups
from .patching import Patching, cast
from .penalties import penalty_text
from .statements import statements_text
from .stored_weights import weights_text
from .values import Unwritable
from .workbench import Workbench, run_alone


def recipe_of(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    seed: int = 0,
    beginning: nn.Module | None = None,
    options: Sequence[Mapping[str, Any]] | None = None,
    loss_fn: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    batch_size: int | None = None,
    left_out: Sequence[str] = (),
    weights: str | os.PathLike[str] | None = None,
) -> str:
    """Return plain PyTorch code that makes ``model`` and ``optimizer``.

    The text defines ``model`` and ``optimizer``, and where they are known ``loss_fn`` or
    ``objective``, ``penalty`` and ``training_step``. It has been run before it is returned, and
    what it made compared: structure, weights bit for bit, the optimizer's groups. Nothing given
    is changed; the random state stays.

    Args:
        model: the model; read, never called.
        optimizer: an optimizer of its parameters.
        seed: what the text seeds torch with, before the model is made and before the first step.
        beginning: a copy of the model with the weights that the text is to give; None takes
            the present ones. What the seed does not give is drawn or stored by the text.
        options: for each parameter group, what takes the place of its own learning rate and the
            like.
        loss_fn: as GradientFlow takes it.
        objective: as GradientFlow takes it.
        clip_norm: the norm that a step clips its gradients to.
        clip_value: the magnitude that a step clips each gradient to.
        batch_size: rows of a batch, where the widget draws them; for a comment.
        left_out: what else the steps do, in words; the text says that it does not.
        weights: a file to save weights in; None keeps up to 64 kB of them in the text.

    Raises:
        ValueError: something can't be written as source, or more than 64 kB of weights come
            from no seed and ``weights`` is None; one sentence says which.
    """
    try:
        first = model if beginning is None else beginning
        return _Recipe(model, optimizer, seed, first, options).text(
            loss_fn, objective, clip_norm, clip_value, batch_size, left_out, weights
        )
    except Unwritable as error:
        raise ValueError(f"This model has no recipe: {error}.") from error


class _Recipe:
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        seed: int,
        beginning: nn.Module,
        options: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        # The optimizer holds the parameters of this one.
        self.held = model
        self.model, self.optimizer, self.seed = beginning, optimizer, seed
        self.state = {name: tensor.clone() for name, tensor in state_of(beginning).items()}
        self.groups = [] if optimizer is None else plain_groups(optimizer, options)
        self.definitions = Definitions()

    def text(
        self,
        loss_fn: Callable[..., Any] | None,
        objective: Callable[..., Any] | None,
        clip_norm: float | None,
        clip_value: float | None,
        batch_size: int | None,
        left_out: Sequence[str],
        weights: str | os.PathLike[str] | None,
    ) -> str:
        making = self._making()
        refer = self.definitions.refer
        penalty = penalty_text(self.model, refer)
        step = self._step(loss_fn, objective, clip_norm, clip_value, batch_size, bool(penalty))
        if left_out and step.function:
            step.after = f"# The widget's steps have besides: {', '.join(left_out)}.\n"
        statements = "".join(f"\n{part}" for part in (self._optimizer(), *step.before) if part)
        functions = "".join(f"\n\n{part}" for part in (penalty, step.function) if part)
        built, state = self._run(f"{self.definitions.text}{making}")
        check_alike(self.model, built["model"])
        drawn, stored = self._setting(missing_weights(self.state, built["model"]), state, weights)
        if weights is not None:
            drawn, stored = f"{drawn}{stored}", ""
        end = "".join(f"\n\n{part}" for part in (stored, step.after) if part)
        text = f"{self.definitions.text}{making}{drawn}{statements}{functions}{end}"
        self._prove(text)
        return text

    def _making(self) -> str:
        definitions = self.definitions
        workbench = Workbench(definitions)
        expressions = Expressions(definitions, workbench, self.model)
        expression = expressions.of(self.model)
        workbench.run(f"model = {expression}")
        patching = Patching(expressions, workbench, definitions.refer)
        patching.mend(self.model)
        mending = f"{statements_text(patching.statements)}{cast(self.model)}"
        return f"torch.manual_seed({self.seed})\nmodel = {expression}\n{mending}"

    def _setting(
        self, missing: dict[str, Tensor], state: Tensor, file: str | os.PathLike[str] | None
    ) -> tuple[str, str]:
        seeds = (self.seed, 0)
        drawn, names = drawn_text(self.model, missing, seeds, state, self.definitions)
        left = {name: tensor for name, tensor in missing.items() if name not in names}
        stored, imports = weights_text(left, self.model, file)
        self.definitions.imports |= imports
        if file is not None and stored:
            stored = f"\n{stored}"
        return drawn and f"\n{drawn}", stored

    def _optimizer(self) -> str:
        if self.optimizer is None:
            return ""
        return optimizer_text(self.optimizer, self.groups, self.held, self.definitions.refer)

    def _step(
        self,
        loss_fn: Callable[..., Any] | None,
        objective: Callable[..., Any] | None,
        clip_norm: float | None,
        clip_value: float | None,
        batch_size: int | None,
        penalized: bool,
    ) -> _Step:
        step = _Step()
        given = loss_fn if loss_fn is not None else objective
        if given is None:
            return step
        name = "loss_fn" if loss_fn is not None else "objective"
        try:
            text = (
                self._loss_module(given)
                if isinstance(given, nn.Module)
                else self.definitions.refer(given)
            )
        except Unwritable as error:
            step.after = f"# {name} is left out: {error}.\n"
            return step
        if text != name:
            step.before.append(f"{name} = {text}\n")
        if loss_fn is not None:
            arguments, loss = "inputs, targets", "loss_fn(model(inputs), targets)"
        else:
            arguments, loss = "batch", "objective(model, batch)"
        if _may_draw(self.model):
            step.before.append(f"torch.manual_seed({self.seed})  # for dropout in the first step\n")
        if self.optimizer is None:
            return step
        penalty = " + penalty(model)" if penalized else ""
        clip = ""
        clipped = "model.parameters()"
        held = [one for group in self.optimizer.param_groups for one in group["params"]]
        if {id(one) for one in held} != {id(one) for one in self.held.parameters()}:
            clipped = '[p for group in optimizer.param_groups for p in group["params"]]'
        if clip_norm is not None:
            clip = f"nn.utils.clip_grad_norm_({clipped}, {clip_norm!r})"
        elif clip_value is not None:
            clip = f"nn.utils.clip_grad_value_({clipped}, {clip_value!r})"
        step.function = _training_step(
            arguments, loss + penalty, clip, isinstance(self.optimizer, LBFGS)
        )
        if batch_size is not None and loss_fn is not None:
            step.after = (
                "# The widget's first step, where inputs and targets hold all samples:\n"
                f"# generator = torch.Generator().manual_seed({self.seed})\n"
                f"# rows = torch.randperm(len(inputs), generator=generator)[:{batch_size}]\n"
                "# training_step(inputs[rows], targets[rows])\n"
            )
        return step

    def _loss_module(self, loss_fn: nn.Module) -> str:
        tensors = [*loss_fn.parameters(), *loss_fn.buffers()]
        if is_torch_class(type(loss_fn)) and not tensors:
            return layer_call(loss_fn, self.definitions.refer, self._loss_module)
        workbench = Workbench(self.definitions)
        text = Expressions(self.definitions, workbench, loss_fn).of(loss_fn)
        try:
            built = workbench.evaluate(text)
        except Exception as error:
            raise Unwritable(f"its loss function can't be made anew ({_line(error)})") from error
        if missing_weights(state_of(loss_fn), built):
            raise Unwritable("its loss function has weights of its own")
        return text

    def _prove(self, text: str) -> None:
        package = __name__.partition(".")[0]
        if package in text:
            raise Unwritable(f"the code for it mentions {package}")
        made, _ = self._run(text)
        check_alike(self.model, made["model"])
        differing = missing_weights(self.state, made["model"])
        if differing:
            raise Unwritable(f"its {next(iter(differing))} does not come out the same")
        if self.optimizer is not None:
            check_same_groups(self.groups, plain_groups(made["optimizer"]))

    def _run(self, text: str) -> tuple[dict[str, Any], Tensor]:
        try:
            return run_alone(text)
        except Exception as error:
            raise Unwritable(
                f"the code for it does not run ({type(error).__name__}: {_line(error)})"
            ) from error


class _Step:
    """What the text says on training: statements, a function, and a comment at the end."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.function = ""
        self.after = ""


def _line(error: Exception) -> str:
    """Return in one line what an exception says."""
    return " ".join(str(error).split())


def _may_draw(model: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers."""
    for module in model.modules():
        cls = plain_class(module)
        if not cls.__module__.startswith(("torch.", "gradflow_widget.")):
            return True
        if isinstance(module, nn.RReLU) or any(getattr(module, key, 0) for key in ("dropout", "p")):
            return True
    return False


def _training_step(arguments: str, loss: str, clip: str, has_closure: bool) -> str:
    clipping = f"    {clip}\n" if clip else ""
    if has_closure:
        inner = f"        {clip}\n" if clip else ""
        return (
            f"def training_step({arguments}):\n"
            "    def closure():\n"
            "        optimizer.zero_grad()\n"
            f"        loss = {loss}\n"
            "        loss.backward()\n"
            f"{inner}"
            "        return loss\n\n"
            "    return optimizer.step(closure)\n"
        )
    return (
        f"def training_step({arguments}):\n"
        "    optimizer.zero_grad()\n"
        f"    loss = {loss}\n"
        "    loss.backward()\n"
        f"{clipping}"
        "    optimizer.step()\n"
        "    return loss\n"
    )

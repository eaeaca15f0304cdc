"""with_skips: repeated blocks wrapped as x + scale·f(x)."""

from __future__ import annotations

import ast
import math
from typing import Any, cast

import torch
from torch import fx, nn

from ..checked import as_float
from ..deep_copies import refer_to_new
from ..quoting import quoted
from .blocks import Run, find_runs, shown_path
from .copying import copied, refuse_lazy
from .errors import CannotTweak
from .lineage import descend
from .outer_skips import has_skips_around, sums_in
from .record import forget, record, value_of
from .sequence import methods_of, syntax_of
from .shapes import change_of_shape
from .stand_in import StandIn
from .tracing import is_torch_layer, traced

DEPTH_SCALE, LEARNED = "1/sqrt(2L)", "learned"


class Residual(StandIn):
    """A block and the skip connection around it: x + scale·f(x).

    With f that keeps the variance, gradients grow by √(1 + scale²) a block toward the input
    (theory.md, "Normalisation and skips"). Of a tuple, the first element is skipped to.
    Attributes of a block that is a single module are found here too.

    Args:
        body: f, one module after another.
        scale: a number, or None to learn it from 0 (ReZero, Bachlechner et al. 2021).
    """

    def __init__(self, body: nn.Module, scale: float | None) -> None:
        super().__init__()
        self.body = body
        self.training = body.training
        self.scale: float | nn.Parameter
        self.set_scale(scale)

    @property
    def is_learned(self) -> bool:
        """Whether the scale is a parameter."""
        return isinstance(self.scale, nn.Parameter)

    def set_scale(self, scale: float | None) -> None:
        """Set the scale to a number, or None to learn it from 0; a learned one is kept then."""
        if scale is None and self._parameters.get("scale") is not None:
            return
        self._parameters.pop("scale", None)
        self.__dict__.pop("scale", None)
        if scale is not None:
            self.scale = scale
            return
        like = next(
            (p for p in self.body.parameters() if p.is_floating_point()),
            torch.zeros((), device="cpu"),
        )
        self.scale = nn.Parameter(torch.zeros((), dtype=like.dtype, device=like.device))

    def reset_parameters(self) -> None:
        """Set a learned scale back to 0."""
        if isinstance(self.scale, nn.Parameter):
            nn.init.zeros_(self.scale)

    def noted_numbers(self) -> dict[str, float | torch.Tensor]:
        """Return what is worth telling beside its gradient: the scale."""
        return {"skip scale": self.scale}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return x + scale·f(x), where x is the first argument.

        Raises:
            RuntimeError: f changes the shape of x.
        """
        x = args[0] if args else next(iter(kwargs.values()))
        out = self.body(*args, **kwargs)
        first = out[0] if isinstance(out, tuple | list) else out
        # What torch.fx traces has no shape yet.
        is_traced = isinstance(x, fx.Proxy) or isinstance(first, fx.Proxy)
        if not is_traced and first.shape != x.shape:
            raise RuntimeError(
                f"A skip connection needs a block that keeps its input's shape, but here "
                f"{tuple(x.shape)} becomes {tuple(first.shape)}: take the skips off."
            )
        total = x + self.scale * first
        return type(out)([total, *out[1:]]) if isinstance(out, tuple | list) else total

    def _other(self) -> nn.Module:
        # Not through the class's own, which would ask here for what is not there yet.
        return cast(nn.Module, nn.Module.__getattr__(self, "body"))

    def extra_repr(self) -> str:
        """Say the scale."""
        return "scale learned from 0" if self.is_learned else f"scale={self.scale:g}"


class SkippedBlock(nn.Sequential):
    """The modules of one block, and the names that they have without the skip."""

    def __init__(self, named: list[tuple[str, nn.Module]]) -> None:
        # Numbered from 0: blocks whose names differ would not be seen to repeat.
        super().__init__(*(module for _, module in named))
        self.names = [name for name, _ in named]
        self.training = named[0][1].training


class TakenPlace(nn.Identity):
    """Keeps the length of a ModuleList, over which a loop may count, where a block is one."""


def with_skips(model: nn.Module, scale: float | str | None) -> nn.Module:
    """Return a copy of ``model`` whose repeated blocks compute x + scale·f(x).

    The blocks are those of ``blocks.find_runs`` that keep the shape of their input; L is how
    many of them are wrapped.

    Args:
        model: the model, which is left as it is.
        scale: a number; ``"1/sqrt(2L)"``, with which gradients grow by less than √e in all,
            and which ``with_depth`` adapts to the new L;
            ``"learned"``, a parameter for each block that starts at exactly 0; None takes
            the skips off that were put in before, and only those.

    Raises:
        ValueError: the scale is none of these.
        TypeError: ``model`` is no module.
        CannotTweak: the model repeats no block, or its blocks change their input's shape or
            have a skip connection inside or around them.
    """
    _checked_scale(scale)
    twin = copied(model)
    if scale is None:
        _unwrap(twin)
        return forget(twin, "skips")
    refuse_lazy(twin)
    # From the end: a wrapped block of several modules moves all that stand behind it.
    for run in sorted(wrappable_runs(twin), key=lambda run: run.start, reverse=True):
        _wrap(run)
    refer_to_new(twin, [(skip.body, skip) for skip in _skips_of(twin)])
    return _scaled(twin, scale)


def rescale_skips(model: nn.Module) -> None:
    """Make the skips of ``model``, in place, fit the number of blocks that it has now."""
    scale = value_of(model, "skips")
    if scale is not None:
        _scaled(model, scale)


def _skips_of(model: nn.Module) -> list[Residual]:
    return [module for module in model.modules() if isinstance(module, Residual)]


def _scaled(model: nn.Module, scale: Any) -> nn.Module:
    blocks = _skips_of(model)
    for block in blocks:
        block.set_scale(_number(scale, len(blocks)))
    shown = {LEARNED: "α", DEPTH_SCALE: f"1/√(2·{len(blocks)})"}.get(str(scale), f"{scale}")
    learned = ", α learned from 0" if scale == LEARNED else ""
    sentence = f"Skips: {len(blocks)} blocks compute x + {shown}·f(x){learned}."
    return record(model, "skips", sentence, scale)


def check_skippable(model: nn.Module) -> None:
    """Raise where ``with_skips`` would find no block to wrap; ``model`` is untouched.

    Raises:
        CannotTweak: as ``with_skips`` does.
    """
    refuse_lazy(model)
    wrappable_runs(model)


def _checked_scale(scale: object) -> None:
    is_known = scale is None or (isinstance(scale, str) and scale in (DEPTH_SCALE, LEARNED))
    if not is_known and not math.isfinite(as_float(scale)):
        raise ValueError(
            f"scale {quoted(scale)} is unknown: give a number, {DEPTH_SCALE!r}, {LEARNED!r} "
            "or None."
        )


def _number(scale: float | str, blocks: int) -> float | None:
    if scale == LEARNED:
        return None
    return 1 / math.sqrt(2 * blocks) if isinstance(scale, str) else float(scale)


def wrappable_runs(model: nn.Module) -> list[Run]:
    """Return the runs of blocks around which skips can still go; none where they do already.

    Raises:
        CannotTweak: there is no such run.
    """
    if any(isinstance(module, Residual) for module in model.modules()):
        return []
    runs = find_runs(model)
    if not runs and any(isinstance(m, nn.RNNBase) and m.num_layers > 1 for m in model.modules()):
        raise CannotTweak(
            "The layers of an nn.RNN, nn.LSTM or nn.GRU run within one module, where no skip "
            "connection can go around each: skips need single ones in a ModuleList."
        )
    if not runs:
        raise CannotTweak("The model repeats no block that a skip connection could go around.")
    reasons = {id(run): _obstacle(model, run) for run in runs}
    fitting = [run for run in runs if not reasons[id(run)]]
    if not fitting:
        raise CannotTweak(reasons[id(runs[0])])
    return fitting


def _obstacle(model: nn.Module, run: Run) -> str:
    """Return why the blocks of a run can't be wrapped, as a sentence; "" if they can."""
    where = f"of {shown_path(run.at) or 'the model'}"
    for block in run.blocks[:1]:
        inside = [part for module in block for part in module.modules()]
        if any(_has_skip(part) for part in inside):
            return (
                f"The repeated blocks {where} ({type(block[0]).__name__}) have a skip connection "
                "inside already, and a second one around it would double it."
            )
        change = change_of_shape(block)
        if change:
            return (
                f"The repeated blocks {where} change the shape of their input ({change}), so a "
                "skip connection does not fit around them."
            )
    seen: set[int] = set()
    for block in run.blocks:
        if any(id(module) in seen for module in block):
            return (
                f"The repeated blocks {where} are one and the same module several times, so "
                "there is no room for a skip connection around each."
            )
        seen |= {id(module) for module in block}
    if has_skips_around(model, run):
        return (
            f"Around the repeated blocks {where} ({type(run.blocks[0][0]).__name__}) the model has "
            "a skip connection already, and a second one would double it."
        )
    return ""


def _has_skip(module: nn.Module) -> bool:
    """Whether forward adds two signals that both come from its input."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer | Residual):
        return True
    if is_torch_layer(module) or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    if next(module.children(), None) is None:
        return False
    graph, _ = traced(module, lambda part: next(part.children(), None) is None)
    if graph is not None:
        return bool(sums_in(graph))
    sources = (
        syntax_of(function) for name, function in methods_of(type(module)) if name == "forward"
    )
    return any(_adds_names(source) for source in sources if source is not None)


def _adds_names(function: ast.FunctionDef) -> bool:
    """Whether the source adds a plain variable to something that is no weight and no number."""

    def is_signal(term: ast.AST) -> bool:
        return isinstance(term, ast.Name | ast.Call)

    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            terms: tuple[ast.AST, ast.AST] = (node.left, node.right)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            terms = (node.target, node.value)
        else:
            continue
        if any(isinstance(term, ast.Name) for term in terms) and all(map(is_signal, terms)):
            return True
    return False


def _wrap(run: Run) -> None:
    items = list(run.container._modules.items())
    wrapped = items[: run.start]
    for first in range(run.start, run.stop, run.period):
        block = [(n, m) for n, m in items[first : first + run.period] if m is not None]
        name, template = block[0]
        residual = Residual(template if run.period == 1 else SkippedBlock(block), 1.0)
        descend(residual, template, "skip")
        wrapped.append((name, residual))
        if isinstance(run.container, nn.ModuleList):
            wrapped += [(inner, TakenPlace()) for inner, _ in block[1:]]
    _set_modules(run.container, [*wrapped, *items[run.stop :]])


def _unwrap(model: nn.Module) -> None:
    pairs = [(skip, skip.body) for skip in _skips_of(model)]
    for container in list(model.modules()):
        items = list(container._modules.items())
        if not any(isinstance(module, Residual) for _, module in items):
            continue
        plain: list[tuple[str, nn.Module | None]] = []
        for name, module in items:
            if isinstance(module, Residual) and isinstance(module.body, SkippedBlock):
                plain += zip(module.body.names, module.body, strict=True)
            elif isinstance(module, Residual):
                plain.append((name, module.body))
            elif not isinstance(module, TakenPlace):
                plain.append((name, module))
        _set_modules(container, plain)
    refer_to_new(model, pairs)


def _set_modules(container: nn.Module, items: list[tuple[str, nn.Module | None]]) -> None:
    numbered = all(name.isdigit() for name, _ in items)
    modules: dict[str, nn.Module | None] = {}
    for index, (name, module) in enumerate(items):
        free = str(index) if numbered else name
        while free in modules:
            # A block that was added since has the names of the one it was built after.
            free += "_"
        modules[free] = module
    container._modules.clear()
    container._modules.update(modules)

"""with_orthogonality: weights drawn toward orthogonal ones by a penalty, or kept orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ..checked import as_float
from ..quoting import quoted
from .computed import compute, computed_as, uncompute
from .copying import copied, refuse_lazy
from .errors import CannotTweak
from .full_rank import completed, is_alike
from .record import forget, record
from .weights import Weight, computed_by_a_hook, is_gpt_conv1d, weights_of

HARD = "hard"
# Torch's own choice for matrices that are not square keeps their signs in what is trained, where
# a single step with weight decay makes the whole weight 0; for square ones it takes ten times as
# long as this one.
MAP = "cayley"
_STRENGTH = "_gradflow_orthogonality"
_NONE = (
    "The model has no weight that could be made orthogonal: that takes a {} layer with a weight "
    "of its own."
)


class OrthogonalKernel(nn.Module):
    """Keeps the matrix from all inputs under a convolution's kernel to its outputs orthogonal."""

    def __init__(self, shape: torch.Size, like: Tensor) -> None:
        super().__init__()
        matrix = nn.Linear(math.prod(shape[1:]), shape[0], bias=False, device=like.device)
        matrix = matrix.to(like.dtype)
        parametrizations.orthogonal(matrix, orthogonal_map=MAP)
        # torch's own map takes the last two dimensions, which are those of the kernel.
        self.of_matrix = matrix.get_submodule("parametrizations.weight.0")

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the orthogonal kernel, of the same shape."""
        orthogonal: Tensor = self.of_matrix(kernel.flatten(1))
        return orthogonal.view_as(kernel)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """Return the numbers from which ``forward`` makes the nearest orthogonal kernel."""
        matrix = completed(kernel.detach().flatten(1))
        inverse: Tensor = self.of_matrix.right_inverse(matrix)  # type: ignore[operator]
        return inverse.view_as(kernel)


def with_orthogonality(model: nn.Module, strength: float | str | None) -> nn.Module:
    """Return a copy of ``model`` whose weights are drawn to orthogonal ones, or kept so.

    Args:
        model: the model, which is left as it is.
        strength: a number above 0: the copy remembers it, and ``penalty_of(copy)`` is what to
            add to the objective; no weight changes. ``"hard"``: every linear, convolutional
            and GPT-2 weight is computed as an orthogonal one, which starts where its QR
            decomposition leads (torch.nn.utils.parametrizations.orthogonal), a kernel's after
            what its rank leaves open has been filled in (see ``completed``). None or 0 takes
            both off; weights that have not been trained since are those from before, bit for
            bit, others stay as they have become.

    Raises:
        ValueError: the strength is none of these.
        TypeError: ``model`` is no module.
        CannotTweak: there is no such weight, it is computed already, its dtype has no QR
            decomposition, it is zeros or a constant, or a linear one has not full rank.
    """
    number = as_float(strength)
    is_hard = isinstance(strength, str) and strength == HARD
    if not (strength is None or is_hard or (math.isfinite(number) and number >= 0)):
        raise ValueError(
            f"strength {quoted(strength)} is unknown: give a number from 0, {HARD!r} or None."
        )
    refuse_lazy(model)
    twin = copied(model)
    twin.__dict__.pop(_STRENGTH, None)
    if strength != HARD:
        for module in twin.modules():
            if computed_as(module) == "orthogonal":
                uncompute(module)
    if strength is None or strength == 0:
        return forget(twin, "orthogonality")
    count = _keep_orthogonal(twin) if strength == HARD else _count_penalized(twin)
    if not count:
        raise CannotTweak(_NONE.format("linear or convolutional"))
    if strength == HARD:
        sentence = f"Orthogonality: {count} weights are computed as orthogonal ones."
    else:
        twin.__dict__[_STRENGTH] = float(strength)
        sentence = f"Orthogonality: {strength:g}·Σ‖WᵀW − I‖² over {count} weights in the loss."
    return record(twin, "orthogonality", sentence, strength)


def check_orthogonalizable(model: nn.Module) -> None:
    """Raise where ``with_orthogonality`` would find no weight; ``model`` is untouched.

    Raises:
        CannotTweak: as ``with_orthogonality`` does by every strength but "hard", which takes
            fewer layers and dtypes.
    """
    refuse_lazy(model)
    _count_penalized(model)


def _count_penalized(model: nn.Module) -> int:
    if by := next(filter(None, map(computed_by_a_hook, model.modules())), ""):
        _refuse_computed(by)
    count = len(list(penalized(model)))
    if not count:
        raise CannotTweak(_NONE.format("linear, convolutional, attention or recurrent"))
    return count


def orthogonality_penalty(model: nn.Module) -> Tensor:
    """Return Σ‖WᵀW − I‖²_F over the weight matrices of ``model``, a scalar with a graph.

    Linear layers, convolutions as the matrix from all inputs under the kernel, attention's
    projections and recurrent layers gate by gate; no frozen weights, and no embeddings or
    projections tied to one. Of a wide W it is ‖WWᵀ − I‖², which is less by (columns − rows),
    for then WᵀW can't be I; gradients are the same.

    Raises:
        CannotTweak: there is no such weight.
    """
    terms = [_distance(matrix) for weight in penalized(model) for matrix in _matrices(weight)]
    if not terms:
        raise CannotTweak("The model has no trained weight matrix to make orthogonal.")
    return torch.stack([term.to(terms[0]) for term in terms]).sum()


def penalty_of(model: nn.Module) -> Callable[[], Tensor] | None:
    """Return what the objective of ``model`` has to add, or None where it adds nothing.

    The function gives strength·``orthogonality_penalty(model)`` for the weights as they are
    when it is called.
    """
    strength: float | None = model.__dict__.get(_STRENGTH)
    if strength is None:
        return None

    return lambda: orthogonality_penalty(model) * strength


def _embedded(model: nn.Module) -> set[int]:
    return {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }


def penalized(model: nn.Module) -> Iterator[Weight]:
    """Yield the weights that the penalty is over, each once."""
    seen = _embedded(model)
    for module in model.modules():
        for weight in weights_of(module):
            sources = weight.sources
            if sources and id(sources[0]) not in seen and any(p.requires_grad for p in sources):
                seen |= {id(parameter) for parameter in sources}
                yield weight


def _matrices(weight: Weight) -> Iterator[Tensor]:
    value: Tensor = getattr(weight.module, weight.name)
    for part in value.chunk(weight.stacked):
        yield part.flatten(1)


def _distance(matrix: Tensor) -> Tensor:
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = matrix.T @ matrix
    return (gram - torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)).square().sum()


def _keep_orthogonal(model: nn.Module) -> int:
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    count = 0
    for module in list(model.modules()):
        found = computed_as(module)
        is_kernel = isinstance(module, nn.modules.conv._ConvNd)
        if not (is_kernel or isinstance(module, nn.Linear) or is_gpt_conv1d(module)):
            continue
        if found and found != "orthogonal":
            _refuse_computed(f"{found} norm")
        if by := computed_by_a_hook(module):
            _refuse_computed(by)
        weight = module._parameters.get("weight")
        if not found and (weight is None or owners[id(weight)] > 1):
            # A parametrization would untie it.
            continue
        count += 1
        if not found and weight is not None:
            _register(module, weight, is_kernel)
    return count


def _refuse_computed(by: str) -> NoReturn:
    raise CannotTweak(
        f"The weights are computed already, by {by}: take that off before making them orthogonal."
    )


def _register(module: nn.Module, weight: nn.Parameter, is_kernel: bool) -> None:
    if weight.dtype in (torch.bfloat16, torch.float16):
        raise CannotTweak(
            f"The weights are of dtype {weight.dtype}, in which torch can't make matrices "
            "orthogonal: keep them in float32, with autocast for speed, or take a penalty."
        )

    before = weight.detach().clone()

    def register() -> None:
        if is_kernel:
            parametrize.register_parametrization(
                module, "weight", OrthogonalKernel(weight.shape, weight)
            )
        else:
            parametrizations.orthogonal(module, orthogonal_map=MAP)

    compute(module, "orthogonal", register, "weight")
    # What the weight starts as, or its transpose, without computing it once more.
    base = module.get_buffer(f"parametrizations.weight.0.{'of_matrix.' if is_kernel else ''}base")
    start = base[:, : min(weight.flatten(1).shape)].float()
    gram = start.mT @ start
    if not torch.allclose(gram, torch.eye(len(gram), device=gram.device), atol=0.05):
        matrix = before.flatten(1)
        reason = "zeros or alike"
        if not is_alike(matrix):
            rank = int(torch.linalg.matrix_rank(matrix.cpu().double()))
            reason = f"of rank {rank} where {min(matrix.shape)} would be full"
        raise CannotTweak(
            f"The weights of a {type(module).__bases__[0].__name__} are {reason}, and no "
            "orthogonal ones can start from them: initialise the model anew before."
        )

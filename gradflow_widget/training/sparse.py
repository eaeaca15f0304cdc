"""Embeddings with sparse gradients, which few of torch's optimizers take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from ..quoting import quoted
from ..tweaks.knobs import AS_GIVEN
from .optimizers import decays_of

# torch's SGD, as long as it has no weight decay: found by trying them all.
_TAKE_SPARSE = ("SGD", "momentum", "Nesterov")


def check_takes_sparse(kind: str, model: nn.Module, given: Optimizer) -> None:
    """Refuse a kind of optimizer whose first step would fail on an embedding's sparse gradient.

    What a forward makes sparse without such a module can't be foreseen.

    Args:
        kind: a name out of ``optimizers.KINDS``, or "as given".
        model: what is trained.
        given: the optimizer in whose place one of the kind would come.

    Raises:
        ValueError: it is such a kind.
    """
    if kind == AS_GIVEN:
        return
    decays = _decays_of_sparse(model, given, decays_of(given))
    if decays and kind not in _TAKE_SPARSE:
        raise ValueError(
            f"optimizer_kind {quoted(kind)} does not take the sparse gradients of the model's "
            f"embeddings: choose one of {', '.join(_TAKE_SPARSE)}, or build them with sparse=False."
        )
    if any(decays):
        raise ValueError(
            f"optimizer_kind {quoted(kind)} has no weight decay for the sparse gradients of the "
            "model's embeddings, which the optimizer decays: build them with sparse=False."
        )


def decay_meets_sparse(model: nn.Module, optimizer: Optimizer, own: Sequence[float | None]) -> bool:
    """Whether a weight decay as ``steered_decays`` gives it would fail on sparse gradients.

    ``own``: each parameter group's before any steering. What classes of other packages do with
    both is not known.
    """
    if not type(optimizer).__module__.startswith("torch.optim."):
        return False
    decays = _decays_of_sparse(model, optimizer, own)
    return any(decays) or (not any(own) and any(decay is not None for decay in decays))


def _decays_of_sparse(
    model: nn.Module, optimizer: Optimizer, decays: Sequence[float | None]
) -> list[float | None]:
    """Return those of ``decays``, one a parameter group, that are of groups with sparse weights."""
    sparse = {id(weight) for weight in _sparse_weights(model)}
    return [
        decay
        for group, decay in zip(optimizer.param_groups, decays, strict=False)
        if any(id(parameter) in sparse for parameter in group["params"])
    ]


def _sparse_weights(model: nn.Module) -> list[nn.Parameter]:
    sparse: dict[int, nn.Parameter] = {}
    # A gradient that comes from another layer too, to which the weight is tied, is dense.
    dense: set[int] = set()
    for module in model.modules():
        is_sparse = isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        for parameter in module.parameters(recurse=False):
            if is_sparse and parameter.requires_grad:
                sparse[id(parameter)] = parameter
            else:
                dense.add(id(parameter))
    return [parameter for key, parameter in sparse.items() if key not in dense]

"""Whether the text makes the model that it was written for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..tweaks.copying import HOOKS
from .values import Unwritable, same


def check_alike(model: nn.Module, built: nn.Module) -> None:
    """Raise where ``built`` is not of the structure of ``model``.

    Compared are the modules' names, parameters (names, order, shapes, dtypes, ties, which are
    frozen), buffers, modes and hooks.

    Raises:
        Unwritable: something differs; the sentence names it.
    """
    for what, wanted, found in (
        ("modules", _modules(model), _modules(built)),
        ("parameters", _parameters(model), _parameters(built)),
        ("buffers", _buffers(model), _buffers(built)),
        ("ties", _ties(model), _ties(built)),
        ("hooks", list(_hooks(model)), list(_hooks(built))),
    ):
        if wanted != found:
            differing = [one for one in (*wanted, *found) if (one in wanted) != (one in found)]
            first = differing[0] if differing else "their order"
            raise Unwritable(f"its {what} can't be written as source ({_shown(first)})")


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    """Return a tensor's shape; None where a lazy layer, such as one just built, has none yet."""
    return None if is_lazy(tensor) else tuple(tensor.shape)


def missing_weights(state: Mapping[str, Tensor], built: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers in ``state`` that ``built`` has otherwise."""
    present = state_of(built)
    return {
        name: tensor
        for name, tensor in state.items()
        if not torch.equal(_bits(tensor), _bits(present[name]))
    }


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones once."""
    kept = model.state_dict()
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if name in kept}


def check_same_groups(
    wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> None:
    """Raise where the options of two optimizers' parameter groups differ.

    Raises:
        Unwritable: they do; the sentence names the option.
    """
    for group, there in zip(wanted, found, strict=True):
        for key in {**group, **there}:
            if not same(group.get(key), there.get(key)):
                raise Unwritable(f"the {key} of its optimizer can't be written as source")


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype in (torch.bool, torch.uint8) or not tensor.numel():
        return tensor
    return tensor.reshape(-1).view(torch.uint8)


def _modules(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules()]


def _parameters(model: nn.Module) -> list[Any]:
    return [(name, shape_of(p), p.dtype, p.requires_grad) for name, p in model.named_parameters()]


def _buffers(model: nn.Module) -> list[Any]:
    kept = model.state_dict()
    return [
        (name, shape_of(buffer), buffer.dtype)
        for name, buffer in model.named_buffers()
        if name in kept
    ]


def _ties(model: nn.Module) -> list[Any]:
    first: dict[int, str] = {}
    return [
        (name, first.setdefault(id(parameter), name))
        for name, parameter in model.named_parameters(remove_duplicate=False)
    ]


def _hooks(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    for name, module in model.named_modules():
        for kind in HOOKS:
            hooks = vars(module).get(kind) or {}
            foreign = [
                hook
                for hook in (hooks.values() if isinstance(hooks, dict) else ())
                if not str(getattr(hook, "__module__", "")).startswith("gradflow_widget.")
            ]
            if foreign and "forward" in kind and not kind.endswith(("_with_kwargs", "_called")):
                yield name, kind.strip("_"), len(foreign)


def _shown(difference: Any) -> str:
    return str(difference[0] if isinstance(difference, tuple) else difference) or "itself"

"""A copy of a model to tweak: nothing of the original is shared or touched."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

from .errors import CannotTweak
from .lineage import mark_lineage
from .record import carry_record

HOOKS = tuple(name for name in nn.Module().__dict__ if name.endswith("_hooks") or "_hooks_" in name)


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of ``model`` without gradients.

    Tied weights stay tied, frozen ones frozen; buffers, modes, dtypes and devices are as
    before. Hooks are copied too (old-style weight and spectral norm live in them), but not
    those of a probe that watches the original.

    Raises:
        CannotTweak: the model can't be copied, or the copy does not fit in memory.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name in HOOKS:
            hooks = module.__dict__.get(name)
            if isinstance(hooks, OrderedDict) and any(map(_is_ours, hooks.values())):
                kept = ((k, v) for k, v in hooks.items() if not _is_ours(v))
                memo[id(hooks)] = OrderedDict((k, copy.deepcopy(v, memo)) for k, v in kept)
    for parameter in model.parameters():
        # deepcopy would copy the gradient as well.
        if parameter.grad is not None:
            memo[id(parameter.grad)] = None
    try:
        twin = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, MemoryError) as error:
        raise CannotTweak(
            f"The model can't be copied ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error
    for parameter in twin.parameters():
        parameter.grad = None
    mark_lineage(twin)
    carry_record(model, twin)
    return twin


def _is_ours(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("gradflow_widget.")

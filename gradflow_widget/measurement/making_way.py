"""Models that are being trained, and who makes way for a look at one of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

MakeWay = Callable[[], AbstractContextManager[None]]

# By identity: a module may be none that can be hashed, such as a dataclass.
_trainers = WeakIdKeyDictionary()


def is_trained_by(model: nn.Module, make_way: MakeWay) -> None:
    """Note who trains ``model``: ``make_way``, a bound method, keeps its steps away.

    Neither the model nor who trains it is kept alive by this.
    """
    _trainers[model] = weakref.WeakMethod(make_way)


def nobody_trains(model: object) -> AbstractContextManager[None]:
    """Let nobody who is known to train ``model`` step inside the ``with``."""
    if not isinstance(model, nn.Module):  # for whoever looks at it to refuse
        return nullcontext()
    known: weakref.WeakMethod[MakeWay] | None = _trainers.get(model)  # type: ignore[no-untyped-call]
    make_way = None if known is None else known()
    return nullcontext() if make_way is None else make_way()

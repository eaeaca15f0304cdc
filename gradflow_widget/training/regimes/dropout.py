"""with_dropout: dropout behind every hidden activation, at one rate."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...checked import checked_share
from ...deep_copies import refer_to_new
from ...quoting import counted
from ...tweaks.copying import copied
from ...tweaks.errors import CannotTweak
from ...tweaks.hidden import find_hidden
from ...tweaks.lineage import descend
from ...tweaks.record import forget, record

_ORIGINAL = "_gradflow_original_rate"


class Dropped(nn.Module):
    """An activation and the dropout of its output."""

    def __init__(self, activation: nn.Module, rate: float) -> None:
        super().__init__()
        self.activation = activation
        self.dropout = nn.Dropout(rate)
        self.train(activation.training)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``dropout(activation(...))``."""
        output: Tensor = self.dropout(self.activation(*args, **kwargs))
        return output


def with_dropout(model: nn.Module, rate: float | None) -> nn.Module:
    """Return a copy of ``model`` with dropout at ``rate`` (Srivastava et al. 2014).

    In a model that has dropout (nn.Dropout and its kin, ``dropout`` of a recurrent layer of
    several levels), its rates are set and none is put in; attention weights keep theirs. Else a
    dropout goes behind every hidden activation that is a module; at a rate of 0 nothing does.
    Masks are drawn from torch's random state: the same seed gives the same ones.

    Args:
        model: the model, which is left as it is.
        rate: the probability with which a unit is silent, from 0 to below 1; None takes off
            what was put in and gives the model's own dropout its rates back.

    Raises:
        ValueError: the rate is out of range.
        CannotTweak: the rate is not 0, and there is neither dropout nor a hidden activation that
            is a module.
    """
    if rate is not None:
        rate = checked_share("dropout", rate, below_one=True)
    twin = copied(model)
    _take_off(twin)
    if rate is None:
        return forget(twin, "dropout")
    own = [module for module in twin.modules() if _has_rate(module)]
    for module in own:
        key = _key(module)
        module.__dict__[_ORIGINAL] = getattr(module, key)
        setattr(module, key, rate)
    if own:
        sentence = f"Dropout: the model's {counted(len(own), 'dropout layer')}, at rate {rate:g}."
        return record(twin, "dropout", sentence, rate)
    if rate == 0:
        return forget(twin, "dropout")
    count, unreachable = _put_in(twin, rate)
    also = f"; not behind {unreachable} that forward calls as functions" if unreachable else ""
    sentence = f"Dropout: behind {counted(count, 'activation')}, at rate {rate:g}{also}."
    return record(twin, "dropout", sentence, rate)


def _key(module: nn.Module) -> str:
    return "dropout" if isinstance(module, nn.RNNBase) else "p"


def _has_rate(module: nn.Module) -> bool:
    if isinstance(module, nn.RNNBase):
        return module.num_layers > 1
    return isinstance(module, nn.modules.dropout._DropoutNd)


def _take_off(model: nn.Module) -> None:
    for module in model.modules():
        if _ORIGINAL in module.__dict__:
            setattr(module, _key(module), module.__dict__.pop(_ORIGINAL))
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, Dropped):
                parent._modules[name] = child.activation
                pairs.append((child, child.activation))
    refer_to_new(model, pairs)


def _put_in(model: nn.Module, rate: float) -> tuple[int, int]:
    """Wrap activations; return how many places were wrapped, and how many can't be."""
    hidden = find_hidden(model)
    unreachable = len(hidden.names) - len(hidden.modules) - len(hidden.recurrent)
    if not hidden.modules:
        reason = "calls its activations as functions" if unreachable else "has none between layers"
        raise CannotTweak(
            f"The model {reason}, so there is no place for dropout: make them modules, such as "
            "self.act = nn.ReLU(), or give the model nn.Dropout layers."
        )
    wrapped: dict[int, Dropped] = {}
    places = 0
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in hidden.modules:
                if id(child) not in wrapped:
                    wrapper = wrapped[id(child)] = Dropped(child, rate)
                    descend(wrapper, child, "dropout")
                parent._modules[name] = wrapped[id(child)]
                places += 1
    refer_to_new(model, [(wrapper.activation, wrapper) for wrapper in wrapped.values()])
    return places, unreachable

"""Activations by name, and a model with another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..deep_copies import refer_to_new
from ..quoting import quoted
from .copying import HOOKS, copied
from .errors import CannotTweak
from .hidden import Hidden, activation_name, find_hidden
from .lineage import carry_lineage
from .nonlinearities import function_name
from .record import forget, record, value_of
from .rewriting import restore, rewrite

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


def checked_activation(name: object) -> str:
    """Return ``name`` if it is a known activation.

    Raises:
        ValueError: it is not; the message lists the known ones.
    """
    if isinstance(name, str) and name in ACTIVATIONS:
        return name
    known = ", ".join(ACTIVATIONS)
    raise ValueError(f"activation {quoted(name)} is unknown: choose one of {known}.")


def activation_module(name: str) -> nn.Module:
    """Return a new activation module; for a name that :func:`checked_activation` has passed.

    Raises:
        KeyError: no activation has that name.
    """
    return ACTIVATIONS[name]()


_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": torch.clone,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
}
# What transformers calls them, in a config that a person may read or save.
_CONFIG_NAMES: dict[str, str | None] = {
    "identity": "linear",
    "elu": None,
    "selu": None,
    "softplus": None,
}
_CONFIG_KEYS = ("hidden_act", "hidden_activation", "activation_function")
_RECURRENT = ("tanh", "relu")
_ORIGINAL_MODULE = "_gradflow_original_module"
_ORIGINAL_ATTRIBUTES = "_gradflow_original_attributes"
_FAST_PATH = "activation_relu_or_gelu"


def with_activation(model: nn.Module, name: str | None) -> nn.Module:
    """Return a copy of ``model`` whose hidden activations are all ``name``.

    Swapped are activation modules, function attributes such as the ``activation`` of an
    nn.TransformerEncoderLayer, functions and methods called in forward (F.relu, x.relu()) and
    the nonlinearity of nn.RNN. Output activations, gates and the inside of nn.LSTM and nn.GRU
    stay (see ``find_hidden``). Where the model had ``name`` to begin with, it has its own
    module back, with its slope or weights; with None it has all of them back.

    Raises:
        ValueError: no activation has that name; the message lists the known ones.
        TypeError: ``model`` is no module.
        CannotTweak: there is no hidden activation, one can't be followed or swapped, or
            nn.RNN, which offers tanh and relu alone, is to have another one.
    """
    target = None if name is None else checked_activation(name)
    twin = copied(model)
    take_off_activation(twin)
    return put_on_activation(twin, target)


def take_off_activation(model: nn.Module) -> str | None:
    """Undo ``with_activation`` in place; return the name of the activation that was on.

    Raises:
        CannotTweak: the class of a module has been changed since.
    """
    taken_off: str | None = value_of(model, "activation")
    for module in list(model.modules()):
        restore(module)
        for key, value in module.__dict__.pop(_ORIGINAL_ATTRIBUTES, {}).items():
            _attributes_of(module, key)[key.rpartition(".")[2]] = value
    originals = {
        id(module): module.__dict__.pop(_ORIGINAL_MODULE)
        for module in list(model.modules())
        if _ORIGINAL_MODULE in module.__dict__
    }
    _replace(model, originals)
    forget(model, "activation")
    return taken_off


def put_on_activation(model: nn.Module, target: str | None) -> nn.Module:
    """Do as ``with_activation`` does, in place, on a model whose activations are its own.

    Raises:
        CannotTweak: as ``with_activation`` does.
    """
    hidden = changeable_activations(model)
    names = hidden.names
    if target is None:
        return model
    if hidden.recurrent and target not in _RECURRENT:
        raise CannotTweak(f"{type(hidden.recurrent[0]).__name__} takes tanh or relu, not {target}.")
    before = {one or "another" for one in names if one != target}
    if not before:
        return model
    changed = _swap(model, hidden, target)
    verb = "activation is" if changed == 1 else "activations are"
    sentence = f"{changed} hidden {verb} {target} instead of {', '.join(sorted(before))}."
    return record(model, "activation", sentence, target)


def changeable_activations(model: nn.Module) -> Hidden:
    """Return the hidden activations that ``with_activation`` would swap.

    Raises:
        CannotTweak: there is none, or one can't be followed.
    """
    hidden = find_hidden(model)
    if not hidden.names:
        raise CannotTweak(
            "The model has no activation between its layers to change (output activations and "
            "the gates of nn.LSTM and nn.GRU stay as they are)."
        )
    return hidden


def activation_of(model: nn.Module) -> str | None:
    """Return the name of the hidden activation in use, or None where it is mixed or none."""
    swapped: str | None = value_of(model, "activation")
    if swapped is not None:
        return swapped
    try:
        names = set(find_hidden(model).names)
    except CannotTweak:
        return None
    name = names.pop() if len(names) == 1 else None
    return name if name in ACTIVATIONS else None


def _swap(model: nn.Module, hidden: Hidden, target: str) -> int:
    """Swap what is not ``target`` yet; return how many there were."""
    replaced: dict[int, nn.Module] = {}
    for module in hidden.modules.values():
        if activation_name(module) != target:
            new = replaced[id(module)] = activation_module(target)
            new.__dict__[_ORIGINAL_MODULE] = module
    _replace(model, replaced)
    count = len(replaced)
    for owner, key in hidden.attributes:
        if function_name(owner.__dict__[key]) != target:
            _set_attribute(owner, key, _FUNCTIONS[target])
            count += 1
    for owner, sites in hidden.sites:
        others = [site for site in sites if site.function != target]
        if others:
            rewrite(owner, others, _FUNCTIONS[target])
            count += len(others)
    for module in hidden.recurrent:
        if module.nonlinearity != target:
            _set_attribute(module, "nonlinearity", target)
            if isinstance(module, nn.RNNBase):
                _set_attribute(module, "mode", f"RNN_{target.upper()}")
            count += 1
    _set_flags(model, target)
    return count


def _replace(model: nn.Module, by_identity: dict[int, nn.Module]) -> None:
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for modules in [module._modules for module in model.modules()]:
        for name, module in modules.items():
            if module is not None and id(module) in by_identity:
                new = by_identity[id(module)]
                new.training = module.training
                for hooks in HOOKS:
                    new.__dict__[hooks] = module.__dict__[hooks]
                carry_lineage(module, new)
                modules[name] = new
                pairs.append((module, new))
    refer_to_new(model, pairs)


def _set_flags(model: nn.Module, target: str) -> None:
    configs: set[int] = set()
    for module in model.modules():
        # The fast path of TransformerEncoderLayer believes this flag, not the activation.
        if _FAST_PATH in module.__dict__:
            flag = {"relu": 1, "gelu": 2}.get(target, 0)
            if "activation" in module.__dict__ or isinstance(module.activation, nn.Module):
                _set_attribute(module, _FAST_PATH, flag)
        config = module.__dict__.get("config")
        name = _CONFIG_NAMES.get(target, target)
        if name is None or id(config) in configs or not hasattr(config, "__dict__"):
            continue
        configs.add(id(config))
        for key in _CONFIG_KEYS:
            if isinstance(config.__dict__.get(key), str):
                _set_attribute(module, f"config.{key}", name)


def _set_attribute(module: nn.Module, key: str, value: Any) -> None:
    attributes = _attributes_of(module, key)
    name = key.rpartition(".")[2]
    originals: dict[str, Any] = module.__dict__.setdefault(_ORIGINAL_ATTRIBUTES, {})
    originals.setdefault(key, attributes[name])
    attributes[name] = value


def _attributes_of(module: nn.Module, key: str) -> dict[str, Any]:
    if key.startswith("config."):
        attributes: dict[str, Any] = module.__dict__["config"].__dict__
        return attributes
    return module.__dict__

"""The optimizer of a model, built anew for a changed copy of it."""

from __future__ import annotations

import copy
import inspect
import re
from collections import defaultdict
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from .errors import CannotTweak
from .lineage import parameters_by_lineage


def rebuilt_optimizer(
    optimizer: Optimizer, old_model: nn.Module, new_model: nn.Module
) -> Optimizer:
    """Return an optimizer for ``new_model``, like ``optimizer`` is one for ``old_model``.

    It has the same class, options and parameter groups. A parameter goes to the group that it
    was in, wherever it now stands in the model; one that was in none stays out. A new one goes
    to the group of the parameter it was built after, else of its nearest neighbour by name,
    else to the first. State (momenta, step counts) is copied for the parameters that survive
    with their shape. Neither model nor ``optimizer`` is touched.

    Raises:
        CannotTweak: none of ``new_model``'s parameters would be optimized.
    """
    old = {lineage: parameter for lineage, _, parameter in parameters_by_lineage(old_model)}
    group_of = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    members: list[list[nn.Parameter]] = [[] for _ in optimizer.param_groups]
    sources: dict[nn.Parameter, nn.Parameter] = {}
    names: dict[nn.Parameter, str] = {}
    groups: dict[str, int | None] = {}
    newcomers: list[tuple[str, nn.Parameter]] = []
    for lineage, name, parameter in parameters_by_lineage(new_model):
        if parameter in names:
            continue
        names[parameter] = name
        # A new block's lineage is that of the block it was built after, "@", and its place.
        template = old.get(re.sub("@[^:]*", "", lineage))
        if lineage in old:
            sources[parameter] = old[lineage]
            groups[name] = group_of.get(id(old[lineage]))
        elif template is not None:
            groups[name] = group_of.get(id(template))
        else:
            newcomers.append((name, parameter))
    placed = dict(groups)
    for name, parameter in newcomers:
        groups[name] = _nearest(name, placed) if parameter.requires_grad else None
    for parameter, name in names.items():
        index = groups[name]
        if index is not None:
            members[index].append(parameter)
    if not any(members):
        raise CannotTweak("None of the changed model's parameters is one that is optimized.")
    _add_strangers(optimizer, old_model, members)
    rebuilt = _like(optimizer, members, names)
    _carry_state(optimizer, rebuilt, sources)
    return rebuilt


def _nearest(name: str, placed: dict[str, int | None]) -> int:
    def nearness(other: str) -> tuple[bool, int]:
        parts, others = name.split("."), other.split(".")
        same_role = re.sub(r"\d+", "", parts[-1]) == re.sub(r"\d+", "", others[-1])
        shared = 0
        while shared < min(len(parts), len(others)) and parts[shared] == others[shared]:
            shared += 1
        return same_role, shared

    known = [other for other, index in placed.items() if index is not None]
    return (placed[max(known, key=nearness)] or 0) if known else 0


def _add_strangers(
    optimizer: Optimizer, old_model: nn.Module, members: list[list[nn.Parameter]]
) -> None:
    """Keep what is optimized besides the model, such as the temperature of a loss."""
    own = {id(parameter) for parameter in old_model.parameters()}
    for group, parameters in zip(optimizer.param_groups, members, strict=True):
        parameters += [one for one in group["params"] if id(one) not in own]


def _like(
    optimizer: Optimizer, members: list[list[nn.Parameter]], names: dict[nn.Parameter, str]
) -> Optimizer:
    groups: list[dict[str, Any]] = []
    for group, parameters in zip(optimizer.param_groups, members, strict=True):
        options = {
            key: copy.deepcopy(value)
            for key, value in group.items()
            if key not in ("params", "param_names")
        }
        groups.append({**options, "params": parameters})
        if "param_names" in group:
            known = dict(zip(group["params"], group["param_names"], strict=True))
            groups[-1]["param_names"] = [names.get(one) or known.get(one, "") for one in parameters]
    cls = type(optimizer)
    accepted = inspect.signature(cls.__init__).parameters
    defaults = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    with_names = [
        {**group, "params": list(zip(group["param_names"], group["params"], strict=True))}
        if "param_names" in group
        else group
        for group in groups
    ]
    for group in with_names:
        group.pop("param_names", None)
    try:
        rebuilt = cls(with_names, **defaults)
    except TypeError:
        # A class whose constructor asks for more than its options.
        rebuilt = cls.__new__(cls)
        own = {
            key: copy.copy(value)
            for key, value in vars(optimizer).items()
            if "hooks" not in key and not callable(value)
        }
        rebuilt.__setstate__({**own, "state": defaultdict(dict), "param_groups": groups})
        return rebuilt
    for new, wanted in zip(rebuilt.param_groups, groups, strict=True):
        new.update(wanted)
    return rebuilt


def _carry_state(
    optimizer: Optimizer, rebuilt: Optimizer, sources: dict[nn.Parameter, nn.Parameter]
) -> None:
    kept = {
        parameter: source
        for parameter, source in sources.items()
        if parameter.shape == source.shape and source in optimizer.state
    }
    if isinstance(optimizer, LBFGS):
        # Its state, kept with the first parameter, is about all of them at once.
        before, after = optimizer.param_groups[0]["params"], rebuilt.param_groups[0]["params"]
        if [id(sources.get(one)) for one in after] != [id(one) for one in before]:
            return
    for parameter, source in kept.items():
        rebuilt.state[parameter] = copy.deepcopy(optimizer.state[source])

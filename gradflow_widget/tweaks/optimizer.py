"""The optimizer of a model, built anew for a changed copy of it."""

from __future__ import annotations

import copy
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils import parametrize
from torch.optim import LBFGS, Optimizer

from .computed import computed_as
from .errors import CannotTweak
from .lineage import lineage_of, parameters_by_lineage


def rebuilt_optimizer(
    optimizer: Optimizer, old_model: nn.Module, new_model: nn.Module
) -> Optimizer:
    """Return an optimizer for ``new_model``, like ``optimizer`` is one for ``old_model``.

    It has the same class, options and parameter groups. A parameter goes to the group that it
    was in, wherever it now stands in the model; one that was in none stays out. A new one goes
    to the group of the parameter it was built after, else of its nearest neighbour by name,
    else to the first. What a weight is computed from counts as the weight. State (momenta, step
    counts) is copied for the parameters that survive with their shape and meaning: spectral
    norm trains the weight itself, weight norm and orthogonal maps train other numbers. Neither
    model nor ``optimizer`` is touched.

    Raises:
        CannotTweak: none of ``new_model``'s parameters would be optimized.
    """
    old: dict[str, nn.Parameter] = {}
    standing: dict[str, list[nn.Parameter]] = {}
    for one in _placed(old_model):
        old[one.lineage] = one.parameter
        standing.setdefault(one.weight, []).append(one.parameter)
    group_of = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    members: list[list[nn.Parameter]] = [[] for _ in optimizer.param_groups]
    sources: dict[nn.Parameter, nn.Parameter] = {}
    names: dict[nn.Parameter, str] = {}
    groups: dict[str, int | None] = {}
    # By the names as they are without parametrizations.
    known: dict[str, int | None] = {}
    newcomers: list[_Placed] = []
    for one in _placed(new_model):
        parameter = one.parameter
        if parameter in names:
            continue
        names[parameter] = one.name
        if one.lineage in old:
            sources[parameter] = old[one.lineage]
        template = next(
            (
                _most_alike(parameter, standing[weight])
                # A new block's lineage is that of the block it was built after, "@", and its place.
                for weight in (one.weight, re.sub("@[^:]*", "", one.weight))
                if weight in standing
            ),
            None,
        )
        template = sources.get(parameter, template)
        if template is not None:
            groups[one.name] = known[one.plain_name] = group_of.get(id(template))
        else:
            newcomers.append(one)
    for one in newcomers:
        trains = one.parameter.requires_grad
        groups[one.name] = _nearest(one.plain_name, known) if trains else None
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


class _Placed(NamedTuple):
    """A parameter and its place in a model.

    Attributes:
        lineage: of the parameter, with what it means where a weight is computed from it.
        weight: lineage of that weight; else its own.
        name: its name now.
        plain_name: that weight's name without parametrizations; else its own.
    """

    lineage: str
    weight: str
    name: str
    plain_name: str
    parameter: nn.Parameter


def _placed(model: nn.Module) -> Iterator[_Placed]:
    computed: dict[nn.Module, tuple[str, str, str]] = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            origin = lineage_of(module, name)
            for key, steps in module.get_submodule("parametrizations").named_children():
                kinds = [type(step).__name__ for step in steps.children()]
                is_weight = len(kinds) == 1 and computed_as(module, key) == "spectral"
                means = "" if is_weight else "/".join(kinds)
                computed[steps] = (f"{origin}:{key}", f"{name}.{key}".lstrip("."), means)
    owners = dict(model.named_modules(remove_duplicate=False))
    for lineage, name, parameter in parameters_by_lineage(model):
        path, _, key = name.rpartition(".")
        if owners[path] not in computed:
            yield _Placed(lineage, lineage, name, name, parameter)
            continue
        weight, plain_name, means = computed[owners[path]]
        own = f"{weight}/{means}/{key}" if means else weight
        yield _Placed(own, weight, name, plain_name, parameter)


def _most_alike(parameter: nn.Parameter, others: list[nn.Parameter]) -> nn.Parameter:
    return next((other for other in others if other.shape == parameter.shape), others[0])


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

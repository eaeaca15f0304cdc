"""An optimizer as the call that makes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .values import Unwritable, quoted, same, written


def optimizer_text(
    optimizer: Optimizer,
    groups: Sequence[Mapping[str, Any]],
    model: nn.Module,
    refer: Callable[[Any], str],
) -> str:
    """Return the statement that makes ``optimizer``, an optimizer of parameters of ``model``.

    Args:
        optimizer: the optimizer.
        groups: the options of its parameter groups as they are to be.
        model: the model, which the text calls ``model``.
        refer: names classes and functions.

    Raises:
        Unwritable: it holds a parameter that is not the model's, or an option that can't be
            written as source.
    """
    cls = type(optimizer)
    known = _options_of(cls)
    common = {
        key: value
        for key, value in groups[0].items()
        if key in known and all(same(group.get(key), value) for group in groups)
    }
    arguments = [
        f"{key}={written(value, refer)}"
        for key, value in common.items()
        if not same(value, known[key])
    ]
    names = _names(model)
    selections = [
        _selection(group["params"], group.get("param_names"), model, names)
        for group in optimizer.param_groups
    ]
    defaults: dict[str, Any] = {**known, **_set_by_itself(cls, optimizer), **common}
    extras = [
        {k: v for k, v in group.items() if k not in common and not same(defaults.get(k, _NONE), v)}
        for group in groups
    ]
    name = refer(cls)
    if len(groups) == 1 and not extras[0]:
        return f"optimizer = {name}({', '.join([selections[0], *arguments])})\n"
    lines = [f"optimizer = {name}(", "    ["]
    for selection, extra in zip(selections, extras, strict=True):
        options = "".join(f', "{key}": {written(value, refer)}' for key, value in extra.items())
        lines.append(f'        {{"params": {selection}{options}}},')
    lines += ["    ],", *(f"    {argument}," for argument in arguments), ")"]
    return "\n".join(lines) + "\n"


_NONE = object()


def plain_groups(
    optimizer: Optimizer, changes: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return the options of each parameter group, with ``changes`` for each in their place."""
    if changes is None:
        changes = [{}] * len(optimizer.param_groups)
    return [
        {**_plain(group), **change}
        for group, change in zip(optimizer.param_groups, changes, strict=True)
    ]


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.item() if isinstance(value, torch.Tensor) and value.dim() == 0 else value
        for key, value in group.items()
        if key not in ("params", "param_names")
    }


def _options_of(cls: type[Any]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name not in ("self", "params")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _set_by_itself(cls: type[Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the defaults that a class gives its groups beside what its constructor takes."""
    known = _options_of(cls)
    return {key: value for key, value in optimizer.defaults.items() if key not in known}


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _selection(
    parameters: list[nn.Parameter], names: list[str] | None, model: nn.Module, known: dict[int, str]
) -> str:
    """Return an expression for the parameters of a group."""
    wanted = [known.get(id(parameter)) for parameter in parameters]
    if not wanted:
        return "[]"
    if None in wanted:
        raise Unwritable("the optimizer holds a parameter that is not the model's")
    if names is not None:
        if names == [name for name, _ in model.named_parameters()] == wanted:
            return "model.named_parameters()"
        raise Unwritable("the optimizer's parameters have names of their own")
    for text, chosen in _candidates(model):
        if [known[id(parameter)] for parameter in chosen] == wanted:
            return text
    listed = ", ".join(quoted(str(name)) for name in wanted)
    return f"[model.get_parameter(name) for name in ({listed},)]"


def _candidates(model: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    every = list(model.parameters())
    yield "model.parameters()", every
    yield (
        "[p for p in model.parameters() if p.requires_grad]",
        [p for p in every if p.requires_grad],
    )
    yield "[p for p in model.parameters() if p.dim() >= 2]", [p for p in every if p.dim() >= 2]
    yield "[p for p in model.parameters() if p.dim() < 2]", [p for p in every if p.dim() < 2]
    for part in ("weight", "bias"):
        yield (
            f'[p for name, p in model.named_parameters() if name.endswith("{part}")]',
            [p for name, p in model.named_parameters() if name.endswith(part)],
        )
    for name, module in model.named_modules():
        if name and all(step.isidentifier() for step in name.split(".")):
            yield f"model.{name}.parameters()", list(module.parameters())
        elif name.isdigit() and isinstance(model, nn.Sequential):
            yield f"model[{name}].parameters()", list(module.parameters())

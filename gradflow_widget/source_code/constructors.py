"""The constructor calls of classes of the user's and of other packages."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import templates
from .comparing import shape_of
from .definitions import Definitions
from .layers import called, plain_class
from .rewritten import class_name
from .values import Unwritable, quoted, same, written
from .workbench import Workbench

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"training"}
_SAID_BY_ITSELF = ("transformers_version", "architectures", "dtype", "torch_dtype", "model_type")
_TRIES, _SMALL = 16, 2_000_000


class Constructors:
    """Finds how a module may have been made.

    Args:
        definitions: takes in what the calls need.
        workbench: where they are tried out.
        write: writes a module that is an argument, or a member.
    """

    def __init__(
        self,
        definitions: Definitions,
        workbench: Workbench,
        write: Callable[[nn.Module], str],
    ) -> None:
        self._definitions, self._workbench, self._write = definitions, workbench, write

    def call(self, module: nn.Module) -> str:
        """Return the constructor's call where that gives something like ``module``.

        Else it is put together past its constructor.

        Raises:
            Unwritable: the class, or something that a module keeps, can't be written as source.
        """
        name = class_name(module, self._definitions)
        config = vars(module).get("config")
        if hasattr(config, "to_diff_dict"):
            return called(name, [self._config(config)])
        found = self._constructed(module, name)
        return self.assembled(module) if found is None else found

    def _constructed(self, module: nn.Module, name: str) -> str | None:
        """Return the constructor's call that gives most of ``module``; None where none fits.

        Arguments are attributes and children of the same name. One that a module does not
        keep is one of the sizes, or names, that are seen in it: the one that fits best.
        """
        given: list[str] = []
        unknown: dict[str, list[str]] = {}
        for key, parameter in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            text = self._argument(module, key, parameter)
            if text is not None:
                given.append(f"{key}={text}")
            elif parameter.default is parameter.empty:
                is_name = parameter.annotation in (str, "str")
                unknown[key] = (_names if is_name else _numbers)(module)
                if "None" in str(parameter.annotation):
                    unknown[key].insert(0, "None")
                if not unknown[key]:
                    return None
        goal, shapes = _signature(module), _weight_shapes(module)

        def miss(chosen: dict[str, str]) -> float:
            call = called(name, [*(f"{key}={text}" for key, text in chosen.items()), *given])
            try:
                built = self._workbench.evaluate(call)
            except Exception:
                # Any code may stand in a constructor; another argument may do.
                return math.inf
            return len(goal ^ _signature(built)) if isinstance(built, nn.Module) else math.inf

        chosen = {key: candidates[0] for key, candidates in unknown.items()}
        least = miss(chosen)
        is_small = sum(p.numel() for p in module.parameters()) <= _SMALL
        for key in [*unknown, *unknown] if is_small else []:
            for candidate in unknown[key][1:_TRIES]:
                if not least:
                    break
                tried = {**chosen, key: candidate}
                if (found := miss(tried)) < least:
                    least, chosen = found, tried
        call = called(name, [*(f"{key}={text}" for key, text in chosen.items()), *given])
        if math.isinf(least):
            return None
        known = _weight_shapes(self._workbench.evaluate(call))
        return call if len(known - shapes) * 2 <= len(known) else None

    def _argument(self, module: nn.Module, key: str, parameter: inspect.Parameter) -> str | None:
        counts = type(parameter.default) is int or parameter.annotation in (int, "int")
        has_class = isinstance(parameter.default, type) and parameter.default is not parameter.empty
        is_class = has_class or "type[" in str(parameter.annotation)
        for attribute in (key, f"_{key}"):
            child = module._modules.get(attribute)
            if isinstance(child, nn.ModuleList | nn.Sequential) and counts:
                return None if len(child) == parameter.default else str(len(child))
            if child is not None and is_class:
                chosen = plain_class(child)
                return None if chosen is parameter.default else self._definitions.refer(chosen)
            if child is not None:
                return self._write(child)
            if attribute in vars(module):
                value = vars(module)[attribute]
                if parameter.default is not parameter.empty and same(value, parameter.default):
                    return None
                try:
                    return written(value, self._definitions.refer)
                except Unwritable:
                    return None
        return None

    def _config(self, config: Any) -> str:
        try:
            usual = vars(type(config)())
        except (TypeError, ValueError):  # a configuration of others
            usual = {}
        changed = [
            f"{key}={written(value, self._definitions.refer)}"
            for key, value in config.to_diff_dict().items()
            if key not in _SAID_BY_ITSELF
            and not key.startswith("_")
            and not (key in usual and same(usual[key], value))
        ]
        return called(self._definitions.refer(type(config)), changed)

    def assembled(self, module: nn.Module) -> str:
        """Return source that puts a module together from its members, past its constructor."""
        members: dict[str, str] = {}
        for key, value in plain_attributes(module).items():
            try:
                members[key] = written(value, self._definitions.refer)
            except Unwritable as error:
                raise Unwritable(f"in {type(module).__name__}.{key}, {error}") from None
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                members[key] = "None"
                continue
            zeros = f"torch.zeros({tuple(tensor.shape)}{_dtype(tensor)})"
            is_parameter = isinstance(tensor, nn.Parameter)
            members[key] = f"nn.Parameter({zeros})" if is_parameter else zeros
        for key, child in module._modules.items():
            members[key] = "None" if child is None else self._write(child)
        name = self._definitions.template("assembled", templates.ASSEMBLED)
        texts = [
            class_name(module, self._definitions),
            *(f"{key}={text}" for key, text in members.items()),
        ]
        return called(name, texts)


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module keeps beside its parameters, buffers and children."""
    return {
        key: value
        for key, value in vars(module).items()
        if key not in _OF_EVERY_MODULE and not key.startswith("_gradflow")
    }


def _signature(module: nn.Module) -> set[Any]:
    """Return what tells a model's structure: classes and shapes by name."""
    classes = {(name, type(part).__name__) for name, part in module.named_modules()}
    shapes = {(name, shape_of(p)) for name, p in module.named_parameters(remove_duplicate=False)}
    numbers = {
        (name, key, value)
        for name, part in module.named_modules()
        for key, value in plain_attributes(part).items()
        if isinstance(value, int | float | str) and not key.startswith("_")
    }
    return classes | shapes | numbers


def _weight_shapes(module: nn.Module) -> set[Any]:
    shapes = map(shape_of, module.parameters())
    return {shape for shape in shapes if shape is not None and len(shape) > 1}


def _names(module: nn.Module) -> list[str]:
    """Return the names of what a module has, as an argument may call them: "relu", "lstm"."""
    parts = [part for part in module.modules() if part is not module]
    # Activations first: it is mostly them that are called by name.
    parts.sort(key=lambda part: next(part.parameters(), None) is not None)
    return [quoted(kind) for kind in dict.fromkeys(type(part).__name__.lower() for part in parts)]


def _numbers(module: nn.Module) -> list[str]:
    """Return the sizes in a module, the most frequent first: one of them may be an argument."""
    seen: Counter[int] = Counter()
    for parameter in module.parameters():
        seen.update(parameter.shape)
    for part in module.modules():
        for value in plain_attributes(part).values():
            if type(value) is int and value > 0:
                seen[value] += 1
    return [str(size) for size, _ in seen.most_common()]


def _dtype(tensor: torch.Tensor) -> str:
    return "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"

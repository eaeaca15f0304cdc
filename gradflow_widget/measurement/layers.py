"""Layers: the modules of a model that own parameters themselves."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .norms import has_norm


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters itself, described without holding on to the module.

    Attributes:
        name: as in ``model.named_modules()``.
        kind: the class name, such as ``"Linear"``.
        parameters: full names of the parameters that the module owns.
        shape: the shape of its first weight.
        role: class and name with the block's index taken out; layers that share a role
            do the same job at different depths and may be compared with each other.
        is_weight_layer: whether a parameter has two or more dimensions.
        width: the number of units at the output, N in theory.md.
        encloses: whether other layers run within it, so that its output comes after theirs.
        follows: names of the layers that its output is computed from with none between; None
            where no graph has told, as before a pass has been read in full.
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    role: str
    is_weight_layer: bool
    width: int
    encloses: bool = False
    follows: tuple[str, ...] | None = None

    def __hash__(self) -> int:
        return hash(self.name)  # tables of layers are looked up at every full reading


@dataclass(eq=False)
class LayerParts:
    """A layer together with its module and parameters: what the probe works on."""

    layer: Layer
    module: nn.Module
    parameters: list[nn.Parameter]
    weights: list[nn.Parameter] = field(default_factory=list)


def _kind(module: nn.Module) -> str:
    """Return the class name, or what the class itself says that it is: ``layer_kind``."""
    kind = getattr(type(module), "layer_kind", type(module).__name__)
    return kind.removeprefix("Parametrized") if hasattr(module, "parametrizations") else kind


def _own_parameters(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Yield the module's own parameters, those kept inside a parametrization among them."""
    yield from module.named_parameters(recurse=False)
    parametrizations = getattr(module, "parametrizations", None)
    if isinstance(parametrizations, nn.ModuleDict):
        for name, parameter in parametrizations.named_parameters():
            yield f"parametrizations.{name}", parameter


def _weights(own: Sequence[tuple[str, nn.Parameter]]) -> list[nn.Parameter]:
    """Return the matrices and kernels; where there are none, what is not a bias; else all.

    Codes of quantised weights are none, unless there is nothing else.
    """
    own = [(name, one) for name, one in own if has_norm(one)] or own
    matrices = [parameter for _, parameter in own if parameter.dim() >= 2]
    if matrices:
        return matrices
    return [p for name, p in own if "bias" not in name] or [p for _, p in own]


def _role(kind: str, name: str) -> str:
    """Return class and name with the block's index taken out.

    An index is a number on its own (``h.3.attn`` → ``h.attn``; inside a block the last
    number stays, as in ``blocks.3.f.0`` → ``blocks.f.0``, because it tells the places of
    one block apart), or digits that end a name (``layer2.0.conv1`` → ``layer.conv1``,
    ``fc3`` → ``fc``).
    """
    parts = name.split(".")
    numbered = [i for i, part in enumerate(parts) if part.isdigit()]
    last = len(parts) - 1
    if numbered:
        kept = [
            part if i == last else re.sub(r"\d+$", "", part)
            for i, part in enumerate(parts)
            if not (part.isdigit() and (i != last or len(numbered) == 1))
        ]
    else:
        heads = [re.sub(r"\d+$", "", part) for part in parts[:-1]]
        leaf = parts[-1] if heads != parts[:-1] else re.sub(r"\d+$", "", parts[-1])
        kept = [*heads, leaf]
    return f"{kind}:{'.'.join(kept)}"


def _width(weight: nn.Parameter, module: nn.Module) -> int:
    for attribute in ("out_features", "out_channels", "hidden_size", "embedding_dim"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    return int(weight.shape[0]) if weight.dim() else 1


def public_name(name: str) -> str:
    """Return a module's name without the wrapper that ``torch.compile`` puts around it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def find_layers(model: nn.Module) -> list[LayerParts]:
    """List the layers of ``model`` in the order in which they were registered.

    Raises:
        TypeError: ``model`` is no ``nn.Module``, or is one of TorchScript, or has such layers.
        ValueError: it has no parameters, or lazy modules that have not seen a batch, or
            parameters on the meta device.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model is a TorchScript module, which takes no hooks: "
            "pass the module that was scripted or traced."
        )
    found: list[LayerParts] = []
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise TypeError(
                f"model has layers in a TorchScript module ({name}), which takes no hooks: "
                "put the module that was scripted or traced in its place."
            )
        own = list(_own_parameters(module))
        tensors = [*(one for _, one in own), *module.buffers(recurse=False)]
        if any(is_lazy(one) for one in tensors):
            raise ValueError(
                f"model has a lazy module that is not initialised ({name or _kind(module)}): "
                "run one batch through the model first."
            )
        if any(one.is_meta for _, one in own):
            raise ValueError(
                f"model has parameters on the meta device ({name or _kind(module)}), which hold no "
                "values: give them memory with model.to_empty(device=...) and initialise them."
            )
        if not own:
            continue
        weights = _weights(own)
        shown = public_name(name)
        prefix = f"{shown}." if shown else ""
        layer = Layer(
            name=shown,
            kind=_kind(module),
            parameters=tuple(prefix + parameter_name for parameter_name, _ in own),
            shape=tuple(weights[0].shape),
            role=_role(_kind(module), shown),
            is_weight_layer=any(weight.dim() >= 2 for weight in weights),
            width=_width(weights[0], module),
        )
        found.append(LayerParts(layer, module, [p for _, p in own], weights))
    if not found:
        raise ValueError("model has no parameters: there is no gradient to watch.")
    return found


def in_forward_order(parts: Sequence[LayerParts], called: Iterable[nn.Module]) -> list[LayerParts]:
    """Sort layers by their first call; one never called stays behind its predecessor.

    It is noted of each whether others that were called lie within it.
    """
    called = list(called)
    within = set(map(id, called)).intersection(id(part.module) for part in parts)
    for part in parts:
        inner = (id(module) for module in part.module.modules() if module is not part.module)
        encloses = not within.isdisjoint(inner)
        if part.layer.encloses != encloses:
            part.layer = replace(part.layer, encloses=encloses)
    rank: dict[int, int] = {}
    for module in called:
        rank.setdefault(id(module), len(rank))
    keys: list[tuple[int, int]] = []
    latest = -1
    for position, part in enumerate(parts):
        latest = rank.get(id(part.module), latest)
        keys.append((latest, position))
    return [parts[i] for i in sorted(range(len(parts)), key=keys.__getitem__)]


def with_ways(layers: Sequence[Layer], ways: Mapping[str, Collection[str]]) -> tuple[Layer, ...]:
    """Return the layers with what a pass has shown: which ones each is computed from."""
    return tuple(
        replace(layer, follows=tuple(sorted(ways[layer.name])) if layer.name in ways else None)
        for layer in layers
    )


def first_tensor(value: object, *, any_dtype: bool = False) -> torch.Tensor | None:
    """Return the first floating-point or complex tensor in a module's (nested) output."""
    if isinstance(value, torch.Tensor):  # by far the most frequent
        floats = any_dtype or value.is_floating_point() or value.is_complex()
        return value if floats else None
    return next(tensors_in(value, any_dtype=any_dtype), None)


def tensors_in(value: object, *, any_dtype: bool = False) -> Iterator[torch.Tensor]:
    """Go through the floating-point and complex tensors in a module's (nested) output."""
    if isinstance(value, torch.Tensor):
        if any_dtype or value.is_floating_point() or value.is_complex():
            yield value
        return
    items: Iterable[object] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    elif callable(getattr(type(value), "to_tuple", None)):
        items = value.to_tuple()  # type: ignore[attr-defined]
    elif is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, one.name, None) for one in fields(value)]
    for item in items:
        yield from tensors_in(item, any_dtype=any_dtype)

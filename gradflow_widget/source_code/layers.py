"""The constructor calls of PyTorch's own modules, their arguments read off the module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .values import Unwritable, same, written

_WIDTH = 84
_RECURRENT = (
    "input_size",
    "hidden_size",
    "num_layers",
    "nonlinearity",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
)
_DEFAULTS = {
    "num_layers": 1,
    "nonlinearity": "tanh",
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
}
_SIZES = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
_NOT_KEPT = ("self", "device", "dtype", "_weight", "_freeze", "args", "kwargs")


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, without what torch's parametrizations make of it."""
    cls = type(module)
    return cls.__mro__[1] if parametrize.is_parametrized(module) else cls


def is_torch_class(cls: type[Any]) -> bool:
    """Return whether PyTorch has written a class."""
    return cls.__module__.partition(".")[0] == "torch"


def layer_call(
    module: nn.Module, refer: Callable[[Any], str], write: Callable[[nn.Module], str]
) -> str:
    """Return the call that makes a module like ``module``, one of PyTorch's own.

    ``refer`` names classes and functions, ``write`` writes a module that is an argument.

    Raises:
        Unwritable: an argument can't be told from the module.
    """
    cls = plain_class(module)
    name = refer(cls)
    required: list[str] = []
    named: list[str] = []
    for key, value, default in _arguments(module, cls):
        value = _shortened(key, value)
        if default is not inspect.Parameter.empty and same(value, _shortened(key, default)):
            continue
        if key == "stride" and default is None and same(module.stride, module.kernel_size):
            continue
        text = write(value) if isinstance(value, nn.Module) else written(value, refer)
        if default is inspect.Parameter.empty and not named:
            required.append(text)
        else:
            named.append(f"{key}={text}")
    return called(name, [*required, *named])


def called(name: str, arguments: list[str]) -> str:
    """Return a call, on several lines where one would be long."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    if len(arguments) == 1:
        return line
    inner = ",\n".join(arguments)
    return f"{name}(\n" + "\n".join(f"    {part}" for part in inner.split("\n")) + ",\n)"


def _arguments(module: Any, cls: type[nn.Module]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and default of each argument."""
    if isinstance(module, nn.RNNBase):
        for name in _RECURRENT:
            if name != "nonlinearity" or hasattr(module, name):
                yield name, getattr(module, name), _DEFAULTS.get(name, inspect.Parameter.empty)
        return
    special = _of_transformers(module)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in _NOT_KEPT:
            continue
        if name in special:
            yield name, special[name], parameter.default
        elif name == "bias" and not isinstance(vars(module).get("bias"), bool):
            yield name, _has_bias(module), parameter.default
        elif name == "add_bias_kv":
            yield name, module.bias_k is not None, parameter.default
        elif hasattr(module, name):
            value = getattr(module, name)
            if isinstance(value, torch.Tensor):
                if parameter.default is inspect.Parameter.empty or value.dim() > 1:
                    raise Unwritable(f"the {name} of a {cls.__name__} can't be written as source")
                # The weights of classes in a loss; numbers of a layer come with its weights.
                if name in module._buffers:
                    raise Unwritable(f"the {name} of a {cls.__name__} can't be written as source")
                continue
            yield name, value, parameter.default
        elif parameter.default is inspect.Parameter.empty:
            raise Unwritable(f"the {name} that a {cls.__name__} was made with is not known")


def _has_bias(module: Any) -> bool:
    for name in ("bias", "in_proj_bias"):
        if name in module._parameters:
            return module._parameters[name] is not None
    return bool(getattr(module, "bias", True))


def _of_transformers(module: Any) -> dict[str, Any]:
    """Return the arguments of a transformer's parts that are no attributes of the same name."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        first: Any = _unwrapped(module.linear1, nn.Linear)
        norm: Any = _unwrapped(module.norm1, nn.LayerNorm)
        return {
            "d_model": module.self_attn.embed_dim,
            "nhead": module.self_attn.num_heads,
            "dim_feedforward": first.out_features,
            "dropout": module.dropout.p,
            "activation": module.activation,
            "layer_norm_eps": norm.eps if norm is not None else 1e-5,
            "batch_first": module.self_attn.batch_first,
            "bias": module.self_attn.in_proj_bias is not None,
        }
    if isinstance(module, nn.TransformerEncoder):
        return {
            "encoder_layer": _innermost(module.layers[0], nn.TransformerEncoderLayer),
            "num_layers": len(module.layers),
        }
    if isinstance(module, nn.TransformerDecoder):
        return {
            "decoder_layer": _innermost(module.layers[0], nn.TransformerDecoderLayer),
            "num_layers": len(module.layers),
        }
    if isinstance(module, nn.Transformer):
        layer = _innermost(module.encoder.layers[0], nn.TransformerEncoderLayer)
        return {
            **_of_transformers(layer),
            "norm_first": layer.norm_first,
            "num_encoder_layers": len(module.encoder.layers),
            "num_decoder_layers": len(module.decoder.layers),
            "custom_encoder": None,
            "custom_decoder": None,
        }
    return {}


def _unwrapped(module: nn.Module, cls: type[nn.Module]) -> nn.Module | None:
    return next((part for part in module.modules() if isinstance(part, cls)), None)


def _innermost(module: nn.Module, cls: type[nn.Module]) -> Any:
    found = _unwrapped(module, cls)
    if found is None:
        raise Unwritable(f"a {type(module).__name__} stands where a {cls.__name__} is expected")
    return found


def _shortened(name: str, value: Any) -> Any:
    if not isinstance(value, tuple) or not value:
        return value
    one_for_all = name in _SIZES and all(part == value[0] for part in value)
    return value[0] if one_for_all or (name == "normalized_shape" and len(value) == 1) else value

"""Weight matrices: where modules keep them, how many connections go in and out, how to draw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .computed import hooked, put_computed


@dataclass(frozen=True)
class Weight:
    """A parameter that holds weight matrices.

    Attributes:
        module: what owns it, under ``name``.
        bias_names: the parameters of the module that are biases of these matrices.
        fan_in: connections into one output, for a convolution with its kernel.
        fan_out: connections out of one input.
        stacked: matrices one above another in the parameter: the gates of an LSTM, the query,
            key and value projections of an attention, the groups of a convolution.
        inputs_first: the parameter has shape (inputs, outputs), as Conv1D of GPT-2 has it.
        is_recurrent: from the hidden state to itself.
        biases_added: how many biases one output has: a recurrent layer adds that of the input's
            matrix and that of the hidden state's.
    """

    module: nn.Module
    name: str
    fan_in: int
    fan_out: int
    bias_names: tuple[str, ...] = ()
    stacked: int = 1
    inputs_first: bool = False
    is_recurrent: bool = False
    biases_added: int = 1

    @property
    def value(self) -> Tensor:
        """The matrices, through parametrizations if there are any."""
        value: Tensor = getattr(self.module, self.name)
        return value.detach()

    @property
    def tied_to(self) -> nn.Parameter | None:
        """The parameter itself, by which tied weights are known; None if parametrized."""
        return self.module._parameters.get(self.name)

    @property
    def sources(self) -> list[nn.Parameter]:
        """The parameter, or those that the value is computed from."""
        if self.tied_to is not None:
            return [self.tied_to]
        return list(self.module.get_submodule(f"parametrizations.{self.name}").parameters())

    def put(self, value: Tensor) -> None:
        """Set the matrices to ``value``, of the same shape; dtype and device stay."""
        with torch.no_grad():
            parameter = self.tied_to
            if parameter is not None:
                parameter.copy_(value)
            else:
                put_computed(self.module, self.name, value.to(self.value))


def is_gpt_conv1d(module: nn.Module) -> bool:
    """Return whether this is the Linear layer that GPT-2 stores the other way round."""
    # By its bases: a parametrized one has a class of its own.
    names = {cls.__name__ for cls in type(module).__mro__}
    return "Conv1D" in names and hasattr(module, "nf") and hasattr(module, "weight")


def weights_of(module: nn.Module) -> Iterator[Weight]:
    """Yield the weights that ``module`` owns itself, those whose connections are known.

    Linear and Bilinear layers, convolutions and their transposes, GPT-2's Conv1D, attention's
    projections, and recurrent layers and cells; no embeddings, which multiply nothing, and
    nothing that is neither a parameter nor parametrized, as what hooks compute.
    """
    for weight in _of_kind(module):
        if weight.tied_to is not None or is_parametrized(module, weight.name):
            yield weight


def computed_by_a_hook(module: nn.Module) -> str:
    """Return what put a hook there that computes a weight of ``weights_of``'s kinds; else ""."""
    kinds = (
        nn.Linear,
        nn.Bilinear,
        nn.modules.conv._ConvNd,
        nn.MultiheadAttention,
        nn.RNNBase,
        nn.RNNCellBase,
    )
    if not isinstance(module, kinds) and not is_gpt_conv1d(module):
        return ""
    return next((one.by for one in hooked(module) if "weight" in one.name), "")


def _of_kind(module: nn.Module) -> Iterator[Weight]:
    if isinstance(module, nn.Linear):
        yield Weight(module, "weight", module.in_features, module.out_features, ("bias",))
    elif isinstance(module, nn.Bilinear):
        fan_in = module.in1_features * module.in2_features
        yield Weight(module, "weight", fan_in, module.out_features, ("bias",))
    elif isinstance(module, nn.modules.conv._ConvNd):
        kernel = math.prod(module.kernel_size)
        inputs = module.in_channels // module.groups * kernel
        outputs = module.out_channels // module.groups * kernel
        if module.transposed:
            # Of the inputs under the kernel, one in each stride meets an output.
            inputs = max(1, inputs // math.prod(module.stride))
        yield Weight(module, "weight", inputs, outputs, ("bias",), module.groups)
    elif is_gpt_conv1d(module):
        matrix: Tensor = getattr(module, "weight")  # noqa: B009 (mypy knows no such attribute)
        inputs, outputs = matrix.shape
        yield Weight(module, "weight", inputs, outputs, ("bias",), inputs_first=True)
    elif isinstance(module, nn.MultiheadAttention):
        yield from _of_attention(module)
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        yield from _of_recurrent(module)


def _of_attention(module: nn.MultiheadAttention) -> Iterator[Weight]:
    width, biases = module.embed_dim, ("in_proj_bias",)
    if module.in_proj_weight is not None:
        yield Weight(module, "in_proj_weight", width, width, biases, stacked=3)
        return
    for name, inputs in (("q", width), ("k", module.kdim), ("v", module.vdim)):
        yield Weight(module, f"{name}_proj_weight", int(inputs or width), width, biases)


def _of_recurrent(module: nn.RNNBase | nn.RNNCellBase) -> Iterator[Weight]:
    hidden = int(module.hidden_size)
    behind = {name for one in hooked(module) for name in one.sources}
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("weight") and parameter.dim() == 2 and name not in behind:
            outputs, inputs = parameter.shape
            stacked = 1 if name.startswith("weight_hr") else outputs // hidden
            yield Weight(
                module,
                name,
                inputs,
                outputs // stacked,
                (name.replace("weight", "bias"),),
                stacked,
                is_recurrent=name.startswith("weight_hh"),
                biases_added=2,
            )


def drawn_normal(weight: Weight, std: float, generator: torch.Generator) -> Tensor:
    """Return independent normal entries of mean 0, in the weight's shape."""
    return (
        torch.randn(weight.value.shape, generator=generator, dtype=_drawn_in(weight), device="cpu")
        * std
    )


def drawn_orthogonal(weight: Weight, gain: float, generator: torch.Generator) -> Tensor:
    """Return matrices whose singular values are all ``gain``, in the weight's shape.

    A convolution is delta-orthogonal: zero but at the centre of its kernel, where the matrix
    from channels to channels is orthogonal (Xiao et al. 2018); one that cuts its input into
    patches (stride = kernel) is orthogonal as the matrix from a patch to the channels.
    """
    module, shape = weight.module, weight.value.shape
    if isinstance(module, nn.modules.conv._ConvNd):
        return _drawn_kernel(module, weight, gain, generator)
    if weight.inputs_first:
        return gain * _orthogonal(shape[1], shape[0], weight, generator).T
    rows, columns = shape[0] // weight.stacked, math.prod(shape[1:])
    matrices = [_orthogonal(rows, columns, weight, generator) for _ in range(weight.stacked)]
    return gain * torch.cat(matrices).reshape(shape)


def _drawn_kernel(
    module: nn.modules.conv._ConvNd, weight: Weight, gain: float, generator: torch.Generator
) -> Tensor:
    shape, kernel = weight.value.shape, tuple(module.kernel_size)
    rows = shape[0] // weight.stacked
    if tuple(module.stride) == kernel:
        columns = math.prod(shape[1:])
        cut = [_orthogonal(rows, columns, weight, generator) for _ in range(weight.stacked)]
        return gain * torch.cat(cut).reshape(shape)
    drawn = torch.zeros(shape, dtype=_drawn_in(weight), device="cpu")
    centre = drawn[:, :]
    for size in kernel:
        centre = centre.select(2, size // 2)
    matrices = [_orthogonal(rows, shape[1], weight, generator) for _ in range(weight.stacked)]
    centre.copy_(gain * torch.cat(matrices))
    return drawn


def _orthogonal(rows: int, columns: int, weight: Weight, generator: torch.Generator) -> Tensor:
    """Return a matrix with orthonormal columns, or rows where it has fewer of them (Haar)."""
    tall = (max(rows, columns), min(rows, columns))
    q: Tensor
    q, r = torch.linalg.qr(
        torch.randn(tall, generator=generator, dtype=_drawn_in(weight), device="cpu")
    )
    q *= r.diagonal().sign()
    return q if rows >= columns else q.T


def _drawn_in(weight: Weight) -> torch.dtype:
    # Half precision has no QR, and drawing in it would give other weights for the same seed.
    return torch.float64 if weight.value.dtype == torch.float64 else torch.float32


def biases_of(weight: Weight) -> Iterator[nn.Parameter]:
    """Yield the biases of the weight's matrices, where the module has them."""
    for name in weight.bias_names:
        bias = weight.module._parameters.get(name)
        if bias is not None:
            yield bias


def is_parametrized(module: nn.Module, name: str) -> bool:
    """Return whether ``module.name`` is computed by torch.nn.utils.parametrize."""
    return bool(parametrize.is_parametrized(module, name))

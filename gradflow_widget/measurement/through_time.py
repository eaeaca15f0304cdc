"""The signal gradient of recurrent layers at each time step (Bengio et al. 1994).

‖∂L/∂h_t‖ is of the total derivative, the path through all later steps included: what
``retain_grad`` on every h_t of a loop would show. A cell (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
that a loop calls T times shows it at its outputs. nn.RNN, nn.LSTM and nn.GRU hide their loop:
autograd tells what arrives at their outputs from outside, and the way back through time is
gone once more, with the layer's own weights (recurrence.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from .norms import joined_norms, norms_of_rows, stacked
from .recurrence import Recurrence

FloatArray = NDArray[np.float64]

_FORWARDS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


def is_fused(module: nn.Module) -> bool:
    """Whether a module hides a loop over time that can be gone back through."""
    return (
        isinstance(module, nn.RNNBase)
        and type(module).forward in _FORWARDS
        and not module.proj_size
    )


def is_cell(module: nn.Module) -> bool:
    """Whether a module is one step of a loop over time."""
    return isinstance(module, nn.RNNCellBase)


class FusedCall:
    """One call of an nn.RNN, nn.LSTM or nn.GRU, until its backward pass is over.

    Holds detached tensors that autograd holds too, and lets go of them after the pass.

    Attributes:
        hooks: those on the outputs.
        norms: ‖∂L/∂h_t‖ over all samples, (T,), by layer and direction: "" where there is
            one only, else "l0", "l0_reverse", … as PyTorch names the weights. Empty where
            none is known.
        samples: how many sequences there are.
    """

    def __init__(
        self,
        module: nn.RNNBase,
        inputs: Tensor,
        first: Sequence[Tensor],
        result: tuple[Tensor, Tensor | tuple[Tensor, Tensor]],
    ) -> None:
        output, last = result
        self._module = module
        self._inputs, self._output = inputs.detach(), output.detach()
        self._first = [state.detach() for state in first]
        self._marks = self._versions()
        self._arrived: dict[int, Tensor] = {}
        self._is_over = False
        self._is_batched = inputs.dim() == 3
        self.samples = int(inputs.shape[0 if module.batch_first else 1]) if self._is_batched else 1
        self.norms: dict[str, Tensor] = {}
        outputs = (output, *(last if isinstance(last, tuple) else (last,)))
        self.hooks: list[RemovableHandle] = [
            tensor.register_hook(self._take(place))
            for place, tensor in enumerate(outputs)
            if tensor.requires_grad
        ]

    @classmethod
    def of(
        cls, module: nn.RNNBase, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> FusedCall | None:
        """Return the call, or None where the way back is not known.

        So it is for packed sequences, with dropout between layers, whose mask is gone, and
        for weights that are computed.
        """
        named = {**dict(zip(("input", "hx"), args, strict=False)), **kwargs}
        inputs, first = named.get("input"), named.get("hx")
        if not isinstance(inputs, Tensor) or not _is_whole(result):
            return None
        if parametrize.is_parametrized(module):
            return None  # a parametrization that is computed again may draw, or go on
        if module.dropout and module.training and module.num_layers > 1:
            return None
        states = () if first is None else (first,) if isinstance(first, Tensor) else tuple(first)
        return cls(module, inputs, states, result)

    def _versions(self) -> list[int]:
        """Return what tells whether a tensor that the way back needs was changed in place."""
        held = (self._inputs, self._output, *self._first, *self._module.parameters())
        return [tensor._version for tensor in held]

    def _take(self, place: int) -> Callable[[Tensor | None], None]:
        def take(gradient: Tensor | None) -> None:
            if gradient is None:
                return  # only other outputs of the same operation were used
            if self._is_over:
                self.norms = {}  # a second pass through the same graph: the sum is not known
            else:
                self._arrived[place] = gradient.detach()

        return take

    def end_backward(self, *, counts: bool) -> None:
        """Go back through time with what has arrived, where the backward pass counts."""
        arrived, self._arrived = self._arrived, {}
        if not (counts and arrived) or self._is_over:
            return
        if self._versions() == self._marks:
            with torch.no_grad(), torch.autocast(self._output.device.type, enabled=False):
                self.norms = self._back(arrived)
        self.let_go()

    def let_go(self) -> None:
        """Let go of inputs and outputs."""
        self._is_over = True
        self._arrived = {}
        self._inputs = self._output = torch.empty(0, device="cpu")
        self._first = []

    def _sequence(self, tensor: Tensor) -> Tensor:
        """Return an input or output as (T, batch, features), in float32 at least."""
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        if not self._is_batched:
            return tensor[:, None]
        return tensor.transpose(0, 1) if self._module.batch_first else tensor

    def _back(self, arrived: dict[int, Tensor]) -> dict[str, Tensor]:
        module = self._module
        inputs, output = self._sequence(self._inputs), self._sequence(self._output)
        ways = [0, 1] if module.bidirectional else [0]

        def states(of: Tensor | None) -> Tensor:
            """Return h or c of every layer and direction, zeros for None."""
            shape = (module.num_layers, len(ways), self.samples, module.hidden_size)
            return output.new_zeros(shape) if of is None else of.to(output.dtype).reshape(shape)

        first = [states(of) for of in self._first] or [states(None)] * 2
        last_hidden, last_cell = states(arrived.get(1)), states(arrived.get(2))

        layers: list[list[Recurrence]] = []
        below = inputs
        for layer in range(module.num_layers):
            known = output.chunk(len(ways), 2) if layer == module.num_layers - 1 else None
            layers.append(
                [
                    Recurrence(
                        module.mode,
                        [w.detach().to(output.dtype) for w in _weights(module, layer, way)],
                        _turned(below, way),
                        [state[layer, way] for state in first],
                        None if known is None else _turned(known[way], way),
                    )
                    for way in ways
                ]
            )
            below = torch.cat([_turned(layers[-1][way].hidden, way) for way in ways], 2)

        norms: dict[str, Tensor] = {}  # the lowest layer first
        above = self._sequence(arrived[0]) if 0 in arrived else torch.zeros_like(output)
        for layer in reversed(range(module.num_layers)):
            direct, at_inputs = above.chunk(len(ways), 2), []
            here: dict[str, Tensor] = {}
            for way in ways:
                arriving = _turned(direct[way], way).clone()
                arriving[-1] += last_hidden[layer, way]
                signals, at_input = layers[layer][way].back(arriving, last_cell[layer, way])
                at_inputs.append(_turned(at_input, way))
                norm = norms_of_rows(signals)
                here[f"l{layer}{'_reverse' * way}"] = _turned(norm, way)
            norms = here | norms
            above = torch.stack(at_inputs).sum(0)
        return {"": norms["l0"]} if len(norms) == 1 else norms


def _turned(sequence: Tensor, way: int) -> Tensor:
    """Turn time around for the reverse direction."""
    return sequence.flip(0) if way else sequence


def _weights(module: nn.RNNBase, layer: int, way: int) -> list[Tensor]:
    kinds = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
    return [getattr(module, f"{kind}_l{layer}{'_reverse' * way}") for kind in kinds]


def _is_whole(result: Any) -> bool:
    """Whether a layer has given output and last states as torch's own do: a hook may cut them."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)):
        return False
    last = result[1] if isinstance(result[1], tuple) else (result[1],)
    return all(isinstance(state, Tensor) for state in last)


class ThroughTime:
    """Norms through time ready for the one transfer, and how to read them afterwards.

    Several passes of one step add up as the other quantities do: squares and samples, time
    step by time step from the first.

    Attributes:
        vectors: norms over all samples, each (T,).
    """

    def __init__(self) -> None:
        self.vectors: list[Tensor] = []
        self._series: list[tuple[str, int, int]] = []  # name, T, samples

    def add_fused(self, name: str, call: FusedCall) -> None:
        """Add what a fused layer's call has shown."""
        for part, norms in call.norms.items():
            self._add(".".join(filter(None, (name, part))), norms, call.samples)

    def add_cell(
        self, name: str, signals: Sequence[Sequence[Tensor | float]], samples: int
    ) -> None:
        """Add a cell's calls in one forward pass: the norms that came at each of them.

        A call that no gradient reached has none to give: 0. Nothing is added for a single
        call, which is no loop, nor after two backward passes through the same calls.
        """
        arrived = [norm for here in signals for norm in here]
        if len(signals) > 1 and arrived and all(len(here) <= 1 for here in signals):
            self._add(name, stacked([here[0] if here else 0.0 for here in signals]), samples)

    def _add(self, name: str, norms: Tensor, samples: int) -> None:
        self.vectors.append(norms)
        self._series.append((name, len(norms), samples))

    def arrays(self, values: FloatArray) -> dict[str, FloatArray] | None:
        """Return ‖∂L/∂h_t‖ by name, (T,): per sample, root mean square; None for none.

        Args:
            values: the numbers of ``vectors``, one after another.
        """
        passes: dict[str, list[tuple[FloatArray, int]]] = {}
        start = 0
        for name, length, samples in self._series:
            passes.setdefault(name, []).append((values[start : start + length], samples))
            start += length
        arrays = {}
        for name, of_name in passes.items():
            norms, numbers = np.zeros((2, len(of_name), max(len(here) for here, _ in of_name)))
            for row, (here, samples) in enumerate(of_name):
                norms[row, : len(here)] = here
                numbers[row, : len(here)] = samples
            array = arrays[name] = joined_norms(norms, axis=0) / np.sqrt(numbers.sum(0))
            array.flags.writeable = False
        return arrays or None

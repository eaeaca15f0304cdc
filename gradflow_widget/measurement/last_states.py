"""The signal at the output of nn.RNN, nn.LSTM and nn.GRU, what comes by the last state included.

These hand out their last hidden state beside the sequence of outputs, of which it is a copy: a
classifier that goes on from ``h_n[-1]`` sends its gradient there, and none to the sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class LastStates:
    """Puts together what arrives at a call's outputs and at its last hidden states.

    Args:
        module: the recurrent layer.
        output: its outputs, a tensor or the data of a packed sequence.
        packed: the packed sequence; None where there is none.
    """

    def __init__(self, module: nn.RNNBase, output: Tensor, packed: PackedSequence | None) -> None:
        self._module, self._packed = module, packed
        self._shape, self._kind = output.shape, (output.dtype, output.device)
        self.arrived: dict[int, Tensor] = {}

    @classmethod
    def of(cls, module: nn.Module, result: Any) -> tuple[LastStates, Tensor] | None:
        """Return that of a call, and its last hidden states; None where there are none."""
        if not isinstance(module, nn.RNNBase) or type(result) is not tuple or len(result) != 2:
            return None
        output, last = result
        hidden = last[0] if isinstance(last, tuple) else last
        packed = output if isinstance(output, PackedSequence) else None
        output = output.data if packed is not None else output
        if not (isinstance(output, Tensor) and isinstance(hidden, Tensor)):
            return None
        if (
            not hidden.requires_grad
            or hidden.shape[-1] * (1 + module.bidirectional) != (output.shape[-1])
        ):
            return None
        return cls(module, output, packed), hidden

    def total(self) -> Tensor:
        """Return the gradient at the outputs, each last state's added at its time step."""
        arrived, self.arrived = self.arrived, {}
        if 1 not in arrived:
            return arrived[0]
        dtype, device = self._kind
        total = (
            arrived[0].clone()
            if 0 in arrived
            else torch.zeros(self._shape, dtype=dtype, device=device)
        )
        ways = 1 + self._module.bidirectional
        width = self._shape[-1] // ways
        top = arrived[1][-ways:]
        for way in range(ways):
            columns = slice(way * width, (way + 1) * width)
            if self._packed is not None:
                self._add_packed(total[:, columns], top[way], way)
            else:
                # Time is the second of three dimensions where the batch comes first.
                time = 1 if self._module.batch_first and total.dim() == 3 else 0
                total.select(time, -1 if way == 0 else 0)[..., columns] += top[way]
        return total

    def _add_packed(self, rows: Tensor, states: Tensor, way: int) -> None:
        packed = self._packed
        assert packed is not None
        if packed.sorted_indices is not None:
            states = states[packed.sorted_indices]
        sizes = packed.batch_sizes
        sequences = torch.arange(int(sizes[0]), device=sizes.device)
        if way == 0:
            lengths = (sizes[None, :] > sequences[:, None]).sum(1)
            starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
            sequences = starts[lengths - 1] + sequences
        rows.index_add_(0, sequences.to(rows.device), states)

"""The way back through time of nn.RNN, nn.LSTM and nn.GRU, step by step.

Each recurrence is one layer in one direction, with time in the order in which it runs. Shapes:
inputs (T, batch, features), states (batch, hidden), sequences of states (T, batch, hidden).
Formulas are those of the classes' documentation, differentiated by hand: without autograd's
bookkeeping, and without the weights' gradients, a step back costs one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CELLS = {
    "RNN_TANH": torch.rnn_tanh_cell,
    "RNN_RELU": torch.rnn_relu_cell,
    "GRU": torch.gru_cell,
}


class Recurrence:
    """One layer in one direction.

    Args:
        mode: as in ``nn.RNNBase``.
        weights: W_ih, W_hh and, where there are any, b_ih, b_hh.
        inputs: x_1 to x_T.
        first: h_0, and for the LSTM c_0.
        hidden: h_1 to h_T where they are known; otherwise they are computed.
    """

    def __init__(
        self,
        mode: str,
        weights: Sequence[Tensor],
        inputs: Tensor,
        first: Sequence[Tensor],
        hidden: Tensor | None = None,
    ) -> None:
        self._mode, self._weights, self._first = mode, weights, first
        self.hidden = self._run(inputs) if hidden is None else hidden
        self._before = torch.cat([first[0][None], self.hidden[:-1]])
        w_ih, w_hh, *biases = weights
        b_ih, b_hh = biases or (None, None)
        # W x + b and W h + b of all gates, for all times at once.
        self._from_input = torch.nn.functional.linear(inputs, w_ih, b_ih)
        self._from_hidden = torch.nn.functional.linear(self._before, w_hh, b_hh)

    def _run(self, inputs: Tensor) -> Tensor:
        hidden: list[Tensor] = []
        h, c = self._first[0], self._first[-1]
        for x in inputs:
            if self._mode == "LSTM":
                h, c = torch.lstm_cell(x, (h, c), *self._weights)
            else:
                h = _CELLS[self._mode](x, h, *self._weights)
            hidden.append(h)
        return torch.stack(hidden)

    def back(self, direct: Tensor, last_cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Go back from what reaches each h_t from outside the layer.

        Args:
            direct: that part of ∂L/∂h_t, (T, batch, hidden).
            last_cell: the part of ∂L/∂c_T that comes from outside.

        Returns:
            The total ∂L/∂h_t, (T, batch, hidden), and ∂L/∂x_t, (T, batch, features).
        """
        if self._mode == "LSTM":
            signals, at_input = self._back_lstm(direct, last_cell)
        elif self._mode == "GRU":
            signals, at_input = self._back_gru(direct)
        else:
            signals, at_input = self._back_rnn(direct)
        return signals, at_input @ self._weights[0]

    def _back_rnn(self, direct: Tensor) -> tuple[Tensor, Tensor]:
        # h = φ(z); with tanh φ' = 1 - h², with ReLU 1 where h > 0.
        h, w_hh = self.hidden, self._weights[1]
        slope = 1 - h * h if self._mode == "RNN_TANH" else (h > 0).to(h.dtype)
        signals = direct.clone()
        for t in range(len(h) - 1, 0, -1):
            signals[t - 1].addmm_(signals[t] * slope[t], w_hh)
        return signals, signals * slope

    def _back_gru(self, direct: Tensor) -> tuple[Tensor, Tensor]:
        # h' = (1 - z) n + z h, n = tanh(a_n + r b_n), where a is from x and b from h.
        w_hh = self._weights[1]
        a_r, a_z, a_n = self._from_input.chunk(3, 2)
        b_r, b_z, b_n = self._from_hidden.chunk(3, 2)
        r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
        n = torch.tanh(a_n + r * b_n)
        # ∂h'/∂ of what goes into each gate: all are linear in ∂L/∂h'.
        to_n = (1 - z) * (1 - n * n)
        to_r = to_n * b_n * r * (1 - r)
        to_z = (self._before - n) * z * (1 - z)
        to_hidden = torch.stack([to_r, to_z, to_n * r], 2)
        signals = direct.clone()
        for t in range(len(z) - 1, 0, -1):
            gates = (signals[t, :, None] * to_hidden[t]).flatten(1)
            signals[t - 1].addcmul_(signals[t], z[t]).addmm_(gates, w_hh)
        return signals, torch.cat([signals * to_r, signals * to_z, signals * to_n], 2)

    def _back_lstm(self, direct: Tensor, last_cell: Tensor | None) -> tuple[Tensor, Tensor]:
        # c = f c + i g, h = o tanh(c).
        w_hh = self._weights[1]
        gates = (self._from_input + self._from_hidden).chunk(4, 2)
        i, f, o = (torch.sigmoid(gates[place]) for place in (0, 1, 3))
        g = torch.tanh(gates[2])
        cells = torch.empty_like(i)
        c, added = self._first[1], i * g
        for t in range(len(cells)):
            c = torch.addcmul(added[t], f[t], c, out=cells[t])
        before = torch.cat([self._first[1][None], cells[:-1]])
        squashed = torch.tanh(cells)
        through_h = o * (1 - squashed * squashed)
        # ∂c/∂ and ∂h/∂ of what goes into each gate.
        to_i, to_f, to_g = g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)
        of_cell = torch.stack([to_i, to_f, to_g], 2)
        of_hidden = squashed * o * (1 - o)
        signals = direct.clone()
        at_gates = torch.empty_like(self._from_input)
        cell = torch.zeros_like(c) if last_cell is None else last_cell
        for t in range(len(cells) - 1, -1, -1):
            cell = torch.addcmul(cell, signals[t], through_h[t])
            torch.cat(
                [(cell[:, None] * of_cell[t]).flatten(1), signals[t] * of_hidden[t]],
                1,
                out=at_gates[t],
            )
            if t:
                signals[t - 1].addmm_(at_gates[t], w_hh)
                cell = cell * f[t]
        return signals, at_gates

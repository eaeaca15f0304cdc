"""Forward passes as they are captured: calls of layers, their outputs, and the signals at these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from .activations import Counts, Flatness, has_channels_first
from .last_states import LastStates
from .layers import LayerParts
from .through_time import FusedCall, ThroughTime, is_cell

Scalar = torch.Tensor | float


class Call:
    """One call of one layer: 0-d tensors on the device or numbers, and what to divide them by."""

    __slots__ = (
        "activation",
        "counts",
        "flatness",
        "has_channels_first",
        "number",
        "part",
        "recomputed",
        "rows",
        "samples",
        "signals",
        "vector",
    )

    activation: Scalar

    def __init__(self, part: LayerParts, output: torch.Tensor, samples: int) -> None:
        self.part = part
        self.number = output.numel()
        self.rows = int(output.shape[0]) if output.dim() > 1 else 1
        self.samples = samples
        self.has_channels_first = has_channels_first(part.module, output)
        # Checkpointing runs a block again within the backward pass; where the first run was
        # seen, no gradient comes to the second.
        self.recomputed = torch._C._current_graph_task_id() != -1
        self.signals: list[Scalar] = []
        # Their sum, where several backward passes go through one graph.
        self.vector: torch.Tensor | None = None
        # Of the activation that follows, for outputs that lie on a shelf.
        self.flatness: Flatness | None = None
        self.counts: Counts | None = None


class Output:
    """A layer's output, kept until it shows which activation follows; None on a shelf.

    Attributes:
        uses: into how many things it was seen to go.
    """

    __slots__ = ("call", "is_on_shelf", "tensor", "uses", "version")

    def __init__(self, call: Call, tensor: torch.Tensor | None) -> None:
        self.call = call
        self.tensor, self.is_on_shelf = tensor, tensor is None
        self.version = 0 if tensor is None else tensor._version
        self.uses = 0


class Signal:
    """The gradient that has come to a call's output: its norm, once it is measured.

    Or the gradient itself, where more is to be added to it.
    """

    __slots__ = ("call", "norm", "of", "states", "values")

    norm: Scalar

    def __init__(self, of: Pass, call: Call) -> None:
        self.of, self.call = of, call
        self.values: torch.Tensor | None = None
        self.states: LastStates | None = None


class Pass:
    """One forward pass of the model.

    Args:
        samples: how many it is of; None where no call of the model has told.
        thread: the one whose pass it is.
    """

    def __init__(self, samples: int | None, thread: int) -> None:
        self.samples, self.thread = samples, thread
        self.calls: list[Call] = []
        self.fused: list[tuple[LayerParts, FusedCall]] = []
        self.hooks: list[RemovableHandle] = []
        # Whether a backward pass that counts went through it; if none did, it was an
        # evaluation with autograd left on.
        self.used = False
        self.outputs: dict[Any, Output] = {}
        # Of every tensor that a layer returned, as a recurrent one its states, while the ways
        # through the network are looked for: the layer's name by the tensor's node.
        self.sources: dict[Any, str] = {}
        self.seen: set[Any] = set()

    @property
    def has_graph(self) -> bool:
        """Whether a backward pass may still come: autograd keeps the hooks' dictionaries."""
        return any(hook.hooks_dict_ref() is not None for hook in self.hooks)

    def let_go(self) -> None:
        """Let go of outputs and graph."""
        self.outputs.clear()
        self.sources.clear()
        self.seen.clear()

    def close(self) -> None:
        """Let go of all, and take the hooks off the outputs."""
        self.let_go()
        for _, fused in self.fused:
            fused.let_go()
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def through_time(self, calls: Sequence[Call], into: ThroughTime) -> None:
        """Add what the recurrent layers have shown; ``calls`` are those that count."""
        loops: dict[LayerParts, list[Call]] = {}
        for call in calls:
            if is_cell(call.part.module):
                loops.setdefault(call.part, []).append(call)
        for part, loop in loops.items():
            # Blocks that are run again come in the order in which the backward pass asks.
            if not any(call.recomputed for call in loop):
                into.add_cell(part.layer.name, [call.signals for call in loop], loop[0].rows)
        for part, fused in self.fused:
            into.add_fused(part.layer.name, fused)

"""A causal transformer in the manner of GPT, with the norms before or after each part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ...quoting import quoted
from ...tweaks.activation import activation_module, checked_activation
from ...tweaks.depth import checked_depth
from .skips import joined, skip_scale
from .widths import checked_width

NORMS = ("pre", "post")


class Attention(nn.Module):
    """Causal self-attention: (batch, time, width) to the same; no time step sees a later one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended values."""
        # (batch, time, 3 width) to three of (batch, heads, time, width of a head)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)
        )
        attended = scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention and a two-layer network at every time step, each with a skip connection.

    With ``norm="pre"`` the stream itself is never normalised: x + f(LN(x)); with "post" it
    is after each sum: LN(x + f(x)) (Xiong et al. 2020).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        activation: str,
        norm: str,
        scale: float | nn.Parameter | None,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = activation_module(activation)
        self.fc2 = nn.Linear(4 * width, width)
        self.scale = scale

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the two-layer network's output."""
        output: Tensor = self.fc2(self.act(self.fc1(x)))
        return output

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, time, width)."""
        if self.norm == "pre":
            x = joined(x, self.attention(self.norm1(x)), self.scale)
            return joined(x, self.feed_forward(self.norm2(x)), self.scale)
        x = self.norm1(joined(x, self.attention(x), self.scale))
        normal: Tensor = self.norm2(joined(x, self.feed_forward(x), self.scale))
        return normal


class Transformer(nn.Module):
    """Embedding with a learned position, blocks, and a Linear layer."""

    def __init__(
        self, embedding: nn.Module, length: int, width: int, blocks: list[Block], outputs: int
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(blocks)
        # Behind post-LN blocks the stream is normal already.
        self.norm = nn.LayerNorm(width) if blocks[0].norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs: at every time step for tokens, else at the last."""
        places = torch.arange(x.shape[1], device=x.device)
        stream = self.embedding(x) + self.position(places)
        for block in self.blocks:
            stream = block(stream)
        if not isinstance(self.embedding, nn.Embedding):
            stream = stream[:, -1]
        outputs: Tensor = self.head(self.norm(stream))
        return outputs


def transformer(
    depth: int = 2,
    activation: str = "gelu",
    skips: Any = 1.0,
    *,
    length: int = 64,
    features: int | None = None,
    vocabulary: int | None = 96,
    width: int = 32,
    heads: int = 2,
    outputs: int = 96,
    norm: str = "pre",
) -> Transformer:
    """Return a causal transformer of ``depth`` blocks.

    Maps tokens (batch, time) to (batch, time, outputs), at every time step from what came so
    far, or sequences (batch, time, features) to (batch, outputs), read off the last time
    step. Sequences may be as long as ``length``. ``skips`` is the scale as in ``skip_scale``.

    Raises:
        ValueError: depth is out of range, the activation, norm or scale unknown, or the
            width can't be divided among the heads.
    """
    checked_depth(depth)
    checked_activation(activation)
    checked_width(width, heads=heads)
    if norm not in NORMS:
        raise ValueError(f"norm {quoted(norm)} is unknown: choose one of {', '.join(NORMS)}.")
    embedding: nn.Module
    if vocabulary is None:
        embedding = nn.Linear(features or 1, width)
    else:
        embedding = nn.Embedding(vocabulary, width)
    # Two parts of a block have a connection each.
    blocks = [
        Block(width, heads, activation, norm, skip_scale(skips, 2 * depth)) for _ in range(depth)
    ]
    return Transformer(embedding, length, width, blocks, outputs)

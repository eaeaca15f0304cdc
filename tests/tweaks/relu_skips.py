"""How fast gradients grow through x + α·ReLU(Wx) with He's weights, at a finite width.

With W of mean 0 and variance 2/N, theory.md's factor √(1 + α²) a block is exact for infinite
width alone: ReLU's outputs have a mean, and that makes blocks that end in it grow faster.

Forward, q = |x|²/N, m the mean of x and μ = α√(q/π) that of α·ReLU(z), where z = Wx ~ N(0, 2q):

    q ← q(1 + α²) + 2mμ,    m ← m + μ.

Backward, δ is the gradient behind a block, D the units that are on and x ∈ Rᴺ the block's input:

    δ ← δ + x·s/|x|² + ξ,   s = δ·αReLU(z),   ξ ⟂ x,   |ξ|² = 2α²|Dδ|²(N − 1)/N,

for W is known along x, where it gave z, and random across it. The network being homogeneous,
a = δ·x is the same everywhere (Euler): along x the gradient's energy a²/|x|², a share of 1/N at
the output, grows toward the input as fast as |x|² falls, and in the end outgrows the rest. The
second moments of δ, M = δ·1 and a are followed exactly up to what is of order 1/N of themselves.
"""

from __future__ import annotations

import math

import numpy as np


def forward(blocks: int, alpha: float) -> list[tuple[float, float]]:
    """Return q and m of each block's input, and of the output; the inputs are N(0, 1)."""
    found = [(1.0, 0.0)]
    for _ in range(blocks):
        q, m = found[-1]
        mean = alpha * math.sqrt(q / math.pi)
        found.append((q * (1 + alpha**2) + 2 * m * mean, m + mean))
    return found


def slope(width: int, blocks: int, alpha: float) -> float:
    """Return g fitted to ‖∂L/∂z‖ of the blocks, for a random gradient N(0, 1) at the output."""
    signal = forward(blocks, alpha)
    (q, m), n = signal[-1], float(width)
    # Expectations of |δ|², M², aM and a².
    energy, mm, am, aa = n, n, n * m, n * q
    logs = []
    for q, m in reversed(signal[:-1]):
        mean = alpha * math.sqrt(q / math.pi)
        after = m + mean
        # x and αReLU(z) without their means: y and ψ; h = δ·(y + ψ).
        yy, pp = n * (q - m**2), n * (alpha**2 * q - mean**2)
        y_share, p_share = yy / (yy + pp), pp / (yy + pp)
        hh = aa - 2 * after * am + after**2 * mm
        hm, ah = am - after * mm, aa - after * am
        # What δ is along ψ beyond its share of h.
        rest = (energy - mm / n - hh / (yy + pp)) / (n - 2) * yy * p_share
        along = (p_share**2 * hh + rest) / pp**2
        on = energy / 2 + along * n * (alpha**2 * q / 2 - mean**2) + hm / (yy + pp) * mean
        logs.append(0.5 * math.log(on))
        sm = mean * mm + p_share * hm
        ss = mean**2 * mm + p_share**2 * hh + 2 * mean * p_share * hm + rest
        through = m**2 * mm + y_share**2 * hh + 2 * m * y_share * hm + rest
        across = 2 * alpha**2 * on
        energy += across * (n - 1) / n + (aa - through) / (n * q)
        mm += 2 * m / q * sm + (m / q) ** 2 * ss + across * (1 - m**2 / q)
        am += m / q * (mean * am + p_share * ah)
    return float(np.polyfit(np.arange(blocks), logs, 1)[0])

"""How long a turn of a cold knob takes until its bars are there: a Markdown table.

Each cell is the tweak, the rebuilt optimizer and the first reading together, in milliseconds:
the median of several turns on a fresh model. On two CPU cores none should take 300 ms. The
networks are those of docs/what_works.md, and three of a size that people train.

Run with ``python -m benchmarks.tweaks``; ``--turns`` says how often each knob is turned.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import nn
from torch.optim import Optimizer

from gradflow_widget.measurement.single import read_objective
from gradflow_widget.tweaks.activation import activation_of, with_activation
from gradflow_widget.tweaks.depth import depth_of, with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import normalization_of, with_normalization
from gradflow_widget.tweaks.optimizer import rebuilt_optimizer
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.skips import with_skips
from tests.models.cases import CASES, Case, objective, plain
from tests.models.zoo import Inputs

from .table import markdown


def _activation(model: nn.Module) -> nn.Module:
    return with_activation(model, "relu" if activation_of(model) != "relu" else "tanh")


def _normalization(model: nn.Module) -> nn.Module:
    return with_normalization(model, "batch" if normalization_of(model) != "batch" else "layer")


TWEAKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "activation": _activation,
    "depth": lambda model: with_depth(model, depth_of(model).blocks + 1),
    "initialisation, He": lambda model: with_initialization(model, "he"),
    "critical": lambda model: with_initialization(model, "critical"),
    "normalisation": _normalization,
    "skips": lambda model: with_skips(model, "1/sqrt(2L)"),
    "orthogonality, soft": lambda model: with_orthogonality(model, 0.1),
    "hard": lambda model: with_orthogonality(model, "hard"),
}


def _mlp() -> nn.Module:
    layers = [m for _ in range(30) for m in (nn.Linear(256, 256), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def _cnn() -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        parts += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _gpt() -> nn.Module:
    config = transformers.GPT2Config(n_layer=6, n_embd=128, n_head=4, vocab_size=256)
    return transformers.GPT2LMHeadModel(config)


def _larger() -> list[Case]:
    def vectors() -> Inputs:
        return (torch.ones(64, 256),)

    def images() -> Inputs:
        return (torch.ones(64, 1, 8, 8),)

    def tokens() -> Inputs:
        return {"input_ids": torch.ones(8, 32, dtype=torch.long)}

    return [
        Case("MLP 30×256", _mlp, vectors, plain(vectors)),
        Case("CNN 8×32, digits", _cnn, images, plain(images)),
        Case("GPT-2 6×128", _gpt, tokens, plain(tokens)),
    ]


def turned(
    case: Case, model: nn.Module, optimizer: Optimizer, tweak: Callable[[nn.Module], nn.Module]
) -> float:
    """Turn a knob once; return the milliseconds until there is a reading."""
    inputs = case.inputs()
    start = time.perf_counter()
    changed = tweak(model)
    rebuilt_optimizer(optimizer, model, changed)
    read_objective(changed, objective, inputs)
    return (time.perf_counter() - start) * 1e3


def row(case: Case, turns: int) -> list[str]:
    """Return a network's line of the table."""
    cells = [case.title]
    for tweak in TWEAKS.values():
        model = case.made()
        optimizer = case.optimizer(model)
        # Its state is copied too.
        case.step()(model, optimizer, objective)
        try:
            times = [turned(case, model, optimizer, tweak) for _ in range(turns)]
            cells.append(f"{statistics.median(times):.0f} (first {times[0]:.0f})")
        except CannotTweak:
            cells.append("–")
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    rows = [row(case, turns) for case in (*CASES.values(), *_larger())]
    print("\nFrom a knob's turn to its first bars, in ms\n")
    print(markdown(["network", *TWEAKS], rows))


if __name__ == "__main__":
    main()

"""What recording costs a training loop, beside what the peers cost: a Markdown table.

Every contestant trains its own copy of the same network, in one process and on one thread.
They take turns in short stretches, each beside a stretch of the bare loop, and the number
given is the median of the ratios, so that a machine busy with other things bends all alike.

Run with ``python -m benchmarks.headless``; ``--rounds`` says how often they take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from gradflow_widget import GradientProbe

from .table import markdown

Step = Callable[[], None]
# Steps that nobody waits for become rows of the history 64 at a time: so all of it is timed.
_STRETCH = 64
NETWORKS = {"20×64": (20, 64), "30×256": (30, 256)}


class Run:
    """A plain tanh network on fixed random data, and its loop."""

    def __init__(self, depth: int, width: int) -> None:
        torch.manual_seed(0)
        modules = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.Tanh())]
        self.model = nn.Sequential(*modules[:-1])
        self.inputs, self.targets = torch.randn(2, 64, width)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.step_number = 0

    def backward(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(self.inputs), self.targets)
        loss.backward()
        return loss

    def bare(self) -> None:
        self.backward()
        self.optimizer.step()
        self.step_number += 1


# -- contestants: each a context manager that yields a step -----------------------------


@contextlib.contextmanager
def probe(run: Run) -> Iterator[Step]:
    with GradientProbe(run.model, run.optimizer):
        yield run.bare


@contextlib.contextmanager
def probe_in_full(run: Run) -> Iterator[Step]:
    with GradientProbe(run.model, run.optimizer, full=True):
        yield run.bare


def _gradients(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]


@contextlib.contextmanager
def tensorboard_scalars(run: Run) -> Iterator[Step]:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:

        def step() -> None:
            writer.add_scalar("loss", run.backward().item(), run.step_number)
            for name, gradient in _gradients(run.model):
                writer.add_scalar(name, gradient.norm().item(), run.step_number)
            run.optimizer.step()
            run.step_number += 1

        yield step


@contextlib.contextmanager
def tensorboard_histograms(run: Run) -> Iterator[Step]:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:

        def step() -> None:
            writer.add_scalar("loss", run.backward().item(), run.step_number)
            for name, gradient in _gradients(run.model):
                writer.add_histogram(name, gradient, run.step_number)
            run.optimizer.step()
            run.step_number += 1

        yield step


@contextlib.contextmanager
def wandb_watch(run: Run) -> Iterator[Step]:
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        session = wandb.init(
            mode="offline",
            dir=folder,
            project="headless",
            settings=wandb.Settings(silent=True, console="off"),
        )
        session.watch(run.model, log="gradients", log_freq=1)

        def step() -> None:
            loss = run.backward()
            session.log({"loss": loss.item()})
            run.optimizer.step()

        try:
            yield step
        finally:
            session.unwatch(run.model)
            session.finish()


@contextlib.contextmanager
def lightning_grad_norm(run: Run) -> Iterator[Step]:
    from lightning.pytorch.utilities import grad_norm

    recorded: list[dict[str, float]] = []

    def step() -> None:
        run.backward()
        recorded.append({name: float(norm) for name, norm in grad_norm(run.model, 2).items()})
        run.optimizer.step()

    yield step


@contextlib.contextmanager
def fastai_hooks(run: Run) -> Iterator[Step]:
    from fastai.callback.hook import hook_outputs

    recorded: list[list[tuple[float, float]]] = []
    layers = [module for module in run.model if isinstance(module, nn.Linear)]
    with hook_outputs(layers, detach=True, grad=True) as hooks:

        def step() -> None:
            run.backward()
            recorded.append([(h[0].mean().item(), h[0].std().item()) for h in hooks.stored])
            run.optimizer.step()

        yield step


@contextlib.contextmanager
def livelossplot(run: Run) -> Iterator[Step]:
    import matplotlib as mpl
    from livelossplot import PlotLosses

    mpl.use("Agg")
    plot = PlotLosses(mode="script")

    def step() -> None:
        loss = run.backward()
        norms = {name: gradient.norm().item() for name, gradient in _gradients(run.model)}
        plot.update({"loss": loss.item(), "gradient": sum(norms.values())})
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            plot.send()
        run.optimizer.step()

    yield step


@contextlib.contextmanager
def matplotlib_redraw(run: Run) -> Iterator[Step]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()

    def step() -> None:
        run.backward()
        named = [(n, g) for n, g in _gradients(run.model) if "bias" not in n]
        axes.clear()
        axes.bar(range(len(named)), [g.abs().max().item() for _, g in named], alpha=0.3)
        axes.bar(range(len(named)), [g.abs().mean().item() for _, g in named], alpha=0.3)
        axes.set_xticks(range(len(named)), [n for n, _ in named], rotation="vertical")
        figure.canvas.draw()
        run.optimizer.step()

    yield step
    plt.close(figure)


Contestant = Callable[[Run], contextlib.AbstractContextManager[Step]]
# Name, what does it, the module it needs, and how many of the usual steps it gets.
CONTESTANTS: list[tuple[str, Contestant, str, float]] = [
    ("**GradientProbe, every step**", probe, "torch", 1),
    ("**GradientProbe, every step in full**", probe_in_full, "torch", 1),
    ("TensorBoard, loss and gradient norms as scalars", tensorboard_scalars, "tensorboard", 0.4),
    ("TensorBoard, gradients as histograms", tensorboard_histograms, "tensorboard", 0.15),
    ("wandb.watch(log_freq=1), offline", wandb_watch, "wandb", 0.3),
    ("Lightning's grad_norm", lightning_grad_norm, "lightning", 0.5),
    ("fastai's hooks, mean and deviation of signal gradients", fastai_hooks, "fastai", 0.5),
    ("livelossplot, redrawn at every step", livelossplot, "livelossplot", 0.02),
    ("matplotlib, bars redrawn at every step", matplotlib_redraw, "matplotlib", 0.02),
]


def _seconds(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def ratios(contestant: Contestant, size: tuple[int, int], rounds: int, count: int) -> list[float]:
    """Return how many times a bare step each stretch of the contestant's steps took."""
    watched, bare = Run(*size), Run(*size)
    found = []
    _seconds(bare.bare, 10)
    for _ in range(rounds):
        # Between two bare stretches, so that a drift of the machine cancels; nobody watches
        # then, for some contestants hear of every backward pass of the process.
        before = _seconds(bare.bare, max(count, 5))
        with contestant(watched) as step:
            _seconds(step, count)
            watched_seconds = _seconds(step, count)
        after = _seconds(bare.bare, max(count, 5))
        found.append(watched_seconds / ((before + after) / 2))
    return found


def headless_table(rounds: int, names: list[str] | None = None) -> list[list[str]]:
    """Return the rows of the table of headless recording."""
    rows = []
    for title, contestant, needs, share in CONTESTANTS:
        if names and not any(name in title for name in names):
            continue
        if importlib.util.find_spec(needs) is None:
            rows.append([title, *(f"{needs} is not installed" for _ in NETWORKS)])
            continue
        row = [title]
        for size in NETWORKS.values():
            few = max(3, round(rounds * share))
            try:
                found = ratios(contestant, size, few, _STRETCH if share >= 0.5 else 3)
            except Exception as error:  # a peer's fault must not cost the table
                row.append(f"failed: {type(error).__name__}")
                print(f"{title}: {error!r}", file=sys.stderr)
                continue
            quartiles = statistics.quantiles(found, n=4)
            row.append(f"{statistics.median(found):.3f} ({quartiles[0]:.2f}–{quartiles[2]:.2f})")
        rows.append(row)
    return rows


# -- on a GPU ---------------------------------------------------------------------------


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        moved: torch.Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return moved


class Transformer(nn.Module):
    """A transformer of GPT-2's size: 124 million parameters, tied embeddings."""

    def __init__(self, vocabulary: int = 50257, width: int = 768, blocks: int = 12) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(1024, width)
        self.blocks = nn.ModuleList([Block(width, 12) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.head(self.norm(x))
        return out


# What makes the host or another stream wait for the training stream.
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaStreamWaitEvent",
    "cudaMemcpy",
)


def _waits(step: Step, count: int) -> dict[str, int]:
    """Return how many synchronising calls the profiler sees in ``count`` steps."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(count):
            step()
    # The profiler itself waits once, when it stops.
    return {event.key: event.count for event in profile.key_averages() if event.key in WAITS}


def gpu_rows(rounds: int) -> list[str]:
    """Return lines about the transformer: ratio, and synchronisations added."""
    if not torch.cuda.is_available():
        return ["GPU: no CUDA device here, so nothing was measured."]
    torch.manual_seed(0)
    model = Transformer().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(50257, (8, 1024), device="cuda")
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            output = model(tokens)
            loss = F.cross_entropy(output[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()

    def seconds(count: int = 10) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    def watched(full: bool) -> list[float]:
        found = []
        for _ in range(max(5, rounds // 2)):
            before = seconds()
            with GradientProbe(model, optimizer, full=full) as probe:
                step()
                during = seconds()
                assert len(probe.history) == 11
            found.append(during / ((before + seconds()) / 2))
        return found

    seconds()
    name = torch.cuda.get_device_name()
    lines = [f"GPU: {name}, {parameters / 1e6:.0f} million parameters, bf16 autocast, AdamW."]
    for full in (False, True):
        what = "every step in full" if full else "every step"
        found = watched(full)
        first, middle, third = statistics.quantiles(found, n=4)
        lines.append(f"- GradientProbe, {what}: {middle:.3f} × ({first:.2f}–{third:.2f})")
    without = _waits(step, 5)
    for full in (False, True):
        with GradientProbe(model, optimizer, full=full):
            step()
            added = {k: n - without.get(k, 0) for k, n in _waits(step, 5).items()}
        added = {key: count for key, count in added.items() if count > 0}
        what = "in full" if full else "every step"
        lines.append(f"- Synchronising calls added, {what}: {added or 'none'}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="stretches of 64 steps each")
    parser.add_argument("--only", nargs="*", help="rows whose name contains one of these")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    random.seed(0)
    os.environ.setdefault("WANDB_SILENT", "true")
    rows = headless_table(chosen.rounds, chosen.only)
    head = ["a step with …, in bare steps (quartiles)", *NETWORKS]
    print(markdown(head, rows), "\n")
    print("\n".join(gpu_rows(chosen.rounds)))


if __name__ == "__main__":
    main()

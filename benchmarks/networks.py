"""Every network of the playground with its data, live in JupyterLab at speed 1: a Markdown table.

Each pair plays for a few seconds, every step read in full and drawn; its bare loop, the same
steps unwatched, follows in the same kernel. Twenty drawn steps a second are the aim.

Run with ``python -m benchmarks.networks``; ``--seconds`` says how long each pair plays.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gradflow_widget.playground.data import DATA
from gradflow_widget.playground.networks import NETWORKS
from tests.browser.jupyterlab import Notebook, running_jupyterlab

from .table import markdown

# The data that a network is there for; the others that fit are shown by the tests.
PAIRS = (
    ("mlp", "digits"),
    ("linear", "digits"),
    ("residual", "digits"),
    ("cnn", "digits"),
    ("vgg", "digits"),
    ("resnet", "digits"),
    ("rnn", "spoken_digits"),
    ("lstm", "spoken_digits"),
    ("gru", "spoken_digits"),
    ("rnn", "adding"),
    ("lstm", "adding"),
    ("gru", "adding"),
    ("rnn", "text"),
    ("gru", "text"),
    ("transformer", "digits"),
    ("transformer", "spoken_digits"),
    ("transformer", "text"),
    ("mlp", "moons"),
    ("mlp", "spirals"),
    ("mlp", "regression"),
)

SHOW = """
import time, torch
from gradflow_widget import GradientFlow
flow = GradientFlow.playground({network!r}, {data!r})
flow
"""

COUNT = """
def bare(seconds=1.0):
    session = flow._training
    trainer, model, optimizer = session._trainer, flow.model, flow.optimizer
    batches, objective = trainer._batches, trainer._objective
    steps, end = 0, time.perf_counter() + seconds
    flow.close()
    while time.perf_counter() < end:
        optimizer.zero_grad()
        objective(model, batches.next(flow.batch_size)).backward()
        optimizer.step()
        steps += 1
    return steps / seconds

def counts():
    return [flow._stage.publisher.steps_drawn, time.perf_counter()]
"""


def main(arguments: list[str] | None = None) -> None:
    """Play every pair in turn and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each pair plays")
    parser.add_argument("--only", nargs="*", help="networks or data to be shown")
    chosen = parser.parse_args(arguments)
    assert {network for network, _ in PAIRS} == set(NETWORKS)
    assert {data for _, data in PAIRS} == set(DATA)
    rows = []
    with running_jupyterlab(Path(tempfile.mkdtemp())) as lab:
        notebook = lab.open_notebook(["", COUNT], width=1500, height=1000)
        notebook.run_cell(1)
        for network, data in PAIRS:
            if chosen.only and not {network, data} & set(chosen.only):
                continue
            drawn, bare = _played(notebook, network, data, chosen.seconds)
            rows.append([network, data, f"{drawn:.0f}", f"{bare:.0f}"])
    print("\nThe playground's networks, live in JupyterLab at speed 1\n")
    print(markdown(["network", "data", "drawn steps/s", "bare loop, steps/s"], rows))


def _played(notebook: Notebook, network: str, data: str, seconds: float) -> tuple[float, float]:
    notebook.set_source(0, SHOW.format(network=network, data=data))
    notebook.run_cell(0)
    notebook.wait_until_idle()
    kernel = notebook.kernel
    kernel.wait_until("flow._stage.publisher.visible")
    kernel.execute("flow.play()")
    kernel.wait_until("flow._stage.publisher.steps_drawn >= 10", timeout=60)
    drawn_before, start = kernel.evaluate("counts()")
    time.sleep(seconds)  # each question to the kernel would make the page busy too
    drawn_after, end = kernel.evaluate("counts()")
    kernel.execute("flow.pause(); flow.wait()", timeout=60)
    bare = kernel.evaluate("bare()", timeout=60)
    return (drawn_after - drawn_before) / (end - start), bare


if __name__ == "__main__":
    main()

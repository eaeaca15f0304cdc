"""An hour of playing: does memory grow, do threads pile up?

A million frames are drawn without a page (one that confirms at once stands in for it), and
ten minutes are played with a real one. Printed are memory, threads, and what the page holds,
at a tenth of the way (when every buffer has its size) and at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gradflow_widget import GradientFlow
from tests.browser.jupyterlab import running_jupyterlab

from .table import markdown

PLAY = """
import gc, os, threading
import psutil, torch
from gradflow_widget import GradientFlow
torch.set_num_threads(1)
flow = GradientFlow.playground(depth=20, learning_rate=0.05)

def held():
    gc.collect()
    return {
        "memory, MB": psutil.Process().memory_info().rss / 1e6,
        "threads": threading.active_count(),
        "steps": flow.step_number,
        "steps drawn": flow._stage.publisher.steps_drawn,
    }
flow
"""


def without_a_page(frames: int) -> list[dict[str, Any]]:
    """Draw frames as fast as they can be composed and return what the process holds."""
    flow = GradientFlow.playground(depth=20)
    stage = flow._stage
    publisher = stage.publisher

    def send(message: dict[str, Any], _: object) -> None:
        if message["type"] == "frame":
            publisher.receive({"type": "confirm", "frame": message["number"]})

    publisher._send = send
    publisher.receive({"type": "view", "visible": True})
    flow.step(1)
    first = flow.history.latest
    assert first is not None
    held = []
    for number in range(1, frames + 1):
        with publisher._condition:  # not at the pace that a page is spared by
            publisher._condition.wait_for(publisher.has_room)
        growth = 1 + 0.5 * np.sin(number / 1000)
        stage.record(
            dataclasses.replace(
                first,
                step=number + 1,
                loss=first.loss * growth,
                weight_grad_norm=first.weight_grad_norm * growth,
            )
        )
        if number in (frames // 10, frames):
            gc.collect()
            held.append(
                {
                    "memory, MB": psutil.Process().memory_info().rss / 1e6,
                    "threads": threading.active_count(),
                    "steps": number,
                    "steps drawn": publisher.steps_drawn,
                }
            )
    flow.close()
    return held


def with_a_page(seconds: float) -> list[dict[str, Any]]:
    """Play at speed 1 in JupyterLab and return what kernel and page hold."""
    held: list[dict[str, Any]] = []
    with running_jupyterlab(Path(tempfile.mkdtemp())) as lab:
        notebook = lab.open_notebook([PLAY], width=1500)
        notebook.run_all_cells()
        notebook.kernel.wait_until("flow._stage.publisher.visible")
        cdp = notebook.page.context.new_cdp_session(notebook.page)
        cdp.send("Performance.enable")
        notebook.kernel.execute("flow.play()")
        start = time.monotonic()
        for until in (seconds / 10, seconds):
            while time.monotonic() - start < until:
                notebook.page.wait_for_timeout(1000)
            cdp.send("HeapProfiler.collectGarbage")
            metrics = {m["name"]: m["value"] for m in cdp.send("Performance.getMetrics")["metrics"]}
            held.append(
                {
                    **notebook.kernel.evaluate("held()"),
                    "page's heap, MB": metrics["JSHeapUsedSize"] / 1e6,
                    "page's nodes": metrics["Nodes"],
                    "page's listeners": metrics["JSEventListeners"],
                }
            )
    return held


def main() -> None:
    """Run both and print what was held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    arguments = parser.parse_args()
    for title, held in (
        (f"{arguments.frames:,} frames without a page", without_a_page(arguments.frames)),
        (f"{arguments.seconds:.0f} s with a page", with_a_page(arguments.seconds)),
    ):
        early, late = held
        rows = [[name, f"{early[name]:,.0f}", f"{late[name]:,.0f}"] for name in early]
        print(f"\n{title}\n")
        print(markdown(["held", "at a tenth of the way", "at the end"], rows), flush=True)


if __name__ == "__main__":
    main()

"""Live speed, in a real JupyterLab with a headless Chromium.

Everything runs in one kernel behind one page, in turns: the bare loop, the widget at speed
max, the widget at speed 1, and the naive way (assign to bqplot at every step). Ratios come
from neighbouring turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.browser.jupyterlab import Kernel, Notebook, running_jupyterlab

from .table import markdown

ROUNDS = 5
SECONDS = 3.0
SLIDER_MOVES = 60

SET_UP = """
import time, threading, statistics
import numpy as np, torch, bqplot as bq
from gradflow_widget import GradientFlow
torch.set_num_threads(1)
flow = GradientFlow.playground(depth=20, activation="tanh")
flow
"""

# The bare loop does what the session does for the same model: sample, forward, backward, step.
INSTRUMENTS = """
from gradflow_widget.playground.data import digits
from gradflow_widget.playground.networks import mlp

inputs, targets = digits()
loss_fn = torch.nn.CrossEntropyLoss()

def bare(seconds, draw=None):
    model = mlp(20, "tanh")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order, place, steps = torch.randperm(len(inputs)), 0, 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if place + 64 > len(order):
            order, place = torch.randperm(len(inputs)), 0
        rows = order[place:place + 64]
        place += 64
        optimizer.zero_grad()
        loss = loss_fn(model(inputs[rows]), targets[rows])
        loss.backward()
        optimizer.step()
        steps += 1
        if draw is not None:
            draw(model, steps, loss)
    return steps / seconds

# The main thread has to stay free: it is where the page is heard.
def begin(function, *arguments):
    global result
    result = None

    def work():
        global result
        result = function(*arguments)

    threading.Thread(target=work).start()

stage, publisher = flow._stage, flow._stage.publisher
step_ends, latencies, rate_changes = {}, [], []
last_end, last_rate = [0.0], [None]
_record, _compose, _receive = stage.record, publisher._compose, publisher.receive

def record(reading):
    last_end[0] = time.time()
    if reading.learning_rate != last_rate[0]:
        rate_changes.append(last_end[0])
        last_rate[0] = reading.learning_rate
    _record(reading)

def compose(whole):
    step_ends[publisher._number] = last_end[0]
    return _compose(whole)

def receive(message):
    for frame, at in message.get("painted", ()):
        if frame in step_ends:
            latencies.append(at / 1000 - step_ends.pop(frame))
    _receive(message)

stage.record, publisher._compose, publisher.receive = record, compose, receive

def turn(seconds, speed):
    flow.speed = speed
    flow.play()
    flow.wait(steps=20)
    time.sleep(0.3)
    latencies.clear(); step_ends.clear()
    before = flow.step_number, publisher.steps_drawn, publisher.animation_frames
    start = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - start
    after = flow.step_number, publisher.steps_drawn, publisher.animation_frames
    seen = list(latencies)
    flow.pause()
    flow.wait()
    return [(b - a) / took for a, b in zip(before, after)], seen

def cost_of_a_frame():
    costs = []
    for _ in range(100):
        start = time.perf_counter()
        with stage._lock:
            stage._draw()
            stage._writer.message(whole=False)
        costs.append(time.perf_counter() - start)
    return statistics.median(costs)
"""

NAIVE = """
x_scale, y_scale = bq.OrdinalScale(), bq.LinearScale()
naive_bars = bq.Bars(x=list(range(20)), y=[0.0] * 20, scales={"x": x_scale, "y": y_scale})
naive_line = bq.Lines(x=[0], y=[0], scales={"x": bq.LinearScale(), "y": bq.LinearScale()})
naive_losses = []

def naive_draw(model, step, loss):
    norms = [float(m.weight.grad.norm()) for m in model if isinstance(m, torch.nn.Linear)]
    naive_bars.y = np.log10(norms)
    naive_losses.append(float(loss.detach()))
    naive_line.x, naive_line.y = np.arange(len(naive_losses)), np.array(naive_losses)

import ipywidgets
ipywidgets.HBox([bq.Figure(marks=[naive_bars]), bq.Figure(marks=[naive_line])])
"""

COUNT_FRAMES = """
seconds => new Promise(done => {
  let frames = 0;
  const start = performance.now();
  const tick = now => {
    frames += 1;
    if (now - start < seconds * 1000) requestAnimationFrame(tick);
    else done(frames / (now - start) * 1000);
  };
  requestAnimationFrame(tick);
})
"""


@dataclass
class Turn:
    """What one turn of the widget showed, per second."""

    steps: float
    drawn: float
    frames_with_a_step: float
    page_frames: float
    latencies: list[float]


def main() -> None:
    """Run all turns and print the tables."""
    with running_jupyterlab(Path(tempfile.mkdtemp())) as lab:
        notebook = lab.open_notebook([SET_UP, INSTRUMENTS, NAIVE], width=1500, height=1000)
        notebook.run_cell(0)
        notebook.run_cell(1)
        notebook.wait_until_idle()
        notebook.kernel.wait_until("flow._stage.publisher.visible")
        _turn(notebook, "'max'", 1.0)
        bare: list[float] = []
        fastest: list[Turn] = []
        every: list[Turn] = []
        for _ in range(ROUNDS):
            bare.append(_in_background(notebook, f"bare, {SECONDS}")[0])
            fastest.append(_turn(notebook, "'max'"))
            bare.append(_in_background(notebook, f"bare, {SECONDS}")[0])
            every.append(_turn(notebook, "1"))
        slider = _slider_latencies(notebook)
        early, late = _costs_early_and_late(notebook)
        naive_rate, naive_frames = _naive(notebook)
    _print(bare, fastest, every, slider, (early, late), (naive_rate, naive_frames))


def _turn(notebook: Notebook, speed: str, seconds: float = SECONDS) -> Turn:
    turn = f"turn, {seconds}, {speed}"
    ((steps, drawn, frames), latencies), page_frames = _in_background(notebook, turn)
    return Turn(steps, drawn, frames, page_frames, latencies)


def _in_background(notebook: Notebook, call: str) -> tuple[Any, float]:
    """Run something in a thread of the kernel while the page counts its animation frames."""
    notebook.kernel.execute(f"begin({call})")
    page_frames = notebook.page.evaluate(f"({COUNT_FRAMES})({SECONDS})")
    time.sleep(1.0)  # nobody asks the kernel anything meanwhile: it would make the page busy too
    notebook.kernel.wait_until("result is not None", timeout=60)
    return notebook.kernel.evaluate("result"), page_frames


def _slider_latencies(notebook: Notebook) -> list[float]:
    """Move the learning-rate slider by key while it trains, and see when a step uses it."""
    page, kernel = notebook.page, notebook.kernel
    handle = notebook.output(0).locator(".widget-slider", has_text="learning rate")
    handle = handle.locator(".noUi-handle")
    handle.press("ArrowLeft")
    page.evaluate(
        """() => { window.moves = []; document.addEventListener('keydown',
        () => window.moves.push(performance.timeOrigin + performance.now()), true); }"""
    )
    kernel.execute("flow.speed = 1; flow.play(); flow.wait(steps=50); rate_changes.clear()")
    # Nobody asks the kernel anything meanwhile: each question makes the page busy too.
    for number in range(SLIDER_MOVES):
        handle.press("ArrowLeft" if number % 2 else "ArrowRight")
        time.sleep(random.uniform(0.15, 0.25))
    kernel.execute("flow.pause(); flow.wait()")
    moved, used = page.evaluate("window.moves"), kernel.evaluate("rate_changes")
    if len(moved) != len(used):
        raise RuntimeError(f"{len(moved)} moves of the slider, {len(used)} changes of the rate")
    return [change - move / 1000 for move, change in zip(moved, used, strict=True)]


def _costs_early_and_late(notebook: Notebook) -> tuple[float, float]:
    """Return the median cost of composing a frame at step 100 and at step 100,000."""
    kernel = notebook.kernel
    kernel.execute("flow.reset(); flow.speed = 'max'; flow.step(100)", timeout=60)
    early = _cost_at_rest(kernel)
    kernel.execute("flow.step(100_000 - flow.step_number)", timeout=900)
    return early, _cost_at_rest(kernel)


def _cost_at_rest(kernel: Kernel) -> float:
    time.sleep(2.0)  # until the page has drawn the last of it
    cost: float = kernel.evaluate("cost_of_a_frame()")
    return cost


def _naive(notebook: Notebook) -> tuple[float, float]:
    notebook.run_cell(2)
    rate, page_frames = _in_background(notebook, f"bare, {SECONDS}, naive_draw")
    return rate, page_frames


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _ms(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{_percentile(values, 0.5) * 1e3:.0f} / {_percentile(values, 0.95) * 1e3:.0f}"


def _print(
    bare: list[float],
    fastest: list[Turn],
    every: list[Turn],
    slider: list[float],
    costs: tuple[float, float],
    naive: tuple[float, float],
) -> None:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    ratio = median([turn.steps / bare[2 * i] for i, turn in enumerate(fastest)])
    rows: list[list[Any]] = [
        ["bare loop, nothing drawn", f"{median(bare):.0f}", "1.00", "–", "–", "–", "–"],
        [
            "widget, speed max",
            f"{median([t.steps for t in fastest]):.0f}",
            f"{ratio:.2f}",
            f"{median([t.drawn for t in fastest]):.0f}",
            f"{median([t.frames_with_a_step for t in fastest]):.0f}",
            f"{median([t.page_frames for t in fastest]):.0f}",
            _ms([x for t in fastest for x in t.latencies]),
        ],
        [
            "widget, speed 1",
            f"{median([t.steps for t in every]):.0f}",
            "–",
            f"{median([t.drawn for t in every]):.0f}",
            f"{median([t.frames_with_a_step for t in every]):.0f}",
            f"{median([t.page_frames for t in every]):.0f}",
            _ms([x for t in every for x in t.latencies]),
        ],
        [
            "naive: assign to bqplot at every step",
            f"{naive[0]:.0f}",
            f"{naive[0] / median(bare):.2f}",
            "–",
            "–",
            f"{naive[1]:.0f}",
            "–",
        ],
    ]
    print("\nLive in JupyterLab, headless Chromium: 20×64 tanh MLP, digits, batch 64\n")
    print(
        markdown(
            [
                "way",
                "steps/s",
                "of bare",
                "steps drawn/s",
                "animation frames with a step/s",
                "page frames/s",
                "step to pixels, p50/p95 ms",
            ],
            rows,
        )
    )
    print(f"\nslider's move to the end of the first step that uses it: {_ms(slider)} ms (p50/p95)")
    print(
        f"composing a frame: {costs[0] * 1e3:.2f} ms at step 100, "
        f"{costs[1] * 1e3:.2f} ms at step 100,000"
    )


if __name__ == "__main__":
    main()

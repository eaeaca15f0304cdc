"""Takes the README's pictures of the real widget, from a real JupyterLab, light and dark."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.browser.jupyterlab import Notebook, Theme, running_jupyterlab

FOLDER = Path(__file__).parent
WIDGET = """
from gradflow_widget import GradientFlow
flow = GradientFlow.playground(depth=14, activation="tanh", learning_rate=0.2)
flow
"""
# First a tanh network as the run to compare with, then ReLU, faster, and clipped.
STORY = """
flow.speed = 2
flow.play(); flow.wait(steps=300)
flow.activation = "relu"
flow.wait(steps=200)
flow.learning_rate = 0.3
flow.wait(steps=150)
flow.clip_norm = 0.5
flow.wait(steps=150)
flow.pause()
flow.speed = 1
"""


def main() -> None:
    """Write docs/widget-light.png and docs/widget-dark.png."""
    with running_jupyterlab(Path(tempfile.mkdtemp())) as lab:
        notebook = lab.open_notebook([WIDGET], width=1180, height=1000)
        notebook.run_all_cells()
        notebook.kernel.wait_until("flow._stage.publisher.visible")
        notebook.kernel.execute(STORY, timeout=120)
        notebook.kernel.execute("flow.step(2)")
        for theme in ("light", "dark"):
            _take(notebook, theme)


def _take(notebook: Notebook, theme: Theme) -> None:
    notebook.set_theme(theme)
    notebook.kernel.wait_until("not flow._stage.publisher._in_flight")
    widget = notebook.output(0).locator(".gradflow")
    # Two animation frames: one that applies the last frame, one that has painted it.
    notebook.page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    widget.screenshot(path=FOLDER / f"widget-{theme}.png")


if __name__ == "__main__":
    main()

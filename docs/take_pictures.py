"""Takes the README's pictures of the real widget, from a real JupyterLab, light and dark."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.browser.jupyterlab import Notebook, Theme, running_jupyterlab

FOLDER = Path(__file__).parent
WIDGET = """
from gradflow_widget import GradientFlow
flow = GradientFlow.playground(depth=8, activation="sigmoid", learning_rate=0.2)
flow
"""
# First sigmoids, as the run to compare with; then tanh, faster, and clipped. On a thread, so
# that the kernel hears the page.
STORY = """
import threading

def story():
    flow.play(); flow.wait(steps=150)
    flow.activation = "tanh"
    flow.wait(steps=140)
    flow.learning_rate = 0.4
    flow.wait(steps=60)
    flow.clip_norm = 0.5
    flow.wait(steps=80)
    flow.pause()

teller = threading.Thread(target=story)
teller.start()
"""


def main() -> None:
    """Write docs/widget-light.png and docs/widget-dark.png."""
    with running_jupyterlab(Path(tempfile.mkdtemp())) as lab:
        notebook = lab.open_notebook([WIDGET], width=1180, height=1000)
        notebook.run_all_cells()
        notebook.kernel.wait_until("flow._stage.publisher.visible")
        notebook.kernel.execute(STORY)
        notebook.kernel.wait_until("not teller.is_alive()", timeout=120)
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

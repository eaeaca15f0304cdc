"""A widget of real controls and a real stage without a model: shown by a cell, fed by tests.

from tests.browser.stand_in import StandIn
flow = StandIn(); flow
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from gradflow_widget.diagnosis.verdict import UNDECIDED, Problem, Severity, Verdict
from gradflow_widget.display.closing import close_tree
from gradflow_widget.display.controls import Controls, Offer, legend
from gradflow_widget.display.stage import Stage
from gradflow_widget.layout import place_of
from gradflow_widget.measurement.reading import Reading
from tests.display.desk import COLD, HOT, Desk, Owner
from tests.display.readings import reading

REASON = "The model repeats no block that a skip connection could go around."
PRESETS = (
    (
        "vanishing sigmoid",
        "20 layers of sigmoid: the first layers' signal gradients fall below 1e-10 of the last, "
        "and the accuracy stays near chance.",
    ),
    (
        "mended by skips",
        "The same network with skip connections reaches 90 % within 300 steps: watch the bars "
        "become level at once.",
    ),
    ("exploding RNN", "Without clipping the loss leaps within 50 steps."),
    ("SGD against full batch", "The loss curve loses its noise as soon as a step sees it all."),
)


class _Director:
    """Says what a test wants to hear, and never plays."""

    def __init__(self) -> None:
        self.says = UNDECIDED
        self.notices = ""

    def verdict(self, readings: Sequence[Reading]) -> Verdict:
        return self.says

    def layer_problems(self, reading: Reading) -> list[str]:
        return ["healthy"] * len(reading.layers)

    def step_problems(self, reading: Reading, name: str) -> list[str]:
        return ["healthy"] * len((reading.signal_grad_through_time or {})[name])

    def notice(self) -> tuple[str, bool]:
        return self.notices, bool(self.notices)

    def is_playing(self) -> bool:
        return False

    def is_stepping(self) -> bool:
        return False

    def on_heard(self) -> None: ...

    def on_key(self, action: str) -> None: ...

    def on_status(self, status: str) -> None: ...


class StandIn(widgets.VBox):
    """Shows what a GradientFlow shows; ``step`` records what a test wants to see."""

    def __init__(
        self, *, rests: bool = False, presets: Sequence[tuple[str, str]] = (), **given: Any
    ) -> None:
        cold, hot = dict(COLD), dict(HOT)
        if rests:
            cold |= {name: Offer(None, REASON) for name in ("skips", "normalization")}
            hot["weight_decay"] = Offer(None, "LBFGS has no weight decay.")
        self.director = _Director()
        self.stage = Stage(self.director)
        self.desk = Desk(
            Owner(),
            **{"cold": cold, "hot": hot, "presets": presets, **given},
        )
        self.owner, controls = self.desk.owner, self.desk.controls
        controls.measure_choice.observe(self._look, "value")
        charts = widgets.Box([self.stage.bars.figure, self.stage.loss.figure])
        charts.add_class("gradflow-charts")
        super().__init__(
            [
                place_of(controls.toolbar),
                place_of(controls.knobs),
                self.stage.panel,
                place_of(controls.views),
                charts,
                legend(),
                self.stage.table,
            ]
        )
        self.add_class("gradflow")
        self.steps = 0
        self.step()

    @property
    def controls(self) -> Controls:
        return self.desk.controls

    def _look(self, change: Any) -> None:
        self.stage.look_at(measure=change["new"])

    def say(self, problem: Problem, severity: Severity, sentence: str) -> None:
        """Show this verdict."""
        self.director.says = Verdict(problem, severity, sentence)
        self.stage.state_changed()

    def fail(self, notice: str) -> None:
        """Show this notice of an error."""
        self.director.notices = notice
        self.stage.state_changed()

    def step(self, count: int = 1, **full: Any) -> None:
        """Record steps of eight layers whose numbers move a little."""
        generator = np.random.default_rng(self.steps)
        for _ in range(count):
            self.steps += 1
            norms = 10.0 ** generator.uniform(-2, 0, 8)
            loss = 2.3 * 0.99**self.steps + 0.05 * generator.uniform()
            self.stage.record(
                reading(
                    list(norms), step=self.steps, loss=loss, signal_grad_norm=list(norms), **full
                )
            )

    def close(self) -> None:
        """Close every part."""
        controls = self.__dict__.get("desk") and self.desk.controls
        if not controls:
            return
        controls.close()
        self.stage.close()
        for root in (self, *self.children):
            close_tree(root)
        del self.desk

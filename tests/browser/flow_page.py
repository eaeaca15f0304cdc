"""A GradientFlow in a page: what a person sees of it, and does with it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Locator

from tests.browser.jupyterlab import Notebook

# As tall as the whole widget where its charts stand below each other.
TALL = 1400

# Marks stand in the order in which the charts list them; a hidden one is as good as empty.
_DRAWN = """root => {
    const nothing = document.createElement("g");
    const marks = chart => [...root.querySelectorAll(
        `.gradflow-chart-${chart} .svg-figure g[clip-path]`
    ), ...Array(6).fill(nothing)].map(mark => mark.style.display === "none" ? nothing : mark);
    const heights = mark => [...mark.querySelectorAll(".bar")]
        .map(bar => Number(bar.getAttribute("height")));
    const fills = mark => [...mark.querySelectorAll(".bar")]
        .map(bar => bar.style.fill.match(/--gradflow-(\\w+)/)?.[1] ?? "");
    const lines = mark => [...mark.querySelectorAll("path.line")]
        .map(path => path.getAttribute("d") ?? "");
    const texts = mark => [...mark.querySelectorAll("text.label")].map(text => text.textContent);
    const ticks = (chart, anchor) => [...root.querySelectorAll(
        `.gradflow-chart-${chart} .axis[text-anchor="${anchor}"] .tick text`
    )].map(text => text.textContent).filter(text => text !== "");
    const text = selector => root.querySelector(selector)?.textContent ?? "";
    const [bars, outline, , ghost, glyphs] = marks("bars");
    const [lossGhost, rules, line, , labels, wrong] = marks("loss");
    return {
        bars: heights(bars),
        colours: fills(bars),
        outlines: heights(outline),
        ghost: lines(ghost).join(""),
        glyphs: texts(glyphs),
        title: text(".gradflow-chart-bars .mainheading"),
        flow_ticks: ticks("bars", "end"),
        layer_ticks: ticks("bars", "middle"),
        loss: lines(line).join(""),
        loss_ghost: lines(lossGhost).join(""),
        rules: lines(rules).length,
        markers: texts(labels),
        wrong: texts(wrong).join(""),
        loss_ticks: ticks("loss", "end"),
        step_ticks: ticks("loss", "middle"),
        status: text(".gradflow-status"),
        verdict: text(".gradflow-verdict-text"),
        notice: text(".gradflow-notice"),
    };
}"""


@dataclass(frozen=True)
class Drawn:
    """What the charts and the status line show at one moment; heights in pixels."""

    bars: list[float]
    colours: list[str]
    outlines: list[float]
    ghost: str = field(repr=False)
    glyphs: list[str]
    title: str
    flow_ticks: list[str]
    layer_ticks: list[str]
    loss: str = field(repr=False)
    loss_ghost: str = field(repr=False)
    rules: int
    markers: list[str]
    wrong: str
    loss_ticks: list[str]
    step_ticks: list[str]
    status: str
    verdict: str
    notice: str

    @property
    def step(self) -> int:
        """The step that the status line tells; -1 while there is none."""
        found = re.search(r"step ([\d,]+)", self.status)
        return -1 if found is None else int(found[1].replace(",", ""))

    @property
    def steps_drawn(self) -> int:
        """How many steps the status line says were drawn."""
        found = re.search(r"([\d,]+) of [\d,]+ drawn", self.status)
        return 0 if found is None else int(found[1].replace(",", ""))


# d3 keeps what it has yet to do with an element in a property of that element.
_MOVES = "root => [...root.querySelectorAll('svg *')].some(element => element.__transition)"
# bqplot lays a chart out anew 300 ms after its margins or its place have changed.
_TIME_TO_LAY_OUT = "async () => await new Promise(resolve => setTimeout(resolve, 350))"
# What does not fill a window of this width, each with where it is. A chart is brought into sight,
# since bqplot leaves one that is out of sight as it was.
_ASKEW = """(root, width) => {
    const place = element => {
        const {left, right, top, bottom} = element.getBoundingClientRect();
        return `${element.className}: ${[left, right, top, bottom].map(Math.round)}`;
    };
    const {right} = root.getBoundingClientRect();
    if (window.innerWidth !== width || right > width || right < width - 120) {
        return [`window: ${window.innerWidth}`, place(root)];
    }
    return [...root.querySelectorAll(".bqplot")].filter(figure => {
        const plot = figure.querySelector(".plotarea_background");
        const room = figure.clientWidth - (plot?.width.baseVal.value ?? 0);
        const isAskew = room <= 60 || 120 <= room;
        if (isAskew) figure.scrollIntoView({block: "nearest"});
        return isAskew;
    }).map(place);
}"""
_FIVE_FRAMES = """async () => {
    for (let i = 0; i < 5; i++) await new Promise(requestAnimationFrame);
}"""


class FlowPage:
    """One widget in a page."""

    def __init__(self, notebook: Notebook, number: int = 0) -> None:
        self.notebook = notebook
        self.kernel = notebook.kernel
        self.root = notebook.page.locator(".gradflow").nth(number)

    # What is there.

    def button(self, name: str) -> Locator:
        # By its text: to the accessible name an icon adds a letter of its font.
        return self.root.locator("button", has_text=re.compile(rf"^\s*{name}\s*$"))

    def slider(self, label: str) -> Locator:
        return self._control(label).locator(".noUi-handle")

    def readout(self, label: str) -> Locator:
        return self._control(label).locator(".widget-readout")

    def menu(self, label: str) -> Locator:
        return self._control(label).locator("select")

    def _control(self, label: str) -> Locator:
        named = self.notebook.page.locator("label", has_text=re.compile(f"^{label}$"))
        return self.root.locator(".widget-inline-hbox").filter(has=named)

    def unfold(self, heading: str) -> None:
        """Open what stands below a heading, where it is closed."""
        button = self.root.locator("button.gradflow-heading", has_text=heading)
        if button.get_attribute("aria-expanded") == "false":
            button.click()

    def bar(self, number: int) -> Locator:
        return self.root.locator(".gradflow-chart-bars .bar").nth(number)

    @property
    def table(self) -> Locator:
        return self.root.locator("details.gradflow-table")

    @property
    def layer_names(self) -> Locator:
        """The names of the bars' layers in the table, which is opened for that."""
        if self.table.get_attribute("open") is None:
            self.table.locator("summary").click()
        return self.table.locator("table").first.locator("tbody th")

    def drawn(self) -> Drawn:
        """Read the charts and the status line."""
        return Drawn(**self.root.evaluate(_DRAWN))

    # What a person does and waits for.

    def wait_for(self, condition: Callable[[Drawn], object], timeout: float = 30) -> Drawn:
        """Look until ``condition`` holds of what is drawn, and return that."""
        deadline = time.monotonic() + timeout
        while not condition(drawn := self.drawn()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Still not so after {timeout} s: {drawn}")
            self.notebook.page.wait_for_timeout(20)
        return drawn

    def at_rest(self) -> Drawn:
        """Return what is drawn once it stands still.

        bqplot finishes a drawing in transitions that end some animation frames after the frame
        was confirmed, and a change of the layout later still. A page that goes on drawing never
        rests, and this times out.
        """
        seen: list[Drawn] = []

        def stands_still(drawn: Drawn) -> bool:
            seen.append(drawn)
            self.notebook.page.evaluate(_TIME_TO_LAY_OUT)
            self.notebook.page.evaluate(_FIVE_FRAMES)
            return len(seen) > 1 and seen[-2] == drawn and not self.root.evaluate(_MOVES)

        return self.wait_for(stands_still)

    def resize(self, width: int, height: int = TALL) -> None:
        """Give the window another width, and the height of the whole widget.

        JupyterLab lays its panels out anew some time after the window has changed, and bqplot a
        chart some animation frames after its place has, once it is in sight.
        """
        self.notebook.set_width(width, height)
        askew: list[str] = []

        def is_laid_out(_: Drawn) -> bool:
            askew[:] = self.root.evaluate(_ASKEW, width)
            return not askew

        try:
            self.wait_for(is_laid_out)
        except TimeoutError as error:
            raise TimeoutError(f"{width} pixels wide, this is not laid out: {askew}") from error

    def play(self) -> None:
        """Click Play and wait until the first steps are drawn."""
        self.button("Play").click()
        self.wait_for(lambda drawn: drawn.steps_drawn >= 2 and drawn.loss)

    def pause(self) -> Drawn:
        """Click Pause and wait until the page shows the last step."""
        self.button("Pause").click()
        self.button("Play").wait_for()
        self.kernel.execute("flow.wait()")  # for the step under way
        step = "flow.step_number"
        return self.wait_for(
            lambda drawn: (
                "paused" in drawn.status
                and drawn.step == self.kernel.evaluate(step) == self.kernel.evaluate(step)
            )
        )

    def press(self, key: str) -> None:
        """Press a key with the focus on the widget as a whole."""
        self.root.focus()
        self.notebook.page.keyboard.press(key)

    def point_at_bar(self, number: int) -> Locator:
        """Move the mouse onto bar ``number``, from 0, and return the tooltip."""
        bar = self.bar(number)
        bar.scroll_into_view_if_needed()
        boxes = [bar.bounding_box()]

        def stands_still(_: Drawn) -> bool:
            # While it trains, only the height moves.
            self.notebook.page.evaluate(_FIVE_FRAMES)
            boxes.append(bar.bounding_box())
            before, now = boxes[-2:]
            return before is not None and now is not None and before["x"] == now["x"]

        self.wait_for(stands_still)
        box = boxes[-1]
        assert box is not None
        mouse = self.notebook.page.mouse
        mouse.move(box["x"] + box["width"] / 2, box["y"] + min(2, box["height"]))
        return self.notebook.page.locator(".gradflow-tooltip:visible")

    def point_away(self) -> None:
        """Move the mouse into the window's corner."""
        self.notebook.page.mouse.move(2, 2)

    def drag(self, label: str, share: float) -> None:
        """Drag a slider's handle by mouse to a share of its track, once it is there."""
        self.slider(label).scroll_into_view_if_needed()
        track = self._control(label).locator(".noUi-base").bounding_box()
        handle = self.slider(label).bounding_box()
        assert track is not None
        assert handle is not None
        mouse = self.notebook.page.mouse
        height = handle["y"] + handle["height"] / 2
        mouse.move(handle["x"] + handle["width"] / 2, height)
        mouse.down()
        mouse.move(track["x"] + share * track["width"], height, steps=12)
        mouse.up()


class FlowCell:
    """A notebook's first cell, which defines a widget as ``flow`` and shows it."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook
        self.kernel = notebook.kernel

    def show(self, source: str) -> FlowPage:
        """Run this source, whose last line is ``flow``, and wait for the first bars."""
        self.notebook.set_source(0, source)
        return self.run_again()

    def run_again(self) -> FlowPage:
        """Run the cell as it is."""
        self.notebook.run_cell(0)
        page = FlowPage(self.notebook)
        page.wait_for(lambda drawn: any(drawn.bars) or drawn.glyphs)
        return page

    def playground(self, **knobs: Any) -> FlowPage:
        """Show the playground."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in knobs.items())
        return self.show(
            "from gradflow_widget import GradientFlow\n"
            f"flow = GradientFlow.playground({arguments})\nflow"
        )

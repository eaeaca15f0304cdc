"""The harness itself, with a widget that is not ours."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.jupyterlab import JupyterLab, Notebook

SLIDER = ["import ipywidgets", "slider = ipywidgets.IntSlider(value=7)\nslider"]
ENDLESS = "print('begun')\ndone = False\nwhile not done: __import__('time').sleep(0.01)"


@pytest.fixture(scope="module")
def notebook(running_lab: JupyterLab) -> Iterator[Notebook]:
    opened = running_lab.open_notebook([*SLIDER, ENDLESS])
    opened.run_cell(0)
    yield opened
    running_lab.close_notebook(opened)


def test_a_slider_moved_in_the_page_moves_in_the_kernel(notebook: Notebook) -> None:
    notebook.run_cell(1)

    notebook.output(1).locator(".noUi-handle").press("ArrowRight")

    notebook.kernel.wait_until("slider.value == 8")


def test_a_slider_moved_in_the_kernel_moves_in_the_page(notebook: Notebook) -> None:
    notebook.run_cell(1)

    notebook.kernel.execute("slider.value = 42")

    expect(notebook.output(1).locator(".widget-readout")).to_have_text("42")


def test_values_come_back_as_they_are(notebook: Notebook) -> None:
    kernel = notebook.kernel

    assert kernel.evaluate("{'a': [1, 2.5, None, 'ü\"']}") == {"a": [1, 2.5, None, 'ü"']}
    assert kernel.evaluate("__import__('numpy').arange(3) / 2") == [0, 0.5, 1]
    assert math.isnan(kernel.evaluate("float('nan')"))
    with pytest.raises(RuntimeError, match="NameError"):
        kernel.evaluate("nowhere")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        kernel.execute("1 / 0")


def test_a_cell_that_runs_on_does_not_hold_the_test(notebook: Notebook) -> None:
    notebook.run_cell(2, wait=False)

    # The prompt shows as much before the kernel has heard of the cell, and an interrupt that comes
    # ahead of it interrupts nothing.
    expect(notebook.output(2)).to_have_text("begun")
    expect(notebook.cell(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    notebook.page.evaluate("window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    notebook.wait_until_idle()


def test_theme_width_and_visibility_are_the_ones_asked_for(lab: JupyterLab) -> None:
    notebook = lab.open_notebook(SLIDER, width=600, theme="dark")
    notebook.run_all_cells()
    notebook.screenshot("harness-dark-600")
    assert notebook.page.evaluate("innerWidth") == 600
    assert notebook.page.evaluate("document.body.dataset.jpThemeLight") == "false"

    notebook.set_theme("light")
    assert notebook.page.evaluate("document.body.dataset.jpThemeLight") == "true"
    notebook.set_width(1500)
    notebook.screenshot("harness-light-1500", notebook.output(1))
    assert notebook.page.evaluate("innerWidth") == 1500

    notebook.set_hidden(True)
    assert notebook.page.evaluate("document.hidden")
    notebook.set_hidden(False)
    assert not notebook.page.evaluate("document.hidden")
    assert notebook.errors == []

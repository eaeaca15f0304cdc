"""A real JupyterLab in a real Chromium, driven as a person would and read from both ends.

    with running_jupyterlab(folder) as lab:
        notebook = lab.open_notebook(["import ipywidgets", "s = ipywidgets.IntSlider(); s"])
        notebook.run_all_cells()
        notebook.output(1).locator(".noUi-handle").press("ArrowRight")
        notebook.kernel.wait_until("s.value == 1")

Everything waits for a condition and fails with a timeout; nothing waits for a time to pass.
"""

from __future__ import annotations

import ast
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jupyter_client.blocking.client import BlockingKernelClient
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.browser.chromium import find_chromium
from tests.jupyter_servers import JupyterServer, running_server

SCREENSHOTS = Path(__file__).parent / "screenshots"

Theme = Literal["light", "dark"]

_FLAGS = (
    # Its sandbox refuses to start as root, and in most containers.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NO_NEWS = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
_KERNELSPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
# What JupyterLab calls its notebook in front; `jupyterapp` is there by expose_app_in_browser.
_PANEL = "window.jupyterapp.shell.currentWidget"
_TO_JSON = (
    "__import__('json').dumps(({expression}), "
    "default=lambda value: value.tolist() if hasattr(value, 'tolist') else repr(value))"
)


class Kernel:
    """The kernel behind an open notebook, reached past the page."""

    def __init__(self, connection_file: Path) -> None:
        # Playwright keeps an event loop running in the test's thread, so the client has its own.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._client = self._thread.submit(self._connect, connection_file).result()

    @staticmethod
    def _connect(connection_file: Path) -> BlockingKernelClient:
        client = BlockingKernelClient(connection_file=str(connection_file))
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        return client

    def evaluate(self, expression: str, timeout: float = 30) -> Any:
        """Return the value of a Python expression in the kernel.

        It travels as JSON: numbers (NaN and infinity too), strings, lists, dicts; arrays become
        lists and any other object its repr. A cell that is still running is waited for.
        """
        reply = self._request("", timeout, {"value": _TO_JSON.format(expression=expression)})
        value = reply["user_expressions"]["value"]
        if value["status"] != "ok":
            raise RuntimeError(f"{expression}: {value['ename']}: {value['evalue']}")
        return json.loads(ast.literal_eval(value["data"]["text/plain"]))

    def execute(self, code: str, timeout: float = 30) -> None:
        """Run statements in the kernel; raise RuntimeError with the kernel's traceback."""
        self._request(code, timeout)

    def wait_until(self, expression: str, timeout: float = 30) -> Any:
        """Evaluate an expression until its value is true, and return that value."""
        deadline = time.monotonic() + timeout
        while not (value := self.evaluate(expression, timeout)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Still {value!r} after {timeout} s: {expression}")
            time.sleep(0.02)
        return value

    def close(self) -> None:
        """Let go of the kernel, which goes on running."""
        self._thread.submit(self._client.stop_channels).result()
        self._thread.shutdown()

    def _request(
        self, code: str, timeout: float, expressions: dict[str, str] | None = None
    ) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            answer: dict[str, Any] = self._client.execute(
                code, silent=True, user_expressions=expressions, reply=True, timeout=timeout
            )
            return answer

        reply: dict[str, Any] = self._thread.submit(ask).result()["content"]
        if reply["status"] != "ok":
            raise RuntimeError("\n".join(reply["traceback"]))
        return reply


class Notebook:
    """A notebook open in a page of its own, with its kernel."""

    def __init__(self, name: str, page: Page, kernel: Kernel, errors: list[str]) -> None:
        self.name = name
        self.page = page
        self.kernel = kernel
        self.errors = errors
        """What the page has thrown or logged as an error so far."""

    def cell(self, index: int) -> Locator:
        """Return cell ``index``, from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """Return the output area of cell ``index``."""
        return self.cell(index).locator(".jp-OutputArea-output").first

    def set_source(self, index: int, source: str) -> None:
        """Put other source into a cell."""
        self.page.evaluate(
            f"([index, source]) => "
            f"{_PANEL}.content.widgets[index].model.sharedModel.setSource(source)",
            [index, source],
        )

    def run_cell(self, index: int, *, wait: bool = True) -> None:
        """Run one cell; ``wait=False`` leaves while it is still running."""
        self._command("notebook:run-cell", wait=wait, before=f"content.activeCellIndex = {index}")

    def run_all_cells(self, *, wait: bool = True) -> None:
        """Run every cell from the top."""
        self._command("notebook:run-all-cells", wait=wait)

    def wait_until_idle(self, timeout: float = 60) -> None:
        """Wait until the page shows the kernel as idle, and no cell as running.

        A kernel is called idle after each message of the page that a subshell has answered.
        """
        self.page.wait_for_function(
            f"""() => {_PANEL}.sessionContext.session?.kernel?.status === "idle"
                && {_PANEL}.content.widgets.every(
                    cell => cell.model.executionState !== "running")""",
            timeout=timeout * 1e3,
        )

    def reload(self) -> None:
        """Load the page anew, as F5 does; the kernel goes on running."""
        self.page.evaluate(f"{_PANEL}.context.save()")
        self.page.reload()
        _wait_for_notebook(self.page, self.name)

    def reopen(self) -> None:
        """Close the notebook's tab in JupyterLab and open it again; the kernel goes on running."""
        self.page.evaluate(f"{_PANEL}.context.save()")
        self.page.evaluate("window.jupyterapp.commands.execute('application:close')")
        self.page.locator(".jp-NotebookPanel").wait_for(state="detached")
        self.page.evaluate(
            """path => {
                window.jupyterapp.commands.execute("docmanager:open", {path});
            }""",
            self.name,
        )
        _wait_for_notebook(self.page, self.name)

    def set_theme(self, theme: Theme) -> None:
        """Switch JupyterLab's theme, as its menu does."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            _THEMES[theme],
        )
        light = "true" if theme == "light" else "false"
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
        _wait_for_splash(self.page)

    def set_width(self, width: int, height: int = 1000) -> None:
        """Give the page's inside another size, in CSS pixels."""
        self.page.set_viewport_size({"width": width, "height": height})

    def set_hidden(self, hidden: bool) -> None:
        """Let the page believe that its tab went to the back, or came to the front again."""
        # Headless, every tab counts as visible; a page can only tell by these two properties.
        self.page.evaluate(
            """hidden => {
                const state = hidden ? "hidden" : "visible";
                Object.defineProperty(document, "hidden", {configurable: true, value: hidden});
                Object.defineProperty(document, "visibilityState",
                    {configurable: true, value: state});
                document.dispatchEvent(new Event("visibilitychange", {bubbles: true}));
            }""",
            hidden,
        )

    def screenshot(self, name: str, part: Locator | None = None) -> Path:
        """Save a picture of the page, or of a part of it, as ``screenshots/NAME.png``."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        (part or self.page).screenshot(path=path)
        return path

    def close(self) -> None:
        """Close the page; the kernel goes on running."""
        self.kernel.close()
        self.page.context.close()

    def _command(self, name: str, *, wait: bool, before: str = "") -> None:
        # A function's promise is awaited by the page's caller only where it is returned.
        result = "return done" if wait else "return null"
        self.page.evaluate(
            f"""async () => {{
                const panel = {_PANEL};
                {f"panel.{before};" if before else ""}
                const done = window.jupyterapp.commands.execute("{name}");
                {result};
            }}"""
        )


class JupyterLab:
    """A running JupyterLab and the Chromium that looks at it."""

    def __init__(self, server: JupyterServer, browser: Browser, settings: Path) -> None:
        self.server = server
        self._browser = browser
        self._settings = settings
        self._notebooks: list[Notebook] = []
        self._opened = 0

    def open_notebook(
        self,
        source: Sequence[str] | Path,
        *,
        width: int = 1500,
        height: int = 1000,
        theme: Theme = "light",
    ) -> Notebook:
        """Open a new notebook of these code cells, or a copy of a notebook's file."""
        self._opened += 1
        if isinstance(source, Path):
            name = f"{source.stem}-{self._opened}.ipynb"
            shutil.copy(source, self.server.root / name)
        else:
            name = f"test-{self._opened}.ipynb"
            (self.server.root / name).write_text(json.dumps(_notebook_of(source)))

        # JupyterLab keeps the theme that was chosen last, maybe in another notebook.
        self._set("themes", {"theme": _THEMES[theme]})
        self._set("notification", _NO_NEWS)
        page = self._browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=1
        ).new_page()
        errors = _errors_of(page)
        # reset: no tab of a notebook that was open before comes back.
        page.goto(f"{self.server.url}/lab/tree/{quote(name)}?reset&token={self.server.token}")
        _wait_for_notebook(page, name)
        page.evaluate("window.jupyterapp.shell.collapseLeft()")
        kernel_id = page.evaluate(f"{_PANEL}.sessionContext.session.kernel.id")
        kernel = Kernel(self.server.runtime / f"kernel-{kernel_id}.json")
        opened = Notebook(name, page, kernel, errors)
        self._notebooks.append(opened)
        return opened

    @property
    def notebooks(self) -> tuple[Notebook, ...]:
        """The notebooks that are open."""
        return tuple(self._notebooks)

    def close_notebook(self, notebook: Notebook) -> None:
        """Close its page and end its kernel."""
        self._notebooks.remove(notebook)
        notebook.close()
        for session in self.server.request("sessions"):
            if session["path"] == notebook.name:
                self.server.request(f"sessions/{session['id']}", method="DELETE")

    def _set(self, plugin: str, values: dict[str, Any]) -> None:
        self._settings.mkdir(parents=True, exist_ok=True)
        (self._settings / f"{plugin}.jupyterlab-settings").write_text(json.dumps(values))


@contextmanager
def running_jupyterlab(folder: Path, arguments: Sequence[str] = ()) -> Iterator[JupyterLab]:
    """Run JupyterLab with its files under ``folder``, and a headless Chromium beside it."""
    chromium = find_chromium()
    if chromium is None:
        raise RuntimeError("No Chromium: run `python -m tests.browser.chromium`, or set CHROMIUM.")
    lab = ["--LabApp.expose_app_in_browser=True", *arguments]
    with (
        running_server(folder, "lab", lab) as server,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=[*_FLAGS]) as browser,
    ):
        settings = folder / "config/lab/user-settings/@jupyterlab/apputils-extension"
        yield JupyterLab(server, browser, settings)


def _notebook_of(cells: Sequence[str]) -> dict[str, Any]:
    code: dict[str, Any] = {
        "cell_type": "code",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
    }
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        # Without a kernelspec JupyterLab asks which kernel to start.
        "metadata": {"kernelspec": _KERNELSPEC},
        "cells": [
            {**code, "id": f"cell-{number}", "source": cell} for number, cell in enumerate(cells)
        ],
    }


def _wait_for_notebook(page: Page, name: str) -> None:
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    page.wait_for_function(f"{_PANEL}?.context?.path === {json.dumps(name)}")
    page.wait_for_function(
        f"{_PANEL}.sessionContext.session?.kernel?.status === 'idle'", timeout=60_000
    )
    _wait_for_splash(page)


def _wait_for_splash(page: Page) -> None:
    # It covers the page for a while after the start and after a change of theme.
    page.locator("#jupyterlab-splash").wait_for(state="detached")


def _errors_of(page: Page) -> list[str]:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    return errors

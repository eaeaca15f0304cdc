"""JupyterLab and Chromium start once; a test opens notebooks of its own, or shares one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.browser.flow_page import FlowCell
from tests.browser.jupyterlab import JupyterLab, Notebook, running_jupyterlab

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def running_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    with running_jupyterlab(tmp_path_factory.mktemp("jupyterlab")) as lab:
        yield lab


@pytest.fixture
def lab(running_lab: JupyterLab, request: pytest.FixtureRequest) -> Iterator[JupyterLab]:
    """JupyterLab; what a test opened is closed after it, with a picture if it failed."""
    before = running_lab.notebooks
    yield running_lab
    opened = [notebook for notebook in running_lab.notebooks if notebook not in before]
    for number, notebook in enumerate(opened):
        if request.node.stash.get(_FAILED, False):
            _keep_evidence(notebook, f"failed-{request.node.name}-{number}")
        running_lab.close_notebook(notebook)


@pytest.fixture(scope="session")
def shared_notebook(running_lab: JupyterLab) -> Iterator[Notebook]:
    """One notebook and one kernel for all tests that define widgets of their own in a cell."""
    notebook = running_lab.open_notebook([""])
    yield notebook
    running_lab.close_notebook(notebook)


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Iterator[Callable[[Notebook], None]]:
    """Call it with a notebook for a picture of it, should the test fail."""
    seen: list[Notebook] = []
    yield seen.append
    if request.node.stash.get(_FAILED, False):
        for notebook in seen:
            _keep_evidence(notebook, f"failed-{request.node.name}")


@pytest.fixture
def cell(shared_notebook: Notebook, request: pytest.FixtureRequest) -> Iterator[FlowCell]:
    """A cell that shows a widget; after the test it is closed, and the page had no errors."""
    shared_notebook.errors.clear()
    # Which headings an earlier test has left open.
    shared_notebook.page.evaluate("localStorage.clear()")
    yield FlowCell(shared_notebook)
    if request.node.stash.get(_FAILED, False):
        _keep_evidence(shared_notebook, f"failed-{request.node.name}")
    shared_notebook.set_hidden(False)
    shared_notebook.set_width(1500)
    shared_notebook.set_theme("light")
    shared_notebook.kernel.execute("flow.close() if 'flow' in globals() else None")
    assert shared_notebook.errors == []


def _keep_evidence(notebook: Notebook, name: str) -> None:
    notebook.screenshot(name)
    print(*notebook.errors, sep="\n")

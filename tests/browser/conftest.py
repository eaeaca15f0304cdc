"""JupyterLab and Chromium start once; every test opens notebooks of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.browser.jupyterlab import JupyterLab, running_jupyterlab

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
    yield running_lab
    if request.node.stash.get(_FAILED, False):
        for number, notebook in enumerate(running_lab.notebooks):
            notebook.screenshot(f"failed-{request.node.name}-{number}")
            print(*notebook.errors, sep="\n")
    running_lab.close_notebooks()

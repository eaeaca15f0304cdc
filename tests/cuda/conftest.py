"""Everything here needs a GPU that torch can use, and is skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device here"))


@pytest.fixture
def waiting_may_be_forbidden() -> Iterator[None]:
    """Let a test make whatever waits for the device raise; allow it again afterwards."""
    yield
    torch.cuda.set_sync_debug_mode("default")

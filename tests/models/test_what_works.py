"""What is promised of models that nobody here wrote, and the page that says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cases import CASES
from .table import table
from .trials import COLUMNS, outcome, probed

PAGE = Path(__file__).parents[2] / "docs" / "what_works.md"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("title", CASES)
def test_works_or_says_why_not_in_one_sentence(title: str, column: str) -> None:
    reason = outcome(title, column)
    assert not reason or (reason[0].isupper() and reason.endswith(".") and "\n" not in reason)


def test_the_page_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    now = table()
    with capsys.disabled():
        print(f"\n{now}")
    assert PAGE.read_text(encoding="utf-8") == now, (
        "write it anew: python -m tests.models.table > docs/what_works.md"
    )


@pytest.mark.parametrize("title", [title for title in CASES if "unused" in title])
def test_experts_that_no_sample_chose_have_no_gradient(title: str) -> None:
    assert any(reading.missing.any() for reading in probed(title))

"""The table of what works on which models, from what the trials found: a Markdown page.

``python -m tests.models.table > docs/what_works.md`` writes it down.
"""

from __future__ import annotations

from .cases import CASES
from .trials import COLUMNS, outcome

_HEAD = """\
# What works on which models

Models as people bring them: out of Hugging Face's `transformers` (from a small configuration,
with random weights), PyTorch's own, and shapes and training loops that are hard to follow. The
page is made by `python -m tests.models.table > docs/what_works.md` from what really happened;
the tests try every cell again and compare.

- **probe**: three steps under `GradientProbe`; losses bit for bit those without it, the norms of
  every layer those of autograd's gradients.
- **bars**: the chart draws these readings, each bar at its height.
- **the tweaks**: the output is finite and has changed, the model given is untouched, undoing the
  tweak gives its outputs bit for bit (weights drawn anew: the same ones from the same seed), and
  the copy takes a training step with the rebuilt optimizer.

"""


def table() -> str:
    """Return the page."""
    reasons: list[str] = []
    lines = [["model", *COLUMNS], ["---", *[":-:"] * len(COLUMNS)]]
    for title in CASES:
        cells = [title]
        for column in COLUMNS:
            reason = outcome(title, column)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"no ({reasons.index(reason) + 1})" if reason else "works")
        lines.append(cells)
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    return f"{_HEAD}{rows}\n\nWhere it says no, this is what the panel says:\n\n{notes}\n"


if __name__ == "__main__":
    print(table(), end="")

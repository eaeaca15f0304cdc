"""README's code runs as it stands, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL
)


def test_the_code_of_the_readme_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nothing_is_left: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    first, tweaked, three_ways, without_a_widget, playground = BLOCKS

    def train() -> None:
        model, optimizer = names["model"], names["optimizer"]
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(names["inputs"]), names["targets"]).backward()
            optimizer.step()

    def train_in_widget() -> None:
        names["model"], names["optimizer"] = flow.model, flow.optimizer
        train()

    exec(first, names)
    flow = names["flow"]
    as_given = names["model"]
    exec(tweaked, names)
    assert (flow.activation, flow.skips, flow.optimizer_kind) == ("gelu", "1/sqrt(2L)", "AdamW")
    assert len(names["deeper"]) == 16 + 1
    assert "class Skip(nn.Module)" in capsys.readouterr().out
    assert (tmp_path / "weights.pt").exists()
    exec(three_ways, {**names, "my_training_function": train_in_widget})
    flow.wait()
    assert flow.step_number >= 203
    flow.close()
    names["model"], names["optimizer"] = as_given, names["torch"].optim.Adam(as_given.parameters())
    exec(without_a_widget, {**names, "train": train})

    for line in playground.splitlines():
        exec(line, names)
        names["flow"].step(2)
        names["flow"].close()

"""Numbers of several devices in one vector."""

from __future__ import annotations

import pytest
import torch

from gradflow_widget.measurement.norms import joined, stacked

HERE, AWAY = torch.ones(()), torch.ones((), device="meta")


@pytest.mark.parametrize("scalars", [[HERE, AWAY], [AWAY, HERE], [2.0, HERE, AWAY]])
def test_scalars_go_away_from_the_cpu_and_never_to_it(scalars: list[torch.Tensor | float]) -> None:
    """On the way to the CPU they would be read before they have arrived."""
    vector = stacked(scalars)
    assert vector.device.type == "meta"
    assert vector.shape == (len(scalars),)


@pytest.mark.parametrize("vectors", [[HERE[None], AWAY[None]], [AWAY[None], HERE[None]]])
def test_vectors_do_so_too(vectors: list[torch.Tensor]) -> None:
    assert joined(vectors).device.type == "meta"


def test_numbers_alone_stay_on_the_cpu() -> None:
    assert stacked([1.0, 2.5]).tolist() == [1.0, 2.5]
    assert stacked([HERE, 2.5]).tolist() == [1.0, 2.5]
    half = torch.tensor([3.0], dtype=torch.bfloat16)
    assert joined([HERE[None], half]).tolist() == [1.0, 3.0]

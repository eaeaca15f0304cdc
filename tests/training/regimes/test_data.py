"""What a regime does to the data: noisy labels, easy samples first, several batches a step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gradflow_widget.training.batches import as_batches
from gradflow_widget.training.regimes.accumulation import backward_over
from gradflow_widget.training.regimes.applied import batches_under
from gradflow_widget.training.regimes.curriculum import (
    CurriculumBatches,
    checked_indexed,
    lengths_of,
    losses_of_samples,
)
from gradflow_widget.training.regimes.first_model import first_model
from gradflow_widget.training.regimes.label_noise import noisy_labels, with_label_noise
from gradflow_widget.training.regimes.regime import regime_from

from .parts import all_equal, cross_entropy, network, plain, samples, state_of

# -- gradient accumulation ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_accumulated_gradients_are_those_of_the_batches_taken_as_one(
    dtype: torch.dtype, count: int
) -> None:
    whole_model = plain().to(dtype)
    model = copy.deepcopy(whole_model)
    inputs, targets = samples(60)
    inputs = inputs.to(dtype)
    whole = cross_entropy(whole_model, (inputs, targets))
    whole.backward()
    parts = list(zip(inputs.chunk(count), targets.chunk(count), strict=True))
    mean = backward_over(lambda part: cross_entropy(model, part), parts)
    tolerance = 1e-6 if dtype is torch.float32 else 1e-14
    assert mean.item() == pytest.approx(whole.item(), abs=tolerance)
    for one, other in zip(model.parameters(), whole_model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=tolerance)


def test_a_single_batch_is_left_as_it_is() -> None:
    model = plain()
    loss = cross_entropy(model, samples())
    assert backward_over(lambda _: loss, [None]) is loss


# -- label noise -------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 1.0])
def test_exactly_the_share_of_labels_becomes_another_class(share: float) -> None:
    labels = samples(1000)[1] * 2  # classes 0, 2, 4
    noisy = noisy_labels(labels, share, seed=3)
    assert (noisy != labels).sum().item() == round(share * 1000)
    assert set(noisy.tolist()) <= {0, 2, 4}
    assert torch.equal(noisy_labels(labels, share, seed=3), noisy)
    assert share in (0, 1) or not torch.equal(noisy_labels(labels, share, seed=4), noisy)


def test_the_other_classes_are_equally_likely() -> None:
    labels = torch.zeros(3000, dtype=torch.int64)
    labels[:3] = torch.tensor([1, 2, 3])
    counts = torch.bincount(noisy_labels(labels, 1.0)[3:], minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 999).abs().max() < 100


def test_ignored_labels_are_left_and_tokens_are_counted_one_by_one() -> None:
    labels = torch.arange(40).reshape(4, 10) % 5
    labels[:, :2] = -100
    noisy = noisy_labels(labels, 0.5)
    assert (noisy[:, :2] == -100).all()
    assert (noisy != labels).sum() == 16


class Pairs(Dataset[Any]):
    def __init__(self) -> None:
        self.inputs, self.targets = samples()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], int(self.targets[index])


@pytest.mark.parametrize("data", [samples(), Pairs()], ids=["tensors", "dataset"])
def test_the_same_samples_are_wrong_in_every_epoch_and_the_order_stays(data: Any) -> None:
    clean, noisy = as_batches(data), with_label_noise(as_batches(data), 0.3, seed=1)
    inputs = samples()[0]
    clean.restart(4)
    noisy.restart(4)
    assert torch.equal(noisy.first(9, 7)[0], clean.first(9, 7)[0])
    wrong: list[set[int]] = []
    for _ in range(3):
        epoch: set[int] = set()
        for _ in range(6):
            (x, y), (again, labels) = clean.next(10), noisy.next(10)
            assert torch.equal(again, x)
            rows = [int((inputs == one).all(dim=1).nonzero()) for one in x[labels != y]]
            epoch |= set(rows)
        wrong.append(epoch)
    assert len(wrong[0]) == 18
    assert wrong[0] == wrong[1] == wrong[2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((torch.ones(9, 2), torch.rand(9)), "targets are float32"),
        ((torch.ones(9, 2), torch.zeros(9, dtype=torch.int64)), "at least two classes"),
        (DataLoader(TensorDataset(*samples())), "a pair of tensors or a Dataset"),
        (TensorDataset(torch.ones(5)), r"pairs \(input, label\)"),
    ],
    ids=["numbers", "one class", "loader", "no pairs"],
)
def test_labels_that_cannot_be_exchanged_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_label_noise(as_batches(data), 0.1)


# -- curriculum --------------------------------------------------------------------------


def numbered(count: int = 100) -> Any:
    """Data whose inputs tell their place, and scores that turn the order around."""
    places = torch.arange(count)
    return as_batches((places[:, None].float(), places)), -places.double()


def test_the_easy_share_grows_to_all_over_the_given_batches() -> None:
    batches, scores = numbered()
    curriculum = CurriculumBatches(batches, scores, start=0.2, over=40)
    curriculum.restart(0)
    for number in range(40):
        allowed = int(np.ceil(100 * (0.2 + 0.8 * number / 40) - 1e-9))
        assert curriculum.available in (allowed, allowed + 1)
        places = curriculum.next(10)[1]
        assert places.min() >= 100 - curriculum.available - 2
        assert len(set(places.tolist())) == 10
    assert curriculum.available == 100
    batches.restart(0)
    plain_order, _ = numbered()
    plain_order.restart(0)
    for _ in range(20):
        assert torch.equal(curriculum.next(10)[1], plain_order.next(10)[1])


def test_all_of_the_easy_part_is_drawn_from() -> None:
    batches, scores = numbered()
    curriculum = CurriculumBatches(batches, scores, start=0.2, over=10**6)
    seen = {int(place) for _ in range(40) for place in curriculum.next(5)[1]}
    assert seen >= set(range(80, 100))
    assert min(seen) >= 79


def test_the_same_seed_gives_the_same_order_and_first_is_the_first() -> None:
    batches, scores = numbered()
    curriculum = CurriculumBatches(batches, scores, start=0.3, over=5)

    def order(seed: int) -> list[int]:
        curriculum.restart(seed)
        shown = curriculum.first(seed, 8)
        taken = [curriculum.next(8)[1] for _ in range(12)]
        assert torch.equal(shown[1], taken[0])
        return torch.cat(taken).tolist()

    first = order(1)
    assert order(2) != first
    assert order(1) == first
    curriculum.restart(1)
    curriculum.next(8)
    curriculum.first(7, 8)
    assert curriculum.next(8)[1].tolist() == first[8:16]


def test_a_batch_larger_than_the_easy_part_takes_what_comes_next() -> None:
    batches, scores = numbered()
    curriculum = CurriculumBatches(batches, scores, start=0.01, over=100)
    assert sorted(curriculum.next(32)[1].tolist()) == list(range(68, 100))


@pytest.mark.parametrize("scores", [torch.ones(99), [float("nan")] * 100])
def test_scores_that_order_nothing_are_refused(scores: Any) -> None:
    with pytest.raises(ValueError, match="curriculum needs"):
        CurriculumBatches(numbered()[0], scores, start=0.2, over=4)


def test_an_iterable_of_batches_offers_no_samples_to_order() -> None:
    with pytest.raises(ValueError, match="give a pair of tensors or a Dataset"):
        checked_indexed(as_batches([samples(), samples()[:1] * 2]))


@pytest.mark.parametrize("padding", [0.0, -3.5])
def test_lengths_are_those_without_padding(padding: float) -> None:
    sequences = torch.randn(4, 12, 5)
    for row, length in enumerate((3, 12, 7, 10)):
        sequences[row, length:] = padding
    batches = as_batches((sequences, torch.zeros(4)))
    assert lengths_of(batches).tolist() == [3, 12, 7, 10]
    tokens = torch.arange(1, 25).reshape(2, 12)
    tokens[1, 5:] = 0
    assert lengths_of(as_batches((tokens, torch.zeros(2)))).tolist() == [12, 5]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [(torch.randn(4, 6), "inputs that are sequences"), (torch.randn(4, 6, 2), "all are of one")],
)
def test_data_without_lengths_are_refused(inputs: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lengths_of(as_batches((inputs, torch.zeros(4))))


def test_losses_of_samples_are_those_of_each_by_itself_in_eval_mode() -> None:
    model, data = network(), samples(12)
    before = state_of(model)
    losses = losses_of_samples(model, cross_entropy, as_batches(data))
    assert all_equal(state_of(model), before)
    model.eval()
    expected = nn.CrossEntropyLoss(reduction="none")(model(data[0]), data[1])
    assert np.allclose(losses, expected.detach().numpy(), atol=1e-6)


def test_the_first_model_is_a_trained_copy_and_the_model_stays() -> None:
    model, data = network(), samples()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    batches = as_batches(data)
    before = state_of(model)

    def made() -> nn.Module:
        return first_model(
            model, optimizer, cross_entropy, batches, steps=30, batch_size=10, seed=3
        )

    trained = made()
    assert all_equal(state_of(model), before)
    assert optimizer.state == {}
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(batches.next(10)[0], batches.first(3, 10)[0])
    model.eval()
    trained.eval()
    assert cross_entropy(trained, data) < cross_entropy(model, data) - 0.03
    model.train()
    torch.manual_seed(99)
    assert all(
        torch.equal(one, other)
        for one, other in zip(trained.parameters(), made().parameters(), strict=True)
    )


# -- together ----------------------------------------------------------------------------


def test_a_curriculum_orders_what_label_noise_has_left() -> None:
    data = samples()
    regime = regime_from(
        {"label_noise": 0.5, "curriculum": {"by": "loss", "steps": 6}, "accumulation": 2}
    )
    seen: list[Any] = []

    def first_losses(batches: Any) -> Any:
        seen.append(batches.rows(torch.arange(60))[1])
        return np.arange(60.0)

    batches = batches_under(regime, as_batches(data), first_losses)
    assert (seen[0] != data[1]).sum() == 30
    taken = [batches.next(5) for _ in range(12)]
    rows = [int((data[0] == x).all(dim=1).nonzero()) for x in taken[0][0]]
    assert max(rows) < 12
    assert batches.available == 60  # 6 steps of two batches each


def test_data_stay_as_they_are_where_a_regime_does_nothing_to_them() -> None:
    batches = as_batches(samples())
    regime = regime_from({"accumulation": 3, "dropout": 0.5})
    assert batches_under(regime, batches, lambda _: pytest.fail("asked for")) is batches

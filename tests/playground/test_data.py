"""The data sets by name: the same each time, divided for good, and what they claim to be."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from gradflow_widget.playground.data import DATA, KINDS, Loaded
from gradflow_widget.playground.data.next_token import NextTokenLoss
from gradflow_widget.playground.data.python_topics import CHARACTERS, documentation

EVERY = [(name, kind) for name, source in DATA.items() for kind in source.kinds]
every = pytest.mark.parametrize(("name", "kind"), EVERY)
DRAWN = ["adding", "moons", "spirals", "regression"]


def tensors(data: Loaded) -> tuple[torch.Tensor, ...]:
    return (*data.training, *data.validation)


def same(one: Loaded, other: Loaded) -> bool:
    return all(torch.equal(*pair) for pair in zip(tensors(one), tensors(other), strict=True))


def samples(inputs: torch.Tensor, targets: torch.Tensor) -> Counter[bytes]:
    rows = zip(inputs.numpy(), targets.numpy(), strict=True)
    return Counter(row.tobytes() + target.tobytes() for row, target in rows)


@every
def test_the_same_arguments_give_the_same_tensors_and_the_seed_decides(
    name: str, kind: str
) -> None:
    load = DATA[name].load
    assert same(load(kind), load(kind, seed=0))
    assert same(load(kind, seed=2**63 - 1), load(kind, seed=2**63 - 1))
    assert not same(load(kind), load(kind, seed=1))


@every
def test_loading_leaves_the_random_states_alone(name: str, kind: str) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    DATA[name].load(kind)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state


@every
def test_nobody_else_sees_what_is_written_into_the_tensors(name: str, kind: str) -> None:
    before = DATA[name].load(kind)
    spoilt = DATA[name].load(kind)
    for tensor in tensors(spoilt):
        tensor.zero_()
    assert same(DATA[name].load(kind), before)


@every
def test_shapes_types_and_loss_fit_together(name: str, kind: str) -> None:
    data = DATA[name].load(kind)
    assert kind in KINDS
    assert data.kind == kind
    for inputs, targets in (data.training, data.validation):
        assert inputs.shape[1:] == data.input_shape
        assert len(inputs) == len(targets) > 0
        if kind == "tokens":
            assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64)
            assert inputs.shape == targets.shape
            outputs = torch.zeros(*targets.shape, data.outputs)
        else:
            assert inputs.dtype is torch.float32
            assert inputs.isfinite().all()
            outputs = torch.zeros(len(targets), data.outputs)
        if targets.dtype is torch.int64:
            assert int(targets.min()) >= 0
            assert int(targets.max()) < data.outputs
            chance = math.log(data.outputs)
        else:
            assert targets.shape == outputs.shape
            chance = float(targets.square().mean())
        assert float(data.loss(outputs, targets)) == pytest.approx(chance, rel=1e-5)
    assert len(data.classes) in (0, data.outputs)


@every
def test_about_a_fifth_is_held_out_and_no_sample_is_on_both_sides(name: str, kind: str) -> None:
    for seed in (0, 1):
        data = DATA[name].load(kind, seed=seed)
        held_out = len(data.validation_inputs)
        assert 0.15 < held_out / (held_out + len(data.inputs)) < 0.25
        shared = (samples(*data.training) & samples(*data.validation)).total()
        # Another version's text may say the same words twice.
        assert shared <= (0.01 * held_out if name == "text" else 0)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("moons", {"kind": "image"}, "data 'moons' is no 'image': choose one of vector"),
        ("digits", {"noise": 0.1}, "data 'digits' has no parameter 'noise': it takes none"),
        ("moons", {"depth": 3}, "no parameter 'depth': its own are noise, samples"),
        ("digits", {"seed": -1}, "seed must be a whole number from 0 to 2"),
        ("digits", {"seed": "a"}, "seed must be a whole number from 0 to 2"),
        ("moons", {"noise": -0.1}, "noise must be a finite number from 0, not -0.1"),
        ("spirals", {"noise": math.nan}, "noise must be a finite number from 0, not nan"),
        ("regression", {"noise": "0.1"}, "noise must be a finite number from 0"),
        ("spirals", {"samples": 1}, "samples must be a whole number from 2 to 50,000, not 1"),
        ("adding", {"length": 1}, "length must be a whole number from 2 to 2,000, not 1"),
        ("adding", {"length": 2.5}, "length must be a whole number from 2 to 2,000"),
        ("text", {"context": 0}, "context must be a whole number from 1 to 2,048, not 0"),
        ("text", {"context": True}, "context must be a whole number from 1 to 2,048"),
    ],
)
def test_what_it_cant_be_is_refused_in_one_sentence(
    name: str, arguments: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        DATA[name].load(**arguments)


def test_each_says_its_parameters_with_their_defaults() -> None:
    assert {name: dict(source.parameters) for name, source in DATA.items()} == {
        "digits": {},
        "spoken_digits": {},
        "text": {"context": 64},
        "adding": {"length": 50, "samples": 5_000},
        "moons": {"noise": 0.1, "samples": 1_000},
        "spirals": {"noise": 0.02, "samples": 1_000},
        "regression": {"noise": 0.1, "samples": 1_000},
    }
    assert all(name == source.name for name, source in DATA.items())


@pytest.mark.parametrize("name", DRAWN)
def test_two_samples_are_enough_for_one_on_each_side(name: str) -> None:
    data = DATA[name].load(samples=2)
    assert (len(data.inputs), len(data.validation_inputs)) == (1, 1)


# -- digits --------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_scaled_by_those_to_train_on() -> None:
    data = DATA["digits"].load()
    assert (len(data.inputs), len(data.validation_inputs)) == (1438, 359)
    assert float(data.inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.inputs.std()) == pytest.approx(1, abs=1e-5)
    inputs = torch.cat([data.inputs, data.validation_inputs])
    pixels = 16 * (inputs - inputs.min()) / (inputs.max() - inputs.min())
    images, targets = load_digits(return_X_y=True)
    given = samples(torch.tensor(images).to(torch.uint8), torch.tensor(targets))
    ours = samples(
        pixels.round().to(torch.uint8), torch.cat([data.targets, data.validation_targets])
    )
    assert ours == given


def test_digits_as_images_and_row_by_row_are_the_same_pixels() -> None:
    vectors, images, sequences = (
        DATA["digits"].load(kind).inputs for kind in ("vector", "image", "sequence")
    )
    assert torch.equal(images[:, 0, 3, 5], vectors[:, 8 * 3 + 5])
    assert torch.equal(sequences[:, 3, 5], vectors[:, 8 * 3 + 5])


# -- text ----------------------------------------------------------------------------


def spoken(data: Loaded, tokens: torch.Tensor) -> str:
    return "".join(data.classes[token] for token in tokens.tolist())


def test_text_is_python_s_documentation_and_the_target_is_the_next_character() -> None:
    data = DATA["text"].load(context=100)
    text = documentation()
    assert len(text) > 200_000
    for inputs, targets in (data.training, data.validation):
        for row in (0, 1, -1):
            piece = spoken(data, inputs[row]) + spoken(data, targets[row][-1:])
            assert piece in text
            assert torch.equal(inputs[row, 1:], targets[row, :-1])


def test_text_s_pieces_cover_it_once() -> None:
    data = DATA["text"].load(context=50)
    pieces = torch.cat([data.inputs, data.validation_inputs])
    counted = Counter("".join(spoken(data, piece) for piece in pieces))
    assert counted == Counter(documentation()[: pieces.numel()])
    assert len(documentation()) - pieces.numel() <= 50


def test_text_has_the_same_characters_in_every_version_and_no_paragraph_twice() -> None:
    assert len(CHARACTERS) == 96
    assert DATA["text"].load().classes == tuple(CHARACTERS)
    assert set(documentation()) <= set(CHARACTERS)
    paragraphs = [p for p in documentation().split("\n\n") if len(p) > 80]
    assert len(paragraphs) > 1_000
    assert len(set(paragraphs)) == len(paragraphs)


def test_next_token_loss_is_the_mean_over_places_of_minus_log_p() -> None:
    outputs = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (3, 5))
    loss = NextTokenLoss()(outputs, targets)
    log_p = outputs.detach().log_softmax(dim=-1)
    one_by_one = [-float(log_p[i, t, targets[i, t]]) for i in range(3) for t in range(5)]
    assert float(loss.detach()) == pytest.approx(sum(one_by_one) / 15, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, outputs)
    expected = (log_p.exp() - nn.functional.one_hot(targets, 7)) / 15
    assert torch.allclose(gradient, expected, rtol=1e-12)


# -- adding --------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 7, 50])
def test_adding_asks_for_the_sum_of_the_two_marked_numbers(length: int) -> None:
    data = DATA["adding"].load(length=length)
    assert data.input_shape == (length, 2)
    values, marks = data.inputs.unbind(dim=2)
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    assert set(marks.unique().tolist()) <= {0.0, 1.0}
    assert (marks[:, : length // 2].sum(dim=1) == 1).all()
    assert (marks[:, length // 2 :].sum(dim=1) == 1).all()
    assert (marks.sum(dim=0) > 0).all()  # every step is marked in some sample
    assert torch.allclose((values * marks).sum(dim=1), data.targets[:, 0], atol=1e-6)


def test_adding_costs_a_sixth_where_the_answer_is_always_one() -> None:
    data = DATA["adding"].load(length=20, samples=50_000)
    for _, targets in (data.training, data.validation):
        # (sum - 1)² has variance 1/15 - 1/36: over 10,000 its mean is off by 0.002.
        assert float(data.loss(torch.ones_like(targets), targets)) == pytest.approx(1 / 6, abs=5e-3)


# -- the plane -----------------------------------------------------------------------


def test_moons_without_noise_lie_on_two_half_circles() -> None:
    data = DATA["moons"].load(noise=0)
    x, y = data.inputs.unbind(dim=1)
    upper = data.targets == 0
    assert torch.allclose((x**2 + y**2)[upper], torch.ones(()), atol=1e-5)
    assert torch.allclose(((x - 1) ** 2 + (y - 0.5) ** 2)[~upper], torch.ones(()), atol=1e-5)


def test_spirals_without_noise_are_half_a_turn_apart() -> None:
    data = DATA["spirals"].load(noise=0)
    radius = data.inputs.norm(dim=1)
    assert float(radius.min()) >= 0.1
    assert float(radius.max()) < 1 + 1e-6
    angle = torch.atan2(data.inputs[:, 1], data.inputs[:, 0])
    off = (angle - 3 * math.pi * radius - math.pi * data.targets) / (2 * math.pi)
    assert torch.allclose(off, off.round(), atol=1e-5)


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_each_of_two_classes_has_half_of_the_points(name: str) -> None:
    data = DATA[name].load()
    assert torch.cat([data.targets, data.validation_targets]).bincount().tolist() == [500, 500]


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_noise_is_the_deviation_that_is_added(name: str) -> None:
    clean, noisy = (DATA[name].load(noise=noise, samples=20_000) for noise in (0, 0.25))
    assert torch.equal(clean.targets, noisy.targets)
    assert float((noisy.inputs - clean.inputs).std()) == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_regression_costs_one_and_the_noise_for_nothing_and_the_noise_at_best(
    noise: float,
) -> None:
    data = DATA["regression"].load(noise=noise, samples=50_000)
    surface = 2 * torch.sin(math.pi * data.inputs[:, :1]) * torch.sin(math.pi * data.inputs[:, 1:])
    best = float(data.loss(surface, data.targets))
    nothing = float(data.loss(torch.zeros_like(surface), data.targets))
    assert best == pytest.approx(noise**2, rel=0.03, abs=1e-9)
    assert nothing == pytest.approx(1 + noise**2, rel=0.03)

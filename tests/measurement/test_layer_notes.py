"""The numbers that only norms and skips have, against computations of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget import GradientProbe, take_reading, with_normalization, with_skips
from gradflow_widget.measurement.reading import Reading

LOSS = nn.CrossEntropyLoss()


def notes_of(reading: Reading, name: str) -> dict[str, tuple[float, float, float]]:
    assert reading.layer_notes is not None
    notes = reading.layer_notes[reading.layers.index(name)]
    return dict(notes or ())


def of(values: Tensor) -> Any:
    """Mean, lowest and highest, as a note has them."""
    values = values.detach().double()
    return pytest.approx((float(values.mean()), float(values.min()), float(values.max())), rel=1e-5)


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = 2 * torch.randn(*shape, generator=generator) + 1
    return inputs, torch.randint(0, 3, (shape[0],), generator=generator)


def scattered(norm: Any) -> Any:
    """The same norm with scale and shift that differ from unit to unit."""
    for parameter in norm.parameters():
        nn.init.normal_(parameter, mean=0.5, generator=torch.Generator().manual_seed(1))
    return norm


def test_a_batch_norm_tells_mean_and_deviation_of_its_batch_and_what_it_has_learned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), scattered(nn.BatchNorm1d(5)), nn.ReLU(), nn.Linear(5, 3))
    x, y = batch(16, 6)

    reading = take_reading(model, LOSS, x, y)

    z = model[0](x).double()
    mean = z.sum(0) / 16
    deviation = ((z - mean).square().sum(0) / 16).sqrt()
    notes = notes_of(reading, "1")
    assert list(notes) == ["batch mean", "batch deviation", "scale", "shift"]
    assert notes["batch mean"] == of(mean)
    assert notes["batch deviation"] == of(deviation)
    assert notes["scale"] == of(model[1].weight)
    assert notes["shift"] == of(model[1].bias)
    assert reading.layer_notes is not None
    assert [bool(of_layer) for of_layer in reading.layer_notes] == [False, True, False]


def test_of_a_convolution_every_place_of_every_sample_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 3))
    x, y = batch(8, 2, 5, 5)

    notes = notes_of(take_reading(model, LOSS, x, y), "1")

    z = model[0](x).double().permute(1, 0, 2, 3).reshape(4, -1)
    assert notes["batch mean"] == of(z.mean(1))
    assert notes["batch deviation"] == of(z.std(1, correction=0))


def test_on_the_last_dimension_every_position_counts() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = with_normalization(
                nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), "batch"
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).mean(1)

    torch.manual_seed(0)
    model = Tagger()
    x, y = batch(4, 7, 6)

    reading = take_reading(model, LOSS, x, y)

    name = next(n for n in reading.layers if n.endswith("norm"))
    linear = next(m for m in model.modules() if isinstance(m, nn.Linear))
    z = linear(x).double().reshape(28, 5)
    assert notes_of(reading, name)["batch mean"] == of(z.mean(0))
    assert notes_of(reading, name)["batch deviation"] == of(z.std(0, correction=0))


def test_in_eval_mode_a_batch_norm_tells_the_running_numbers_that_it_uses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = batch(16, 6)
    model(x)
    model.eval()

    notes = notes_of(take_reading(model, LOSS, x, y), "1")

    assert list(notes) == ["running mean", "running deviation", "scale", "shift"]
    assert notes["running mean"] == of(model[1].running_mean)
    assert notes["running deviation"] == of(model[1].running_var.sqrt())


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        (nn.LayerNorm(6), ["scale", "shift"]),
        (nn.GroupNorm(2, 6), ["scale", "shift"]),
        (nn.RMSNorm(6), ["scale"]),
    ],
)
def test_other_norms_tell_scale_and_shift(norm: nn.Module, names: list[str]) -> None:
    model = nn.Sequential(nn.Linear(6, 6), scattered(norm), nn.Linear(6, 3))
    notes = notes_of(take_reading(model, LOSS, *batch(4, 6)), "1")

    assert list(notes) == names
    for name, parameter in zip(names, norm.parameters(), strict=True):
        assert notes[name] == of(parameter)


def test_a_norm_without_parameters_is_told_of_at_the_layer_before_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3))
    x, y = batch(16, 6)

    reading = take_reading(model, LOSS, x, y)

    assert reading.layers == ("0", "2")
    notes = notes_of(reading, "0")
    assert list(notes) == ["BatchNorm1d batch mean", "BatchNorm1d batch deviation"]
    assert notes["BatchNorm1d batch mean"] == of(model[0](x).double().mean(0))


def residual(scale: float | str) -> nn.Module:
    torch.manual_seed(0)
    blocks = [part for _ in range(2) for part in (nn.Linear(6, 6), nn.Tanh())]
    return with_skips(nn.Sequential(*blocks, nn.Linear(6, 3)), scale)


def test_a_fixed_skip_is_told_of_at_the_last_layer_inside() -> None:
    reading = take_reading(residual(0.25), LOSS, *batch(4, 6))
    assert notes_of(reading, reading.layers[0]) == {"skip scale": (0.25, 0.25, 0.25)}
    assert notes_of(reading, reading.layers[1]) == {"skip scale": (0.25, 0.25, 0.25)}
    assert notes_of(reading, reading.layers[2]) == {}


def test_a_learned_skip_tells_its_scale_as_the_step_used_it() -> None:
    model = residual("learned")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = batch(8, 6)
    with GradientProbe(model, optimizer, full=True) as probe:
        readings = []
        probe.on_reading = readings.append
        before = []
        for _ in range(3):
            before.append(model[0].scale.item())
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()

    assert before[0] == 0.0 != before[2]
    told = [notes_of(reading, "0")["skip scale"][0] for reading in readings]
    assert told == pytest.approx(before, rel=1e-6)


def steps(model: nn.Module, *, full: bool | None) -> tuple[list[float], list[Reading]]:
    """Train a while, watched in full, in part, or not at all (None)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    probe = None if full is None else GradientProbe(model, optimizer, full=full)
    readings: list[Reading] = []
    if probe is not None:
        probe.on_reading = readings.append
    losses = []
    x, y = batch(16, 6)
    for _ in range(5):
        optimizer.zero_grad()
        loss = LOSS(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    losses += [float(value.double().sum()) for value in model.state_dict().values()]
    if probe is not None:
        probe.close()
    return losses, readings


def normed() -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    return with_skips(with_normalization(plain, "batch"), "learned")


def test_watching_changes_nothing() -> None:
    unwatched, _ = steps(normed(), full=None)
    model = normed()
    watched, readings = steps(model, full=True)

    assert watched == unwatched
    assert all(reading.layer_notes for reading in readings)
    assert not any(module._forward_hooks for module in model.modules())


def test_only_full_readings_have_notes_and_only_of_models_that_have_any() -> None:
    _, in_part = steps(normed(), full=False)
    assert [reading.layer_notes for reading in in_part] == [None] * 5

    torch.manual_seed(0)
    _, plain = steps(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)), full=True)
    assert [reading.layer_notes for reading in plain] == [None] * 5


def test_a_pass_beside_the_training_is_not_the_batch_of_the_step() -> None:
    model = normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batch(16, 6)
    readings: list[Reading] = []
    with GradientProbe(model, optimizer, full=True) as probe:
        probe.on_reading = readings.append
        LOSS(model(x), y).backward()
        with probe.looking_away():
            model(100 * x)
        optimizer.step()

    alone = take_reading(normed(), LOSS, x, y)
    assert readings[0].layer_notes == alone.layer_notes

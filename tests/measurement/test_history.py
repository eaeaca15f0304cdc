"""History: columns, thinning with exact extremes, bounded memory."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradflow_widget import GradientProbe, History, Layer, Reading
from gradflow_widget.measurement.history import LAYER_COLUMNS, STEP_COLUMNS, Rows
from tests.waiting import join, started

FULL_ONLY = LAYER_COLUMNS[3:]


def layers(count: int) -> tuple[Layer, ...]:
    return tuple(
        Layer(f"fc{i}", "Linear", (f"fc{i}.weight",), (4, 4), "Linear:fc", True, 4)
        for i in range(count)
    )


def reading(step: int, described: tuple[Layer, ...], *, full: bool = False, **numbers) -> Reading:
    count = len(described)
    norm = numbers.pop("norm", np.full(count, 1.0 / (step + 1)))
    measured = {name: np.linspace(1, 2, count) * (step + 1) for name in FULL_ONLY} if full else {}
    values = {
        "loss": 1.0 / (step + 1),
        "learning_rate": 0.1,
        "total_norm": float(step),
        "clip_scale": 1.0,
        **numbers,
    }
    return Reading(
        step=step,
        learning_rates=(0.1,),
        described=described,
        weight_grad_norm=norm,
        unclipped_grad_norm=2 * norm,
        missing=np.zeros(count, dtype=bool),
        frozen=np.zeros(count, dtype=bool),
        **values,
        **measured,
    )


def test_columns_have_a_row_for_every_step_and_a_place_for_every_layer():
    history, described = History(), layers(3)
    readings = [reading(step, described, full=step % 2 == 0) for step in range(1, 601)]
    for one in readings:
        history.append(one)
    assert len(history) == history.steps_recorded == 600
    assert history.layers == ("fc0", "fc1", "fc2")
    assert history.latest is readings[-1]
    for name in ("step", "loss", "learning_rate", "total_norm", "clip_scale"):
        np.testing.assert_array_equal(getattr(history, name), [getattr(r, name) for r in readings])
    for name in ("decades", "slope"):
        values = [np.nan if getattr(r, name) is None else getattr(r, name) for r in readings]
        np.testing.assert_array_equal(history.column(name), values)
    for name in LAYER_COLUMNS:
        values = [getattr(r, name) for r in readings]
        values = [np.full(3, np.nan) if v is None else v for v in values]
        np.testing.assert_array_equal(history.column(name), values)
    assert (history.steps_per_row == 1).all()


def test_a_history_without_readings_has_empty_columns():
    history = History()
    assert len(history) == 0
    assert history.loss.shape == (0,)
    assert history.weight_grad_norm.shape == (0, 0)
    assert history.latest is None
    assert len(history.to_dataframe()) == 0


def test_an_unknown_column_is_named_with_those_that_exist():
    history = History()
    with pytest.raises(KeyError, match="no column 'gradient'; there are step, loss"):
        history.column("gradient")
    with pytest.raises(AttributeError, match="gradient"):
        _ = history.gradient


def test_a_history_holds_one_network():
    history = History()
    history.append(reading(1, layers(3)))
    history.append(reading(2, layers(3)))
    with pytest.raises(ValueError, match="layers are others"):
        history.append(reading(3, layers(4)))
    history.clear()
    history.append(reading(1, layers(4)))
    assert history.steps_recorded == 1


def test_a_probe_goes_on_numbering_in_a_history_that_was_cleared():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        for step in range(5):
            if step == 3:
                probe.history.clear()
            model(torch.ones(3, 2)).sum().backward()
            optimizer.step()
        assert probe.history.step.tolist() == [4, 5]
        assert (probe.history.steps_recorded, probe.steps) == (2, 5)


def test_columns_are_copies():
    history = History()
    history.append(reading(1, layers(2)))
    history.loss[0] = 99
    history.weight_grad_norm[0, 0] = 99
    assert history.loss[0] == 0.5
    assert history.weight_grad_norm[0, 0] == 0.5


numbers = st.one_of(
    st.floats(-1e6, 1e6),
    st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e300, 1e-300]),
)


@given(
    losses=st.lists(numbers, min_size=1, max_size=700),
    period=st.integers(1, 9),
    seed=st.integers(0, 100),
)
@settings(max_examples=40)
def test_thinning_keeps_minimum_mean_and_maximum_exact(losses, period, seed):
    """Against the same steps cut into rows by hand, with a budget that keeps few."""
    described = layers(2)
    history = History(budget_bytes=1)
    generator = np.random.default_rng(seed)
    norms = 10 ** generator.uniform(-20, 5, (len(losses), 2))
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        history.append(reading(step, described, full=step % period == 0, loss=loss, norm=norm))
    per_row = history.steps_per_row
    assert len(history) == len(per_row) <= 64 + 32
    assert per_row.sum() == history.steps_recorded == len(losses)
    ends = np.cumsum(per_row)
    rows = [slice(end - n, end) for end, n in zip(ends, per_row, strict=True)]
    measured = np.array([step % period == 0 for step in range(len(losses))])
    scale = np.array(losses)
    with np.errstate(invalid="ignore"):
        for row, low, mean, high in zip(
            rows,
            *(history.column("loss", s) for s in ("min", "mean", "max")),
            strict=True,
        ):
            part = scale[row]
            real = part[~np.isnan(part)]
            np.testing.assert_equal(low, real.min() if len(real) else math.nan)
            np.testing.assert_equal(high, real.max() if len(real) else math.nan)
            # One NaN in a block shows in its mean.
            np.testing.assert_allclose(
                mean, (part / len(part)).sum(), rtol=1e-9, atol=1e-9 * np.abs(part).max()
            )
    for row, low, mean, high in zip(
        rows,
        *(history.column("weight_grad_norm", s) for s in ("min", "mean", "max")),
        strict=True,
    ):
        np.testing.assert_array_equal(low, norms[row].min(axis=0))
        np.testing.assert_array_equal(high, norms[row].max(axis=0))
        np.testing.assert_allclose(mean, norms[row].mean(axis=0))
    for row, low, mean, high in zip(
        rows,
        *(history.column("activation_rms", s) for s in ("min", "mean", "max")),
        strict=True,
    ):
        steps = np.arange(len(losses))[row][measured[row]] + 1.0
        if len(steps):
            np.testing.assert_allclose(low, [steps.min(), 2 * steps.min()])
            np.testing.assert_allclose(mean, [steps.mean(), 2 * steps.mean()])
            np.testing.assert_allclose(high, [steps.max(), 2 * steps.max()])
        else:
            assert np.isnan([low, mean, high]).all()
    for row, step in zip(rows, history.step, strict=True):
        assert step == pytest.approx(np.arange(len(losses))[row].mean())


def test_the_newest_steps_stay_single():
    history, described = History(budget_bytes=1), layers(2)
    for step in range(1, 5001):
        history.append(reading(step, described))
        assert history.step[-1] == step
        assert (history.steps_per_row[-min(step, 32) :] == 1).all()
    assert (np.diff(history.step) > 0).all()


def test_a_million_steps_of_a_hundred_layers_stay_under_500_megabytes():
    """By arithmetic: all that is ever allocated, once both parts are full."""
    history, described = History(), layers(100)
    history.append(reading(1, described, full=True))
    row_bytes = 8 * (len(STEP_COLUMNS) + 100 * len(LAYER_COLUMNS))
    assert history._most * row_bytes * 3 < 250e6
    assert history._most > 5000


def test_memory_stops_growing():
    budget = 2_000_000
    history, described = History(budget_bytes=budget), layers(20)
    sizes = []
    for step in range(1, 20_001):
        history.append(reading(step, described))
        if step % 1000 == 0:
            sizes.append(history.nbytes)
    assert max(sizes) <= 1.05 * budget
    assert len(set(sizes[-10:])) == 1
    assert history.steps_per_row.sum() == 20_000


def test_a_reader_in_another_thread_sees_whole_rows():
    history, described = History(budget_bytes=1), layers(2)
    done = threading.Event()
    faults = []

    def read() -> None:
        while not done.is_set():
            step, total = history.columns("step", "total_norm")
            if not np.array_equal(step, total):
                faults.append((step, total))

    thread = started(read)
    for step in range(1, 4001):
        history.append(reading(step, described))
    done.set()
    join(thread)
    assert not faults


def test_to_dataframe_has_a_series_for_steps_and_a_frame_for_layers():
    history, described = History(), layers(3)
    for step in range(1, 6):
        history.append(reading(step, described, full=step == 5))
    frame = history.to_dataframe()
    assert len(frame) == 5
    assert frame["loss"].squeeze().tolist() == history.loss.tolist()
    assert list(frame["weight_grad_norm"].columns) == ["fc0", "fc1", "fc2"]
    np.testing.assert_array_equal(frame["weight_grad_norm"].to_numpy(), history.weight_grad_norm)
    np.testing.assert_array_equal(frame["update_ratio"].to_numpy(), history.update_ratio)


def test_steps_recorded_together_are_those_recorded_one_by_one():
    def recorded(*, one_by_one):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs = torch.randn(16, 4)
        with GradientProbe(model, optimizer) as probe:
            if one_by_one:
                probe.on_reading = lambda reading: None
            for step in range(700):
                optimizer.zero_grad()
                loss = model(inputs).square().mean()
                loss.backward()
                if step == 300:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
                optimizer.step()
                if step in (5, 130):
                    assert probe.steps == len(probe.history) == step + 1
                    assert probe.history.latest is not None
                    assert probe.history.latest.loss == loss.item()
            return probe.history

    together, alone = recorded(one_by_one=False), recorded(one_by_one=True)
    assert together.steps_recorded == alone.steps_recorded == 700
    for name in (*STEP_COLUMNS, *LAYER_COLUMNS):
        np.testing.assert_array_equal(together.column(name), alone.column(name), err_msg=name)
    assert np.flatnonzero(together.clip_scale != 1).tolist() == [300]


def test_rows_are_thinned_as_readings_are():
    described, budget = layers(2), 50_000  # few rows, so that there are blocks
    alone, together = History(budget_bytes=budget), History(budget_bytes=budget)
    norms = np.arange(2000.0).reshape(1000, 2)
    totals = np.sqrt(np.arange(1000.0))
    for step in range(1000):
        numbers = {"loss": -step, "total_norm": totals[step], "unclipped_grad_norm": norms[step]}
        alone.append(replace(reading(step + 1, described, norm=norms[step]), **numbers))
    for first in range(0, 1000, 300):
        now = slice(first, first + 300)
        rates = np.full((1000, 1), 0.1)
        rows = Rows(-np.arange(1000.0)[now], rates[now], totals[now], norms[now])
        together.append_rows(described, first + 1, rows)
    assert len(alone) == len(together) < 1000
    for name in (*STEP_COLUMNS, *LAYER_COLUMNS):
        for statistic in ("min", "mean", "max"):
            np.testing.assert_array_equal(
                together.column(name, statistic), alone.column(name, statistic), err_msg=name
            )


def test_a_model_that_is_one_layer_has_a_frame_of_columns_too():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    frame = probe.history.to_dataframe()
    assert list(frame["weight_grad_norm"].columns) == ["(model)"]


def test_a_missing_gradient_is_told_from_one_that_holds_nan_and_has_no_part_in_means():
    history, described = History(budget_bytes=40_000), layers(2)
    for step in range(1, 2001):
        here = step % 2 == 0
        one = reading(step, described, norm=np.array([4.0 if here else np.nan, 1.0]))
        history.append(replace(one, missing=np.array([not here, False])))
    assert history.steps_per_row[0] > 1
    np.testing.assert_array_equal(history.weight_grad_norm[0], [4.0, 1.0])
    np.testing.assert_array_equal(history.missing[0], [0.5, 0.0])
    np.testing.assert_array_equal(history.missing[-2:], [[1.0, 0.0], [0.0, 0.0]])
    history.append(reading(2001, described, norm=np.array([np.nan, 1.0])))
    assert np.isnan(history.weight_grad_norm[-1, 0])
    assert history.missing[-1, 0] == 0.0


class TestSeveralParameterGroups:
    def test_one_group_has_the_columns_that_it_always_had(self):
        history = History()
        history.append(reading(1, layers(2)))
        frame = history.to_dataframe()
        assert list(frame.columns.get_level_values("quantity").unique()) == [
            *STEP_COLUMNS,
            *LAYER_COLUMNS,
        ]
        with pytest.raises(AttributeError, match="learning_rate_1"):
            _ = history.learning_rate_1
        with pytest.raises(KeyError, match="no column 'learning_rate_1'; there are step, loss, "):
            history.column("learning_rate_1")

    def test_every_group_has_a_column_from_the_step_that_it_was_added_at(self):
        history, described = History(), layers(2)
        history.append(replace(reading(1, described), learning_rates=(0.1, 0.2)))
        history.append(replace(reading(2, described, full=True), learning_rates=(0.1, 0.3, 5.0)))
        history.append(replace(reading(3, described), learning_rates=(0.1,)))
        np.testing.assert_array_equal(history.learning_rate, [0.1, 0.1, 0.1])
        np.testing.assert_array_equal(history.learning_rate_1, [0.2, 0.3, math.nan])
        np.testing.assert_array_equal(history.learning_rate_2, [math.nan, 5.0, math.nan])
        np.testing.assert_array_equal(
            history.update_ratio[1], reading(2, described, full=True).update_ratio
        )
        frame = history.to_dataframe()
        np.testing.assert_array_equal(frame["learning_rate_1"].squeeze(), history.learning_rate_1)
        quantities = list(frame.columns.get_level_values("quantity").unique())
        first = quantities.index("learning_rate")
        assert quantities[first + 1 : first + 3] == ["learning_rate_1", "learning_rate_2"]
        history.clear()
        history.append(reading(1, described))
        with pytest.raises(KeyError, match="learning_rate_1"):
            history.column("learning_rate_1")

    def test_rates_are_thinned_to_minimum_mean_and_maximum(self):
        history, described = History(budget_bytes=1), layers(2)
        late = 201  # in the midst of a block, the second
        for step in range(1, 2001):
            rates = (0.1, step / 10, -1.0 * step) if step >= late else (0.1, step / 10)
            history.append(replace(reading(step, described), learning_rates=rates))
        assert history.steps_per_row[0] > 1
        ends = np.cumsum(history.steps_per_row)
        rows = [slice(end - n, end) for end, n in zip(ends, history.steps_per_row, strict=True)]
        steps = np.arange(1.0, 2001)
        second, third = steps / 10, np.where(steps >= late, -steps, np.nan)
        for name, expected in (("learning_rate_1", second), ("learning_rate_2", third)):
            for statistic, of in (("min", np.min), ("mean", np.mean), ("max", np.max)):
                parts = [expected[row][~np.isnan(expected[row])] for row in rows]
                wanted = [of(part) if len(part) else math.nan for part in parts]
                np.testing.assert_allclose(history.column(name, statistic), wanted)
        assert np.isnan(history.learning_rate_2[0])
        assert (history.missing == 0).all()

    def test_many_groups_keep_to_the_memory(self):
        history, described = History(budget_bytes=1_000_000), layers(1)
        for step in range(1, 5001):
            history.append(replace(reading(step, described), learning_rates=(0.1,) * 100))
        assert history.nbytes <= 1.05e6
        np.testing.assert_allclose(history.learning_rate_99, 0.1)

    @pytest.mark.parametrize("one_by_one", [False, True])
    def test_a_group_added_while_the_optimizer_is_watched_has_a_column(self, one_by_one):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        with GradientProbe(model, optimizer) as probe:
            if one_by_one:
                probe.on_reading = lambda reading: None
            for step in range(40):
                if step == 20:
                    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
                if step == 30:
                    optimizer.param_groups[1]["lr"] = 0.25
                optimizer.zero_grad()
                model(torch.ones(3, 4)).square().mean().backward()
                optimizer.step()
        np.testing.assert_array_equal(
            probe.history.learning_rate_1, [math.nan] * 20 + [0.5] * 10 + [0.25] * 10
        )
        np.testing.assert_array_equal(probe.history.learning_rate, np.full(40, 0.1))


COPIES: dict[str, Callable[[History], History]] = {
    "pickle": lambda history: pickle.loads(pickle.dumps(history)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def assert_same(one: History, other: History) -> None:
    assert (one.layers, one.steps_recorded) == (other.layers, other.steps_recorded)
    np.testing.assert_array_equal(one.steps_per_row, other.steps_per_row)
    for name in STEP_COLUMNS + LAYER_COLUMNS:
        for statistic in ("min", "mean", "max"):
            np.testing.assert_array_equal(
                one.column(name, statistic), other.column(name, statistic)
            )
    assert one.to_dataframe().equals(other.to_dataframe())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
class TestACopy:
    @pytest.mark.parametrize("steps", [0, 1, 10, 257, 1000])
    def test_is_the_same_and_goes_on_thinning_by_itself(self, copied, steps):
        history, untouched, described = History(budget_bytes=1), History(budget_bytes=1), layers(2)
        every = [reading(step, described, full=step % 3 == 0) for step in range(1, steps + 601)]
        for one in every[:steps]:
            history.append(one)
            untouched.append(one)
        twin = copied(history)
        assert_same(twin, untouched)
        for one in every[steps:]:
            history.append(one)
        assert_same(twin, untouched)
        for one in every[steps:]:
            twin.append(one)
        assert_same(twin, history)
        assert twin.latest is every[-1]

    def test_of_a_watched_model_s_holds_every_step_so_far(self, copied):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def train(steps: int) -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                model(torch.ones(3, 4)).square().mean().backward()
                optimizer.step()

        with GradientProbe(model, optimizer) as probe:
            history = probe.history
            train(20)
            twin = copied(history)
            np.testing.assert_array_equal(twin.step, np.arange(1, 21))
            train(5)
            assert len(twin) == 20
            np.testing.assert_array_equal(twin.loss, history.loss[:20])
            assert twin.latest.loss == twin.loss[-1]
        with GradientProbe(model, optimizer, history=twin):
            train(5)
        np.testing.assert_array_equal(twin.step, np.arange(1, 26))


# -- in words ------------------------------------------------------------------------------


def test_a_history_says_how_much_it_holds_and_where_the_numbers_are():
    history, described = History(), layers(3)
    assert repr(history) == "<History: 0 steps; to_dataframe() gives the numbers>"
    history.append(reading(1, described))
    assert repr(history) == "<History: 1 step of 3 layers; to_dataframe() gives the numbers>"
    for step in range(2, 12):
        history.append(reading(step, described))
    assert repr(history) == "<History: 11 steps of 3 layers; to_dataframe() gives the numbers>"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (reading(3, layers(2)), "step 3, loss 0.25, 2 layers, not read in full"),
        (reading(0, layers(1), full=True), "step 0, loss 1, 1 layer, read in full"),
        (
            reading(3, layers(2), loss=math.nan, loss_seen=False),
            "step 3, no loss seen, 2 layers, not read in full",
        ),
        (reading(3, layers(2), loss=math.nan), "step 3, loss nan, 2 layers, not read in full"),
    ],
)
def test_a_reading_says_what_it_is_of(made: Reading, words: str):
    assert repr(made) == f"<Reading: {words}>"

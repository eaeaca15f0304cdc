"""The signal gradient of recurrent layers at each time step."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradflow_widget import GradientProbe, Reading, take_reading

STEPS, BATCH, FEATURES, HIDDEN = 6, 5, 3, 4
FUSED = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


class Unrolled(nn.Module):
    """A loop over one cell, which keeps every h_t with its gradient."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        state: Any = None
        self.hidden = []
        for x in inputs.unbind(1):
            state = self.cell(x, state)
            h = state[0] if isinstance(state, tuple) else state
            h.retain_grad()
            self.hidden.append(h)
        return h

    def retained(self) -> np.ndarray:
        return np.array([per_sample(h.grad) for h in self.hidden])


class Through(nn.Module):
    """A fused layer and what of its result the loss sees."""

    def __init__(self, layer: nn.RNNBase, see: Callable[[Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.see = see

    def forward(self, inputs: torch.Tensor, *states: Any) -> torch.Tensor:
        return self.see(*self.layer(inputs, *states))


def per_sample(gradient: torch.Tensor) -> float:
    """Root mean square over the samples of the per-sample L2 norm."""
    return float(gradient.norm(dim=-1).square().mean().sqrt())


def sequences(*, time_first: bool = False, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(BATCH, STEPS, FEATURES, generator=generator, dtype=torch.float64)
    return inputs.transpose(0, 1) if time_first else inputs


def weighted_sum(output: torch.Tensor, _: Any = None) -> torch.Tensor:
    """A loss that sees every number of ``output`` differently."""
    weights = torch.linspace(-1.0, 2.0, output.numel(), dtype=output.dtype)
    return (output.flatten().sin() * weights).sum()


def through_time(model: nn.Module, inputs: Any, loss: Any = weighted_sum) -> Any:
    return take_reading(model, loss, inputs, None).signal_grad_through_time


def orthogonal(size: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return scale * torch.linalg.qr(matrix)[0]


class TestKnownAnswers:
    """theory.md, Recurrent nets: over T steps ρ·orthogonal weights scale the signal by ρ^T.

    Where the state stays at 0, tanh has slope 1 and the network is a linear one.
    """

    @pytest.mark.parametrize(("scale", "whole"), [(0.9, 0.0051537752), (1.1, 117.3908529)])
    @pytest.mark.parametrize("kind", ["fused", "cell"])
    def test_a_linear_rnn_scales_the_signal_by_the_power_of_its_weights(self, kind, scale, whole):
        layer = (
            nn.RNN(FEATURES, 16, batch_first=True, dtype=torch.float64)
            if kind == "fused"
            else nn.RNNCell(FEATURES, 16, dtype=torch.float64)
        )
        for name, parameter in layer.named_parameters():
            with torch.no_grad():
                parameter.copy_(orthogonal(16, scale) if "weight_hh" in name else parameter * 0)
        model = (
            Through(layer, lambda output, _: output[:, -1])
            if isinstance(layer, nn.RNN)
            else Unrolled(layer)
        )
        inputs = torch.zeros(BATCH, 51, FEATURES, dtype=torch.float64)
        (signal,) = through_time(model, inputs, lambda output, _: output.sum()).values()
        assert signal.shape == (51,)
        assert signal[-1] == pytest.approx(4.0, rel=1e-12)
        np.testing.assert_allclose(signal, 4.0 * scale ** np.arange(50, -1, -1), rtol=1e-9)
        assert signal[0] / signal[-1] == pytest.approx(whole, rel=2e-9)  # as far as it is given


class TestCells:
    @pytest.mark.parametrize("name", CELLS)
    def test_the_kth_call_of_a_cell_is_time_step_k(self, name):
        torch.manual_seed(0)
        model = Unrolled(CELLS[name](FEATURES, HIDDEN, dtype=torch.float64))
        found = through_time(model, sequences())
        weighted_sum(model(sequences())).backward()
        assert list(found) == ["cell"]
        np.testing.assert_allclose(found["cell"], model.retained(), rtol=1e-12)

    def test_the_bar_of_a_cell_is_the_mean_over_time(self):
        torch.manual_seed(0)
        model = Unrolled(nn.GRUCell(FEATURES, HIDDEN, dtype=torch.float64))
        reading = take_reading(model, weighted_sum, sequences(), None)
        mean = np.sqrt(np.square(reading.signal_grad_through_time["cell"]).mean())
        assert reading.signal_grad_norm[0] == pytest.approx(mean, rel=1e-12)

    def test_steps_after_the_one_that_the_loss_sees_have_no_gradient(self):
        torch.manual_seed(0)
        model = Unrolled(nn.RNNCell(FEATURES, HIDDEN, dtype=torch.float64))
        model.register_forward_hook(lambda module, *_: module.hidden[2])
        signal = through_time(model, sequences())["cell"]
        assert (signal[:3] > 0).all()
        assert (signal[3:] == 0).all()

    def test_a_cell_called_once_is_no_loop(self):
        assert through_time(nn.RNNCell(3, 4), torch.randn(5, 3)) is None


def by_autograd(layer: nn.RNNBase, inputs: torch.Tensor, states: Any, see: Any) -> dict[str, Any]:
    """Unroll a fused layer over cells with its weights, and retain the gradient of every h_t."""
    kind = {"RNN_TANH": nn.RNNCell, "RNN_RELU": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell}
    options = {"nonlinearity": "relu"} if layer.mode == "RNN_RELU" else {}
    ways = 2 if layer.bidirectional else 1
    hidden: dict[str, list[torch.Tensor]] = {}
    last: list[Any] = []
    below = list(inputs.transpose(0, 1) if layer.batch_first else inputs)
    for index, way in itertools.product(range(layer.num_layers), range(ways)):
        suffix = f"l{index}" + "_reverse" * way
        if way == 0:
            into, below = below, [torch.empty(0)] * len(below)
        cell = kind[layer.mode](into[0].shape[1], HIDDEN, bias=layer.bias, **options).double()
        for name in dict(cell.named_parameters()):
            setattr(cell, name, nn.Parameter(getattr(layer, f"{name}_{suffix}").detach()))
        place = index * ways + way
        if states is None:
            state: Any = None
        else:
            state = tuple(s[place] for s in states) if isinstance(states, tuple) else states[place]
        order = range(len(into))
        hidden[suffix] = [torch.empty(0)] * len(into)
        for t in reversed(order) if way else order:
            state = cell(into[t], state)
            h = state[0] if isinstance(state, tuple) else state
            h.retain_grad()
            hidden[suffix][t] = h
            below[t] = torch.cat([below[t], h], 1) if way else h
        last.append(state)
    output = torch.stack(below, 1 if layer.batch_first else 0)
    if layer.mode == "LSTM":
        end: Any = tuple(torch.stack([state[i] for state in last]) for i in (0, 1))
    else:
        end = torch.stack(last)
    see(output, end).backward()
    return {
        name: np.array([0.0 if h.grad is None else per_sample(h.grad) for h in steps])
        for name, steps in hidden.items()
    }


def sees_all(output: torch.Tensor, last: Any) -> torch.Tensor:
    ends = last if isinstance(last, tuple) else (last,)
    return weighted_sum(output) + sum(weighted_sum(2 * end) for end in ends)


def sees_last(_: torch.Tensor, last: Any) -> torch.Tensor:
    return weighted_sum(last[0] if isinstance(last, tuple) else last)


def sees_last_cell(_: torch.Tensor, last: Any) -> torch.Tensor:
    return weighted_sum(last[1])


def sees_third(output: torch.Tensor, _: Any) -> torch.Tensor:
    return weighted_sum(output.transpose(0, 1)[2])  # for time_first outputs, the third sample


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 3},
    {"bidirectional": True, "num_layers": 2},
    {"bias": False},
]
LAYERS_AND_LOSSES = [
    *itertools.product(FUSED, OPTIONS, [sees_all, sees_last, sees_third]),
    *itertools.product(["rnn"], [{"nonlinearity": "relu", "num_layers": 2}], [sees_all]),
    *itertools.product(["lstm"], OPTIONS, [sees_last_cell]),
]


class TestFusedLayers:
    @pytest.mark.parametrize(("name", "options", "see"), LAYERS_AND_LOSSES)
    @pytest.mark.parametrize("given", ["batch first", "time first", "with states"])
    def test_it_is_what_autograd_retains_in_a_loop(self, name, options, see, given):
        torch.manual_seed(2)
        first = given == "batch first"
        layer = FUSED[name](FEATURES, HIDDEN, batch_first=first, dtype=torch.float64, **options)
        inputs = sequences(time_first=not first)
        states: Any = None
        if given == "with states":
            ways = layer.num_layers * (1 + layer.bidirectional)
            states = torch.randn(ways, BATCH, HIDDEN, dtype=torch.float64)
            states = (states, states.cos()) if name == "lstm" else states
        expected = by_autograd(layer, inputs, states, see)
        model = Through(layer, see)
        context = (inputs,) if states is None else (inputs, states)
        reading = take_reading(_Spread(model), lambda loss, _: loss, context, None)
        found = reading.signal_grad_through_time
        prefix = "model.layer"
        if len(expected) == 1:
            expected = {"": expected["l0"]}
        assert list(found) == [".".join(filter(None, (prefix, part))) for part in expected]
        for part, signal in expected.items():
            array = found[".".join(filter(None, (prefix, part)))]
            assert array.shape == (STEPS,)
            assert not array.flags.writeable
            np.testing.assert_allclose(array, signal, rtol=1e-9, atol=1e-15)

    def test_a_sequence_without_a_batch_is_one_sample(self):
        torch.manual_seed(0)
        model = Through(nn.GRU(FEATURES, HIDDEN, dtype=torch.float64), lambda output, _: output)
        one = sequences()[0]
        alone = through_time(model, one)
        in_batch = through_time(model, one[:, None])
        np.testing.assert_allclose(alone["layer"], in_batch["layer"], rtol=1e-12)

    def test_half_precision_is_gone_back_through_in_float32(self):
        torch.manual_seed(0)
        layer = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        model = Through(layer, lambda output, _: output)
        exact = through_time(model, sequences().float())["layer"]
        rounded = through_time(model.bfloat16(), sequences().bfloat16())["layer"]
        np.testing.assert_allclose(rounded, exact, rtol=0.05)

    @pytest.mark.parametrize("how", ["packed", "dropout", "projection"])
    def test_where_the_way_back_is_not_known_there_is_none(self, how):
        torch.manual_seed(0)
        options = {
            "packed": {},
            "dropout": {"dropout": 0.5, "num_layers": 2},
            "projection": {"proj_size": 2},
        }[how]
        layer = nn.LSTM(FEATURES, HIDDEN, batch_first=True, dtype=torch.float64, **options)
        model = Through(layer, lambda _, last: last[0])
        inputs: Any = sequences()
        if how == "packed":
            inputs = pack_padded_sequence(inputs, [6, 5, 4, 3, 2], batch_first=True)
        reading = take_reading(model, weighted_sum, inputs, None)
        assert reading.signal_grad_norm.shape == (1,)
        assert reading.signal_grad_through_time is None

    def test_dropout_does_not_matter_in_evaluation(self):
        torch.manual_seed(0)
        layer = nn.GRU(FEATURES, HIDDEN, 2, batch_first=True, dropout=0.5, dtype=torch.float64)
        model = Through(layer.eval(), lambda output, _: output)
        expected = by_autograd(layer, sequences(), None, lambda output, _: weighted_sum(output))
        found = through_time(model, sequences())
        np.testing.assert_allclose(found["layer.l0"], expected["l0"], rtol=1e-9)


class _Spread(nn.Module):
    """Calls a model with a tuple of arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, arguments: tuple[Any, ...]) -> torch.Tensor:
        return self.model(*arguments)


class Tagger(nn.Module):
    """A fused layer, a loop over a cell and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
        self.loop = Unrolled(nn.GRUCell(HIDDEN, HIDDEN))
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.loop(self.first(inputs)[0]))


def train(model: nn.Module, steps: int, *, full: bool | None, passes: int = 1) -> Any:
    """Train and return losses, the readings and the final weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = None if full is None else GradientProbe(model, optimizer, full=full)
    readings: list[Reading] = []
    if probe is not None:
        probe.on_reading = readings.append
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        for index in range(passes):
            loss = model(sequences(seed=index).float()).square().mean()
            loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if probe is not None:
        probe.close()
    return losses, readings, [p.detach().clone() for p in model.parameters()]


class TestInTheProbe:
    def test_watching_is_bit_identical(self):
        results = []
        for full in (None, False, True):
            torch.manual_seed(0)
            results.append(train(Tagger(), 4, full=full))
        for losses, _, weights in results[1:]:
            assert losses == results[0][0]
            pairs = zip(weights, results[0][2], strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)

    def test_only_full_readings_have_it(self):
        torch.manual_seed(0)
        _, cheap, _ = train(Tagger(), 2, full=False)
        _, full, _ = train(Tagger(), 2, full=True)
        assert all(reading.signal_grad_through_time is None for reading in cheap)
        for reading in full:
            assert sorted(reading.signal_grad_through_time) == ["first", "loop.cell"]

    def test_a_model_without_recurrence_has_none(self):
        _, (reading,), _ = train(nn.Linear(FEATURES, 1), 1, full=True)
        assert reading.is_full
        assert reading.signal_grad_through_time is None

    def test_the_probe_reads_what_take_reading_reads(self):
        torch.manual_seed(0)
        model = Tagger()
        alone = take_reading(model, lambda o, _: o.square().mean(), sequences().float(), None)
        _, (reading,), _ = train(model, 1, full=True)
        for name, signal in alone.signal_grad_through_time.items():
            np.testing.assert_allclose(reading.signal_grad_through_time[name], signal, rtol=1e-6)

    def test_micro_batches_add_up_as_squares_and_samples(self):
        torch.manual_seed(0)
        model = Tagger()
        alone = [
            take_reading(
                model, lambda o, _: o.square().mean(), sequences(seed=seed).float(), None
            ).signal_grad_through_time
            for seed in (0, 1)
        ]
        _, (reading,), _ = train(model, 1, full=True, passes=2)
        for name, signal in reading.signal_grad_through_time.items():
            squares = [np.square(each[name]) for each in alone]
            np.testing.assert_allclose(signal, np.sqrt(np.mean(squares, axis=0)), rtol=1e-5)

    def test_passes_of_other_lengths_are_lined_up_at_their_first_step(self):
        torch.manual_seed(0)
        model = Through(nn.RNN(FEATURES, HIDDEN, batch_first=True), lambda output, _: output)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs = sequences().float()
        with GradientProbe(model, optimizer, full=True) as probe:
            for part in (inputs[:, :4], inputs):
                model(part).sum().backward()
            optimizer.step()
            signal = probe.history.latest.signal_grad_through_time["layer"]
        alone = through_time(model, inputs)
        assert signal.shape == (STEPS,)
        assert alone["layer"].shape == (STEPS,)

    def test_evaluations_between_the_steps_leave_no_trace(self):
        torch.manual_seed(0)
        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs = sequences().float()
        expected = through_time(model, inputs, lambda o, _: o.sum())
        with GradientProbe(model, optimizer, full=True) as probe:
            model(sequences(seed=5).float())
            model(inputs).sum().backward()
            optimizer.step()
            found = probe.history.latest.signal_grad_through_time
        for name, signal in expected.items():
            np.testing.assert_allclose(found[name], signal, rtol=1e-6)

    def test_a_second_pass_through_one_graph_adds_up_or_is_no_number(self):
        """A fused layer would have to be gone back through with the sum."""
        torch.manual_seed(0)
        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        once = through_time(model, sequences().float(), lambda o, _: o.sum())
        with GradientProbe(model, optimizer, full=True) as probe:
            loss = model(sequences().float()).sum()
            loss.backward(retain_graph=True)
            loss.backward()
            optimizer.step()
            found = probe.history.latest.signal_grad_through_time
        assert list(found) == ["loop.cell"]
        np.testing.assert_allclose(found["loop.cell"], 2 * once["loop.cell"], rtol=1e-6)

    def test_a_grad_scalers_factor_is_taken_out(self):
        torch.manual_seed(0)
        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        expected = through_time(model, sequences().float(), lambda o, _: o.sum())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        with GradientProbe(model, optimizer, full=True) as probe:
            scaler.scale(model(sequences().float()).sum()).backward()
            scaler.step(optimizer)
            found = probe.history.latest.signal_grad_through_time
        for name, signal in expected.items():
            np.testing.assert_allclose(found[name], signal, rtol=1e-5)

    def test_nothing_outlives_the_backward_pass(self):
        torch.manual_seed(0)
        model = Through(nn.GRU(FEATURES, HIDDEN, batch_first=True), lambda output, _: output)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with GradientProbe(model, optimizer, full=True):
            gc.collect()
            before = [value for value in gc.get_objects() if type(value) is torch.Tensor]
            inputs = sequences().float()
            place = inputs.data_ptr()
            model(inputs).sum().backward()
            del inputs
            gc.collect()
            known = set(map(id, before))
            now = [value for value in gc.get_objects() if type(value) is torch.Tensor]
            left = [value for value in now if id(value) not in known]
            assert not any(value.grad_fn is not None for value in left)
            assert place not in [value.data_ptr() for value in left]

"""Signals that come to a layer's output by several ways, against retain_grad in float64."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradflow_widget import GradientProbe, take_reading
from tests.waiting import join, started

from .networks import batch, small

BATCH, STEPS, FEATURES, HIDDEN = 5, 7, 4, 3
KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Classifier(nn.Module):
    """A recurrent layer whose output and last hidden state both are used, or one of them."""

    def __init__(self, kind: str, sees: str, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = KINDS[kind](FEATURES, HIDDEN, **options).double()
        ways = 1 + self.recurrent.bidirectional
        self.head = nn.Linear(ways * HIDDEN, 2).double()
        self.sees = sees

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, last = self.recurrent(x)
        hidden = last[0] if isinstance(last, tuple) else last
        ways = 1 + self.recurrent.bidirectional
        top = hidden[-ways:].transpose(0, 1).flatten(1)
        seen = {"last": top, "both": top + output.mean(1 if self.recurrent.batch_first else 0)}
        out: torch.Tensor = self.head(seen[self.sees])
        return out


def by_the_outputs_alone(model: Classifier, x: torch.Tensor) -> float:
    """The same network, its last states read off the outputs; the signal there."""
    output, _ = model.recurrent(x)
    output.retain_grad()
    time = 1 if model.recurrent.batch_first else 0
    if model.recurrent.bidirectional:
        ends = [
            output.select(time, -1)[..., :HIDDEN],
            output.select(time, 0)[..., HIDDEN:],
        ]
        top = torch.cat(ends, -1)
    else:
        top = output.select(time, -1)
    seen = {"last": top, "both": top + output.mean(time)}
    model.head(seen[model.sees]).square().sum().backward()
    samples = x.shape[0]
    signal = float(output.grad.square().sum() / samples) ** 0.5
    model.zero_grad()
    return signal


@pytest.mark.parametrize("sees", ["last", "both"])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"batch_first": False},
        {"batch_first": True, "bidirectional": True, "num_layers": 2},
    ],
    ids=["batch first", "time first", "two ways, two layers"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_by_the_last_hidden_state_counts(kind, options, sees):
    model = Classifier(kind, sees, **options)
    shape = (BATCH, STEPS, FEATURES) if options["batch_first"] else (STEPS, BATCH, FEATURES)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = by_the_outputs_alone(model, x)
    reading = take_reading(model, lambda output, _: output.square().sum(), x, x)
    assert reading.signal_grad_norm[0] == pytest.approx(expected, rel=1e-9)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer, full=True) as probe:
        model(x).square().sum().backward()
        optimizer.step()
        assert probe.history.latest.signal_grad_norm[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_hidden_states_of_packed_sequences_count(kind, bidirectional):
    lengths = torch.tensor([3, 7, 1, 5])
    torch.manual_seed(0)
    layer = KINDS[kind](FEATURES, HIDDEN, bidirectional=bidirectional).double()
    x = torch.randn(7, 4, FEATURES, dtype=torch.float64)

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            output, last = self.layer(packed)
            hidden = last[0] if isinstance(last, tuple) else last
            return hidden.sin().sum() + output.data.square().sum()

    # The outputs alone: what is the last of each sequence, forward and backward.
    output, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    output.data.retain_grad()
    padded, _ = pad_packed_sequence(output)
    ends = padded[lengths - 1, torch.arange(4), :HIDDEN].sin().sum()
    if bidirectional:
        ends = ends + padded[0, :, HIDDEN:].sin().sum()
    (ends + output.data.square().sum()).backward()
    expected = float(output.data.grad.norm())
    layer.zero_grad()

    reading = take_reading(Packed(), lambda loss, _: loss, x, x)
    assert reading.signal_grad_norm[0] * math.sqrt(len(x)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("accumulated", [False, True])
def test_several_losses_through_one_graph_are_their_sum(accumulated):
    inputs, targets = batch()

    def losses(model):
        output = model(inputs)
        return F.mse_loss(output, targets), output.square().mean(), output.sin().sum()

    signals = []
    for separate in (False, True):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with GradientProbe(model, optimizer, full=True) as probe:
            for _ in range(2 if accumulated else 1):
                first, second, third = losses(model)
                if separate:
                    first.backward(retain_graph=True)
                    second.backward(retain_graph=True)
                    third.backward()
                else:
                    (first + second + third).backward()
            optimizer.step()
            signals.append(probe.history.latest.signal_grad_norm)
    np.testing.assert_allclose(signals[1], signals[0], rtol=1e-12)


def test_gradients_of_each_sample_do_no_harm():
    """torch.func goes through the watched model with batches of gradients."""
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(parameters, x, y):
        return F.mse_loss(functional_call(model, parameters, (x[None],))[0], y)

    with GradientProbe(model, optimizer, full=True) as probe:
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        per_sample = vmap(grad(loss_of), (None, 0, 0))(parameters, inputs, targets)
        torch.autograd.functional.jacobian(model, inputs, vectorize=True)
        for name, parameter in model.named_parameters():
            parameter.grad = per_sample[name].mean(0)
        expected = [layer.weight.grad.norm().item() for layer in model[::2]]
        optimizer.step()
        np.testing.assert_allclose(probe.history.latest.weight_grad_norm, expected)

        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        assert np.isfinite(probe.history.latest.signal_grad_norm).all()


def test_a_forward_pass_of_another_thread_counts_where_this_one_makes_none():
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    losses: list[torch.Tensor] = []
    with GradientProbe(model, optimizer, full=True) as probe:
        model(inputs)  # a look, so that this thread is known too
        for _ in range(3):
            join(started(lambda: losses.append(F.mse_loss(model(inputs), targets))))
            optimizer.zero_grad()
            losses.pop().backward()
            optimizer.step()
        found = probe.history.signal_grad_norm
    expected = take_reading(model, F.mse_loss, inputs, targets).signal_grad_norm
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-12)


@pytest.mark.parametrize("goes_back", [False, True])
def test_a_look_from_another_thread_does_no_harm(goes_back):
    """As when a cell calls the model while it trains."""
    model = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(5, 5), nn.Tanh())]).double()
    inputs, _ = batch()
    stop, failures = threading.Event(), []

    def look() -> None:
        try:
            while not stop.is_set():
                output = model(inputs)
                if goes_back:
                    torch.autograd.grad(output.sum(), output)
        except Exception as error:
            failures.append(error)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with GradientProbe(model, optimizer, full=True) as probe:
        looking = started(look)
        try:
            for _ in range(150):
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()
        finally:
            stop.set()
            join(looking)
        history = probe.history
    assert failures == []
    expected = take_reading(model, lambda output, _: output.square().mean(), inputs, inputs)
    for column in ("signal_grad_norm", "activation_rms", "saturated_fraction"):
        found, right = getattr(history, column), getattr(expected, column)
        np.testing.assert_allclose(found, np.tile(right, (150, 1)), rtol=1e-12, err_msg=column)

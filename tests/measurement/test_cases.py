"""Models and loops of every kind under the probe."""

from __future__ import annotations

import math
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradflow_widget import GradientProbe, History, take_reading

from .networks import batch, one_reading, small


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=rate)


class TestLayers:
    def test_layers_stand_in_the_order_of_the_forward_pass(self):
        class Backwards(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.third = nn.Linear(4, 4)
                self.second = nn.Linear(4, 4)
                self.first = nn.Linear(4, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.third(self.second(self.first(x)))
                return out

        model = Backwards()
        order = ("first", "second", "third")
        assert take_reading(model, lambda o, _: o.sum(), torch.ones(2, 4), None).layers == order
        reading = one_reading(model, lambda: model(torch.ones(2, 4)).sum())
        assert reading.layers == order
        np.testing.assert_allclose(
            reading.weight_grad_norm,
            [model.get_submodule(name).weight.grad.norm().item() for name in order],
            rtol=1e-6,
        )

    def test_a_module_used_twice_is_one_layer_that_counts_both_uses(self):
        torch.manual_seed(0)
        shared = nn.Linear(4, 4).double()
        model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 1).double())
        x = torch.randn(6, 4, dtype=torch.float64)
        first = shared(x)
        second = shared(first.tanh())
        loss = model[4](second.tanh()).square().mean()
        signals = torch.autograd.grad(loss, [first, second], retain_graph=True)
        (weight,) = torch.autograd.grad(loss, [shared.weight])
        reading = one_reading(model, lambda: model(x).square().mean())
        assert reading.layers == ("0", "4")
        both = torch.cat(signals).norm(dim=1).square().mean().sqrt().item()
        assert reading.signal_grad_norm[0] == pytest.approx(both)
        assert reading.weight_grad_norm[0] == pytest.approx(weight.norm().item())
        outputs = torch.cat([first, second])
        assert reading.activation_rms[0] == pytest.approx(outputs.square().mean().sqrt().item())

    def test_a_tied_weight_shows_in_both_layers_and_counts_once_in_the_total(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
        model[1].weight = model[0].weight
        tokens = torch.arange(7).repeat(2, 1)
        reading = one_reading(model, lambda: model(tokens).square().mean())
        assert reading.weight_grad_norm[0] == reading.weight_grad_norm[1]
        assert reading.total_norm == pytest.approx(reading.weight_grad_norm[0])

    def test_a_frozen_layer_has_no_gradient_but_a_signal_passes_through(self):
        model = small()
        model[2].requires_grad_(False)
        inputs, targets = batch()
        reading = one_reading(model, lambda: F.mse_loss(model(inputs), targets))
        assert reading.gradient_states == ("", "frozen", "")
        assert reading.frozen.tolist() == reading.missing.tolist() == [False, True, False]
        assert np.isfinite(reading.signal_grad_norm).all()
        assert reading.update_ratio[1] == 0
        single = take_reading(model, F.mse_loss, inputs, targets)
        assert single.gradient_states == ("", "frozen", "")

    def test_frozen_first_layers_still_show_their_activations(self):
        model = small()
        model[0].requires_grad_(False)
        inputs, targets = batch()
        reading = one_reading(model, lambda: F.mse_loss(model(inputs), targets))
        assert np.isnan(reading.signal_grad_norm[0])
        assert np.isfinite(reading.activation_rms).all()

    def test_an_unused_layer_has_no_gradient(self):
        model = small()
        model.add_module("unused", nn.Linear(2, 2))
        inputs, targets = batch()

        def loss() -> torch.Tensor:
            return F.mse_loss(model[:5](inputs), targets)

        reading = one_reading(model, loss)
        assert reading.gradient_states == ("", "", "", "none")
        assert reading.missing.tolist() == [False, False, False, True]
        assert not reading.frozen.any()
        assert np.isnan(reading.weight_grad_norm[3])
        assert np.isnan(reading.weight_grad_max[3])
        assert np.isnan(reading.signal_grad_norm[3])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_double(self, dtype):
        model = small(dtype=dtype)
        inputs, targets = batch(dtype=dtype)
        reading = one_reading(model, lambda: F.mse_loss(model(inputs), targets), rate=0.0)
        expected = [p.grad.double().norm().item() for p in model.parameters() if p.dim() == 2]
        np.testing.assert_allclose(reading.weight_grad_norm, expected, rtol=1e-12)
        assert np.isfinite(reading.signal_grad_norm).all()
        assert reading.loss == pytest.approx(F.mse_loss(model(inputs), targets).item())
        assert take_reading(model, F.mse_loss, inputs, targets).loss == reading.loss

    def test_parameters_of_several_types_in_one_model(self):
        torch.manual_seed(0)
        model = nn.ModuleList(
            [nn.Linear(4, 4, dtype=d) for d in (torch.float32, torch.float64, torch.bfloat16)]
        )

        def loss() -> torch.Tensor:
            x = torch.ones(2, 4)
            for layer in model:
                x = layer(x.to(layer.weight.dtype))
            return x.sum()

        reading = one_reading(model, loss)
        expected = [layer.weight.grad.double().norm().item() for layer in model]
        np.testing.assert_allclose(reading.weight_grad_norm, expected, rtol=1e-6)

    def test_complex_parameters(self):
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.Linear(3, 3, dtype=torch.complex64) for _ in range(3)])
        x = torch.randn(4, 3, dtype=torch.complex64)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        before = model[0].weight.detach().clone()
        with GradientProbe(model, optimizer, full=True) as probe:
            model(x).abs().square().mean().backward()
            optimizer.step()
            reading = probe.history.latest
        np.testing.assert_allclose(
            reading.weight_grad_norm, [m.weight.grad.norm().item() for m in model], rtol=1e-6
        )
        assert reading.weight_grad_max[0] == pytest.approx(model[0].weight.grad.abs().max().item())
        change = (model[0].weight - before).norm() / before.norm()
        assert reading.update_ratio[0] == pytest.approx(change.item(), rel=1e-5)
        assert np.isfinite(reading.signal_grad_norm).all()
        assert (reading.activation_rms > 0).all()

    @pytest.mark.parametrize("functional", [False, True])
    def test_sparse_embedding_gradients(self, functional):
        class Words(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = nn.Embedding(10, 4, sparse=not functional)
                self.head = nn.Linear(4, 2)

            def forward(self, tokens: torch.Tensor) -> torch.Tensor:
                if functional:
                    vectors = F.embedding(tokens, self.embed.weight, sparse=True)
                else:
                    vectors = self.embed(tokens)
                out: torch.Tensor = self.head(vectors)
                return out

        torch.manual_seed(0)
        model = Words()
        tokens = torch.tensor([[1, 2, 2], [1, 1, 3]])  # repeated: values must be joined
        reading = one_reading(model, lambda: model(tokens).square().mean(), rate=0.0)
        gradient = model.embed.weight.grad
        assert gradient.is_sparse
        expected = gradient.to_dense()
        assert reading.weight_grad_norm[0] == pytest.approx(expected.norm().item())
        assert reading.weight_grad_max[0] == pytest.approx(expected.abs().max().item())
        single = take_reading(model, lambda o, _: o.square().mean(), tokens, None)
        assert single.weight_grad_norm[0] == pytest.approx(expected.norm().item())

    def test_a_parametrized_layer_keeps_its_name_and_kind(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        torch.nn.utils.parametrizations.spectral_norm(model[0])
        torch.nn.utils.parametrizations.weight_norm(model[2])
        reading = one_reading(model, lambda: model(torch.randn(3, 4)).square().mean())
        assert reading.layers == ("0", "2")
        assert [layer.kind for layer in reading.described] == ["Linear", "Linear"]
        original = model[0].parametrizations.weight.original
        assert reading.weight_grad_norm[0] == pytest.approx(original.grad.norm().item())
        assert reading.described[0].parameters == (
            "0.bias",
            "0.parametrizations.weight.original",
        )
        assert np.isfinite(reading.signal_grad_norm).all()

    def test_lstm_and_attention(self):
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(4, 8, batch_first=True)
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
                self.head = nn.Linear(8, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x, _ = self.lstm(x)
                x, _ = self.attention(x, x, x)
                out: torch.Tensor = self.head(x)
                return out

        torch.manual_seed(0)
        model = Model().double()
        x = torch.randn(3, 5, 4, dtype=torch.float64)
        reading = one_reading(model, lambda: model(x).square().mean())
        assert reading.layers == ("lstm", "attention", "attention.out_proj", "head")
        assert (reading.weight_grad_norm > 0).all()
        # out_proj is never called: attention reads its weight.
        assert np.isfinite(reading.signal_grad_norm).tolist() == [True, True, False, True]

    def test_a_history_goes_on_whatever_way_a_network_takes_first(self):
        class Either(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.other = nn.Linear(5, 5), nn.Linear(5, 5)
                self.first = True

            def forward(self, x):
                pair = (self.one, self.other) if self.first else (self.other, self.one)
                return pair[1](pair[0](x))

        model = Either()
        optimizer = sgd(model)
        history = History()
        for first in (True, False):
            model.first = first
            with GradientProbe(model, optimizer, history=history):
                optimizer.zero_grad()
                model(torch.ones(2, 5)).square().mean().backward()
                expected = [model.one.weight.grad.norm(), model.other.weight.grad.norm()]
                optimizer.step()
            np.testing.assert_allclose(history.weight_grad_norm[-1], expected, rtol=1e-6)
        assert history.layers == ("one", "other")
        with pytest.raises(ValueError, match="of another network"):
            GradientProbe(other := small(), sgd(other), history=history)

    def test_small_gradients_changed_by_hand_show_both_norms(self):
        """The total does not tell."""
        model = small()
        inputs, targets = batch()
        optimizer = sgd(model)
        with torch.no_grad():
            model[4].weight.mul_(1e-6)
        with GradientProbe(model, optimizer) as probe:
            F.mse_loss(model(inputs), targets).backward()
            before = [layer.weight.grad.norm().item() for layer in model[::2]]
            model[0].weight.grad.mul_(3)
            optimizer.step()
            reading = probe.history.latest
        np.testing.assert_allclose(reading.unclipped_grad_norm, before)
        np.testing.assert_allclose(reading.weight_grad_norm, [3 * before[0], *before[1:]])
        assert reading.clip_scale == 1.0

    def test_what_encloses_the_others_is_no_end_of_the_path(self):
        """A network with an embedding of its own, as ViT has: its output is the last of all."""

        class Enclosing(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.place = nn.Parameter(torch.randn(1, 8))
                self.first, self.middle, self.last = (nn.Linear(8, 8) for _ in range(3))

            def forward(self, x):
                x = torch.sigmoid(self.first(x + self.place))
                return self.last(torch.sigmoid(self.middle(x)))

        model = Enclosing()
        reading = one_reading(model, lambda: model(torch.ones(4, 8)).square().mean())
        assert reading.layers == ("", "first", "middle", "last")
        assert [layer.encloses for layer in reading.described] == [True, False, False, False]
        signal = reading.signal_grad_norm
        assert reading.decades == pytest.approx(math.log10(signal[1] / signal[3]))
        assert reading.decades < -1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
    def test_quantised_weights_have_no_norm(self, dtype):
        class Quantised(nn.Module):
            def __init__(self, scaled):
                super().__init__()
                codes = torch.ones(8, 8).to(dtype)
                self.weight = nn.Parameter(codes, requires_grad=False)
                self.scale = nn.Parameter(torch.full((8,), 2.0)) if scaled else None

            def forward(self, x):
                x = x @ self.weight.float()
                return x if self.scale is None else x * self.scale

        model = nn.Sequential(nn.Linear(8, 8), Quantised(True), Quantised(False), nn.Linear(8, 1))
        inputs = torch.randn(4, 8)

        def loss():
            return model(inputs).square().mean()

        expected = [2 * 8**0.5, math.nan]
        reading = one_reading(model, loss)
        np.testing.assert_allclose(reading.weight_norm[1:3], expected, rtol=1e-6)
        single = take_reading(model, lambda output, _: output.square().mean(), inputs, inputs)
        assert math.isnan(single.weight_norm[2])

    def test_a_parameter_of_the_model_itself(self):
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(3))
                self.inner = nn.Linear(3, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.inner(x) * self.scale
                return out

        model = Model()
        reading = one_reading(model, lambda: model(torch.ones(2, 3)).sum())
        assert reading.layers == ("", "inner")
        assert reading.weight_grad_norm[0] == pytest.approx(model.scale.grad.norm().item())

    def test_outputs_that_are_tuples_dictionaries_and_more(self):
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(3, 3))

            def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, object]:
                return {"length": torch.tensor(3), "inner": (batch["x"] @ self.weight, None)}

        model = Odd()

        def loss() -> torch.Tensor:
            return model({"x": torch.ones(2, 3)})["inner"][0].sum()

        assert one_reading(model, loss).signal_grad_norm[0] == pytest.approx(3**0.5)

    def test_an_output_that_nothing_uses_while_others_of_its_operation_are_used(self):
        """Autograd calls hooks on such an output without a gradient."""

        class Halves(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.full((10,), 2.0, dtype=torch.float64))

            def forward(self, x):
                return (x.repeat(1, 2) * self.scale).chunk(2, 1)

        class Second(nn.Module):
            def __init__(self):
                super().__init__()
                self.halves, self.last = Halves(), nn.Linear(5, 3).double()

            def forward(self, x):
                return self.last(self.halves(x)[1])

        inputs, targets = batch()
        reading = one_reading(model := Second(), lambda: F.mse_loss(model(inputs), targets))
        assert reading.layers == ("halves", "last")
        assert math.isnan(reading.signal_grad_norm[0])
        assert reading.signal_grad_norm[1] > 0
        assert reading.weight_grad_norm[0] > 0

    def test_a_module_that_returns_its_own_parameter(self):
        class Token(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token = nn.Parameter(torch.ones(1, 3))

            def forward(self) -> torch.Tensor:
                return self.token

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token = Token()
                self.head = nn.Linear(3, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.head(x + self.token())
                return out

        model = Model()
        reading = one_reading(model, lambda: model(torch.ones(4, 3)).sum())
        assert reading.signal_grad_norm[0] > 0
        assert not model.token.token._backward_hooks


class TestLoops:
    def test_accumulated_micro_batches_read_as_the_one_batch_that_they_are(self):
        model = small()
        inputs, targets = batch(8)
        whole = one_reading(model, lambda: F.mse_loss(model(inputs), targets), rate=0.0)
        optimizer = sgd(model, 0.0)
        with GradientProbe(model, optimizer, full=True) as probe:
            for _ in range(2):
                optimizer.zero_grad()
                for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
                    (F.mse_loss(model(x), y) / 4).backward()
                optimizer.step()
                reading = probe.history.latest
                for name in ("loss", "total_norm"):
                    assert getattr(reading, name) == pytest.approx(getattr(whole, name))
                for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms"):
                    np.testing.assert_allclose(getattr(reading, name), getattr(whole, name))
        assert len(probe.history) == 2

    @pytest.mark.parametrize("to_none", [True, False])
    def test_gradients_thrown_away_leave_no_trace(self, to_none):
        """A loss whose gradient was set to zero was not stepped on."""
        model = small()
        inputs, targets = batch()
        optimizer = sgd(model, 0.0)
        with GradientProbe(model, optimizer, full=True) as probe:
            (100 * model(inputs[:3]).square().sum()).backward()
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            reading = probe.history.latest
        expected = take_reading(model, F.mse_loss, inputs, targets)
        assert reading.loss == pytest.approx(loss.item())
        np.testing.assert_allclose(reading.signal_grad_norm, expected.signal_grad_norm)
        np.testing.assert_allclose(reading.activation_rms, expected.activation_rms)

    @pytest.mark.parametrize("between", ["steps", "passes"])
    def test_some_gradients_are_kept_and_some_thrown_away(self, between):
        """After steps that began without any; those of the first and the last layer go again."""
        model = small()
        inputs, targets = batch()
        optimizer = sgd(model)
        ends = [*model[0].parameters(), *model[4].parameters()]
        expected, losses = [], []
        with GradientProbe(model, optimizer) as probe:
            for step in range(6):
                all_go = step < 3 or between == "passes"
                for parameter in model.parameters() if all_go else ends:
                    parameter.grad = None
                total = 0.0
                for _ in range(2 if step >= 3 and between == "passes" else 1):
                    for parameter in ends:
                        parameter.grad = None
                    loss = F.mse_loss(model(inputs), targets)
                    loss.backward()
                    total += loss.item()
                losses.append(total)
                expected.append([layer.weight.grad.norm().item() for layer in model[::2]])
                optimizer.step()
            np.testing.assert_allclose(probe.history.weight_grad_norm, expected)
            np.testing.assert_allclose(probe.history.loss, losses)

    @pytest.mark.parametrize("to_none", [True, False])
    def test_evaluation_passes_in_between_do_not_count(self, to_none):
        model = small()
        inputs, targets = batch()
        expected = take_reading(model, F.mse_loss, inputs, targets)
        optimizer = sgd(model, 0.0)
        with GradientProbe(model, optimizer, full=True) as probe:
            for _ in range(2):
                optimizer.zero_grad(set_to_none=to_none)
                model(1000 * inputs)  # somebody forgot no_grad
                loss = F.mse_loss(model(inputs), targets)
                with torch.no_grad():
                    model(1000 * inputs)
                model(1000 * inputs)
                loss.backward()
                model(1000 * inputs)
                optimizer.step()
                reading = probe.history.latest
                assert reading.loss == pytest.approx(expected.loss)
                for name in ("signal_grad_norm", "activation_rms", "dead_fraction"):
                    np.testing.assert_allclose(getattr(reading, name), getattr(expected, name))

    def test_two_forward_passes_before_one_backward_both_count(self):
        model = small()
        inputs, _ = batch()
        reading = one_reading(
            model, lambda: model(inputs[:4]).square().sum() + model(inputs[4:]).square().sum()
        )
        whole = one_reading(small(), lambda: small()(inputs).square().sum())
        assert np.isfinite(reading.signal_grad_norm).all()
        model = small()
        whole = one_reading(model, lambda: model(inputs).square().sum())
        np.testing.assert_allclose(reading.signal_grad_norm, whole.signal_grad_norm)
        np.testing.assert_allclose(reading.activation_rms, whole.activation_rms)

    def test_a_gradient_penalty_does_not_count_as_a_pass_of_its_own(self):
        model = small()
        inputs, _ = batch()

        def loss() -> torch.Tensor:
            x = inputs.clone().requires_grad_()
            out = model(x).sum()
            (slope,) = torch.autograd.grad(out, x, create_graph=True)
            return out + 0 * slope.square().sum()

        plainly = take_reading(model, lambda o, _: o.sum(), inputs, None)
        reading = one_reading(model, loss)
        np.testing.assert_allclose(reading.signal_grad_norm, plainly.signal_grad_norm)

    def test_gradients_set_by_hand_are_read(self):
        model = small()
        inputs, targets = batch()
        expected = take_reading(model, F.mse_loss, inputs, targets)
        optimizer = sgd(model)
        with GradientProbe(model, optimizer, full=True) as probe:
            loss = F.mse_loss(model(inputs), targets)
            values = torch.autograd.grad(loss, list(model.parameters()))
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.grad = value
            optimizer.step()
            reading = probe.history.latest
        np.testing.assert_allclose(reading.weight_grad_norm, expected.weight_grad_norm)
        np.testing.assert_allclose(reading.signal_grad_norm, expected.signal_grad_norm)
        assert math.isnan(reading.loss)
        assert not reading.loss_seen
        assert reading.is_finite

    def test_the_loss_is_what_was_differentiated(self):
        model = small()
        inputs, _ = batch()
        optimizer = sgd(model, 0.0)
        with GradientProbe(model, optimizer) as probe:

            def step() -> float:
                optimizer.step()
                optimizer.zero_grad()
                return probe.history.latest.loss

            first, second = model(inputs)[:, 0].sum(), model(inputs)[:, 1].sum()
            torch.autograd.backward([first, second])
            assert step() == pytest.approx((first + second).item())
            loss = model(inputs).sum()
            loss.backward(gradient=torch.tensor(0.25, dtype=torch.float64))
            assert step() == pytest.approx(loss.item() / 4)
            loss = model(inputs).sum()
            value = loss.item()
            loss.backward()
            loss.detach().zero_()  # the loop changes its own tensor in place
            assert step() == pytest.approx(value)
            model(inputs).backward(gradient=torch.ones(8, 3, dtype=torch.float64))
            assert math.isnan(step())

    @pytest.mark.parametrize("to_none", [True, False])
    def test_an_lbfgs_closure_reads_its_last_evaluation(self, to_none):
        model = small()
        inputs, targets = batch()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
        losses, norms, readings = [], [], []
        before = model[0].weight.detach().clone()
        with GradientProbe(model, optimizer, full=True) as probe:

            def closure() -> torch.Tensor:
                optimizer.zero_grad(set_to_none=to_none)
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                losses.append(loss.item())
                norms.append(model[0].weight.grad.norm().item())
                return loss

            for _ in range(3):
                optimizer.step(closure)
                readings.append(probe.history.latest)
                assert readings[-1].loss == pytest.approx(losses[-1])
                assert readings[-1].weight_grad_norm[0] == pytest.approx(norms[-1])
                assert np.isfinite(readings[-1].signal_grad_norm).all()
        assert len(losses) > 3
        assert [reading.step for reading in readings] == [1, 2, 3]
        assert readings[0].update_ratio[0] > 0
        assert not torch.equal(before, model[0].weight)

    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("unscale", [False, True])
    def test_under_a_grad_scaler_loss_and_gradients_are_unscaled(self, fused, unscale):
        model = small(dtype=torch.float32)
        inputs, targets = batch(dtype=torch.float32)
        expected = take_reading(model, F.mse_loss, inputs, targets)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        with GradientProbe(model, optimizer, full=True) as probe:
            for _ in range(2):
                optimizer.zero_grad()
                scaler.scale(F.mse_loss(model(inputs), targets)).backward()
                if unscale:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                reading = probe.history.latest
                assert reading.loss == pytest.approx(expected.loss)
                assert reading.total_norm == pytest.approx(expected.total_norm)
                assert reading.clip_scale == 1.0
                for name in ("weight_grad_norm", "weight_grad_max", "signal_grad_norm"):
                    np.testing.assert_allclose(
                        getattr(reading, name), getattr(expected, name), rtol=1e-5
                    )

    def test_under_a_grad_scaler_a_clip_shows(self):
        model = small(dtype=torch.float32)
        inputs, targets = batch(dtype=torch.float32)
        optimizer = sgd(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        expected = take_reading(model, F.mse_loss, inputs, targets)
        with GradientProbe(model, optimizer) as probe:
            scaler.scale(F.mse_loss(model(inputs), targets)).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
            scaler.step(optimizer)
            reading = probe.history.latest
        assert reading.total_norm == pytest.approx(expected.total_norm)
        assert reading.clip_scale == pytest.approx(1e-2 / expected.total_norm, rel=1e-3)

    @pytest.mark.parametrize("to_none", [True, False])
    @pytest.mark.parametrize("fused", [False, True])
    def test_a_step_that_the_grad_scaler_skips_leaves_no_reading(self, fused, to_none):
        model = small(dtype=torch.float32)
        inputs, targets = batch(dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, backoff_factor=0.5)
        seen = []
        with GradientProbe(model, optimizer, full=True) as probe:
            probe.on_reading = seen.append
            for factor in (1.0, math.inf, 1.0):
                optimizer.zero_grad(set_to_none=to_none)
                loss = F.mse_loss(model(inputs), targets) * factor
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            history = probe.history
        expected = take_reading(model, F.mse_loss, inputs, targets)
        assert [reading.step for reading in seen] == history.step.tolist() == [1, 2]
        np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
        np.testing.assert_allclose(history.total_norm, expected.total_norm, rtol=1e-5)
        np.testing.assert_allclose(
            history.signal_grad_norm[1], expected.signal_grad_norm, rtol=1e-5
        )

    def test_a_gan_keeps_the_losses_of_its_two_networks_apart(self):
        for to_none in (True, False):
            torch.manual_seed(0)
            maker = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
            critic = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
            makes, criticises = sgd(maker, 0.01), sgd(critic, 0.01)
            expected_maker, expected_critic = [], []
            with (
                GradientProbe(maker, makes, full=True) as of_maker,
                GradientProbe(critic, criticises, full=True) as of_critic,
            ):
                for _ in range(3):
                    fake = maker(torch.randn(4, 3))
                    criticises.zero_grad(set_to_none=to_none)
                    real = critic(torch.randn(4, 5)).sum()
                    loss = critic(fake.detach()).sum() - real
                    loss.backward()
                    criticises.step()
                    expected_critic.append(loss.item())
                    makes.zero_grad(set_to_none=to_none)
                    loss = -critic(fake).sum()
                    loss.backward()
                    makes.step()
                    expected_maker.append(loss.item())
                    for probe in (of_maker, of_critic):
                        assert np.isfinite(probe.history.latest.signal_grad_norm).all()
                np.testing.assert_allclose(of_maker.history.loss, expected_maker, rtol=1e-5)
                np.testing.assert_allclose(of_critic.history.loss, expected_critic, rtol=1e-5)

    def test_a_gan_within_one_module_keeps_its_losses_apart_too(self):
        """Each optimizer clears the gradients of its own network only."""

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.makes = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
                self.judges = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

            def forward(self, noise):
                return self.judges(self.makes(noise))

        torch.manual_seed(0)
        model = Both()
        optimizers = [sgd(model.makes), sgd(model.judges)]
        probes = [GradientProbe(model, optimizer, full=True) for optimizer in optimizers]
        real, losses = torch.randn(8, 4), ([], [])
        for _ in range(4):
            noise = torch.randn(8, 4)
            objectives = (
                lambda noise=noise: F.softplus(-model(noise)).mean(),
                lambda noise=noise: (
                    F.softplus(model.judges(model.makes(noise).detach())).mean()
                    + F.softplus(-model.judges(real)).mean()
                ),
            )
            for optimizer, objective, told in zip(optimizers, objectives, losses, strict=True):
                optimizer.zero_grad()
                loss = objective()
                loss.backward()
                told.append(loss.item())
                optimizer.step()
        for probe, told in zip(probes, losses, strict=True):
            assert probe.history.loss == pytest.approx(told)
            probe.close()

    def test_layers_called_by_themselves_without_end_take_no_memory_without_end(self, monkeypatch):
        """As a policy and a value do that are asked at every move."""
        monkeypatch.setattr("gradflow_widget.measurement.capture._MOST_LOOSE_CALLS", 40)
        model = nn.ModuleDict({"policy": nn.Linear(4, 2), "value": nn.Linear(4, 1)})
        with GradientProbe(model, sgd(model), full=True) as probe:
            for _ in range(500):
                model["policy"](torch.randn(1, 4)), model["value"](torch.randn(1, 4))
            kept = sum(len(each.calls) for each in probe._capture._passes)
        assert kept <= 80

    def test_two_models_in_two_threads_see_each_its_own(self):
        results: dict[int, tuple[list[float], list[float]]] = {}
        start = threading.Barrier(2)

        def train(seed: int) -> None:
            model = small(seed, dtype=torch.float32)
            generator = torch.Generator().manual_seed(seed)
            optimizer = sgd(model, 0.01)
            losses = []
            with GradientProbe(model, optimizer, full=True) as probe:
                start.wait()
                for _ in range(150):
                    inputs = torch.randn(4, 5, generator=generator)
                    optimizer.zero_grad()
                    loss = model(inputs).square().sum() * (1 + seed * 1000)
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.item())
                results[seed] = (losses, probe.history.loss.tolist())

        threads = [threading.Thread(target=train, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for losses, recorded in results.values():
            np.testing.assert_allclose(recorded, losses)

    def test_a_look_from_another_thread_does_not_hide_the_loss(self):
        model = small()
        inputs, targets = batch()
        optimizer = sgd(model)
        with GradientProbe(model, optimizer) as probe:
            for _ in range(2):
                loss = F.mse_loss(model(inputs), targets)
                other = threading.Thread(target=lambda: model(inputs))
                other.start()
                other.join()
                loss.backward()
                optimizer.step()
                assert probe.history.latest.loss == pytest.approx(loss.item())
                optimizer.zero_grad()

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_activation_checkpointing(self, reentrant):
        class Saved(nn.Module):
            def __init__(self, model: nn.Sequential) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for start in (0, 2):
                    block = self.model[start : start + 2]
                    x = checkpoint(block, x, use_reentrant=reentrant)
                out: torch.Tensor = self.model[4](x)
                return out

        inputs, targets = batch()
        inputs.requires_grad_()
        model = small()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plainly = one_reading(model, lambda: F.mse_loss(model(inputs), targets))
            model = small()
            saved = Saved(model)
            reading = one_reading(saved, lambda: F.mse_loss(saved(inputs), targets))
        for name in ("weight_grad_norm", "signal_grad_norm", "activation_rms"):
            np.testing.assert_allclose(getattr(reading, name), getattr(plainly, name))
        if not reentrant:
            np.testing.assert_allclose(reading.dead_fraction, plainly.dead_fraction)

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_compiled_model_trains_and_reads_its_gradients(self, when):
        torch._dynamo.reset()
        model = small(dtype=torch.float32)
        inputs, targets = batch(dtype=torch.float32)
        expected = take_reading(model, F.mse_loss, inputs, targets)
        optimizer = sgd(model, 0.0)

        def steps(call: nn.Module, probe: GradientProbe) -> None:
            for full in (True, False, True):
                probe.full = full
                optimizer.zero_grad()
                F.mse_loss(call(inputs), targets).backward()
                optimizer.step()
                reading = probe.history.latest
                np.testing.assert_allclose(
                    reading.weight_grad_norm, expected.weight_grad_norm, rtol=1e-5
                )
                assert reading.loss == pytest.approx(expected.loss)
                assert reading.layers == ("0", "2", "4")
                assert reading.is_full == full

        if when == "before":
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            compiled(inputs)
            with GradientProbe(compiled, optimizer) as probe:
                steps(compiled, probe)
        else:
            with GradientProbe(model, optimizer, full=True) as probe:
                steps(torch.compile(model, backend="eager", fullgraph=True), probe)
        torch._dynamo.reset()

    def test_a_model_moved_to_another_type_after_the_probe_came(self):
        model = small(dtype=torch.float32)
        optimizer = sgd(model, 0.0)
        with GradientProbe(model, optimizer, full=True) as probe:
            model.double()
            inputs, targets = batch()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            reading = probe.history.latest
        expected = take_reading(model, F.mse_loss, inputs, targets)
        np.testing.assert_allclose(reading.weight_grad_norm, expected.weight_grad_norm, rtol=1e-12)

    def test_a_step_without_any_gradient_says_so(self):
        model = small()
        optimizer = sgd(model)
        with GradientProbe(model, optimizer, full=True) as probe:
            optimizer.step()
            reading = probe.history.latest
        assert reading.gradient_states == ("none", "none", "none")
        assert reading.total_norm == 0
        assert (reading.update_ratio == 0).all()

    def test_full_can_change_from_step_to_step(self):
        model = small()
        inputs, targets = batch()
        optimizer = sgd(model)
        with GradientProbe(model, optimizer) as probe:
            for full in (False, True, True, False, True):
                probe.full = full
                optimizer.zero_grad()
                F.mse_loss(model(inputs), targets).backward()
                optimizer.step()
                reading = probe.history.latest
                assert reading.is_full == full
                if full:
                    assert np.isfinite(reading.signal_grad_norm).all()
        recorded = np.isfinite(probe.history.slope)
        np.testing.assert_array_equal(recorded, [False, True, True, False, True])


def test_a_model_cast_in_the_middle_of_a_run_is_measured_in_its_new_precision():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8)
    inputs, targets = batch()
    with GradientProbe(model, optimizer, full=True) as probe:
        for cast in (False, True):
            if cast:
                model.double()
                inputs, targets = inputs.double(), targets.double()
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        weights = [p for p in model.parameters() if p.dim() > 1]
        expected = [(1e-8 * p.grad.norm() / p.norm()).item() for p in weights]
        np.testing.assert_allclose(probe.history.latest.update_ratio, expected, rtol=1e-5)

"""Layers and models of every kind under the probe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradflow_widget import GradientProbe, History, take_reading
from gradflow_widget.measurement.layers import find_layers

from .networks import batch, one_reading, sgd, small


def test_layers_stand_in_the_order_of_the_forward_pass():
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


def test_a_module_used_twice_is_one_layer_that_counts_both_uses():
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


def test_a_tied_weight_shows_in_both_layers_and_counts_once_in_the_total():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    tokens = torch.arange(7).repeat(2, 1)
    reading = one_reading(model, lambda: model(tokens).square().mean())
    assert reading.weight_grad_norm[0] == reading.weight_grad_norm[1]
    assert reading.total_norm == pytest.approx(reading.weight_grad_norm[0])


def test_a_frozen_layer_has_no_gradient_but_a_signal_passes_through():
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


def test_frozen_first_layers_still_show_their_activations():
    model = small()
    model[0].requires_grad_(False)
    inputs, targets = batch()
    reading = one_reading(model, lambda: F.mse_loss(model(inputs), targets))
    assert np.isnan(reading.signal_grad_norm[0])
    assert np.isfinite(reading.activation_rms).all()


def test_an_unused_layer_has_no_gradient():
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
def test_half_precision_is_summed_in_double(dtype):
    model = small(dtype=dtype)
    inputs, targets = batch(dtype=dtype)
    reading = one_reading(model, lambda: F.mse_loss(model(inputs), targets), rate=0.0)
    expected = [p.grad.double().norm().item() for p in model.parameters() if p.dim() == 2]
    np.testing.assert_allclose(reading.weight_grad_norm, expected, rtol=1e-12)
    assert np.isfinite(reading.signal_grad_norm).all()
    assert reading.loss == pytest.approx(F.mse_loss(model(inputs), targets).item())
    assert take_reading(model, F.mse_loss, inputs, targets).loss == reading.loss


def test_parameters_of_several_types_in_one_model():
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


def test_complex_parameters():
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
def test_sparse_embedding_gradients(functional):
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


def test_a_parametrized_layer_keeps_its_name_and_kind():
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


def test_lstm_and_attention():
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


def test_a_history_goes_on_whatever_way_a_network_takes_first():
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


def test_small_gradients_changed_by_hand_show_both_norms():
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


def test_what_encloses_the_others_is_no_end_of_the_path():
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
def test_quantised_weights_have_no_norm(dtype):
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


def test_a_parameter_of_the_model_itself():
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


def test_outputs_that_are_tuples_dictionaries_and_more():
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


def test_an_output_that_nothing_uses_while_others_of_its_operation_are_used():
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


def test_a_module_that_returns_its_own_parameter():
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


class WrittenInto(nn.Module):
    """Layers whose outputs are views, and are changed in place where ``in_place`` says so."""

    def __init__(self, kind: str, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        makers = {
            "linear": lambda: nn.Linear(8, 8),
            "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            "norm": lambda: nn.InstanceNorm1d(7, affine=True),
        }
        self.layers = nn.ModuleList(makers[kind]() for _ in range(3))
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            h = layer(x, x, x)[0] if isinstance(layer, nn.MultiheadAttention) else layer(x)
            if self.in_place:
                h += x
                h.mul_(0.5).tanh_()
            else:
                h = ((h + x) * 0.5).tanh()
            x = h
        return x


@pytest.mark.parametrize("kind", ["linear", "attention", "norm"])
def test_an_output_that_is_written_into_keeps_its_signal(kind):
    x = torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    looks, steps = [], []
    for in_place in (False, True):
        model = WrittenInto(kind, in_place)
        looks.append(take_reading(model, lambda o, _: o.square().mean(), x, None))
        steps.append(one_reading(model, lambda model=model: model(x).square().mean()))
    for one in (*looks, *steps):
        np.testing.assert_allclose(one.signal_grad_norm, looks[0].signal_grad_norm, rtol=1e-12)
    assert np.isfinite(looks[0].signal_grad_norm[::2]).all()


def test_what_else_hangs_on_the_whole_of_a_view_is_no_signal_of_it():
    class Viewed(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            whole = super().forward(x)
            self.beside = whole.square().sum()
            return whole.view(-1, 2, 2)

    layer = Viewed(3, 4)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(4, 1))
    x = torch.randn(6, 3)
    model(x)

    def loss() -> torch.Tensor:
        return model(x).sum() + layer.beside

    out = layer(x).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[2](model[1](out)).sum(), out)
    reading = one_reading(model, loss)
    assert reading.signal_grad_norm[0] == pytest.approx(float(expected.norm()) / 6**0.5, rel=1e-5)


def test_a_compiled_part_of_a_model_has_the_name_of_the_part() -> None:
    model = nn.Sequential(nn.Linear(3, 4), torch.compile(nn.Linear(4, 4), backend="eager"))
    model.append(torch.compile(nn.Sequential(nn.Linear(4, 2)), backend="eager"))
    layers = [part.layer for part in find_layers(torch.compile(model, backend="eager"))]
    assert [layer.name for layer in layers] == ["0", "1", "2.0"]
    assert layers[1].parameters == ("1.weight", "1.bias")


@dataclass
class Halves:
    """What a layer of one's own may return."""

    name: str
    first: torch.Tensor
    second: torch.Tensor


def test_outputs_that_are_dataclasses():
    class Split(nn.Linear):
        def forward(self, x: torch.Tensor) -> Halves:
            out = super().forward(x)
            return Halves("halves", out.sigmoid(), out)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split, self.last = Split(5, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> Halves:
            out = self.last(self.split(x).first)
            return Halves("out", out, out)

    torch.manual_seed(0)
    model, x = Model(), torch.randn(6, 5)
    reading = one_reading(model, lambda: model(x).first.square().sum())
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.1 * part.grad)  # the step undone
    assert np.isfinite(reading.activation_rms).all()
    assert reading.signal_grad_norm[0] > 0
    again = take_reading(model, lambda out, _: out.first.square().sum(), x, None)
    np.testing.assert_allclose(reading.signal_grad_norm, again.signal_grad_norm, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_without_parameters_is_passed_through_and_put_back():
    norm = torch.jit.script(nn.BatchNorm1d(4, affine=False))
    model = nn.Sequential(nn.Linear(4, 4), norm, torch.jit.script(nn.Tanh()), nn.Linear(4, 3))
    reading = take_reading(model, lambda o, _: o.square().sum(), torch.randn(8, 4), None)
    assert reading.layers == ("0", "3")
    assert np.isfinite(reading.signal_grad_norm).all()
    assert norm.num_batches_tracked == 0
    assert not norm.running_mean.any()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=["strided", "jagged"])
def test_samples_of_several_lengths(layout):
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.relu(self.body(x)).unbind()
            out: torch.Tensor = self.head(torch.stack([row.mean(0) for row in rows]))
            return out

    torch.manual_seed(0)
    model = Pooled()
    x = torch.nested.nested_tensor([torch.randn(n, 4) for n in (3, 5, 2)], layout=layout)
    output = model(x).detach().requires_grad_()
    (signal,) = torch.autograd.grad(output.square().mean(), output)
    reading = one_reading(model, lambda: model(x).square().mean())
    np.testing.assert_allclose(
        reading.weight_grad_norm,
        [model.body.weight.grad.norm().item(), model.head.weight.grad.norm().item()],
        rtol=1e-6,
    )
    assert reading.signal_grad_norm[1] == pytest.approx(signal.norm().item() / math.sqrt(3))
    assert math.isnan(reading.signal_grad_norm[0])  # of a nested tensor nothing is read

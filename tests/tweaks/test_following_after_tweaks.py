"""What follows a layer is seen through the tweaks that were made before."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.following import following
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import Normalized, with_normalization
from gradflow_widget.tweaks.record import tweaks_of
from gradflow_widget.tweaks.skips import Residual, with_skips


class Shared(nn.Module):
    """Layers in a list and one PReLU for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(10, 20)
        self.hid = nn.ModuleList(nn.Linear(20, 20) for _ in range(4))
        self.act = nn.PReLU()
        self.out = nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.inp(x))
        for layer in self.hid:
            x = self.act(layer(x))
        return self.out(x)


class Convolutions(nn.Module):
    """Convolutions in a list, their activations called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.head(x.mean((2, 3)))


class Autoencoder(nn.Module):
    """A bottleneck of 3 that no activation follows."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            nn.Linear(12, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(),
            nn.Linear(8, 3),
        )  # fmt: skip
        self.dec = nn.Sequential(nn.Linear(3, 8), nn.SELU(), nn.Linear(8, 12), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.enc(x))


class Products(nn.Module):
    """Two matrices that forward turns round, with an activation between them."""

    def __init__(self, turned: str) -> None:
        super().__init__()
        self.W1 = nn.Parameter(torch.randn(6, 4))
        self.W2 = nn.Parameter(torch.randn(2, 6))
        self.act = nn.Tanh()
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(x @ self.W1.T)
        if self.turned == "T":
            return h @ self.W2.T
        if self.turned == "mT":
            return h @ self.W2.mT
        return h @ (self.W2.t() if self.turned == "t" else self.W2.transpose(0, 1))


def normed(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, Normalized)]


def after_skips(names: list[str], model: nn.Module) -> list[str]:
    """Return the names that layers have within the skips of ``model``."""
    return [f"{n}.body" if isinstance(model.get_submodule(n), Residual) else n for n in names]


@pytest.mark.parametrize("scale", [1.0, "1/sqrt(2L)", "learned"])
class TestAfterSkips:
    @pytest.mark.parametrize("build", [Shared, Convolutions])
    def test_norms_go_where_they_went_without(self, build, scale):
        torch.manual_seed(0)
        skipped = with_skips(build(), scale)
        expected = after_skips(normed(with_normalization(build(), "layer")), skipped)
        assert len(expected) >= 4
        assert normed(with_normalization(skipped, "layer")) == expected

    def test_he_finds_the_same_nonlinearities(self, scale):
        changed = with_initialization(with_skips(Shared(), scale), "he")
        sentence = tweaks_of(changed)[-1].sentence
        assert "5 × gain 1.372 (PReLU(0.25))" in sentence
        assert "1 × gain 1 (linear)" in sentence

    def test_no_norm_behind_a_bottleneck(self, scale):
        skipped = with_skips(Autoencoder(), scale)
        names = normed(with_normalization(skipped, "layer"))
        assert names == ["enc.0", "enc.2.body.0", "enc.3.body.0", "dec.0"]

    def test_a_sigmoid_within_a_skip_is_no_gate(self, scale):
        layers = [part for _ in range(4) for part in (nn.Linear(8, 8), nn.Sigmoid())]
        skipped = with_skips(nn.Sequential(*layers, nn.Linear(8, 2)), scale)
        changed = with_activation(skipped, "relu")
        assert not any(isinstance(part, nn.Sigmoid) for part in changed.modules())

    def test_the_functions_of_forward_can_be_swapped(self, scale):
        torch.manual_seed(0)
        skipped = with_skips(Convolutions(), scale)
        changed = with_activation(skipped, "tanh")
        x = torch.randn(2, 3, 6, 6)
        h = torch.tanh(skipped.first(x))
        for conv in skipped.convs:
            h = torch.tanh(conv(h))
        torch.testing.assert_close(changed(x), skipped.head(h.mean((2, 3))))


def test_a_skip_still_refuses_another_shape():
    block = Residual(nn.Linear(4, 3), 1.0)
    with pytest.raises(RuntimeError, match=r"\(2, 4\) becomes \(2, 3\)"):
        block(torch.ones(2, 4))


@pytest.mark.parametrize("kind", ["weight", "spectral"])
def test_computed_weights_hide_no_nonlinearity(kind):
    model = Shared()
    changed = with_normalization(model, kind)
    before = [f.nonlinearity for f in following(model).values()]
    assert [f.nonlinearity for f in following(changed).values()] == before


@pytest.mark.parametrize("turned", ["T", "t", "mT", "transpose"])
def test_a_transposed_parameter_is_a_weight(turned):
    torch.manual_seed(0)
    model = Products(turned)
    untouched = copy.deepcopy(model)
    changed = with_activation(model, "relu")
    assert isinstance(changed.act, nn.ReLU)
    x = torch.randn(3, 4)
    expected = torch.relu(x @ untouched.W1.T) @ untouched.W2.T
    assert torch.equal(changed(x), expected)

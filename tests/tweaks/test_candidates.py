"""Which of several runs depth takes, and from which weights an orthogonal kernel can start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradflow_widget.source_code.writing import recipe_of
from gradflow_widget.tweaks.blocks import find_runs
from gradflow_widget.tweaks.depth import depth_of, with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.full_rank import completed
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.skips import with_skips
from tests.source_code.fresh import run

Tweak = Callable[[nn.Module], nn.Module]


class TwoRuns(nn.Module):
    """Blocks of Linear, as many and as wide as asked for, in a and then in b."""

    def __init__(self, a: int, b: int, width_a: int = 8, width_b: int = 30) -> None:
        super().__init__()
        self.a = nn.Sequential(*(self._block(width_a) for _ in range(a)))
        self.between = nn.Linear(width_a, width_b)
        self.b = nn.Sequential(*(self._block(width_b) for _ in range(b)))
        self.head = nn.Linear(width_b, 2)

    def _block(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.between(self.a(x))))
        return out


class EncoderDecoder(nn.Module):
    def __init__(self, encoder: int, decoder: int) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(one, encoder, enable_nested_tensor=False)
        other = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        self.decoder = nn.TransformerDecoder(other, decoder)


NORMS: dict[str, Tweak] = {
    kind: lambda model, kind=kind: with_normalization(model, kind)  # type: ignore[misc]
    for kind in ("batch", "layer", "rms", "weight", "spectral")
}
OTHERS: dict[str, Tweak] = {
    **NORMS,
    "learned skips": lambda model: with_skips(model, "learned"),
    "hard": lambda model: with_orthogonality(model, "hard"),
}


def test_most_blocks_are_chosen_not_most_parameters() -> None:
    depth = depth_of(TwoRuns(6, 2))
    assert (depth.at, depth.blocks, depth.others) == ("a", 6, ("b",))
    depth = depth_of(TwoRuns(2, 6, 30, 8))
    assert (depth.at, depth.blocks, depth.others) == ("b", 6, ("a",))
    depth = depth_of(EncoderDecoder(3, 2))
    assert (depth.at, depth.blocks, depth.others) == ("encoder.layers", 3, ("decoder.layers",))


def test_runs_of_one_container_go_by_their_number_of_blocks() -> None:
    few, many = [nn.Linear(30, 30) for _ in range(2)], [nn.Linear(8, 8) for _ in range(5)]
    assert depth_of(nn.Sequential(*few, nn.Linear(30, 8), *many)).blocks == 5
    assert depth_of(nn.Sequential(*many, nn.Linear(8, 30), *few)).blocks == 5


def test_recurrent_layers_count_like_blocks() -> None:
    model = nn.ModuleDict({"rnn": nn.GRU(4, 4, 3), "head": TwoRuns(2, 2).b})
    assert depth_of(model).at == "rnn"
    model = nn.ModuleDict({"rnn": nn.GRU(50, 50, 2), "head": TwoRuns(3, 2).a})
    assert depth_of(model).at == "head"


def test_of_equally_long_runs_the_last_is_chosen() -> None:
    for widths in ((8, 30), (30, 8)):
        assert depth_of(TwoRuns(3, 3, *widths)).at == "b"
    assert depth_of(nn.ModuleDict({"x": nn.GRU(9, 9, 2), "y": nn.RNN(3, 3, 2)})).at == "y"
    assert [run.at for run in find_runs(TwoRuns(3, 3))] == ["b", "a"]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("model", [TwoRuns(3, 2, 8, 9), TwoRuns(2, 2, 8, 8)], ids=["3+2", "2+2"])
def test_no_other_tweak_changes_the_choice(name: str, model: nn.Module) -> None:
    depth = depth_of(model)
    assert depth_of(OTHERS[name](model)).at == depth.at
    for blocks in (1, 5):
        changed = with_depth(OTHERS[name](model), blocks)
        assert (depth_of(changed).at, depth_of(changed).blocks) == (depth.at, blocks)
        assert depth_of(OTHERS[name](changed)).at == depth.at


def test_weight_norm_does_not_make_depth_change_the_other_half() -> None:
    model = EncoderDecoder(2, 3)
    changed = with_depth(with_normalization(model, "weight"), 2)
    assert (len(changed.encoder.layers), len(changed.decoder.layers)) == (2, 2)
    changed = with_depth(with_normalization(EncoderDecoder(3, 3), "weight"), 2)
    assert (len(changed.encoder.layers), len(changed.decoder.layers)) == (3, 2)


@pytest.mark.parametrize("depths", [(1,), (2,), (1, 9, 1)])
def test_what_was_changed_stays_the_choice_and_comes_back(depths: tuple[int, ...]) -> None:
    model, x = TwoRuns(6, 3), torch.randn(2, 8)
    changed: nn.Module = model
    for depth in depths:
        changed = with_depth(changed, depth)
        assert depth_of(changed).at == "a"
    assert depth_of(changed).blocks < depth_of(model).blocks
    assert torch.equal(with_depth(changed, 6)(x), model(x))


def test_a_run_made_longer_by_name_does_not_take_the_place_of_the_choice() -> None:
    model, x = TwoRuns(3, 2), torch.randn(2, 8)
    changed = with_depth(model, 9, at="b")
    assert (depth_of(changed).at, depth_of(changed).others) == ("a", ("b",))
    back = with_depth(with_depth(with_depth(changed, 1), 2, at="b"), 3)
    assert torch.equal(back(x), model(x))


def test_lazy_layers_are_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 2))
    for look in (depth_of, lambda one: with_depth(one, 4)):
        with pytest.raises(CannotTweak, match=r"lazy layers .* run one batch"):
            look(model)


def test_skips_go_around_two_runs_of_one_container_whatever_their_order() -> None:
    def blocks(width: int, count: int) -> list[nn.Module]:
        return [layer for _ in range(count) for layer in (nn.Linear(width, width), nn.Tanh())]

    x = torch.randn(2, 8)
    for first, second in ((3, 2), (2, 3)):
        model = nn.Sequential(*blocks(8, first), nn.Linear(8, 4), *blocks(4, second))
        changed = with_skips(model, 1.0)
        expected = x
        for start in range(0, 2 * first, 2):
            expected = expected + model[start : start + 2](expected)
        expected = model[2 * first](expected)
        for start in range(2 * first + 1, len(model), 2):
            expected = expected + model[start : start + 2](expected)
        torch.testing.assert_close(changed(x), expected)


# -- orthogonal kernels that start from delta-orthogonal ones -------------------------------


def singular_values(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.detach().flatten(1).double())


def stem(inputs: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(1, 16, 3),
        nn.Conv1d(2, 9, 3),
        nn.Conv3d(1, 4, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(3, 16, 3, dtype=torch.float64),
    ],
    ids=str,
)
def test_a_delta_orthogonal_kernel_with_more_outputs_than_inputs_keeps_its_middle(
    layer: nn.Module,
) -> None:
    model = with_initialization(nn.Sequential(layer), "orthogonal", gain=1.7)
    kernel = model[0].weight.detach()
    assert int(torch.linalg.matrix_rank(kernel.flatten(1))) < min(kernel.flatten(1).shape)
    changed = with_orthogonality(model, "hard")
    orthogonal = changed[0].weight.detach()
    assert singular_values(orthogonal) == pytest.approx(1, abs=1e-5)
    if layer.groups == 1:  # type: ignore[union-attr]
        middle = kernel != 0
        torch.testing.assert_close(orthogonal[middle], kernel[middle] / 1.7, atol=1e-5, rtol=0)
    assert torch.equal(with_orthogonality(changed, None)[0].weight, model[0].weight)


@pytest.mark.parametrize("inputs", [1, 3])
def test_orthogonal_and_hard_commute_on_a_cnn_and_it_trains(inputs: int) -> None:
    model, x = stem(inputs), torch.randn(2, inputs, 8, 8)
    random = torch.get_rng_state()
    one = with_orthogonality(with_initialization(model, "orthogonal"), "hard")
    other = with_initialization(with_orthogonality(model, "hard"), "orthogonal")
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(one(x), other(x))
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    before = one[0].weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        one(x).square().sum().backward()
        optimizer.step()
    assert not torch.equal(one[0].weight, before)
    for index in (0, 2):
        assert singular_values(one[index].weight) == pytest.approx(1, abs=1e-4)


def test_the_text_of_such_a_model_makes_it_again(tmp_path: Path) -> None:
    model = with_orthogonality(with_initialization(stem(), "orthogonal"), "hard")
    made = run(recipe_of(model, weights=tmp_path / "weights.pt"))["model"]
    assert singular_values(made[0].weight) == pytest.approx(1, abs=1e-5)
    assert torch.equal(made[0].weight, model[0].weight)


@pytest.mark.parametrize("scheme", ["zeros", "constant"])
@pytest.mark.parametrize("inputs", [1, 3])
def test_kernels_that_are_alike_are_refused(inputs: int, scheme: str) -> None:
    with pytest.raises(CannotTweak, match="of a Conv2d are zeros or alike"):
        with_orthogonality(with_initialization(stem(inputs), scheme), "hard")


def test_a_linear_weight_of_lower_rank_is_refused_by_its_rank() -> None:
    layer = nn.Linear(6, 6)
    with torch.no_grad():
        layer.weight[3:] = 0
    with pytest.raises(CannotTweak, match="of a Linear are of rank 3 where 6 would be full"):
        with_orthogonality(nn.Sequential(layer), "hard")


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (6, 6)])
def test_what_has_full_rank_is_left_as_it_is(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert completed(matrix) is matrix


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (6, 6)])
def test_what_is_filled_in_is_orthogonal_to_what_is_there(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, columns = shape
    matrix = torch.randn(rows, 2, generator=generator) @ torch.randn(
        2, columns, generator=generator
    )
    full = completed(matrix)
    added = full - matrix
    values = singular_values(matrix)
    assert (added @ matrix.T).abs().max() < 1e-4
    assert (added.T @ matrix).abs().max() < 1e-4
    expected = torch.cat([values[:1].expand(5), values[1:2]])
    torch.testing.assert_close(singular_values(full), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(completed(matrix), full)

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.depth import DEEPEST, depth_of, with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.record import tweaks_of
from tests.models.zoo import (
    ZOO,
    MixtureOfExperts,
    SideBySideLists,
    Tagger,
    fingerprint,
    gpt2,
    made,
    mlp,
    output,
)

NOT_REPEATING = {"mixture of experts", "soft mixture"}
REPEATING = sorted(set(ZOO) - NOT_REPEATING)
CHEAP = ["MLP", "CNN", "residual", "tied blocks", "side by side lists", "LSTM tagger", "GPT-2"]


@pytest.mark.parametrize("name", REPEATING)
def test_deeper_and_shallower_models_run_and_differ(name: str) -> None:
    model, inputs = made(name)
    blocks = depth_of(model).blocks
    before = output(model, inputs)
    for depth in (1, blocks + 1, blocks + 3):
        changed = with_depth(model, depth)
        assert depth_of(changed).blocks == depth
        after = output(changed, inputs)
        assert after.shape == before.shape
        assert after.isfinite().all()
        assert not torch.equal(after, before)


@pytest.mark.parametrize("name", REPEATING)
def test_back_at_the_first_depth_outputs_are_the_same_bit_for_bit(name: str) -> None:
    model, inputs = made(name)
    blocks = depth_of(model).blocks
    before = output(model, inputs)
    for way in ([blocks + 2], [1], [1, blocks + 2], [blocks + 2, 1, blocks - 1]):
        changed = model
        for depth in [*way, blocks]:
            changed = with_depth(changed, depth)
        assert torch.equal(output(changed, inputs), before)
        assert list(changed.state_dict()) == list(model.state_dict())
        assert tweaks_of(changed) == ()


@pytest.mark.parametrize("name", REPEATING)
def test_the_model_given_and_the_random_state_are_untouched(name: str) -> None:
    model, _ = made(name)
    before = fingerprint(model)
    depth = depth_of(model)
    with_depth(model, depth.blocks + 1)
    with_depth(model, 1)
    assert fingerprint(model) == before


@given(name=st.sampled_from(CHEAP), way=st.lists(st.integers(1, 6), max_size=4))
@settings(max_examples=40)
def test_any_way_there_and_back_is_the_identity(name: str, way: list[int]) -> None:
    model, inputs = made(name)
    changed = model
    for depth in [*way, depth_of(model).blocks]:
        changed = with_depth(changed, depth)
    assert torch.equal(output(changed, inputs), output(model, inputs))


@given(first=st.integers(1, 9), second=st.integers(1, 9), seed=st.integers(0, 3))
@settings(max_examples=20)
def test_the_way_to_a_depth_does_not_matter(first: int, second: int, seed: int) -> None:
    model, inputs = made("residual")
    direct = with_depth(model, second, seed=seed)
    detour = with_depth(with_depth(model, first, seed=seed), second, seed=seed)
    assert torch.equal(output(direct, inputs), output(detour, inputs))


@pytest.mark.parametrize("name", ["MLP", "CNN", "residual", "GPT-2", "nn.TransformerEncoder"])
@pytest.mark.parametrize("depth", [1, 5])
def test_depth_and_activation_commute(name: str, depth: int) -> None:
    model, inputs = made(name)
    one = with_activation(with_depth(model, depth), "silu")
    other = with_depth(with_activation(model, "silu"), depth)
    assert torch.equal(output(one, inputs), output(other, inputs))


def test_new_blocks_come_from_the_seed_and_trained_ones_stay() -> None:
    model = mlp()
    one, same, other = (with_depth(model, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one[8].weight, same[8].weight)
    assert not torch.equal(one[8].weight, other[8].weight)
    assert torch.equal(one[6].weight, model[6].weight)
    assert torch.equal(one[10].weight, model[8].weight)


def test_two_new_blocks_differ() -> None:
    model = with_depth(mlp(), 5)
    assert not torch.equal(model[8].weight, model[10].weight)


def test_new_blocks_are_initialised_as_their_class_does_it() -> None:
    model = mlp()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    new = with_depth(model, 4)[8]
    bound = 8**-0.5
    assert new.weight.abs().max() <= bound
    assert new.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.3)


def test_hugging_face_blocks_are_initialised_by_their_model() -> None:
    block = with_depth(gpt2(), 5).transformer.h[4]
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.15)
    # GPT-2 scales by the number of residual branches: 0.02 / sqrt(2 · 5).
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 10**0.5, rel=0.15)
    assert (block.ln_1.weight == 1).all()


def test_a_models_own_init_weights_is_used() -> None:
    class Nano(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Linear(4, 4) for _ in range(2)))
            self.apply(self._init_weights)

        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                nn.init.constant_(module.weight, 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x)

    assert (with_depth(Nano(), 3).blocks[2].weight == 0.5).all()


def test_attributes_that_count_or_number_blocks_are_right() -> None:
    deep = with_depth(gpt2(3), 5)
    assert deep.config.num_hidden_layers == deep.config.n_layer == 5
    assert [block.attn.layer_idx for block in deep.transformer.h] == [0, 1, 2, 3, 4]
    assert all(block.attn.config is deep.config for block in deep.transformer.h)
    tokens = torch.zeros(1, 2, dtype=torch.long)
    assert deep.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[0] == 1
    resnet, _ = made("ResNet")
    assert with_depth(resnet, 5).config.depths == [2, 6]
    encoder, _ = made("nn.TransformerEncoder")
    assert with_depth(encoder, 4).num_layers == 4
    lists = with_depth(SideBySideLists(), 5)
    assert lists.num_layers == len(lists.linears) == len(lists.norms) == 5


def test_other_runs_are_chosen_by_name() -> None:
    model = nn.Transformer(8, 2, 2, 3, 16, batch_first=True)
    depth = depth_of(model)
    assert (depth.at, depth.blocks, depth.others) == ("decoder.layers", 3, ("encoder.layers",))
    changed = with_depth(model, 4, at="encoder.layers")
    assert (len(changed.encoder.layers), changed.encoder.num_layers) == (4, 4)
    assert (len(changed.decoder.layers), changed.decoder.num_layers) == (3, 3)
    with pytest.raises(CannotTweak, match=r"encoder\.blocks.*'decoder\.layers'"):
        with_depth(model, 4, at="encoder.blocks")


def test_the_run_that_was_changed_stays_the_one_that_is_chosen() -> None:
    model = nn.Transformer(8, 2, 2, 3, 16, batch_first=True)
    assert depth_of(with_depth(model, 1)).at == "decoder.layers"


def test_two_runs_of_one_container_change_independently() -> None:
    model = nn.Sequential(
        *(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 8), *(nn.Linear(8, 8) for _ in range(3))
    )
    x = torch.ones(2, 4)
    assert depth_of(model).others == ("0",)
    changed = with_depth(with_depth(with_depth(model, 1, at="0"), 5), 2, at="0")
    assert [layer.in_features for layer in changed] == [4] * 3 + [8] * 5
    back = with_depth(with_depth(changed, 3, at="0"), 3)
    assert torch.equal(back(x), model(x))


def test_tied_weights_stay_tied_and_frozen_ones_frozen() -> None:
    model, _ = made("tied blocks")
    model.head.bias.requires_grad_(False)
    deep = with_depth(model, 5)
    assert len({id(block.weight) for block in deep.blocks}) == 1
    assert len({id(block.bias) for block in deep.blocks}) == 5
    assert not deep.head.bias.requires_grad
    language, _ = made("GPT-2")
    deep = with_depth(language, 5)
    assert deep.lm_head.weight is deep.transformer.wte.weight


def test_one_block_used_over_and_over_stays_one_block() -> None:
    block = nn.Linear(4, 4)
    deep = with_depth(nn.Sequential(block, block, block), 5)
    assert len(list(deep.parameters())) == 2
    assert len(deep) == 5


def test_dtype_mode_and_buffers_are_as_before() -> None:
    model, _ = made("CNN")
    model.bfloat16()
    model.features[3].running_mean.fill_(2.0)
    model.features[3].eval()
    deep = with_depth(model, 5)
    floating = [value for value in deep.state_dict().values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.bfloat16}
    assert (deep.features[3].running_mean == 2.0).all()
    assert (deep.features[15].running_mean == 0.0).all()
    assert not deep.features[3].training
    assert deep.features[15].training


def test_blocks_kept_aside_follow_the_mode_and_dtype_but_are_not_saved() -> None:
    shallow = with_depth(mlp(), 1)
    assert len(shallow.state_dict()) == 6
    back = with_depth(shallow.double().eval(), 3)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float64}
    assert not any(module.training for module in back.modules())


def test_recurrent_layers_keep_their_weights_and_train() -> None:
    model, inputs = made("LSTM tagger")
    deep = with_depth(model, 4)
    assert deep.recurrent.num_layers == 4
    assert torch.equal(deep.recurrent.weight_hh_l1, model.recurrent.weight_hh_l1)
    output(deep, inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in deep.parameters())
    assert sorted(dict(deep.recurrent.named_parameters())) == sorted(
        dict(Tagger(layers=4).recurrent.named_parameters())
    )


def test_a_recurrent_network_of_one_layer_can_be_deepened() -> None:
    assert with_depth(Tagger(nn.GRU, layers=1), 3).recurrent.num_layers == 3


def test_hooks_of_the_user_stay_and_see_nothing_of_the_tweak() -> None:
    model, seen = mlp(), []
    model[2].register_forward_hook(lambda *_: seen.append(1))
    deep = with_depth(model, 4)
    assert seen == []
    deep(torch.ones(1, 5))
    assert seen == [1]


def test_named_blocks_get_names_that_go_on() -> None:
    from collections import OrderedDict

    model = nn.Sequential(OrderedDict(hidden1=nn.Linear(4, 4), hidden2=nn.Linear(4, 4)))
    assert list(with_depth(model, 4)._modules) == ["hidden1", "hidden2", "hidden3", "hidden4"]


def test_the_copy_says_what_changed() -> None:
    (tweak,) = tweaks_of(with_depth(gpt2(3), 5))
    assert tweak.knob == "depth"
    assert tweak.sentence == "transformer.h has 5 blocks, 3 at first."
    assert "last of the 3 blocks (GPT2Block) of transformer.h" in depth_of(gpt2(3)).what


@pytest.mark.parametrize("depth", [0, DEEPEST + 1, 2.5, True, "3", None])
def test_a_depth_out_of_range_is_refused(depth: object) -> None:
    with pytest.raises(ValueError, match="depth must be a whole number from 1 to 64"):
        with_depth(mlp(), depth)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-3, 1.5, "abc", None, 2**63])
def test_a_seed_out_of_range_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to 2\*\*63 - 1, not"):
        with_depth(mlp(), 5, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 3), mlp(1), MixtureOfExperts()], ids=lambda one: type(one).__name__
)
def test_a_model_without_repeats_is_refused(model: nn.Module) -> None:
    for tweak in (depth_of, lambda one: with_depth(one, 3)):
        with pytest.raises(CannotTweak, match="repeats no block"):
            tweak(model)


@pytest.mark.parametrize(
    "block",
    [
        lambda: (nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)),
        lambda: (nn.Conv2d(4, 4, 3, stride=2, padding=1),),
        lambda: (nn.Conv1d(4, 4, 3),),
        lambda: (nn.ConvTranspose2d(4, 4, 2, stride=2), nn.ReLU()),
    ],
)
def test_blocks_that_change_the_shape_are_refused(block: object) -> None:
    model = nn.Sequential(*[module for _ in range(3) for module in block()])  # type: ignore[operator]
    with pytest.raises(CannotTweak, match="change their input's shape"):
        with_depth(model, 4)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.by


def test_a_layer_that_nobody_can_initialise_is_named() -> None:
    model = nn.Sequential(Scale(), Scale())
    assert len(with_depth(model, 1)) == 1
    with pytest.raises(CannotTweak, match=r"Scale does not say .* its by.*reset_parameters"):
        with_depth(model, 3)


class LoRALinear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(2, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.A.t() @ self.B.t()


def test_that_no_block_can_be_added_is_said_beforehand() -> None:
    model = nn.Sequential(*(LoRALinear(nn.Linear(4, 4)) for _ in range(3)), nn.ReLU())
    assert depth_of(model).what == (
        "Removes the last of the 3 blocks (LoRALinear) of the model. A new block needs fresh "
        "weights, but LoRALinear does not say how to initialise its A: give the class a method "
        "reset_parameters()."
    )
    fewer = with_depth(model, 2)
    assert depth_of(fewer).what.startswith("Repeats or removes the last of the 2 blocks")
    assert depth_of(with_depth(fewer, 3)).what == depth_of(model).what


@pytest.mark.parametrize("name", REPEATING)
def test_where_blocks_can_be_added_nothing_else_is_said(name: str) -> None:
    what = depth_of(made(name)[0]).what
    assert what.startswith(("Repeats or removes", "Sets the number of layers"))
    assert "fresh weights" not in what


def test_lists_that_go_together_and_can_not_grow_together_are_refused() -> None:
    model = SideBySideLists()
    model.norms[1] = nn.Identity()
    with pytest.raises(CannotTweak, match="walks linears and norms together"):
        with_depth(model, 4)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers_get_fresh_weights_too(kind: str) -> None:
    parametrize = getattr(nn.utils.parametrizations, kind)
    model = nn.Sequential(*(parametrize(nn.Linear(4, 4)) for _ in range(2)))
    before = model[1].weight
    deep = with_depth(model, 3).eval()
    assert deep[2].weight.isfinite().all()
    assert not torch.equal(deep[2].weight, deep[1].weight)
    if kind == "spectral_norm":
        assert torch.linalg.matrix_norm(deep[2].weight, 2).item() == pytest.approx(1, rel=0.05)
    assert torch.equal(model.eval()[1].weight, before) or kind == "spectral_norm"

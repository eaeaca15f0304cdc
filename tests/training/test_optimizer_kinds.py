"""Another optimizer, weight decay and full batches, from the next step on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from gradflow_widget import GradientFlow
from gradflow_widget.training.optimizers import of_kind

from .parts import CROSS_ENTROPY, losses_of, plain_network, same_bits, samples

KINDS: dict[str, Any] = {
    "SGD": lambda p: SGD(p, lr=0.05, weight_decay=0.02),
    "momentum": lambda p: SGD(p, lr=0.05, weight_decay=0.02, momentum=0.9),
    "Nesterov": lambda p: SGD(p, lr=0.05, weight_decay=0.02, momentum=0.9, nesterov=True),
    "Adam": lambda p: Adam(p, lr=0.05, weight_decay=0.02),
    "AdamW": lambda p: AdamW(p, lr=0.05, weight_decay=0.02),
    "RMSProp": lambda p: RMSprop(p, lr=0.05, weight_decay=0.02),
}
GIVEN: dict[str, Any] = {
    "SGD": lambda p: SGD(p, lr=0.05, momentum=0.5, weight_decay=0.02),
    "AdamW": lambda p: AdamW(p, lr=0.05, weight_decay=0.02),
}


def markers(flow: GradientFlow) -> list[tuple[int, str]]:
    return list(flow._stage.loss._turns)


def full(make_flow: Any, optimizer_of: Any, **changes: Any) -> GradientFlow:
    model = plain_network()
    flow: GradientFlow = make_flow(
        model, optimizer_of(model.parameters()), CROSS_ENTROPY, samples(), **changes
    )
    flow.batch_size = 96
    return flow


def by_hand(*legs: tuple[int, Any]) -> tuple[list[float], list[nn.Parameter]]:
    """Train with one optimizer after another, each for so many steps."""
    inputs, targets = samples()
    model, order, losses = plain_network(), torch.Generator().manual_seed(0), []
    for steps, optimizer_of in legs:
        optimizer: Optimizer = optimizer_of(model.parameters())
        for _ in range(steps):
            rows = torch.randperm(len(inputs), generator=order)
            optimizer.zero_grad()
            loss = CROSS_ENTROPY(model(inputs[rows]), targets[rows])
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
    return losses, list(model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", GIVEN)
def test_a_kind_is_torch_s_own_optimizer_from_the_next_step_on(
    make_flow: Any, given: str, kind: str
) -> None:
    flow = full(make_flow, GIVEN[given])
    flow.step(3)
    model, history = flow.model, flow.history
    flow.optimizer_kind = kind
    assert flow.model is model
    flow.step(4)
    losses, parameters = by_hand((3, GIVEN[given]), (4, KINDS[kind]))
    assert same_bits(flow.history.loss, losses)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), parameters, strict=True))
    assert flow.history is history
    assert flow.step_number == len(history) == 7
    assert markers(flow) == [(4, f"optimizer {kind}")]


def test_switches_there_and_back_repeat_after_a_reset(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    given = flow.optimizer

    def train() -> list[float]:
        losses = losses_of(flow, 2)
        for kind in ("Adam", "RMSProp", "as given"):
            flow.optimizer_kind = kind
            losses += losses_of(flow, 2)
        return losses

    first = train()
    assert flow.optimizer is given
    flow.reset()
    assert same_bits(train(), first)
    flow.reset(seed=3)
    assert not same_bits(train(), first)
    flow.reset(seed=0)
    assert same_bits(train(), first)
    assert [text for _, text in markers(flow)] == [
        "optimizer Adam",
        "optimizer RMSProp",
        "optimizer as given",
    ]


def test_a_reset_begins_with_the_present_kind_anew(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    flow.optimizer_kind = "Adam"
    flow.step(5)
    flow.reset()
    assert type(flow.optimizer) is Adam
    assert not flow.optimizer.state
    assert same_bits(losses_of(flow, 4), by_hand((4, KINDS["Adam"]))[0])
    assert markers(flow) == []


def test_the_kind_stays_through_a_rebuild(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    flow.optimizer_kind = "AdamW"
    flow.activation = "relu"
    assert type(flow.optimizer) is AdamW
    flow.step()
    flow.optimizer_kind = "as given"
    assert type(flow.optimizer) is SGD
    own = {id(p) for p in flow.model.parameters()}
    assert {id(p) for group in flow.optimizer.param_groups for p in group["params"]} == own
    flow.step()


def test_groups_keep_their_ratio_and_the_slider_says_the_rate(make_flow: Any) -> None:
    model = plain_network()
    optimizer = SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}], lr=0.01
    )
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.learning_rate = 0.5
    flow.optimizer_kind = "Adam"
    flow.step()
    assert [g["lr"] for g in flow.optimizer.param_groups] == pytest.approx([0.5, 0.05])
    assert flow.history.latest.learning_rates == pytest.approx((0.5, 0.05))
    flow.learning_rate = 0.2
    flow.optimizer_kind = "as given"
    flow.step()
    assert flow.optimizer is optimizer
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def test_clipping_and_the_bars_follow_the_new_optimizer(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"], clip_norm=1e-4)
    flow.step()
    flow.optimizer_kind = "SGD"
    before = [p.detach().clone() for p in flow.model.parameters()]
    flow.step()
    latest = flow.history.latest
    assert latest is not None
    assert latest.clip_scale < 1
    assert latest.is_full
    moved = [p - q for p, q in zip(flow.model.parameters(), before, strict=True)]
    # The clipped gradient, and the weight decay that comes behind it.
    pulled = [0.05 * 0.02 * q for q in before]
    gradient = [(m + d) / -0.05 for m, d in zip(moved, pulled, strict=True)]
    assert float(torch.cat([g.flatten() for g in gradient]).norm()) == pytest.approx(1e-4, rel=0.05)


def test_a_kind_is_turned_while_it_plays(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    flow.speed = "max"
    flow.play()
    for kind in ("Adam", "SGD", "RMSProp", "as given") * 2:
        flow.optimizer_kind = kind
        flow.wait(2)
    flow.pause()
    flow.wait()
    steps = flow.history.step.tolist()
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == flow.step_number


def test_after_a_switch_no_other_widget_may_take_the_given_optimizer(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    given = flow.optimizer
    flow.optimizer_kind = "Adam"
    with pytest.raises(ValueError, match="watched by another GradientFlow"):
        make_flow(flow.model, given, CROSS_ENTROPY, samples())
    used = flow.optimizer
    flow.close()
    for optimizer in (given, used):
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    make_flow(flow.model, given, CROSS_ENTROPY, samples()).step()


# -- weight decay ------------------------------------------------------------------------


def test_weight_decay_acts_from_the_next_step_and_its_own_comes_back(make_flow: Any) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    given = flow.optimizer
    assert flow.weight_decay == 0.02
    flow.step(2)
    flow.weight_decay = 0.3
    flow.step()
    assert given.param_groups[0]["weight_decay"] == 0.3
    flow.optimizer_kind = "Adam"
    flow.step()
    assert flow.optimizer.param_groups[0]["weight_decay"] == 0.3
    flow.weight_decay = None
    assert flow.weight_decay == 0.02
    flow.step()
    assert flow.optimizer.param_groups[0]["weight_decay"] == 0.02
    assert markers(flow) == [
        (3, "weight decay 0.3"),
        (4, "optimizer Adam"),
        (5, "weight decay as given"),
    ]
    flow.weight_decay = 0
    flow.step()
    assert flow.optimizer.param_groups[0]["weight_decay"] == 0.0
    flow.close()
    assert given.param_groups[0]["weight_decay"] == 0.02


def test_weight_decay_is_torch_s_own_bit_for_bit(make_flow: Any) -> None:
    flow = full(make_flow, lambda p: AdamW(p, lr=0.05))
    flow.weight_decay = 0.4
    expected, _ = by_hand((5, lambda p: AdamW(p, lr=0.05, weight_decay=0.4)))
    assert same_bits(losses_of(flow, 5), expected)
    flow.reset()
    assert same_bits(losses_of(flow, 5), expected)


def test_groups_that_are_spared_stay_spared(make_flow: Any) -> None:
    model = plain_network()
    optimizer = AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
            {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        ],
        lr=0.01,
    )
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    assert flow.weight_decay == 0.1
    flow.weight_decay = 0.4
    flow.step()
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.4]


def test_weight_decay_steers_a_loop_of_one_s_own_but_its_optimizer_stays(make_flow: Any) -> None:
    model = plain_network()
    optimizer = SGD(model.parameters(), lr=0.1)
    flow = make_flow(model, optimizer)
    flow.weight_decay = 0.25
    inputs, targets = samples()
    CROSS_ENTROPY(model(inputs), targets).backward()
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    with pytest.raises(
        ValueError, match=r"optimizer_kind can't be changed: your own loop holds .*\.$"
    ):
        flow.optimizer_kind = "Adam"
    assert flow.optimizer_kind == "as given"
    assert flow.optimizer is optimizer
    assert flow._controls.optimizer_menu.disabled


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        (
            "optimizer_kind",
            "adam",
            "optimizer_kind 'adam' is unknown: choose one of 'as given', SGD",
        ),
        ("optimizer_kind", None, "optimizer_kind can't be set to None"),
        ("weight_decay", -0.1, "weight_decay must be a finite number from 0, not -0.1."),
        ("weight_decay", float("inf"), "weight_decay must be a finite number"),
        ("weight_decay", "0.1", "weight_decay must be a finite number"),
        ("weight_decay", True, "weight_decay must be a finite number"),
    ],
)
def test_values_out_of_range_are_refused(make_flow: Any, knob: str, value: Any, says: str) -> None:
    flow = full(make_flow, GIVEN["SGD"])
    before = getattr(flow, knob)
    with pytest.raises(ValueError, match=r".*\.$") as caught:
        setattr(flow, knob, value)
    assert says in str(caught.value)
    assert getattr(flow, knob) == before
    flow.step()


def test_lbfgs_has_no_weight_decay_but_gives_way_to_other_kinds(make_flow: Any) -> None:
    flow = full(make_flow, lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2))
    assert flow.weight_decay is None
    with pytest.raises(ValueError, match="the optimizer has no weight decay"):
        flow.weight_decay = 0.1
    flow.step()
    flow.optimizer_kind = "AdamW"
    assert flow.weight_decay == 0.01  # the new one's own
    flow.step(2)
    flow.optimizer_kind = "as given"
    flow.step()
    assert flow.step_number == 4


# -- full batches ------------------------------------------------------------------------


def test_with_a_full_batch_every_step_sees_each_sample_once(make_flow: Any) -> None:
    seen: list[list[int]] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(sorted(batch[1].tolist()))
        loss: torch.Tensor = model(batch[0]).square().mean()
        return loss

    data = (torch.randn(10, 6), torch.arange(10))
    flow = make_flow(plain_network, lambda p: SGD(p, lr=0.1), data=data, objective=objective)
    flow.batch_size = 3
    flow.step(2)  # the epoch is not over yet
    seen.clear()
    flow.batch_size = 10
    flow.step(3)
    flow.batch_size = 4
    flow.step()
    flow.batch_size = 10
    flow.step(2)
    assert [batch for batch in seen if len(batch) == 10] == [list(range(10))] * 5


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSProp"])
def test_options_that_mean_something_else_are_not_handed_on(make_flow: Any, kind: str) -> None:
    model = plain_network()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)  # its eps are two
    flow = make_flow(model, optimizer, CROSS_ENTROPY, samples())
    flow.optimizer_kind = kind
    flow.step(2)
    assert type(flow.optimizer) is {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}.get(kind, RMSprop)


class TestStepHooksOfTheUser:
    def hooked(self, make_flow: Any, source: str) -> tuple[GradientFlow, Any, list[Optimizer]]:
        """A widget whose optimizer notes, in hooks of the user's, each step that it makes."""
        stepped: list[Optimizer] = []

        def optimizer_for(parameters: Any) -> Optimizer:
            optimizer = SGD(parameters, lr=0.1)
            optimizer.register_step_post_hook(lambda one, *_: stepped.append(one))
            return optimizer

        model = plain_network()
        source_of = optimizer_for(model.parameters()) if source == "given" else optimizer_for
        flow: GradientFlow = make_flow(model, source_of, CROSS_ENTROPY, samples())
        return flow, source_of, stepped

    def test_they_stay_with_the_given_optimizer_and_that_is_said(self, make_flow: Any) -> None:
        flow, given, stepped = self.hooked(make_flow, "given")
        flow.step(2)
        assert "step hooks" not in flow.status
        flow.activation = "relu"
        assert (
            "Optimizer: the step hooks of the given one, such as a scheduler's, do not act on the "
            "one in its place: give a function that makes it, hooks and all, to have them."
        ) in flow.status
        flow.step(2)
        assert stepped == [given] * 2
        flow.activation = "tanh"
        assert "step hooks" not in flow.status
        flow.step(2)
        assert stepped == [given] * 4

    def test_another_kind_is_without_them_too(self, make_flow: Any) -> None:
        flow, _, stepped = self.hooked(make_flow, "factory")
        flow.step()
        flow.optimizer_kind = "Adam"
        flow.step()
        assert "do not act on the one in its place." in flow.status
        assert len(stepped) == 1
        flow.optimizer_kind = "as given"
        flow.step()
        assert "step hooks" not in flow.status
        assert len(stepped) == 2

    def test_a_factory_puts_them_on_every_new_one(self, make_flow: Any) -> None:
        flow, _, stepped = self.hooked(make_flow, "factory")
        flow.activation = "relu"
        assert "step hooks" not in flow.status
        flow.step()
        assert stepped == [flow.optimizer]

    def test_without_any_there_is_nothing_to_say(self, make_flow: Any) -> None:
        model = plain_network()
        flow = make_flow(model, SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, samples())
        flow.activation = "relu"
        flow.optimizer_kind = "Adam"
        flow.step()
        assert "step hooks" not in flow.status


# -- sparse gradients --------------------------------------------------------------------


class SparseText(nn.Module):
    """A bag of embeddings, whose gradient is sparse, and a linear layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embedding = layer
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.embedding(tokens)
        return self.head(found if found.dim() == 2 else found.mean(1))


SPARSE: dict[str, Any] = {
    "Embedding": lambda: nn.Embedding(20, 6, sparse=True),
    "EmbeddingBag": lambda: nn.EmbeddingBag(20, 6, mode="sum", sparse=True),
}
TOKENS = (torch.arange(96 * 4).reshape(96, 4) % 20, torch.arange(96) % 3)


def sparse_flow(make_flow: Any, layer: nn.Module, optimizer_of: Any = None) -> GradientFlow:
    torch.manual_seed(0)
    model = SparseText(layer)
    optimizer = (optimizer_of or (lambda m: SGD(m.parameters(), lr=0.1)))(model)
    flow: GradientFlow = make_flow(model, optimizer, CROSS_ENTROPY, TOKENS)
    return flow


@pytest.mark.parametrize("layer", SPARSE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_sparse_gradients_or_is_refused(make_flow: Any, kind: str, layer: str) -> None:
    takes = True
    model = SparseText(SPARSE[layer]())
    CROSS_ENTROPY(model(TOKENS[0]), TOKENS[1]).backward()
    try:
        of_kind(kind, SGD(model.parameters(), lr=0.1)).step()
    except RuntimeError:
        takes = False
    flow = sparse_flow(make_flow, SPARSE[layer]())
    flow.step()
    if takes:
        flow.optimizer_kind = kind
    else:
        with pytest.raises(ValueError, match=f"'{kind}' does not take the sparse gradients"):
            flow.optimizer_kind = kind
        assert flow.optimizer_kind == "as given"
    flow.step(2)
    assert flow.step_number == 3


def test_what_only_another_optimizer_trains_may_be_sparse(make_flow: Any) -> None:
    flow = sparse_flow(make_flow, SPARSE["Embedding"](), lambda m: SGD(m.head.parameters(), lr=0.1))
    flow.optimizer_kind = "Adam"
    flow.weight_decay = 0.1
    flow.step(2)


def test_frozen_and_tied_sparse_embeddings_have_no_sparse_gradient(make_flow: Any) -> None:
    frozen = SPARSE["Embedding"]().requires_grad_(False)
    tied = SPARSE["Embedding"]()

    class Tied(SparseText):
        def __init__(self) -> None:
            super().__init__(tied)
            self.head = nn.Linear(6, 20, bias=False)
            self.head.weight = tied.weight

    model = Tied()
    of_both: GradientFlow = make_flow(model, SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, TOKENS)
    for flow in (sparse_flow(make_flow, frozen), of_both):
        flow.optimizer_kind = "Adam"
        flow.step(2)
        assert flow.step_number == 2


def test_there_is_no_weight_decay_for_sparse_gradients(make_flow: Any) -> None:
    flow = sparse_flow(make_flow, SPARSE["EmbeddingBag"]())
    assert flow._controls.decay_slider.disabled
    for kind in ("as given", "momentum"):
        flow.optimizer_kind = kind
        with pytest.raises(ValueError, match="none for the sparse gradients of the model's"):
            flow.weight_decay = 0.1
        assert flow.weight_decay == 0
        flow.step()


def test_groups_without_sparse_weights_are_decayed_as_before(make_flow: Any) -> None:
    def spared(model: Any) -> Optimizer:
        groups = [
            {"params": [model.embedding.weight], "weight_decay": 0.0},
            {"params": list(model.head.parameters()), "weight_decay": 0.01},
        ]
        return SGD(groups, lr=0.1)

    flow = sparse_flow(make_flow, SPARSE["Embedding"](), spared)
    for decay in (0.0, 0.1):
        flow.weight_decay = decay
        flow.step()
        assert [group["weight_decay"] for group in flow.optimizer.param_groups] == [0, decay]


def test_a_kind_without_decay_for_sparse_gradients_is_no_heir_of_one_that_has_it(
    make_flow: Any,
) -> None:
    class Decaying(SGD):
        """Decays dense copies, as a class of one's own may."""

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad = parameter.grad.to_dense()
            return super().step(closure)

    flow = sparse_flow(
        make_flow, SPARSE["Embedding"](), lambda m: Decaying(m.parameters(), 0.1, weight_decay=0.1)
    )
    flow.step()
    with pytest.raises(ValueError, match="'SGD' has no weight decay for the sparse gradients"):
        flow.optimizer_kind = "SGD"
    flow.weight_decay = 0.2
    flow.step()
    assert flow.step_number == 2

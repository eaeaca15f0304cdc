"""Same seed, same run: weights, batch order, dropout and running statistics repeat bit for bit."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .parts import CROSS_ENTROPY, losses_of, same_bits, samples, small_network

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


@pytest.mark.parametrize("optimize", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("given", ["module", "factory"])
def test_reset_repeats_the_run(make_flow: Any, given: str, optimize: Any) -> None:
    model = small_network()
    flow = (
        make_flow(model, optimize(model.parameters()), CROSS_ENTROPY, samples())
        if given == "module"
        else make_flow(lambda depth=3: small_network(depth), optimize, CROSS_ENTROPY, samples())
    )
    first = losses_of(flow, 12)
    flow.reset()
    assert flow.step_number == 0
    assert len(flow.history) == 0
    assert same_bits(losses_of(flow, 12), first)


def test_steps_on_the_thread_and_in_the_calling_thread_are_the_same(make_flow: Any) -> None:
    model = small_network()
    flow = make_flow(model, OPTIMIZERS["adam"](model.parameters()), CROSS_ENTROPY, samples())
    here = losses_of(flow, 9)
    flow.reset()
    flow.step(4)
    flow.play()
    flow.wait(5)
    flow.pause()
    flow.wait()
    assert same_bits(flow.history.loss[:9], here)


def test_what_other_code_draws_in_between_changes_nothing(make_flow: Any) -> None:
    model = small_network()
    flow = make_flow(model, OPTIMIZERS["momentum"](model.parameters()), CROSS_ENTROPY, samples())
    first = losses_of(flow, 6)
    flow.reset()
    torch.manual_seed(11)
    expected = torch.rand(6)
    torch.manual_seed(11)
    again, drawn = [], []
    for reading in flow.steps(6):
        again.append(reading.loss)
        drawn.append(torch.rand(1))
        random.random()
        np.random.rand(3)
    assert same_bits(again, first)
    # Nor does training disturb what the others draw.
    assert torch.equal(torch.cat(drawn), expected)


class Noisy(Dataset[Any]):
    """Augments every item from Python's, NumPy's and torch's generators."""

    def __init__(self) -> None:
        self.inputs, self.targets = samples()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + float(np.random.rand()) + torch.rand(())
        return self.inputs[index] + noise, self.targets[index]


class NoisyByItsOwn(Noisy):
    """Augments every item from a generator that it keeps, alone or in a transform."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.transforms = [Jitter(kind)]
        self.everybodys: list[Any] = []

    def __getitem__(self, index: int) -> Any:
        inputs = self.inputs[index]
        for transform in self.transforms:
            inputs = transform(inputs)
        return inputs, self.targets[index]


class Jitter:
    def __init__(self, kind: str) -> None:
        makers: dict[str, Any] = {
            "torch": lambda: torch.Generator().manual_seed(1),
            "numpy": lambda: np.random.default_rng(1),
            "old numpy": lambda: np.random.RandomState(1),
            "python": lambda: random.Random(1),
        }
        self.draw = functools.partial(self._draw, makers[kind]())

    def _draw(self, generator: Any) -> float:
        if isinstance(generator, torch.Generator):
            return float(torch.rand((), generator=generator))
        return float(generator.random())

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.draw()


class Passes:
    """Batches gone through in an order of its own, another one in each pass."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(2)

    def __iter__(self) -> Any:
        inputs, targets = samples()
        rows = self.generator.permutation(len(inputs))
        for begin in range(0, len(rows), 16):
            part = rows[begin : begin + 16]
            yield inputs[part], targets[part]


DATA: dict[str, Callable[[], Any]] = {
    "dataset": Noisy,
    "loader": lambda: DataLoader(Noisy(), batch_size=16, shuffle=True),
    "loader with a generator": lambda: DataLoader(
        Noisy(), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    **{
        f"dataset with a generator of {kind}": functools.partial(NoisyByItsOwn, kind)
        for kind in ("torch", "numpy", "old numpy", "python")
    },
    "iterable with a generator": Passes,
    "loader of a dataset with a generator": lambda: DataLoader(
        NoisyByItsOwn("numpy"), batch_size=16, shuffle=True
    ),
    "list of batches": lambda: [samples(16), samples(8)],
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_data_that_draw_from_any_generator_repeat(make_flow: Any, data: Any) -> None:
    flow = make_flow(
        small_network, lambda p: torch.optim.SGD(p, lr=0.1), CROSS_ENTROPY, data(), seed=4
    )
    first = losses_of(flow, 9)
    random.random()
    np.random.rand(3)
    flow.reset()
    assert same_bits(losses_of(flow, 9), first)
    state = random.getstate()
    flow.step(2)
    assert random.getstate() == state


def test_a_generator_of_the_data_begins_again_under_a_regime_too(make_flow: Any) -> None:
    flow = make_flow(
        small_network,
        lambda p: torch.optim.SGD(p, lr=0.1),
        CROSS_ENTROPY,
        NoisyByItsOwn("numpy"),
    )
    flow.regime = {"label_noise": 0.2}
    first = losses_of(flow, 5)
    flow.regime = {}
    plain = losses_of(flow, 5)
    assert not same_bits(plain, first)
    flow.step(3)
    flow.regime = {"label_noise": 0.2}
    assert same_bits(losses_of(flow, 5), first)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_loader_begin_again_and_keep_their_place(
    make_flow: Any, persistent: bool
) -> None:
    loader = DataLoader(
        Noisy(), batch_size=16, shuffle=True, num_workers=1, persistent_workers=persistent
    )
    flow = make_flow(small_network, lambda p: torch.optim.SGD(p, lr=0.1), CROSS_ENTROPY, loader)
    first = losses_of(flow, 9)
    flow.reset()
    losses_of(flow, 2)
    flow.regime = {"adversarial": {"method": "fgsm", "epsilon": 1e-12}}  # tried on a batch
    flow.regime = {}
    flow.step(7)
    assert same_bits(flow.history.loss, first)


def test_the_generators_of_the_process_are_not_the_data_s(make_flow: Any) -> None:
    data = NoisyByItsOwn("torch")
    data.everybodys = [torch.default_generator, random.random, np.random.mtrand._rand]
    flow = make_flow(small_network, lambda p: torch.optim.SGD(p, lr=0.1), CROSS_ENTROPY, data)
    flow.step(2)
    torch.manual_seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    flow.reset()
    flow.step(2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tobytes() == before[2]


def test_a_model_that_draws_from_python_repeats(make_flow: Any) -> None:
    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        return CROSS_ENTROPY(model(batch[0] * random.random()), batch[1])

    flow = make_flow(
        small_network, lambda p: torch.optim.SGD(p, lr=0.1), data=samples(), objective=objective
    )
    first = losses_of(flow, 5)
    flow.reset()
    random.seed(99)
    assert same_bits(losses_of(flow, 5), first)


@pytest.mark.parametrize("data", [samples, *list(DATA.values())[:-1]])
def test_another_seed_is_another_run_and_the_first_comes_back(make_flow: Any, data: Any) -> None:
    flow = make_flow(small_network, lambda p: torch.optim.SGD(p, lr=0.1), CROSS_ENTROPY, data())
    first = losses_of(flow, 6)
    flow.reset(seed=1)
    other = losses_of(flow, 6)
    assert not same_bits(other, first)
    flow.reset()
    assert same_bits(losses_of(flow, 6), other)
    flow.reset(seed=0)
    assert same_bits(losses_of(flow, 6), first)


def test_a_new_seed_gives_a_factory_new_weights_and_keeps_a_module_s(make_flow: Any) -> None:
    def build() -> nn.Module:
        return nn.Linear(6, 3)

    flow = make_flow(build, lambda p: torch.optim.SGD(p, lr=0.1), CROSS_ENTROPY, samples())
    before = flow.model.weight.detach().clone()
    flow.reset(seed=7)
    assert not torch.equal(flow.model.weight, before)

    module = nn.Linear(6, 3)
    kept = module.weight.detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    mine = make_flow(module, optimizer, CROSS_ENTROPY, samples())
    mine.step(3)
    mine.reset(seed=7)
    assert mine.model is module
    assert mine.optimizer is optimizer
    assert torch.equal(module.weight, kept)


def test_the_first_batch_is_the_one_of_the_preview_and_training_starts_with_it(
    make_flow: Any,
) -> None:
    seen: list[torch.Tensor] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(batch[0].clone())
        return CROSS_ENTROPY(model(batch[0]), batch[1])

    loader = DataLoader(TensorDataset(*samples()), batch_size=8, shuffle=True)
    flow = make_flow(
        small_network, lambda p: torch.optim.SGD(p, lr=0.1), data=loader, objective=objective
    )
    flow.step()
    assert torch.equal(seen[0], seen[1])


def test_reset_brings_back_buffers_that_a_forward_pass_has_replaced(make_flow: Any) -> None:
    class Counting(nn.Module):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls = torch.cat([self.calls, torch.ones(1)])
            out: torch.Tensor = self.layer(x) * len(self.calls)
            return out

    model = Counting()
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, samples())
    first = losses_of(flow, 4)
    flow.reset()
    assert same_bits(losses_of(flow, 4), first)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_reset_brings_back_what_torchscript_has_counted(make_flow: Any) -> None:
    norm = torch.jit.script(nn.BatchNorm1d(6, affine=False))
    model = nn.Sequential(norm, nn.Linear(6, 3))
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, samples())
    first = losses_of(flow, 4)
    assert norm.num_batches_tracked == 4
    flow.reset()
    assert norm.num_batches_tracked == 0
    assert same_bits(losses_of(flow, 4), first)


def test_watching_changes_nothing(make_flow: Any) -> None:
    inputs, targets = samples()
    model = small_network(seed=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    rows = torch.randperm(len(inputs), generator=order)
    bare = []
    for step in range(5):
        taken = rows[step * 16 : step * 16 + 16]
        optimizer.zero_grad()
        loss = CROSS_ENTROPY(model(inputs[taken]), targets[taken])
        loss.backward()
        optimizer.step()
        bare.append(loss.item())

    watched = small_network(seed=3)
    flow = make_flow(
        watched,
        torch.optim.Adam(watched.parameters(), lr=0.01),
        CROSS_ENTROPY,
        (inputs, targets),
        seed=0,
    )
    flow.batch_size = 16
    assert same_bits(losses_of(flow, 5), bare)
    pairs = zip(model.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def with_its_scheduler(parameters: Any) -> torch.optim.Optimizer:
    """As it is done where only the optimizer is handed on: the schedule is on its hooks."""
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer


@pytest.mark.parametrize("given", ["module", "factory"])
def test_what_an_optimizer_from_a_factory_brings_with_it_begins_anew_too(
    make_flow: Any, given: str
) -> None:
    model: Any = small_network() if given == "module" else lambda depth=3: small_network(depth)
    flow = make_flow(model, with_its_scheduler, CROSS_ENTROPY, samples())
    first, rates = losses_of(flow, 7), flow.history.learning_rate.copy()
    assert rates[-1] == pytest.approx(0.0125)
    flow.reset()
    assert same_bits(losses_of(flow, 7), first)
    assert same_bits(flow.history.learning_rate, rates)
    flow.initialization = "he"
    changed = losses_of(flow, 7)
    flow.reset()
    assert same_bits(losses_of(flow, 7), changed)
    flow.initialization = "as given"
    assert same_bits(losses_of(flow, 7), first)
    flow.regime = {"label_noise": 0.2}
    losses_of(flow, 7)
    assert same_bits(flow.history.learning_rate, rates)
    flow.regime = None
    assert same_bits(losses_of(flow, 7), first)


def test_a_factory_of_optimizers_that_fails_at_a_reset_leaves_the_run(make_flow: Any) -> None:
    made: list[torch.optim.Optimizer] = []

    def once(parameters: Any) -> torch.optim.Optimizer:
        if made:
            raise LookupError("only one")
        made.append(torch.optim.SGD(parameters, lr=0.1))
        return made[0]

    flow = make_flow(small_network(), once, CROSS_ENTROPY, samples())
    first = losses_of(flow, 3)
    with pytest.raises(LookupError):
        flow.reset()
    assert same_bits(flow.history.loss, first)
    assert flow.optimizer is made[0]


@pytest.mark.parametrize("given", ["module", "factory"])
@pytest.mark.parametrize(
    "drawn",
    [
        {"initialization": "lsuv"},
        {"regime": {"curriculum": {"by": "loss", "first_model_steps": 5, "steps": 20}}},
    ],
    ids=["lsuv", "curriculum"],
)
def test_both_ways_of_resetting_draw_with_the_present_batch_size(
    make_flow: Any, given: str, drawn: dict[str, Any]
) -> None:
    model: Any = small_network() if given == "module" else lambda depth=3: small_network(depth)
    flow = make_flow(
        model, lambda parameters: torch.optim.SGD(parameters, lr=0.1), CROSS_ENTROPY, samples()
    )
    for name, value in drawn.items():
        setattr(flow, name, value)
    first, size = losses_of(flow, 4), flow.batch_size
    flow.batch_size = 8
    losses_of(flow, 2)
    flow.reset()
    with_small_batches = losses_of(flow, 4)
    for seed in (0, None):
        flow.reset(seed)
        assert same_bits(losses_of(flow, 4), with_small_batches)
    flow.batch_size = size
    flow.reset()
    assert same_bits(losses_of(flow, 4), first)


def test_a_reset_that_draws_nothing_keeps_the_model_whatever_the_batch_size(
    make_flow: Any,
) -> None:
    flow = make_flow(
        lambda depth=3: small_network(depth),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        CROSS_ENTROPY,
        samples(),
    )
    flow.initialization = "he"
    model = flow.model
    flow.batch_size = 8
    flow.reset()
    assert flow.model is model

"""The verdict on the flow: theory.md, "Criteria that do not cry wolf"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradflow_widget import GradientFlow, GradientProbe, Reading, take_reading
from gradflow_widget.diagnosis.rules import judge, layer_problems
from gradflow_widget.diagnosis.verdict import UNDECIDED, WATCH_DECADES, typical
from gradflow_widget.measurement.layers import Layer
from gradflow_widget.measurement.nonfinite import NonFinite

SEEDS = range(3)


def plain(
    depth: int,
    width: int,
    activation: Callable[[], nn.Module],
    *,
    sigma: float | None = None,
    norm: bool = False,
) -> nn.Sequential:
    """Equal widths, zero bias; ``sigma`` is σ_w, None PyTorch's default initialisation."""
    modules: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        if sigma is not None:
            nn.init.normal_(layer.weight, std=sigma / math.sqrt(width))
            nn.init.zeros_(layer.bias)
        modules.append(layer)
        if norm:
            modules.append(nn.LayerNorm(width))
        modules.append(activation())
    return nn.Sequential(*modules)


class Residual(nn.Module):
    """Blocks x + α f(x) with variance-preserving f."""

    def __init__(self, blocks: int, width: int, alpha: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.alpha = alpha
        for block in self.blocks:
            nn.init.normal_(block.weight, std=math.sqrt(2 / width))
            nn.init.zeros_(block.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + self.alpha * torch.relu(block(x))
        return x


def severed() -> nn.Module:
    network = plain(8, 64, nn.ReLU, sigma=math.sqrt(2))
    nn.init.constant_(network[2].bias, -1000.0)
    return network


def sigmoid_two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "He ReLU, 30 layers": (lambda: plain(30, 256, nn.ReLU, sigma=math.sqrt(2)), "healthy", ""),
    "He ReLU, 10 layers": (lambda: plain(10, 128, nn.ReLU, sigma=math.sqrt(2)), "healthy", ""),
    "critical tanh": (lambda: plain(20, 128, nn.Tanh, sigma=1.0), "healthy", ""),
    "LayerNorm ReLU": (
        lambda: plain(20, 128, nn.ReLU, sigma=math.sqrt(2), norm=True),
        "healthy",
        "",
    ),
    "residual, scaled": (lambda: Residual(20, 128, 1 / math.sqrt(40)), "healthy", ""),
    "two sigmoid layers": (sigmoid_two_layers, "healthy", ""),
    "default tanh, 30 layers": (lambda: plain(30, 256, nn.Tanh), "vanishing", "fault"),
    "default ReLU, 12 layers": (lambda: plain(12, 128, nn.ReLU), "vanishing", "fault"),
    "sigmoid, 10 layers": (lambda: plain(10, 128, nn.Sigmoid), "vanishing", "fault"),
    "ReLU, σ_w = 2": (lambda: plain(30, 256, nn.ReLU, sigma=2.0), "exploding", "fault"),
    "tanh, σ_w = 3": (lambda: plain(30, 256, nn.Tanh, sigma=3.0), "exploding", "fault"),
    "residual α = 1, 20 blocks": (lambda: Residual(20, 128, 1.0), "exploding", "fault"),
    "bias −1000": (severed, "severed", "fault"),
}


def reading_of(network: nn.Module, seed: int, scale: float = 1.0) -> Reading:
    torch.manual_seed(1000 + seed)
    width = next(network.parameters()).shape[1]
    inputs = torch.randn(64, width)
    target = torch.randn(64, network(inputs).shape[1])
    return take_reading(network, lambda out, t: scale * (out * t).sum(dim=1).mean(), inputs, target)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("build", "problem", "severity"), NETWORKS.values(), ids=NETWORKS)
def test_the_verdict_on_networks_of_known_health(
    build: Callable[[], nn.Module], problem: str, severity: str, seed: int
) -> None:
    torch.manual_seed(seed)
    network = build()
    verdict = judge([reading_of(network, seed)])
    assert (verdict.problem, verdict.severity) == (problem, severity)
    # A plain sentence, about the same whatever the loss is multiplied by.
    assert verdict.sentence.lower().startswith(problem.split()[0])
    assert verdict.sentence.endswith(".")
    for scale in (1e-6, 65536.0):
        scaled = judge([reading_of(network, seed, scale)])
        assert (scaled.problem, scaled.severity) == (problem, severity)


def test_the_sentence_says_from_where_to_where() -> None:
    torch.manual_seed(0)
    verdict = judge([reading_of(plain(12, 64, nn.Tanh), 0)])
    assert "from layer 12 (22) back to layer 1 (0)" in verdict.sentence
    network = plain(8, 64, nn.ReLU)  # its biases keep the layers above the cut alive
    nn.init.constant_(network[2].bias, -1000.0)
    cut = judge([reading_of(network, 0)])
    assert "between layer 3 (4) and layer 2 (2)" in cut.sentence


# -- made-up readings, where a law holds ---------------------------------------------------


def made_up(signal: list[float], *, step: int = 0, width: int = 100) -> Reading:
    count = len(signal)
    nothing = np.zeros(count)
    described = tuple(
        Layer(f"{i}", "Linear", (f"{i}.weight",), (width, width), "Linear:", True, width)
        for i in range(count)
    )
    return Reading(
        step=step,
        loss=1.0,
        learning_rate=0.1,
        learning_rates=(0.1,),
        described=described,
        weight_grad_norm=nothing,
        total_norm=1.0,
        clip_scale=1.0,
        unclipped_grad_norm=nothing,
        missing=nothing.astype(bool),
        frozen=nothing.astype(bool),
        signal_grad_norm=np.array(signal),
    )


def decades_of(value: float, layers: int = 20, **kwargs: Any) -> Reading:
    return made_up(list(10.0 ** np.linspace(value, 0.0, layers)), **kwargs)


@pytest.mark.parametrize(
    ("decades", "problem", "severity"),
    [
        (-2.21, "vanishing", "fault"),
        (-2.19, "vanishing", "watch"),
        (-1.31, "vanishing", "watch"),
        (-1.29, "healthy", ""),
        (1.29, "healthy", ""),
        (1.31, "exploding", "watch"),
        (2.19, "exploding", "watch"),
        (2.21, "exploding", "fault"),
    ],
)
def test_the_thresholds_at_initialisation(decades: float, problem: str, severity: str) -> None:
    verdict = judge([decades_of(decades)])
    assert (verdict.problem, verdict.severity) == (problem, severity)


@pytest.mark.parametrize("signal", [[math.inf, 1.0, 2.0, 1.0], [math.inf] * 4])
def test_an_infinite_signal_is_not_said_to_be_unread(signal: list[float]) -> None:
    last = 4 if math.isinf(signal[-1]) else 1
    verdict = judge([made_up(signal)])
    assert (verdict.problem, verdict.sentence) == (
        "",
        f"The signal gradient is infinite at layer {last} ({last - 1}): nothing can be compared "
        "with that.",
    )


def test_a_slope_that_finite_width_gives_by_chance_is_not_vanishing() -> None:
    # |g| = 1.5·ln(10)/19 = 0.18; the chance bound is 0.18 at N·L = 617.
    assert judge([decades_of(-1.5, width=20)]).problem == "healthy"
    assert judge([decades_of(-1.5, width=100)]).problem == "vanishing"


def test_during_training_exploding_must_persist() -> None:
    healthy, wild = decades_of(0.5, step=1), decades_of(3.0, step=5)
    passing = judge([healthy, *[wild] * 9])
    assert (passing.problem, passing.severity) == ("", "")  # nor is it healthy
    assert passing.sentence.startswith("For now the signal grows by 3.0 decades")
    assert judge([healthy, *[wild] * 10]).problem == "exploding"
    assert judge([*[wild] * 9, healthy]).problem == "healthy"
    # Beyond 1.3, as healthy networks are at times, is not beyond 2.2.
    assert judge([decades_of(2.0, step=9)] * 10).problem == "healthy"


def test_what_explodes_from_the_beginning_does_not_turn_healthy_at_the_first_step() -> None:
    start = decades_of(3.0, step=0)
    for steps in range(1, 12):
        run = [start, *[decades_of(3.0, step=s) for s in range(1, steps + 1)]]
        assert judge(run[-10:]).problem == "exploding"
    # A loop that nobody looked at before its first step begins there.
    assert judge([decades_of(3.0, step=1)]).problem == "exploding"
    assert judge([decades_of(3.0, step=1), decades_of(0.1, step=2)]).problem == "healthy"


@settings(max_examples=60)
@given(
    signal=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30),
    scale=st.floats(1e-9, 1e9),
    step=st.integers(0, 3),
)
def test_multiplying_the_loss_changes_no_verdict(
    signal: list[float], scale: float, step: int
) -> None:
    # Away from the thresholds, which rounding could cross.
    one = made_up(signal, step=step)
    if min(abs(abs(one.decades or 0) - t) for t in (1.3, 2.2)) < 1e-6:
        return
    other = made_up([value * scale for value in signal], step=step)
    assert judge([one]).problem == judge([other]).problem
    assert judge([one]).severity == judge([other]).severity


@given(zeros=st.integers(1, 9))
def test_the_place_where_the_signal_ends_is_named(zeros: int) -> None:
    reading = made_up([0.0] * zeros + [1.0] * (10 - zeros))
    verdict = judge([reading])
    assert verdict.problem == "severed"
    assert (
        f"between layer {zeros + 1} ({zeros}) and layer {zeros} ({zeros - 1})" in verdict.sentence
    )
    assert layer_problems(reading) == ("severed",) * zeros + ("healthy",) * (10 - zeros)


def test_no_signal_at_all_is_severed_too() -> None:
    assert "every gradient is exactly 0" in judge([made_up([0.0] * 4)]).sentence


def satisfied(**changes: Any) -> Reading:
    reading = made_up([0.0] * 4)
    return replace(reading, **{"loss": 0.0, "activation_rms": np.ones(4), **changes})


def test_a_loss_of_exactly_0_has_nothing_left_to_teach() -> None:
    verdict = judge([satisfied()])
    assert (verdict.problem, verdict.severity) == ("", "")
    assert "nothing is left to learn" in verdict.sentence
    # Where the output is 0 as well, or the loss is not, the network may be dead.
    for dead in (satisfied(activation_rms=np.array([1.0, 0.0, 0.0, 0.0])), satisfied(loss=0.7)):
        assert judge([dead]).severity == "fault"


def test_an_output_layer_that_begins_at_0_is_no_fault() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(plain(4, 16, nn.ReLU), nn.Linear(16, 3))
    nn.init.zeros_(network[1].weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 16), torch.randint(3, (64,))
    before = judge([take_reading(network, nn.functional.cross_entropy, inputs, targets)])
    assert (before.problem, before.severity) == ("severed", "watch")
    assert "the weights of layer 5 (1) are exactly 0" in before.sentence
    nn.functional.cross_entropy(network(inputs), targets).backward()
    optimizer.step()
    after = judge([take_reading(network, nn.functional.cross_entropy, inputs, targets)])
    assert after.problem != "severed"


def test_a_signal_that_fades_below_the_smallest_float_has_vanished() -> None:
    faded = [0.0, 0.0, *(10.0 ** -np.arange(44.0, 0.0, -2.0))]
    verdict = judge([made_up(list(faded))])
    assert (verdict.problem, verdict.severity) == ("vanishing", "fault")
    assert "exactly 0" in verdict.sentence


def test_nothing_is_said_without_a_full_reading() -> None:
    assert judge([]) == UNDECIDED


def test_one_layer_has_nothing_to_compare_with() -> None:
    verdict = judge([made_up([1.0])])
    assert verdict.problem == ""
    assert "one weight layer" in verdict.sentence
    assert layer_problems(made_up([1.0])) == ("",)


@pytest.mark.parametrize(
    ("step", "growth", "problem"),
    [
        (0, 20.1, "exploding"),
        (1, 20.1, "exploding"),
        (2, 20.1, "healthy"),
        (2, 160.0, "exploding"),
    ],
)
def test_a_layer_explodes_by_the_measure_of_the_verdict(
    step: int, growth: float, problem: str
) -> None:
    reading = made_up([growth, 1.0, 1.0], step=step)
    assert layer_problems(reading) == (problem, "healthy", "healthy")


# -- trained --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_healthy_networks_stay_healthy_while_they_train(seed: int) -> None:
    torch.manual_seed(seed)
    network = plain(6, 64, nn.ReLU, sigma=math.sqrt(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    inputs, targets = torch.randn(256, 64), torch.randint(0, 64, (256,))
    readings: list[Reading] = []
    with GradientProbe(network, optimizer, full=True) as probe:
        probe.on_reading = readings.append
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
    for end in range(1, len(readings) + 1):
        assert judge(readings[:end]).problem == "healthy"


def test_an_exploding_network_keeps_its_verdict_when_it_is_played(make_flow: Any) -> None:
    def build() -> nn.Module:
        return nn.Sequential(plain(30, 64, nn.ReLU, sigma=2.0), nn.Linear(64, 3))

    inputs = torch.randn(64, 64)
    flow: GradientFlow = make_flow(
        build,
        lambda p: torch.optim.SGD(p, lr=1e-30),
        nn.CrossEntropyLoss(),
        (inputs, torch.randint(0, 3, (64,))),
    )
    assert "Exploding" in flow.status
    for _ in range(12):
        flow.step()
        assert "Exploding" in flow.status


def test_where_all_but_one_layer_are_frozen_there_is_nothing_to_compare() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    verdict = judge(
        [take_reading(model, nn.CrossEntropyLoss(), torch.randn(8, 4), torch.arange(8) % 2)]
    )
    assert verdict.problem == ""
    assert verdict.sentence.startswith("Only one weight layer learns, the others are frozen")


# -- what the signal passes by, and what chance does ----------------------------------------


class Branch(nn.Module):
    """x + proj(relu(fc(x))), where proj begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.proj(torch.relu(self.fc(x)))
        return out


class ReZero(nn.Module):
    """x + s·fc(x), where s begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(width, width), nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.scale * torch.tanh(self.fc(x))
        return out


def _rezero() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), *[ReZero(16) for _ in range(6)], nn.Linear(16, 3))


def test_branches_that_begin_closed_are_no_fault() -> None:
    torch.manual_seed(0)
    verdict = judge([reading_of(nn.Sequential(*[Branch(16) for _ in range(6)]), 0)])
    assert verdict.problem == "healthy"  # by the projections, which the signal does reach

    verdict = judge([reading_of(_rezero(), 0)])
    assert (verdict.problem, verdict.severity) == ("", "")
    assert "No signal comes to 6 of 8 weight layers" in verdict.sentence
    assert "layer 3 (1.fc)" in verdict.sentence


def test_branches_that_stay_closed_are_worth_a_look() -> None:
    reading = replace(reading_of(_rezero(), 0), step=2)
    assert (judge([reading]).problem, judge([reading]).severity) == ("severed", "watch")


def test_a_cut_above_all_layers_of_a_role_is_named() -> None:
    torch.manual_seed(0)
    body = [m for _ in range(4) for m in (nn.Linear(16, 16), nn.ReLU())]
    nn.init.constant_(body[-2].bias, -1000.0)
    network = nn.Sequential()
    network.add_module("body", nn.Sequential(*body))
    network.add_module("head", nn.Linear(16, 3))
    verdict = judge([reading_of(network, 0)])
    assert (verdict.problem, verdict.severity) == ("severed", "fault")
    assert "between layer 5 (head) and layer 4 (body.6)" in verdict.sentence


def test_the_path_is_that_of_the_number() -> None:
    def of(roles: dict[str, float]) -> Reading:
        names = [f"{i}.{role}" for i in range(6) for role in roles]
        reading = made_up([10.0 ** (roles[n[2:]] * (5 - int(n[0])) / 5) for n in names])
        described = tuple(
            replace(layer, name=name, role=f"Linear:{name[2:]}")
            for layer, name in zip(reading.described, names, strict=True)
        )
        return replace(reading, described=described)

    verdict = judge([of({"q": -4.0, "v": -2.0, "o": 0.0})])
    assert "falls by 2.0 decades from layer 17 (5.v) back to layer 2 (0.v)" in verdict.sentence
    assert "in the median of 3 kinds of layers" in verdict.sentence
    verdict = judge([of({"q": -4.0})])
    assert "kinds" not in verdict.sentence


def test_no_bar_says_vanishing_where_the_verdict_says_it_is_chance() -> None:
    by_chance = 0
    for seed in range(40):
        torch.manual_seed(seed)
        reading = reading_of(plain(24, 6, nn.ReLU, sigma=math.sqrt(2)), seed)
        if judge([reading]).problem == "healthy" and (reading.decades or 0) < -1.3:
            by_chance += 1
            assert "vanishing" not in layer_problems(reading)
    assert by_chance > 1


def test_a_layer_is_judged_by_what_chance_gives_over_its_own_distance() -> None:
    # Over 3 layers chance gives 2√(5·3/N)/ln 10 decades: 1.37 at N = 6, 0.67 at N = 25.
    signal = [1.0] * 16 + [10**-1.35, 1.0, 1.0, 1.0]
    assert layer_problems(made_up(signal, width=6))[16] == "healthy"
    assert layer_problems(made_up(signal, width=25))[16] == "vanishing"


def test_frozen_layers_hide_no_cut() -> None:
    reading = made_up([math.nan, math.nan, 0.0, 0.0, 1.0, 1.0])
    verdict = judge([reading])
    assert (verdict.problem, verdict.severity) == ("severed", "fault")
    assert "between layer 5 (4) and layer 4 (3)" in verdict.sentence
    verdict = judge([made_up([math.nan, 0.0, 0.0, 1.0])])
    assert "between layer 4 (3) and layer 3 (2)" in verdict.sentence


def test_a_layer_within_another_is_compared_with_nothing() -> None:
    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = nn.Parameter(torch.randn(1, 8))
            self.body = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(x + self.prompt)
            return out

    reading = take_reading(
        Prompted(), nn.CrossEntropyLoss(), torch.randn(9, 8), torch.randint(3, (9,))
    )
    assert judge([reading]).sentence == (
        "Only one weight layer can be compared: the others lie around it."
    )


def test_the_only_layer_that_learns_is_not_judged() -> None:
    reading = made_up([math.nan, math.nan, 1.0])
    assert judge([reading]).problem == ""
    assert layer_problems(reading) == ("", "", "")


@given(
    signal=st.lists(
        st.one_of(st.just(0.0), st.just(math.nan), st.floats(1e-6, 1e6)), min_size=1, max_size=8
    ),
    step=st.integers(0, 3),
)
def test_no_sentence_holds_an_infinity_or_a_nan(signal: list[float], step: int) -> None:
    verdict = judge([made_up(signal, step=step)])
    assert not any(word in verdict.sentence for word in ("inf", "nan"))


def convolutions_and_classifier(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """As AlexNet has them: neither part alone falls by as much as the whole."""
    channels = (1, 16, 16, 16, 16)
    modules: list[nn.Module] = []
    for before, after in pairwise(channels):
        modules += [nn.Conv2d(before, after, 3, padding=1), activation()]
    modules += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 64), activation()]
    return nn.Sequential(*modules, nn.Linear(64, 64), activation(), nn.Linear(64, 10))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_convolutions_and_their_classifier_lose_adds_up(seed: int) -> None:
    torch.manual_seed(seed)
    network = convolutions_and_classifier(nn.Tanh)
    reading = take_reading(
        network, nn.CrossEntropyLoss(), torch.randn(32, 1, 12, 12), torch.randint(10, (32,))
    )
    signal = reading.signal_grad_norm
    assert signal is not None
    own = [math.log10(signal[a] / signal[b]) for a, b in ((0, 3), (4, 6))]
    assert max(own) > -WATCH_DECADES > sum(own)
    verdict = judge([reading])
    assert verdict.problem == "vanishing"
    assert "back to layer 1 (0), over 2 stretches of like layers" in verdict.sentence
    assert "from layer 7 (14)" in verdict.sentence
    # The bars say as the verdict does.
    assert layer_problems(reading)[0] == "vanishing"
    assert layer_problems(reading)[6] == "healthy"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mean_over_many_places_is_no_vanishing(seed: int) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(200, 32), nn.Linear(32, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.embedding(tokens).mean(1))
            return out

    torch.manual_seed(seed)
    tokens, classes = torch.randint(200, (64, 400)), torch.randint(2, (64,))
    reading = take_reading(Bag(), nn.CrossEntropyLoss(), tokens, classes)
    assert reading.decades is not None
    assert reading.decades < -WATCH_DECADES
    assert judge([reading]).problem == "healthy"
    assert set(layer_problems(reading)) == {"healthy"}


# -- several ways, and what lies between the ends ---------------------------------------------


def in_ways(*decades: float, step: int = 0) -> Reading:
    """Chains of six layers side by side that lose or gain so many decades."""
    reading = made_up([v for d in decades for v in 10.0 ** np.linspace(d, 0.0, 6)], step=step)
    described = [
        replace(
            layer,
            name=f"way{i // 6}.{i % 6}",
            role="Linear:way#.#",
            follows=(f"way{i // 6}.{i % 6 - 1}",) if i % 6 else (),
        )
        for i, layer in enumerate(reading.described)
    ]
    return replace(reading, described=tuple(described))


def test_a_median_of_ways_is_not_said_of_one_of_them() -> None:
    verdict = judge([in_ways(-1.0, 0.9)])
    assert verdict.problem == "healthy"
    assert verdict.sentence.startswith(
        "Healthy: +0.9 decades from layer 12 (way1.5) back to layer 7 (way1.0), "
        "on the better of 2 ways through the network"
    )
    verdict = judge([in_ways(-1.0, -0.9, 1.0)])
    assert "−0.9 decades from layer 12 (way1.5) back to layer 7 (way1.0)" in verdict.sentence


@pytest.mark.parametrize(
    ("decades", "step", "problem", "words"),
    [
        ((-3.1, 2.8), 0, "vanishing", "Vanishing on 1 of 2 ways"),
        (
            (-3.1, 0.1, 0.2),
            0,
            "vanishing",
            "falls by 3.1 decades from layer 6 (way0.5) back to layer 1",
        ),
        ((0.1, 2.3), 0, "exploding", "Exploding on 1 of 2 ways"),
        ((0.1, 2.3), 9, "healthy", "Healthy"),  # as all that may pass in training
    ],
)
def test_a_sick_way_beside_healthy_ones_is_named(
    decades: tuple[float, ...], step: int, problem: str, words: str
) -> None:
    verdict = judge([in_ways(*decades, step=step)])
    assert verdict.problem == problem
    assert words in verdict.sentence


def test_a_network_whose_ends_alone_are_alike_is_told_of() -> None:
    hill = list(10.0 ** np.concatenate([np.linspace(0, 3, 10), np.linspace(3, 0, 10)]))
    verdict = judge([made_up(hill)])
    assert verdict.problem == "healthy"
    assert verdict.sentence.startswith("Healthy from end to end: 0.0 decades")
    assert "but 12 layers receive far more, such as layer 5 (4)" in verdict.sentence
    verdict = judge([made_up([1 / value for value in hill])])
    assert "but 12 layers receive far less, such as layer 5 (4)" in verdict.sentence


def test_the_place_of_a_fall_is_named_where_it_is_one() -> None:
    verdict = judge([made_up([0.0080, 0.0095, 0.0078, 1.4], width=512)])
    assert (
        "from layer 4 (3) back to layer 1 (0), 2.3 of them between layer 4 (3) and layer 3 (2)"
        in verdict.sentence
    )
    assert "of them" not in judge([decades_of(-3.0)]).sentence


@pytest.mark.parametrize("seed", range(4))
def test_members_side_by_side_are_given_to_chance_what_each_would_be_alone(seed: int) -> None:
    torch.manual_seed(seed)
    chains = [plain(30, 8, nn.ReLU, sigma=math.sqrt(2)) for _ in range(3)]
    alone = {judge([reading_of(chain, seed)]).problem for chain in chains}
    together = judge([reading_of(SideBySide(*chains), seed)])
    assert "vanishing" in alone or together.problem == "healthy"


class SideBySide(nn.Module):
    def __init__(self, *chains: nn.Module) -> None:
        super().__init__()
        self.chains = nn.ModuleList(chains)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([chain(x) for chain in self.chains]).mean(0)


@pytest.mark.parametrize("dead", range(3))
def test_a_dead_tower_is_told_of_alike_wherever_it_stands(dead: int) -> None:
    torch.manual_seed(0)
    towers = [plain(4, 32, nn.ReLU, sigma=math.sqrt(2)) for _ in range(3)]
    nn.init.constant_(towers[dead][4].bias, -1000.0)
    network = nn.Sequential(SideBySide(*towers), nn.Linear(32, 4))
    reading = replace(reading_of(network, 0), step=9)
    verdict = judge([reading])
    assert (verdict.problem, verdict.severity) == ("severed", "watch")
    first = 4 * dead
    such = f"No signal comes to 4 of 13 weight layers, such as layer {first + 1} "
    assert verdict.sentence.startswith(such)
    assert layer_problems(reading)[first : first + 4] == ("severed",) * 4


class Tasks(nn.Module):
    """A trunk of three layers and three heads of three, called in some order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        relu, he = nn.ReLU, math.sqrt(2)
        self.trunk = plain(3, 32, relu, sigma=he)
        self.a, self.b, self.c = (plain(3, 32, relu, sigma=he) for _ in range(3))
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.trunk(x)
        return torch.cat([getattr(self, one)(hidden) for one in self.order], dim=1)


@pytest.mark.parametrize("order", ["abc", "cba"])
def test_the_order_of_heads_changes_no_verdict(order: str) -> None:
    tasks = Tasks(order)
    reading = reading_of(tasks, 0)
    assert {path.length for path in reading.paths} == {6}
    assert judge([reading]).problem == "healthy"
    tasks.a[2].weight.data.mul_(1e-5)
    one_head = judge([reading_of(tasks, 0)])
    assert one_head.problem == "healthy"  # the others feed the trunk
    assert " receives far less" in one_head.sentence
    tasks = Tasks(order)
    tasks.trunk[2].weight.data.mul_(1e-4)
    assert judge([reading_of(tasks, 0)]).severity == "fault"


def signal_of(reading: Reading) -> Any:
    assert reading.signal_grad_norm is not None
    return reading.signal_grad_norm


# -- cut off -------------------------------------------------------------------------------


def test_layers_behind_detach_are_told_of() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = plain(4, 32, nn.Tanh, sigma=1.0)
            self.decoder: nn.Module = plain(4, 32, nn.Tanh, sigma=1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.decoder(self.encoder(x).detach())
            return out

    torch.manual_seed(0)
    cut = Cut()
    verdict = judge([reading_of(cut, 0)])
    assert (verdict.problem, verdict.severity) == ("severed", "watch")
    assert verdict.sentence.startswith(
        "No gradient comes to 4 of 8 weight layers, such as layer 1 (encoder.0)"
    )
    assert "Elsewhere: " in verdict.sentence
    for parameter in cut.encoder.parameters():
        parameter.requires_grad_(False)
    assert judge([reading_of(cut, 0)]).problem == "healthy"
    cut.encoder.requires_grad_(True)
    towers = [plain(4, 32, nn.ReLU, sigma=math.sqrt(2)) for _ in range(2)]
    nn.init.constant_(towers[1][4].bias, -1000.0)
    cut.decoder = SideBySide(*towers)
    both = judge([replace(reading_of(cut, 0), step=9)])
    assert "No gradient comes to 4 of 12 weight layers" in both.sentence
    assert "No signal comes to 4 of 12 weight layers" in both.sentence


def test_layers_that_get_nothing_between_healthy_ends_are_told_of() -> None:
    torch.manual_seed(0)
    network = Residual(10, 64, 0.1)
    nn.init.constant_(network.blocks[4].bias, -1000.0)
    reading = reading_of(network, 0)
    start = judge([reading])
    assert start.problem == "healthy"  # a branch may begin closed
    assert "No signal comes to 1 of 10 weight layers, such as layer 5 (blocks.4)" in start.sentence
    assert layer_problems(reading).count("severed") == 1
    later = [replace(reading, step=step) for step in range(2, 8)]
    assert judge(later).problem == "severed"
    # One that another batch reaches is no matter.
    well = replace(reading, signal_grad_norm=np.maximum(signal_of(reading), 1e-3), step=5)
    assert judge([*later[:3], well, *later[4:]]).problem == "healthy"


def test_where_the_last_layer_gets_nothing_the_others_do_not_explode() -> None:
    reading = made_up([1.0, 1.1, 1.0, 0.0])
    assert layer_problems(reading) == ("healthy", "healthy", "healthy", "severed")


def test_a_satisfied_loss_is_known_with_a_layer_that_is_not_used() -> None:
    rms = np.array([1.0, 1.0, 1.0, math.nan])
    assert judge([satisfied(activation_rms=rms)]).problem == ""
    # Probabilities that are 1 to the last digit leave a loss that is next to nothing.
    before = replace(made_up([1.0] * 4, step=3), activation_rms=rms)
    verdict = judge([before, satisfied(activation_rms=rms, loss=1e-9, step=4)])
    assert verdict.sentence.startswith("The loss is 1.0e-09, and every gradient is exactly 0")
    assert judge([before, satisfied(activation_rms=rms, loss=0.1, step=4)]).severity == "fault"


def test_what_an_explosion_leaves_dead_is_not_satisfied() -> None:
    rms = np.ones(4)
    run = [
        replace(made_up([1.0] * 4, step=step), loss=loss, activation_rms=rms)
        for step, loss in enumerate((0.4, 3.0, 7072.0), start=2)
    ]
    assert judge([*run, satisfied(loss=0.33, step=5)]).severity == "fault"


def test_heads_that_learn_in_turns_are_not_cut_off() -> None:
    def seen(step: int, *without: int) -> Reading:
        one = made_up([1.0] * 5, step=step)
        missing = np.isin(np.arange(5), without)
        signal = np.where(missing, math.nan, 1.0)
        ran = np.ones(5)
        return replace(one, missing=missing, signal_grad_norm=signal, activation_rms=ran)

    turns = [seen(step, 3 + step % 2) for step in range(2, 12)]
    assert judge(turns).problem == "healthy"
    assert judge([seen(step, 4) for step in range(2, 12)]).problem == "severed"


def test_decades_and_slope_of_a_sentence_are_of_one_way() -> None:
    reading = in_ways(-2.9, -3.4)
    fast = reading.described[:3] + reading.described[6:]  # a way of three layers beside one of six
    signal = np.concatenate([10.0 ** np.linspace(-2.9, 0, 3), signal_of(reading)[6:]])
    nothing = np.zeros(9)
    shorter = replace(
        reading,
        described=fast,
        signal_grad_norm=signal,
        weight_grad_norm=nothing,
        unclipped_grad_norm=nothing,
        missing=nothing.astype(bool),
        frozen=nothing.astype(bool),
    )
    assert shorter.decades == pytest.approx(-2.9)
    assert shorter.slope == pytest.approx(-2.9 * math.log(10) / 2)


# -- between stretches of like layers -----------------------------------------------------


def convolutional(*, scale: float = 1.0, place: int = 0) -> nn.Sequential:
    """Eight convolutions and three linear layers, the weights of one of which are scaled."""
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for _ in range(8):
        modules += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    modules.append(nn.Flatten())
    for inputs in (8 * 64, 32, 32):
        modules += [nn.Linear(inputs, 32), nn.ReLU()]
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    linear[place].weight.data.mul_(scale)
    return nn.Sequential(*modules[:-1])


def looked_at_images(network: nn.Module) -> Reading:
    torch.manual_seed(1)
    images, target = torch.randn(32, 8, 8, 8), torch.randn(32, 32)
    return take_reading(network, lambda out, t: (out * t).sum(dim=1).mean(), images, target)


@pytest.mark.parametrize("place", range(3))
def test_a_great_fall_is_seen_wherever_it_is(place: int) -> None:
    assert judge([looked_at_images(convolutional())]).problem == "healthy"
    verdict = judge([looked_at_images(convolutional(scale=1e-4, place=place))])
    assert verdict.problem == "vanishing"
    between = "of them between layer 9 (17) and layer 8 (14), beyond what pooling may take"
    assert (between in verdict.sentence) == (place == 0)


def test_a_small_branch_is_no_fall_of_what_comes_past_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(plain(2, 32, nn.ReLU, sigma=1.4) for _ in range(4))
            self.out = nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + 1e-4 * block(x)
            out: torch.Tensor = self.out(x)
            return out

    verdict = judge([reading_of(Scaled(), 0)])
    assert verdict.problem == "healthy"
    assert "beyond" not in verdict.sentence


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.6])
def test_a_wrapper_changes_no_verdict(scale: float) -> None:
    network = convolutional()
    for parameter in network.parameters():
        parameter.data.mul_(scale)
    reading = looked_at_images(network)
    wrapped = looked_at_images(nn.Sequential(nn.Identity(), network))
    assert layer_problems(reading) == layer_problems(wrapped)
    assert judge([reading]).severity == judge([wrapped]).severity
    assert reading.decades == pytest.approx(wrapped.decades, rel=1e-6)


# -- by chance, and to and fro --------------------------------------------------------------


def test_one_great_fall_near_an_end_of_a_narrow_network_is_not_put_down_to_chance() -> None:
    fall = made_up([10**-6.4] * 2 + list(10.0 ** np.linspace(-2.5, -1.9, 28)), width=16)
    verdict = judge([fall])
    assert (verdict.problem, verdict.severity) == ("vanishing", "fault")
    assert layer_problems(fall) == ("vanishing",) * 2 + ("healthy",) * 28


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([-1.45, -1.35], "vanishing"),
        ([-5.0, -1.2], "healthy"),  # of two that take turns the one that changes less
        ([-1.2, -1.2, -1.2, -2.0], "healthy"),
        ([-1.5, -1.5, -1.5, -1.1], "vanishing"),
        ([-0.7] * 7 + [-4.0], "healthy"),
        ([-2.0] * 7 + [0.0], "vanishing"),
        ([0.5] * 7 + [4.0], "healthy"),
        ([2.3, 1.9], "healthy"),
    ],
)
def test_a_verdict_does_not_change_to_and_fro_with_the_batches(
    values: list[float], problem: str
) -> None:
    run = [decades_of(values[step % len(values)], step=step) for step in range(2, 42)]
    told = {judge(run[max(0, end - 10) : end]).problem for end in range(6, len(run) + 1)}
    assert told == {problem}


@pytest.mark.parametrize("first", [0, 1, 2])
def test_two_batches_that_take_turns_give_one_verdict(first: int) -> None:
    # Of the first weights there is a look before the first step, or none, or nobody looked yet.
    grid = [-5.0, -2.3, -2.0, -1.4, -0.7, -0.3, 0.0, 1.5, 1.9, 2.3, 3.0]
    for one, other in product(grid, grid):
        run = [decades_of((one, other)[max(step, 1) % 2], step=step) for step in range(first, 32)]
        verdicts = [judge(run[max(0, end - 10) : end]) for end in range(1, len(run) + 1)]
        told = [(verdict.problem, verdict.severity) for verdict in verdicts]
        assert sum(before != after for before, after in pairwise(told)) <= 1, (one, other)


def test_what_lasts_is_told_within_six_steps() -> None:
    for before, after, problem in ((-0.2, -2.5, "vanishing"), (-2.5, -0.2, "healthy")):
        run = [decades_of(before, step=step) for step in range(2, 12)]
        told = []
        for step in range(12, 18):
            run = [*run[-9:], decades_of(after, step=step)]
            told.append(judge(run).problem)
        assert told[-1] == problem
        assert sum(one != other for one, other in pairwise(told)) == 1


@given(
    values=st.lists(st.floats(-4, 4), min_size=1, max_size=12),
    first=st.sampled_from([0, 1, 5]),
)
def test_the_sentence_has_numbers_of_its_verdict_and_of_a_real_reading(
    values: list[float], first: int
) -> None:
    run = [decades_of(value, step=step) for step, value in enumerate(values, start=first)]
    verdict = judge(run[-10:])
    found = re.search(r"([+−]?)(\d+\.\d) decades", verdict.sentence)
    assert found is not None
    told = float(found[2])
    assert any(told == pytest.approx(abs(value), abs=0.0501) for value in values)
    if verdict.problem == "healthy":
        assert told <= (1.3 if found[1] == "−" or run[-1].step <= 1 else 2.2)
    elif verdict.problem == "":
        assert told >= 2.2
    else:
        assert (told >= 2.2) if verdict.severity == "fault" else (1.3 <= told <= 2.2)


@pytest.mark.parametrize("bad", [(-0.9, -3.0), (-0.9, 3.0), (-3.0, -0.9)])
def test_ways_do_not_fall_ill_to_and_fro_with_the_batches(bad: tuple[float, float]) -> None:
    for every in (2, 3, 8):
        run = [
            in_ways(*((-0.9, -0.8) if step % every else bad), step=step) for step in range(2, 42)
        ]
        told = {judge(run[max(0, end - 10) : end]).problem for end in range(6, len(run) + 1)}
        assert told == {"healthy"}
    lasting = [in_ways(-0.9, -3.0 + step / 100, step=step) for step in range(2, 12)]
    verdict = judge([*lasting[:-1], in_ways(-0.9, -0.8, step=12)])
    assert verdict.sentence.startswith("Vanishing on 1 of 2 ways")
    assert "falls by 2.9 decades" in verdict.sentence


def test_a_way_that_has_ended_is_not_told_of_by_what_it_was() -> None:
    was = [in_ways(-0.9, -3.0, step=step) for step in range(2, 8)]
    assert "Vanishing on 1 of 2 ways" in judge(was).sentence
    for silent in (6, 3):  # all of its layers, or the first of them
        signal = np.where((np.arange(12) < 6) | (np.arange(12) >= 6 + silent), 1.0, 0.0)
        dead = replace(was[0], signal_grad_norm=signal, step=9)
        assert "Vanishing on" not in judge([*was, *[dead] * 6]).sentence


def test_of_other_layers_nothing_is_taken() -> None:
    others = [decades_of(-3.0, width=99, step=step) for step in range(2, 12)]
    assert judge([*others, decades_of(-0.5, step=12)]).problem == "healthy"


@pytest.mark.parametrize(
    ("decades", "expected"),
    [
        ([-3.0], 0),
        ([-3.0, 1.0], 1),
        ([0.0, -3.0, -1.0], 2),  # the first is left out
        ([-1.0, -2.0, -1.0, -1.0, -1.0, 4.0], 4),  # of equal ones the latest
        ([-math.inf, -1.0, -math.inf, -1.0], 3),
        ([2.0, -2.0, 2.0, -2.0], 3),
    ],
)
def test_the_typical_one_is_in_the_middle(decades: list[float], expected: int) -> None:
    assert typical([(value, place) for place, value in enumerate(decades)])[1] == expected


# -- what has passed -----------------------------------------------------------------------


def test_after_a_loss_that_was_not_finite_once_the_present_is_judged() -> None:
    once = NonFinite(14, "", "loss")
    verdict = judge([decades_of(-3.0, step=15)], once)
    assert verdict.problem == "vanishing"
    assert verdict.sentence.endswith(" But the loss was not finite at step 14.")
    for reading in (decades_of(-3.0, step=14), replace(decades_of(1.0, step=20), loss=math.nan)):
        assert judge([reading], once).problem == "non-finite"

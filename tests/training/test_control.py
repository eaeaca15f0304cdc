"""Play, pause, step, steps, wait, reset, close: what they promise, also from many threads."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from functools import partial
from typing import Any

import ipywidgets.widgets.widget as ipywidgets_registry
import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientFlow, Reading
from gradflow_widget.measurement.delivery import Delivery
from tests.waiting import PATIENCE, join, started, wait_for

from .parts import (
    CROSS_ENTROPY,
    losses_of,
    plain_network,
    same_bits,
    samples,
    small_network,
)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.fixture
def flow(make_flow: Any) -> Any:
    return make_flow(plain_network, sgd, CROSS_ENTROPY, samples())


def test_step_returns_when_the_steps_are_done_and_everything_is_up_to_date(flow: Any) -> None:
    for done in (1, 2, 5, 20):
        flow.step(done - flow.step_number)
        assert flow.step_number == done == len(flow.history)
        assert flow.loss == flow.history.loss[-1]
        assert not flow.playing
        assert f"step {done} " in flow.status
        assert "paused" in flow.status


def test_play_goes_on_until_pause_and_wait_waits_for_the_step_under_way(flow: Any) -> None:
    flow.play()
    assert flow.playing
    assert flow.wait(7)
    assert flow.step_number >= 7
    flow.pause()
    assert not flow.playing
    assert flow.wait()
    at_rest = flow.step_number
    weight = flow.model[0].weight.detach().clone()
    flow.play()
    flow.pause()
    flow.wait()
    assert flow.step_number - at_rest <= 1
    assert torch.equal(flow.model[0].weight, weight) == (flow.step_number == at_rest)


class Held(nn.Module):
    """Stands in the middle of its forward until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.entered, self.released = threading.Event(), threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        assert self.released.wait(PATIENCE)
        return self.linear(x)


@pytest.fixture
def held(make_flow: Any) -> Any:
    model = Held()
    model.released.set()  # for the look before any step
    flow = make_flow(model, sgd(model.parameters()), CROSS_ENTROPY, samples())
    model.released.clear()
    model.entered.clear()
    yield flow
    model.released.set()


@pytest.mark.parametrize("how", ["pause()", "the trait"])
def test_pause_returns_when_the_step_under_way_is_done(held: Any, how: str) -> None:
    held.play()
    assert held.model.entered.wait(PATIENCE)
    pausing = started(held.pause if how == "pause()" else lambda: held.set_trait("playing", False))
    wait_for(lambda: not held.playing)
    pausing.join(0.1)
    assert pausing.is_alive()
    assert held.step_number == 0
    held.model.released.set()
    join(pausing)
    assert held.step_number == 1
    assert held.model.linear.weight.grad is not None


def test_the_page_s_button_pauses_without_waiting_for_the_step(held: Any) -> None:
    held.play()
    assert held.model.entered.wait(PATIENCE)
    held._press("toggle")
    assert not held.playing
    assert held.step_number == 0


def test_a_pause_does_not_wait_for_ever_for_a_step(
    held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.training.session.PATIENCE", 0.05)
    held.play()
    assert held.model.entered.wait(PATIENCE)
    held.pause()
    assert held.step_number == 0


def test_a_pause_within_a_step_does_not_wait_for_it(
    flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.training.session.PATIENCE", 10 * PATIENCE)
    flow.observe(lambda change: flow.pause() if change["new"] == 3 else None, "step_number")
    flow.model.register_forward_hook(lambda *_: flow.pause() if flow.step_number == 5 else None)
    flow.play()
    assert flow.wait(timeout=PATIENCE)
    assert flow.step_number == 3
    flow.play()
    assert flow.wait(timeout=PATIENCE)
    assert flow.step_number == 6


def test_reset_calls_off_the_steps_that_were_asked_for(held: Any) -> None:
    for _ in range(5):
        held._press("step")
    assert held.model.entered.wait(PATIENCE)
    resetting = started(held.reset)
    held.model.released.set()
    join(resetting)
    assert held.wait(timeout=PATIENCE)
    assert held.step_number == 0
    held.step(2)
    assert held.step_number == 2


def test_a_step_that_a_reset_has_called_off_returns(held: Any) -> None:
    stepping = started(lambda: held.step(1000))
    assert held.model.entered.wait(PATIENCE)
    resetting = started(held.reset)
    held.model.released.set()
    join(resetting, stepping)
    assert held.step_number == 0


def test_playing_can_be_set_as_a_trait(flow: Any) -> None:
    flow.playing = True
    flow.wait(3)
    flow.playing = False
    flow.wait()
    assert flow.step_number >= 3


def test_step_while_playing_pauses_after_it(flow: Any) -> None:
    flow.play()
    flow.wait(2)
    flow.step(1)
    assert not flow.playing
    done = flow.step_number
    assert flow.wait()
    assert flow.step_number == done


def test_wait_says_whether_time_ran_out(flow: Any) -> None:
    flow.play()
    assert flow.wait(timeout=0.01) is False
    assert flow.playing
    flow.pause()
    assert flow.wait(timeout=PATIENCE) is True


def test_waiting_for_steps_that_will_never_come_is_an_error(flow: Any) -> None:
    with pytest.raises(RuntimeError, match="call play"):
        flow.wait(3)
    assert flow.wait() is True


def test_steps_trains_in_the_calling_thread_and_yields_each_reading(flow: Any) -> None:
    threads = set()
    flow.model.register_forward_hook(lambda *_: threads.add(threading.current_thread()))
    readings = []
    for number, reading in enumerate(flow.steps(5), 1):
        readings.append(reading)
        assert isinstance(reading, Reading)
        assert reading.step == flow.step_number == number
    assert threads == {threading.current_thread()}
    assert same_bits([r.loss for r in readings], flow.history.loss)
    assert "step 5 " in flow.status


def test_steps_can_be_left_early_and_taken_up_again(flow: Any) -> None:
    for reading in flow.steps(10):
        if reading.step == 3:
            break
    assert flow.step_number == 3
    flow.step(2)
    assert [reading.step for reading in flow.steps(2)] == [6, 7]


def test_every_reading_says_which_settings_it_used(flow: Any) -> None:
    readings = []
    for reading in flow.steps(6):
        readings.append(reading)
        if reading.step == 2:
            flow.learning_rate = 0.2
        if reading.step == 4:
            flow.batch_size = 8
            flow.clip_norm = 0.5
    used = [reading.settings for reading in readings]
    assert [s.learning_rate for s in used] == [None, None, 0.2, 0.2, 0.2, 0.2]
    assert [s.batch_size for s in used] == [64, 64, 64, 64, 8, 8]
    assert [s.clip_norm for s in used] == [None] * 4 + [0.5] * 2
    assert [reading.learning_rate for reading in readings] == [0.05, 0.05, 0.2, 0.2, 0.2, 0.2]
    with pytest.raises(AttributeError):
        used[0].learning_rate = 1.0


def test_settings_are_read_once_a_step(make_flow: Any) -> None:
    """A knob turned in the middle of a step, before the optimizer acts, waits for the next."""
    flow: Any = None

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        if flow is not None and flow.step_number == 2:
            flow.learning_rate, flow.clip_value, flow.batch_size = 0.7, 1e-3, 5
        sizes.append(len(batch[0]))
        return CROSS_ENTROPY(model(batch[0]), batch[1])

    sizes: list[int] = []
    flow = make_flow(plain_network, sgd, data=samples(), objective=objective)
    readings = list(flow.steps(4))
    assert [r.learning_rate for r in readings] == [0.05, 0.05, 0.05, 0.7]
    assert [r.clip_scale < 1 for r in readings] == [False, False, False, True]
    assert sizes[1:] == [64, 64, 64, 5]
    assert [r.settings.batch_size for r in readings] == [64, 64, 64, 5]


def test_a_batch_may_run_over_the_end_of_an_epoch_and_every_sample_comes_once_an_epoch(
    make_flow: Any,
) -> None:
    seen: list[int] = []

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.extend(batch[1].tolist())
        return model(batch[0]).square().mean()

    inputs = torch.randn(10, 6)
    flow = make_flow(plain_network, sgd, data=(inputs, torch.arange(10)), objective=objective)
    seen.clear()
    for size in (3, 4, 9, 1, 3):
        flow.batch_size = size
        flow.step()
    assert len(seen) == 20
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


# -- closing -------------------------------------------------------------------------


def hooks_of(*modules: Any) -> list[int]:
    found = []
    for module in modules:
        for one in module.modules() if isinstance(module, nn.Module) else [module]:
            names = [name for name in vars(one) if "hook" in name]
            found += [
                len(getattr(one, name)) for name in names if hasattr(vars(one)[name], "items")
            ]
    return found


@pytest.mark.parametrize("when", ["at rest", "playing", "stepped here"])
def test_close_leaves_no_thread_hook_or_widget(when: str, nothing_is_left: None) -> None:
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = hooks_of(model, optimizer)
    flow = GradientFlow(model, optimizer, CROSS_ENTROPY, samples())
    if when == "playing":
        flow.play()
        flow.wait(3)
    elif when == "stepped here":
        losses_of(flow, 3)
    steps = flow.step_number
    flow.close()
    assert hooks_of(model, optimizer) == before
    assert flow.comm is None
    flow.close()
    assert len(flow.history) >= steps
    assert flow.model is model


def test_cold_turns_leave_nothing_of_the_old_networks(nothing_is_left: None) -> None:
    flow = GradientFlow.playground(depth=3)
    old = weakref.ref(flow.model)
    threads = threading.active_count()
    widgets = len(ipywidgets_registry._instances)
    for depth in (2, 5, 3):
        flow.depth = depth
        flow.step(2)
    gc.collect()
    assert old() is None
    assert threading.active_count() <= threads + 1
    assert len(ipywidgets_registry._instances) == widgets
    flow.close()


def test_use_after_close_is_a_clear_error(flow: Any) -> None:
    flow.step(2)
    flow.close()
    for use in (
        flow.play,
        flow.step,
        lambda: flow.steps(1),
        lambda: flow.run(lambda: None),
        flow.reset,
        lambda: flow.wait(1),
        lambda: setattr(flow, "learning_rate", 0.5),
        lambda: setattr(flow, "playing", True),
    ):
        with pytest.raises(RuntimeError, match=r"closed: make a new one\.$"):
            use()
    assert not flow.playing
    assert flow.learning_rate == 0.05
    assert len(flow.history) == 2
    assert flow.wait() is True


def test_an_iterable_s_iterator_is_let_go_at_close(make_flow: Any) -> None:
    alive = []

    class Batches:
        def __iter__(self) -> Any:
            alive.append(True)
            try:
                while True:
                    yield samples(8)
            finally:
                alive.pop()

    flow = make_flow(plain_network, sgd, CROSS_ENTROPY, Batches())
    flow.step(2)
    assert alive
    flow.close()
    gc.collect()
    assert not alive


def test_a_script_that_ends_while_training_ends_quietly() -> None:
    script = """
import torch
from gradflow_widget import GradientFlow
torch.set_num_threads(1)
flow = GradientFlow.playground(depth=4)
flow.play()
flow.wait(5)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# -- whoever looks on may act ----------------------------------------------------------


def test_an_observer_may_pause_reset_or_close_at_a_step(nothing_is_left: None) -> None:
    flow = GradientFlow(plain_network, sgd, CROSS_ENTROPY, samples())
    acts = {3: flow.pause, 6: flow.reset}
    seen = []

    def act(change: Any) -> None:
        seen.append(change["new"])
        acts.pop(change["new"], lambda: None)()

    flow.observe(act, "step_number")
    flow.play()
    flow.wait()
    assert flow.step_number == 3
    flow.play()
    wait_for(lambda: 0 in seen[3:] and flow.step_number > 3)
    acts[flow.step_number + 50] = flow.close
    wait_for(lambda: flow.comm is None)
    wait_for(lambda: not any(t.name == "gradflow-training" for t in threading.enumerate()))


def test_an_observer_on_the_training_thread_that_waits_for_it_is_told(flow: Any) -> None:
    flow.observe(lambda _: flow.wait(), "step_number")
    with pytest.raises(RuntimeError, match="training thread"):
        flow.step()
    flow.unobserve_all("step_number")
    flow.step()


def test_an_observer_of_the_status_may_do_anything(flow: Any) -> None:
    flow.observe(lambda _: (flow.pause(), flow.history, flow.status), "status")
    flow.step(3)
    flow.reset()
    assert flow.step_number == 0


def test_what_an_observer_draws_does_not_change_the_run(make_flow: Any) -> None:
    flow = make_flow(small_network, sgd, CROSS_ENTROPY, samples())
    first = losses_of(flow, 5)
    flow.reset()
    flow.observe(lambda _: torch.rand(3), "step_number")
    assert same_bits(losses_of(flow, 5), first)


def test_readings_that_come_late_from_a_device_are_told_when_training_rests(
    flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = Delivery._deliver

    def late(delivery: Delivery, *, wait: bool) -> None:
        if flow._training._bench._own_step_on is None:  # nothing arrives within the step itself
            deliver(delivery, wait=wait)

    monkeypatch.setattr(Delivery, "_deliver", late)
    flow._press("step")  # nobody waits for it
    wait_for(lambda: flow.step_number == 1 and "step 1 " in flow.status)
    assert [reading.step for reading in flow.steps(3)] == [2, 3, 4]
    flow.step(2)
    assert flow.step_number == 6


def test_two_widgets_may_watch_one_model_by_two_optimizers(nothing_is_left: None) -> None:
    model = plain_network()
    head, body = sgd(model[4].parameters()), sgd(model[:4].parameters())
    before = hooks_of(model, head, body)
    flows = [GradientFlow(model, one, CROSS_ENTROPY, samples()) for one in (head, body)]
    for flow in flows:
        flow.step(2)
        assert flow.step_number == 2
    flows[0].close()
    flows[1].step()
    flows[1].reset()
    flows[1].close()
    assert hooks_of(model, head, body) == before


def test_switching_playing_from_many_threads_leaves_trait_and_session_agreed(flow: Any) -> None:
    flow.speed = "max"

    def switching(seed: int) -> Any:
        draw = random.Random(seed)

        def body() -> None:
            for _ in range(150):
                flow.playing = draw.random() < 0.5

        return body

    in_threads(*[switching(seed) for seed in range(4)])
    wait_for(lambda: flow.playing == flow._training.playing)
    assert flow._controls.play_button.description == ("Pause" if flow.playing else "Play")
    flow.playing = False
    flow.wait()
    assert not flow.playing


# -- many threads ----------------------------------------------------------------------


def in_threads(*bodies: Any) -> None:
    failures: list[BaseException] = []

    def guarded(body: Any) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    join(*[started(partial(guarded, body)) for body in bodies])
    if failures:
        raise failures[0]


def test_steps_asked_for_by_many_threads_are_all_done_and_none_twice(flow: Any) -> None:
    counts = []
    flow.model.register_forward_hook(lambda *_: counts.append(1))

    def stepper(seed: int) -> Any:
        draw = random.Random(seed)
        wanted = [draw.randint(1, 4) for _ in range(12)]
        totals.append(sum(wanted))

        def body() -> None:
            for n in wanted:
                before = flow.step_number
                flow.step(n)
                assert flow.step_number >= before + n

        return body

    totals: list[int] = []
    in_threads(*[stepper(seed) for seed in range(4)])
    assert flow.step_number == len(flow.history) == sum(totals) == len(counts)
    assert same_bits(flow.history.step, np.arange(1.0, sum(totals) + 1))


def test_the_calling_thread_and_the_session_s_share_the_steps(flow: Any) -> None:
    def here() -> None:
        steps = [reading.step for reading in flow.steps(30)]
        assert len(set(steps)) == 30

    in_threads(here, lambda: [flow.step(2) for _ in range(10)])
    assert same_bits(flow.history.step, np.arange(1.0, 51.0))


@pytest.mark.parametrize("seed", range(6))
def test_anything_from_any_thread_neither_hangs_nor_loses_a_step(
    seed: int, nothing_is_left: None
) -> None:
    flow = GradientFlow.playground(depth=2, seed=seed)
    flow.speed = "max"
    until = time.monotonic() + 1.0

    def anything(number: int) -> Any:
        draw = random.Random(100 * seed + number)
        acts: list[Any] = [
            flow.play,
            flow.pause,
            flow.step,
            lambda: flow.step(3),
            flow.reset,
            lambda: flow.reset(draw.randint(0, 5)),
            lambda: setattr(flow, "learning_rate", draw.choice([0.01, 0.1, 0.3])),
            lambda: setattr(flow, "clip_norm", draw.choice([None, 0.5, 1.0])),
            lambda: setattr(flow, "clip_value", draw.choice([None, 0.01])),
            lambda: setattr(flow, "batch_size", draw.choice([8, 64])),
            lambda: setattr(flow, "depth", draw.choice([1, 2, 3])),
            lambda: setattr(flow, "playing", draw.random() < 0.5),
            lambda: flow.wait(timeout=0.02),
            lambda: list(flow.steps(2)),
            lambda: flow._press("toggle"),
            lambda: flow._press("step"),
            lambda: flow.status,
        ]

        def body() -> None:
            while time.monotonic() < until:
                draw.choice(acts)()

        return body

    in_threads(*[anything(number) for number in range(4)])
    flow.pause()
    assert flow.wait(timeout=PATIENCE)
    assert not flow.playing
    assert flow.step_number == len(flow.history)
    assert same_bits(flow.history.step, np.arange(1.0, flow.step_number + 1))
    assert (flow.clip_norm, flow.clip_value).count(None) >= 1
    # And the run is still the one that its seed stands for.
    settings = flow._training.settings
    flow.reset()
    mine = losses_of(flow, 3)
    flow.close()
    again = GradientFlow.playground(depth=settings.depth, seed=settings.seed)
    for name in ("learning_rate", "clip_norm", "clip_value", "batch_size"):
        value = getattr(settings, name)
        if value is not None:
            setattr(again, name, value)
    assert same_bits(losses_of(again, 3), mine)
    again.close()


def test_closing_while_others_wait_lets_them_go(nothing_is_left: None) -> None:
    flow = GradientFlow(plain_network, sgd, CROSS_ENTROPY, samples())
    outcomes: list[str] = []

    def stepping() -> None:
        try:
            while True:
                flow.step(1000)
        except RuntimeError as error:
            outcomes.append(str(error))

    threads = [started(stepping) for _ in range(3)]
    wait_for(lambda: flow.step_number > 20)
    flow.close()
    join(*threads)
    assert [text.endswith("closed: make a new one.") for text in outcomes] == [True] * 3


def test_nothing_grows_with_the_steps_but_the_history(flow: Any) -> None:
    flow.speed = "max"
    tracemalloc.start()
    flow.step(600)  # buffers and caches are full, and the history has been moved once

    def held() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0] - flow.history.nbytes

    objects, memory = held()
    flow.step(1200)
    more_objects, more_memory = held()
    tracemalloc.stop()
    assert more_objects - objects < 300
    assert more_memory - memory < 100_000


def test_close_does_not_wait_for_data_that_do_not_come(
    monkeypatch: pytest.MonkeyPatch, make_flow: Any
) -> None:
    monkeypatch.setattr("gradflow_widget.training.session.PATIENCE", 0.1)
    waiting, come = threading.Event(), threading.Event()

    class Slow(torch.utils.data.Dataset[Any]):
        patient = False

        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> Any:
            if self.patient:
                waiting.set()
                come.wait(PATIENCE)
            return torch.zeros(6), 0

    data = Slow()
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = make_flow(model, optimizer, CROSS_ENTROPY, data)
    flow.batch_size = 4
    data.patient = True
    flow.play()
    assert waiting.wait(PATIENCE)
    flow.close()
    # The step is still under way, and its hooks are on.
    assert optimizer._optimizer_step_post_hooks
    come.set()
    wait_for(lambda: not optimizer._optimizer_step_post_hooks)
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_hooks for module in model.modules())

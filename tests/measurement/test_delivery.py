"""Readings that are still on their way from a device, played here with a slow transfer."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradflow_widget import GradientProbe
from gradflow_widget.measurement import blocks, delivery, history, loss_watch
from gradflow_widget.measurement import step as step_module
from gradflow_widget.measurement.gradients import Gradients
from gradflow_widget.measurement.history import LAYER_COLUMNS, STEP_COLUMNS, History
from gradflow_widget.measurement.norms import NormPlan, Norms
from gradflow_widget.measurement.step import Step, Watched
from gradflow_widget.measurement.transfer import Transfer

from .networks import batch, small


class SlowTransfer(Transfer):
    """Arrives only when it is waited for, or when the device is said to have caught up."""

    caught_up = False

    @property
    def arrived(self) -> bool:
        return self.caught_up


class Elsewhere(torch.Tensor):
    """A tensor whose value is not at hand."""

    is_cpu = False


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_loss_whose_value_comes_later_is_told(micro_batches, monkeypatch):
    root_of = loss_watch._root

    def elsewhere(*args):
        root = root_of(*args)
        return root._replace(loss=root.loss.as_subclass(Elsewhere))

    monkeypatch.setattr(loss_watch, "_root", elsewhere)
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with GradientProbe(model, optimizer) as probe:
        for _ in range(4):
            optimizer.zero_grad()
            total = 0.0
            for _ in range(micro_batches):
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                total += loss.item()
            losses.append(total)
            optimizer.step()
    assert probe.history.loss == pytest.approx(losses)


def add_to_the_transfer(step, name, vector):
    if isinstance(vector, Norms):
        vector = torch.as_tensor(vector.array())
    step.sections.append((name, len(vector)))
    step.vectors.append(vector)


class Counted:
    """Lets norms be vectors in a transfer, as on a device, and counts how often they are taken."""

    def __init__(self, monkeypatch):
        self.times = 0
        norms_of = NormPlan.norms

        def norms(plan, *args):
            self.times += 1
            return torch.as_tensor(norms_of(plan, *args).array())

        monkeypatch.setattr(NormPlan, "norms", norms)
        monkeypatch.setattr(Step, "add", add_to_the_transfer)


def test_norms_that_can_not_be_looked_at_are_mostly_taken_once(monkeypatch):
    counted = Counted(monkeypatch)
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GradientProbe(model, optimizer) as probe:
        for _ in range(80):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        assert (probe.history.clip_scale == 1).all()
    assert counted.times < 80 * 1.25


@pytest.mark.parametrize("first", [1, 21])
def test_a_clip_without_a_mark_is_noticed_where_norms_can_not_be_looked_at(first, monkeypatch):
    Counted(monkeypatch)
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    used, totals = [], []
    with GradientProbe(model, optimizer) as probe:
        for step in range(1, 61):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            gradients = [parameter.grad for parameter in model.parameters()]
            totals.append(sum(float(g.norm()) ** 2 for g in gradients) ** 0.5)
            if step >= first:
                for gradient in gradients:
                    gradient.data.mul_(0.25)
            used.append([float(layer.weight.grad.norm()) for layer in model[::2]])
            optimizer.step()
        history = probe.history
    known = [*range(first - 1), *range(first + 7, 60)]
    expected = [1.0 if step < first - 1 else 0.25 for step in known]
    np.testing.assert_allclose(history.clip_scale[known], expected)
    np.testing.assert_allclose(history.total_norm[known], np.array(totals)[known])
    np.testing.assert_allclose(history.weight_grad_norm[known], np.array(used)[known])
    if first == 1:
        assert history.clip_scale[0] == pytest.approx(0.25)


@pytest.fixture
def device(monkeypatch):
    """Let everything that is measured go through a transfer, as on a GPU."""
    monkeypatch.setattr(Step, "add", add_to_the_transfer)
    monkeypatch.setattr(step_module, "Transfer", SlowTransfer)
    monkeypatch.setattr(Gradients, "_are_as_measured", lambda *_: False)
    monkeypatch.setattr(SlowTransfer, "caught_up", False)
    return SlowTransfer


def train(steps: int, probe_options=None, each=None):
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    probe = GradientProbe(model, optimizer, full=True)
    for index in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        if index % 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        if each is not None:
            each(probe, index)
    return probe


def test_a_step_does_not_wait_for_its_reading(device):
    seen = []

    def each(probe, index):
        assert len(probe._delivery._pending) == index + 1
        probe.on_reading = lambda reading: seen.append(reading.step)

    probe = train(5, each=each)
    assert seen == []
    assert len(probe.history) == 5
    assert seen == [1, 2, 3, 4, 5]
    probe.close()


def test_readings_come_as_soon_as_they_have_arrived(device):
    def each(probe, index):
        assert probe.steps == (5 if index == 4 else 0)
        device.caught_up = index == 3

    train(5, each=each).close()


def test_closing_loses_no_reading(device):
    probe = train(3)
    probe.close()
    assert probe.steps == 3
    assert probe._delivery._history.step.tolist() == [1, 2, 3]


def test_numbers_are_the_same_by_either_way(request):
    at_once = train(4).history
    request.getfixturevalue("device")
    by_transfer = train(4).history
    for name in (*STEP_COLUMNS, *LAYER_COLUMNS):
        np.testing.assert_allclose(at_once.column(name), by_transfer.column(name), rtol=1e-9)


@pytest.mark.parametrize(
    ("place", "name"),
    [(Watched, "reading"), (Watched, "rows"), (History, "append"), (History, "append_rows")],
)
@pytest.mark.parametrize("listens", [None, "on_reading", "on_glance"])
def test_a_step_whose_recording_is_interrupted_is_recorded_next(place, name, listens, monkeypatch):
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original, interrupts, losses = getattr(place, name), 1, []

    def interrupted(*args):
        nonlocal interrupts
        if losses and interrupts:
            interrupts -= 1
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(place, name, interrupted)
    with GradientProbe(model, optimizer) as probe:
        if listens is not None:
            probe.on_reading = lambda _: None
        if listens == "on_glance":
            probe.on_glance = lambda _: None
        for _ in range(150):
            optimizer.zero_grad()
            loss = F.mse_loss(model(inputs), targets)
            loss.backward()
            losses.append(loss.item())
            with contextlib.suppress(KeyboardInterrupt):
                optimizer.step()
        with contextlib.suppress(KeyboardInterrupt):
            probe.history  # noqa: B018 - makes rows of what waits together
        history = probe.history
    assert interrupts == (listens == "on_reading" and "row" in name)
    assert history.step.tolist() == list(range(1, 151))
    np.testing.assert_allclose(history.loss, losses)


class InterruptAtLine:
    """Sends an interrupt when a line of the recording is about to be run, counted from 1."""

    # Where one would keep a lock from being let go, which a real interrupt can not do.
    HOLD_LOCKS = ("_deliver", "_tell", "catch_up", "take")

    def __init__(self, number):
        self._left = number

    @property
    def came(self):
        return self._left <= 0

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._at_call)

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _at_call(self, frame, *_):
        code = frame.f_code
        if code.co_filename in RECORDING and code.co_name not in self.HOLD_LOCKS:
            return self._at_line
        return None

    def _at_line(self, _, event, __):
        if event == "line":
            self._left -= 1
            if self._left == 0:
                signal.raise_signal(signal.SIGINT)
        return self._at_line


RECORDING = {module.__file__ for module in (delivery, history, blocks)}


@pytest.fixture
def interruptible():
    """Interrupts are heard, though a shell that has put us in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("listens", [None, "on_reading", "on_glance"])
@pytest.mark.parametrize("kept", [None, 1])
def test_an_interrupt_at_any_line_of_the_recording_leaves_each_step_there_once(kept, listens):
    model = small()
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    given = None if kept is None else History(budget_bytes=kept)
    with GradientProbe(model, optimizer, history=given) as probe:
        if listens is not None:
            probe.on_reading = lambda _: None
        if listens == "on_glance":
            probe.on_glance = lambda _: None
        for line in itertools.count(1):
            interrupt = InterruptAtLine(line)
            for step in range(5):
                optimizer.zero_grad()
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                losses.append(loss.item())
                probe.full = step == 4 and line % 2 == 0
                with contextlib.suppress(KeyboardInterrupt), interrupt:
                    optimizer.step()
            with contextlib.suppress(KeyboardInterrupt), interrupt:
                probe.history  # noqa: B018 - records what waits
            if not interrupt.came:
                break
        recorded = probe.history
    assert line > 100
    assert recorded.steps_recorded == probe.steps == len(losses)
    each = recorded.steps_per_row
    last = np.cumsum(each)
    np.testing.assert_allclose(recorded.step, last - (each - 1) / 2)
    means = [np.mean(losses[end - count : end]) for end, count in zip(last, each, strict=True)]
    np.testing.assert_allclose(recorded.loss, means)
    assert (each.max() == 1) == (kept is None)

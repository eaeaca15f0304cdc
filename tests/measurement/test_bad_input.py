"""Bad input gets one clear sentence that names the argument and what would do."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from gradflow_widget import GradientProbe, History, take_reading

from .networks import batch, small


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def refuse_both(model: nn.Module, error: type[Exception], sentence: str) -> None:
    """Check that neither a probe nor a reading takes ``model``, and that no hook is left."""
    optimizer = optimizer_of(model)
    with pytest.raises(error, match=sentence):
        GradientProbe(model, optimizer)
    with pytest.raises(error, match=sentence):
        take_reading(model, nn.MSELoss(), *batch())
    assert not optimizer._optimizer_step_pre_hooks


class TestProbe:
    def test_a_model_that_is_none(self):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not str"):
            GradientProbe("model", optimizer_of(small()))

    def test_a_model_without_parameters(self):
        with pytest.raises(ValueError, match="model has no parameters"):
            GradientProbe(nn.Sequential(nn.ReLU()), optimizer_of(small()))

    def test_a_lazy_module_that_has_seen_no_batch(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4))
        with pytest.raises(ValueError, match=r"lazy module .* \(1\): run one batch through"):
            GradientProbe(model, optimizer_of(small()))
        model(torch.ones(1, 2))
        GradientProbe(model, optimizer_of(model)).close()

    def test_a_lazy_module_whose_buffers_alone_have_seen_no_batch(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.LazyBatchNorm1d(affine=False))
        optimizer = optimizer_of(model)
        for refused in (
            lambda: GradientProbe(model, optimizer),
            lambda: take_reading(model, nn.MSELoss(), torch.ones(4, 2), torch.ones(4, 3)),
        ):
            with pytest.raises(ValueError, match=r"lazy module .* \(1\): run one batch through"):
                refused()

    @pytest.mark.parametrize("device", ["meta", torch.device("meta")])
    def test_parameters_without_memory(self, device):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, device=device))
        refuse_both(model, ValueError, r"parameters on the meta device \(1\), .*to_empty")

    @pytest.mark.parametrize("made", [torch.jit.script, lambda m: torch.jit.trace(m, batch()[0])])
    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_a_model_of_torchscript(self, made):
        model = made(small())
        refuse_both(model, TypeError, r"model is a TorchScript module, .* was scripted")

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_layers_within_torchscript(self):
        inner = torch.jit.script(nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.ReLU()))
        model = nn.Sequential(small(), inner)
        refuse_both(model, TypeError, r"layers in a TorchScript module \(1\), which")

    def test_an_optimizer_that_is_none(self):
        with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer"):
            GradientProbe(small(), torch.optim.SGD)

    def test_an_optimizer_over_other_parameters(self):
        with pytest.raises(ValueError, match="optimizer holds none of the model's parameters"):
            GradientProbe(small(0), optimizer_of(small(1)))

    @pytest.mark.parametrize("rate", ["0.1", "auto", torch.ones(2), [0.1]])
    def test_a_rate_that_is_no_number(self, rate):
        optimizer = optimizer_of(model := small())
        optimizer.param_groups[0]["lr"] = rate
        with pytest.raises(TypeError, match=r"optimizer has a learning rate of .*: give it a num"):
            GradientProbe(model, optimizer)
        assert not optimizer._optimizer_step_pre_hooks

    @pytest.mark.parametrize("rate", [None, "late"])
    def test_a_rate_that_is_none_is_no_number_in_the_reading(self, rate):
        class Still(torch.optim.Optimizer):
            def step(self, closure=None):
                pass

        model, (inputs, targets) = small(), batch()
        optimizer = Still(model.parameters(), {"lr": None})
        with GradientProbe(model, optimizer) as probe:
            optimizer.param_groups[0]["lr"] = rate
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
        assert math.isnan(probe.history.latest.learning_rate)

    def test_full_is_a_switch(self):
        optimizer = optimizer_of(model := small())
        with pytest.raises(ValueError, match="full must be True or False, not 'x'"):
            GradientProbe(model, optimizer, full="x")
        assert not optimizer._optimizer_step_pre_hooks
        with GradientProbe(model, optimizer) as probe:
            with pytest.raises(ValueError, match="full must be True or False, not 'x'"):
                probe.full = "x"
            probe.full = np.True_
            assert probe.full is True

    def test_a_closed_one_puts_no_hooks_on(self):
        model = small()
        probe = GradientProbe(model, optimizer_of(model))
        probe.close()
        probe.full = True
        assert not probe.full
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_nothing_is_left_behind(self):
        original = torch.autograd.backward
        model, optimizer = small(0), optimizer_of(small(1))
        with pytest.raises(ValueError, match="optimizer"):
            GradientProbe(model, optimizer)
        assert torch.autograd.backward is original
        assert not model._forward_pre_hooks
        assert not optimizer._optimizer_step_pre_hooks


class TestTakeReading:
    def test_a_loss_that_is_no_scalar(self):
        with pytest.raises(ValueError, match=r"loss_fn must return a scalar.*\(8, 3\)"):
            take_reading(small(), lambda o, t: (o - t).square(), *batch())

    def test_a_loss_that_is_no_tensor(self):
        with pytest.raises(TypeError, match="loss_fn must return a scalar tensor, not float"):
            take_reading(small(), lambda o, t: (o - t).square().mean().item(), *batch())

    def test_a_loss_without_a_graph(self):
        with pytest.raises(ValueError, match="loss_fn returned a loss without a graph"):
            take_reading(small(), lambda o, t: (o - t).square().mean().detach(), *batch())

    def test_a_loss_fn_that_is_no_function(self):
        with pytest.raises(TypeError, match="loss_fn must be a function, not Tensor"):
            take_reading(small(), torch.ones(1), *batch())

    def test_a_model_that_is_all_frozen(self):
        model = small().requires_grad_(False)
        with pytest.raises(ValueError, match="model has only frozen parameters"):
            take_reading(model, lambda o, _: o.sum(), *batch())

    def test_a_model_of_several_inputs(self):
        with pytest.raises(
            TypeError, match=r"model can't be called with inputs alone .*'input2'\)"
        ):
            take_reading(nn.Bilinear(2, 2, 3), nn.MSELoss(), *batch())

    def test_a_type_error_of_the_model_s_own_is_its_own(self):
        class Failing(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise TypeError("no such unit")

        with pytest.raises(TypeError, match=r"^no such unit$"):
            take_reading(Failing(2, 3), nn.MSELoss(), *batch())

    def test_a_model_without_parameters(self):
        with pytest.raises(ValueError, match="model has no parameters"):
            take_reading(nn.ReLU(), lambda o, _: o.sum(), *batch())

    def test_a_lazy_module(self):
        with pytest.raises(ValueError, match="lazy module"):
            take_reading(nn.LazyLinear(3), lambda o, _: o.sum(), *batch())

    def test_a_loss_of_one_element_is_a_scalar(self):
        reading = take_reading(small(), lambda o, _: o.sum().reshape(1, 1), *batch())
        assert reading.total_norm > 0


def test_a_reading_can_not_be_written_into():
    inputs, targets = batch()
    model = small()
    with GradientProbe(model, optimizer_of(model), full=True) as probe:
        nn.functional.mse_loss(model(inputs), targets).backward()
        probe.optimizer.step()
    for reading in (probe.history.latest, take_reading(model, nn.MSELoss(), inputs, targets)):
        for name, value in vars(reading).items():
            if hasattr(value, "shape"):
                with pytest.raises(ValueError, match="read-only"):
                    value[0] = 1
                assert not value.flags.writeable, name


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda reading: pickle.loads(pickle.dumps(reading))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_neither_can_a_copy_of_it(copied):
    model = nn.GRU(3, 3, num_layers=2)
    reading = take_reading(model, lambda output, _: output[0].sum(), torch.randn(5, 2, 3), None)
    another = copied(reading)
    np.testing.assert_array_equal(another.signal_grad_norm, reading.signal_grad_norm)
    arrays = [value for value in vars(another).values() if isinstance(value, np.ndarray)]
    arrays += another.signal_grad_through_time.values()
    assert len(arrays) > 10
    assert not any(array.flags.writeable for array in arrays)


def test_a_history_that_is_none_is_refused():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="history must be a History, not str: leave it out"):
        GradientProbe(model, optimizer, history="x")
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("budget", ["a", 0, 1.5, None])
def test_a_history_s_budget_is_a_whole_number(budget):
    with pytest.raises(ValueError, match="budget_bytes must be a whole number of at least 1"):
        History(budget_bytes=budget)


@pytest.mark.parametrize("statistic", ["median", None, ["min"]])
def test_a_statistic_is_one_of_three(statistic):
    history = History()
    for ask in (history.column, history.columns):
        with pytest.raises(ValueError, match=r"statistic .* is unknown: choose one of min, mean, "):
            ask("loss", statistic=statistic)

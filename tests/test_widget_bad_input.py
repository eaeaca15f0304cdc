"""Bad input gets one clear sentence that names the argument, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gradflow_widget import GradientFlow
from gradflow_widget.backstage import Backstage
from gradflow_widget.display.controls import Controls
from gradflow_widget.display.stage import Stage
from gradflow_widget.knob_traits import HOT_KNOBS
from gradflow_widget.training.session import TrainingSession

INPUTS, TARGETS = torch.randn(20, 4), torch.randint(0, 3, (20,))
LOSS = nn.CrossEntropyLoss()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if hidden.shape[0]:
            raise ValueError("shapes differ:\nsee the second line.")
        out: torch.Tensor = self.second(hidden)
        return out


class FailingData(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        raise OSError(f"no file {index}")


class Empty(Dataset[Any]):
    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return INPUTS[0], TARGETS[0]


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise NotImplementedError("no way back")


def batches() -> Iterator[Any]:
    while True:
        yield INPUTS, TARGETS


class SameIterator:
    def __init__(self) -> None:
        self.batches = batches()

    def __iter__(self) -> Iterator[Any]:
        return self.batches


class OneShot:
    """It has a length, and gives its batches to the first iterator alone."""

    def __init__(self) -> None:
        self.batches = [(INPUTS, TARGETS)] * 2

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        batches, self.batches = self.batches, []
        return iter(batches)


class Loader:
    """A loader whose methods do what they are given."""

    def __init__(
        self, length: Callable[[], Any], batches: Callable[[], Any] = lambda: iter([])
    ) -> None:
        self.length, self.batches = length, batches

    def __len__(self) -> int:
        length: int = self.length()
        return length

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self.batches()
        return iterator


class ByIndex:
    """It can be gone through by its indices alone."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class MeasuredDataset(Loader, Dataset[Any]):
    pass


def failing() -> Any:
    raise OSError("the disk is gone.\nAsk somebody.")


class NoBatches:
    def __iter__(self) -> Iterator[Any]:
        return iter([])


def make(**changes: Any) -> GradientFlow:
    arguments = {
        "model": network,
        "optimizer": sgd,
        "loss_fn": LOSS,
        "data": (INPUTS, TARGETS),
        **changes,
    }
    return GradientFlow(**arguments)


def with_optimizer_of_another() -> GradientFlow:
    return make(model=network(), optimizer=sgd(network().parameters()))


def with_rate(optimizer: torch.optim.Optimizer, rate: Any) -> torch.optim.Optimizer:
    optimizer.param_groups[0]["lr"] = rate
    return optimizer


class Wrapping(torch.optim.Optimizer):
    """Steps another optimizer and was never set up itself."""

    def __init__(self, wrapped: torch.optim.Optimizer) -> None:
        self.wrapped = wrapped
        self.param_groups, self.state = wrapped.param_groups, wrapped.state
        self.defaults = wrapped.defaults


class NeedsRate(torch.optim.SGD):
    def __init__(self, parameters: Any, rate: float) -> None:
        super().__init__(parameters, lr=rate)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no model": (lambda: make(model=3), TypeError, "model"),
    "no parameters": (lambda: make(model=nn.ReLU), ValueError, "model has no parameters"),
    "no parameters, ready made": (
        lambda: make(model=nn.Tanh(), optimizer=sgd([torch.ones(1, requires_grad=True)])),
        ValueError,
        "model has no parameters",
    ),
    "frozen": (lambda: make(model=lambda: network().requires_grad_(False)), ValueError, "model"),
    "lazy": (lambda: make(model=lazy), ValueError, "model has a lazy module"),
    "lazy buffers": (
        lambda: make(model=lambda: nn.Sequential(*network(), nn.LazyBatchNorm1d(affine=False))),
        ValueError,
        "model has a lazy module that is not initialised (3): run one batch",
    ),
    "on the meta device": (
        lambda: make(model=lambda: network().to("meta")),
        ValueError,
        "model has parameters on the meta device (0), which hold no values: give them memory",
    ),
    "on the meta device, ready made": (
        lambda: make(model=(model := network().to("meta")), optimizer=sgd(model.parameters())),
        ValueError,
        "model has parameters on the meta device (0), which hold no values: give them memory",
    ),
    "scripted": (
        lambda: make(model=lambda: torch.jit.script(network())),
        TypeError,
        "model is a TorchScript module, which takes no hooks: pass the module that was scripted",
    ),
    "traced": (
        lambda: make(model=torch.jit.trace(network(), INPUTS)),
        TypeError,
        "model is a TorchScript module, which takes no hooks: pass the module that was scripted",
    ),
    "layers scripted": (
        lambda: make(model=nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 3)))),
        TypeError,
        "model has layers in a TorchScript module (1), which takes no hooks: put the module",
    ),
    "factory needs more": (
        lambda: make(model=lambda width: network()),
        TypeError,
        "model is a factory that needs 'width'",
    ),
    "factory gives no module": (lambda: make(model=lambda: 7), TypeError, "model is a factory"),
    "no optimizer": (lambda: make(optimizer="sgd"), TypeError, "optimizer"),
    "optimizer factory gives none": (
        lambda: make(optimizer=lambda p: None),
        TypeError,
        "optimizer is a factory",
    ),
    "optimizer factory needs more": (
        lambda: make(optimizer=lambda parameters, lr: sgd(parameters)),
        TypeError,
        "missing 1 required positional argument: 'lr'): give a function of them, such as lambda",
    ),
    "optimizer factory of nothing": (
        lambda: make(optimizer=lambda: sgd(network().parameters())),
        TypeError,
        "takes 0 positional arguments but 1 was given): give a function of them, such as lambda",
    ),
    "optimizer class that needs more": (
        lambda: make(model=network(), optimizer=NeedsRate),
        TypeError,
        "optimizer is a factory that can't be called with the parameters alone (",
    ),
    "factory with ready optimizer": (
        lambda: make(optimizer=sgd(network().parameters())),
        TypeError,
        "optimizer is ready made",
    ),
    "other parameters": (with_optimizer_of_another, ValueError, "optimizer holds none"),
    "loss_fn no function": (lambda: make(loss_fn=3), TypeError, "loss_fn"),
    "loss_fn a class": (
        lambda: make(loss_fn=nn.CrossEntropyLoss),
        TypeError,
        r"loss_fn must be a function, not the class CrossEntropyLoss: give an instance",
    ),
    "loss_fn complex": (
        lambda: make(loss_fn=lambda outputs, _: outputs.sum() * 1j),
        ValueError,
        "loss_fn must return a real scalar",
    ),
    "loss_fn of something else": (
        lambda: make(loss_fn=lambda *_: torch.ones((), requires_grad=True) * 2),
        ValueError,
        "loss_fn returned a loss in which no parameter",
    ),
    "rate of NaN": (
        lambda: make(optimizer=lambda p: torch.optim.SGD(p, lr=math.nan)),
        ValueError,
        "optimizer has a learning rate of nan",
    ),
    "rate of infinity": (
        lambda: make(optimizer=lambda p: torch.optim.SGD(p, lr=math.inf)),
        ValueError,
        "optimizer has a learning rate of inf",
    ),
    "optimizer not set up": (
        lambda: make(optimizer=lambda p: Wrapping(sgd(p))),
        TypeError,
        "optimizer is a Wrapping but not set up by Optimizer.__init__: watch the optimizer",
    ),
    "optimizer not set up, ready made": (
        lambda: make(model=(model := network()), optimizer=Wrapping(sgd(model.parameters()))),
        TypeError,
        "optimizer is a Wrapping but not set up by Optimizer.__init__: watch the optimizer",
    ),
    "rate of text": (
        lambda: make(optimizer=lambda p: with_rate(sgd(p), "auto")),
        TypeError,
        "optimizer has a learning rate of 'auto': give it a number",
    ),
    "rates of a tensor": (
        lambda: make(optimizer=lambda p: with_rate(sgd(p), torch.zeros(40, 2))),
        TypeError,
        "optimizer has a learning rate of tensor(",
    ),
    "objective no function": (lambda: make(loss_fn=None, objective=3), TypeError, "objective"),
    "both losses": (lambda: make(objective=lambda m, b: 0), ValueError, "loss_fn and objective"),
    "data without loss": (lambda: make(loss_fn=None), ValueError, "loss_fn"),
    "no scalar": (
        lambda: make(loss_fn=nn.CrossEntropyLoss(reduction="none")),
        ValueError,
        "loss_fn must return a scalar",
    ),
    "no tensor": (lambda: make(loss_fn=lambda o, t: 1.0), TypeError, "loss_fn must return"),
    "no graph": (
        lambda: make(loss_fn=lambda o, t: LOSS(o, t).detach()),
        ValueError,
        "loss_fn returned a loss without a graph",
    ),
    "objective without graph": (
        lambda: make(loss_fn=None, objective=lambda m, b: torch.ones(())),
        ValueError,
        "objective returned a loss without a graph",
    ),
    "loss_fn with other arguments": (lambda: make(loss_fn=lambda o: o), RuntimeError, "loss_fn"),
    "loss_fn raises": (lambda: make(loss_fn=nn.MSELoss()), RuntimeError, "loss_fn failed"),
    "backward raises": (
        lambda: make(loss_fn=lambda o, t: FailingBackward.apply(o).mean()),
        RuntimeError,
        "failed on the first batch with NotImplementedError: no way back",
    ),
    "forward raises": (
        lambda: make(model=Failing),
        RuntimeError,
        "model failed on the first batch with ValueError: shapes differ",
    ),
    "inputs do not fit": (
        lambda: make(data=(INPUTS[:, :3], TARGETS)),
        RuntimeError,
        "model failed on the first batch",
    ),
    "targets do not fit": (
        lambda: make(data=(INPUTS, TARGETS + 7)),
        RuntimeError,
        "loss_fn failed on the first batch",
    ),
    "unequal lengths": (lambda: make(data=(INPUTS, TARGETS[:5])), ValueError, "data has inputs"),
    "no dimension": (lambda: make(data=(INPUTS, torch.tensor(1))), ValueError, "data has inputs"),
    "empty": (lambda: make(data=(INPUTS[:0], TARGETS[:0])), ValueError, "data is empty"),
    "empty dataset": (lambda: make(data=Empty()), ValueError, "data is empty"),
    "nested tensor": (
        lambda: make(data=(torch.nested.nested_tensor([*INPUTS]), TARGETS)),
        TypeError,
        "data holds a nested tensor, of which no rows can be chosen: give a Dataset",
    ),
    "empty list": (lambda: make(data=[]), ValueError, "data is empty"),
    "no batches": (lambda: make(data=NoBatches()), ValueError, "data gave no batch"),
    "generator": (lambda: make(data=batches()), ValueError, "data can be gone through only once"),
    "exhausted": (lambda: make(data=iter([])), ValueError, "data can be gone through only once"),
    "zip": (
        lambda: make(data=zip([INPUTS], [TARGETS], strict=True)),
        ValueError,
        "data can be gone through only once",
    ),
    "one-shot iterable": (
        lambda: make(data=SameIterator()),
        ValueError,
        "data can be gone through only once",
    ),
    "one-shot iterable with a length": (
        lambda: make(data=OneShot()),
        ValueError,
        "data can be gone through only once",
    ),
    "two numbers": (
        lambda: make(data=(torch.tensor(1.0), torch.tensor(1))),
        ValueError,
        "data has inputs and targets of shape (), which are numbers and no samples: give both",
    ),
    "batch without a sample": (
        lambda: make(data=[(INPUTS[:0], TARGETS[:0])]),
        ValueError,
        "data gave a batch without a sample",
    ),
    "failing length": (
        lambda: make(data=Loader(failing)),
        TypeError,
        "data has a length that can't be told (OSError: the disk is gone): let its __len__",
    ),
    "length below zero": (
        lambda: make(data=Loader(lambda: -1)),
        TypeError,
        "data has a length that can't be told (ValueError: __len__() should return >= 0)",
    ),
    "dataset with a failing length": (
        lambda: make(data=MeasuredDataset(failing)),
        TypeError,
        "data has a length that can't be told (OSError",
    ),
    "dataset with a length that is none": (
        lambda: make(data=MeasuredDataset(lambda: "a")),
        TypeError,
        "data is a Dataset without a length",
    ),
    "model of several inputs": (
        lambda: make(model=lambda: nn.Bilinear(6, 6, 4)),
        ValueError,
        "model can't be called with inputs alone (missing a required argument: 'input2'): "
        "use objective(model, batch) instead of loss_fn.",
    ),
    "failing iterable": (
        lambda: make(data=Loader(lambda: 2, failing)),
        RuntimeError,
        "data failed on the first batch with OSError: the disk is gone",
    ),
    "iterable of nothing": (
        lambda: make(data=Loader(lambda: 2, lambda: 3)),
        RuntimeError,
        "data failed on the first batch with TypeError: iter() returned non-iterator",
    ),
    "failing validation": (
        lambda: make(validation=Loader(lambda: 2, failing)),
        RuntimeError,
        "validation failed on the first batch with OSError: the disk is gone",
    ),
    "validation without targets": (
        lambda: make(validation=(INPUTS,)),
        ValueError,
        "validation gave a batch that is no pair (inputs, targets): give pairs",
    ),
    "validation without batches": (
        lambda: make(validation=NoBatches()),
        ValueError,
        "validation gave no batch: it is empty or can be gone through only once",
    ),
    "validation of empty batches": (
        lambda: make(validation=[(INPUTS[:0], TARGETS[:0])]),
        ValueError,
        "validation gave a batch without a sample",
    ),
    "validation with an empty batch": (
        lambda: make(validation=[(INPUTS, TARGETS), (INPUTS[:0], TARGETS[:0])]),
        ValueError,
        "validation gave a batch without a sample",
    ),
    "empty batches in a mapping": (
        lambda: make(
            loss_fn=None,
            objective=lambda model, batch: model(batch["x"]).sum(),
            data=[{"x": INPUTS[:0]}],
        ),
        ValueError,
        "data gave a batch without a sample",
    ),
    "items by index": (
        lambda: make(data=ByIndex([(INPUTS, TARGETS)])),
        TypeError,
        "data is a ByIndex, whose items may be samples or batches: wrap it in a DataLoader, with "
        "batch_size=None where they are batches.",
    ),
    "one tensor": (lambda: make(data=INPUTS), TypeError, "data must be"),
    "number": (lambda: make(data=5), TypeError, "data must be"),
    "mapping": (lambda: make(data={"x": INPUTS}), TypeError, "data must be"),
    "tensor and list": (lambda: make(data=(INPUTS, [1, 2])), TypeError, "data is a pair of"),
    "objects": (
        lambda: make(data=(np.array([None, 1]), np.array([0, 1]))),
        TypeError,
        "data holds an array of dtype object",
    ),
    "no pairs": (lambda: make(data=[INPUTS, INPUTS, INPUTS]), ValueError, "data gave a batch"),
    "dict batches without objective": (
        lambda: make(data=[{"x": INPUTS}]),
        ValueError,
        "data gave a batch that is no pair",
    ),
    "unsized dataset": (lambda: make(data=Unsized()), TypeError, "data is a Dataset without"),
    "failing dataset": (
        lambda: make(data=FailingData()),
        RuntimeError,
        "data failed on the first batch with OSError: no file",
    ),
    "clip_norm": (lambda: make(clip_norm=-1.0), ValueError, "clip_norm must be a positive"),
    "clip_norm of text": (lambda: make(clip_norm="1"), ValueError, "clip_norm must be a positive"),
    "seed": (lambda: make(seed=0.5), ValueError, "seed must be a whole number"),
    "negative seed": (lambda: make(seed=-1), ValueError, "seed must be a whole number"),
    "huge seed": (lambda: make(seed=2**63), ValueError, "seed must be a whole number"),
    "playground network": (
        lambda: GradientFlow.playground("perceptron"),
        ValueError,
        "network 'perceptron' is unknown: choose one of mlp",
    ),
    "playground data": (
        lambda: GradientFlow.playground(data="mnist"),
        ValueError,
        "data 'mnist' is unknown: choose one of digits",
    ),
    "playground knob": (
        lambda: GradientFlow.playground(lr=0.1),
        ValueError,
        "knob 'lr' is unknown: choose among depth, activation, initialization",
    ),
    "playground depth": (lambda: GradientFlow.playground(depth=0), ValueError, "depth must"),
    "playground width": (
        lambda: GradientFlow.playground(width=10**400),
        ValueError,
        "width must be a whole number from 1 to 10,000, not 1000",
    ),
    "playground heads": (
        lambda: GradientFlow.playground("transformer", heads=10**5000),
        ValueError,
        "heads must be a whole number from 1 to 10,000, not <int>",
    ),
    "playground activation": (
        lambda: GradientFlow.playground(activation="swish"),
        ValueError,
        "activation 'swish' is unknown: choose one of identity",
    ),
    "playground rate": (
        lambda: GradientFlow.playground(learning_rate=0),
        ValueError,
        "learning_rate must be a positive, finite number, not 0",
    ),
    "playground rate of text": (
        lambda: GradientFlow.playground(learning_rate="fast"),
        ValueError,
        "learning_rate must be a positive",
    ),
    "playground batch": (
        lambda: GradientFlow.playground(batch_size=1798),
        ValueError,
        "batch_size is 1798 but data has only",
    ),
    "playground speed": (lambda: GradientFlow.playground(speed=0), ValueError, "speed must be"),
    "playground clips": (
        lambda: GradientFlow.playground(clip_norm=1, clip_value=1),
        ValueError,
        "clip_norm and clip_value",
    ),
}


def is_one_clear_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and len(text) < 320


@pytest.mark.parametrize(("attempt", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_anything_starts(
    attempt: Callable[[], Any], kind: type[Exception], says: str, nothing_is_left: None
) -> None:
    with pytest.raises(kind) as caught:
        attempt()
    assert says in str(caught.value)
    assert is_one_clear_sentence(str(caught.value))


@pytest.mark.parametrize("kind", ["samples", "batches"])
def test_items_by_index_are_taken_as_the_refusal_says(kind: str) -> None:
    if kind == "samples":
        samples = ByIndex(list(zip(INPUTS, TARGETS, strict=True)))
        loader: DataLoader[Any] = DataLoader(samples, batch_size=5)  # type: ignore[arg-type]
    else:
        batches = ByIndex(list(zip(INPUTS.split(5), TARGETS.split(5), strict=True)))
        loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    flow = make(data=loader, seed=1)
    flow.step(6)
    assert flow.step_number == 6
    flow.close()


def test_a_refused_model_keeps_no_hooks(nothing_is_left: None) -> None:
    model = network()
    optimizer = sgd(model.parameters())
    for changes in (
        {"data": (INPUTS[:, :3], TARGETS)},
        {"loss_fn": lambda o, t: 0.0},
        {"optimizer": sgd(network().parameters())},
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            make(**{"model": model, "optimizer": optimizer, **changes})
        for module in model.modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            assert [len(h) for h in hooks] == [0, 0, 0]
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    flow = make(model=model, optimizer=optimizer)
    flow.step()
    flow.close()


def test_an_interrupt_while_the_knobs_are_found_leaves_no_hooks(nothing_is_left: None) -> None:
    made: list[nn.Module] = []
    optimizers: list[torch.optim.Optimizer] = []

    def build(depth: int = 1) -> nn.Module:
        if depth > 1:  # how deep it gets is tried out, where a shallow one lacks a knob
            raise KeyboardInterrupt
        made.append(nn.Linear(4, 3))
        return made[-1]

    def optimizer_for(parameters: Any) -> torch.optim.Optimizer:
        optimizers.append(sgd(parameters))
        return optimizers[-1]

    with pytest.raises(KeyboardInterrupt):
        make(model=build, optimizer=optimizer_for)
    assert made
    assert not any(model._forward_hooks or model._forward_pre_hooks for model in made)
    assert not any(optimizer._optimizer_step_pre_hooks for optimizer in optimizers)


@pytest.mark.parametrize("also", [(Controls, "close"), (Stage, "close"), (TrainingSession, "stop")])
def test_nothing_stays_of_a_widget_that_fails_at_last_and_in_going(
    also: tuple[type, str], monkeypatch: pytest.MonkeyPatch, nothing_is_left: None
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the first")

    def fail_too(*arguments: Any) -> None:
        released(*arguments)
        raise RuntimeError("a later one")

    model = network()
    optimizer = sgd(model.parameters())
    released = getattr(*also)
    with monkeypatch.context() as failing:
        failing.setattr(Backstage, "say", fail)
        failing.setattr(*also, fail_too)
        with pytest.raises(RuntimeError, match="the first"):
            make(model=model, optimizer=optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    flow = make(model=model, optimizer=optimizer)
    flow.step()
    flow.close()


def test_the_user_s_own_exception_is_the_cause() -> None:
    with pytest.raises(RuntimeError) as caught:
        make(model=Failing)
    assert isinstance(caught.value.__cause__, ValueError)


def test_two_widgets_on_one_optimizer_are_refused(nothing_is_left: None) -> None:
    model = network()
    optimizer = sgd(model.parameters())
    first = make(model=model, optimizer=optimizer)
    for second in (optimizer, lambda parameters: optimizer):
        with pytest.raises(ValueError, match=r"optimizer is watched .*: close\(\) that one first"):
            make(model=model, optimizer=second)
    first.step()
    first.close()
    again = make(model=model, optimizer=optimizer)
    again.step()
    again.close()


VALUES = [0, -1.0, math.nan, math.inf, -math.inf, "0.1", True, [1.0], 1j]


UNREADABLE = {
    "array": np.zeros((2, 2)),
    "tensor": torch.zeros(2, 2),
    "long text": "x" * 5000,
    "huge": 10**400,
    "hugest": 10**5000,
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_whatever_a_knob_is_set_to_is_refused_in_one_short_sentence(
    make_flow: Any, value: Any
) -> None:
    flow = make_flow(
        lambda depth=2, activation="tanh": network(), sgd, LOSS, (INPUTS, TARGETS), seed=0
    )
    for name in (*flow._construction.knobs, *HOT_KNOBS, "regime", "speed"):
        if name in ("batch_size", "speed") and isinstance(value, int):
            continue  # any whole number is a speed, and one of samples has a sentence of its own
        with pytest.raises((ValueError, TypeError)) as caught:
            setattr(flow, name, value)
        text = str(caught.value)
        assert text.startswith(name), text
        assert is_one_clear_sentence(text), text
    for name in ("depth", "skips", "learning_rate", "speed", "width"):
        if name in ("speed", "width") and isinstance(value, int):
            continue
        with pytest.raises(ValueError, match=name) as caught:
            GradientFlow.playground("residual", **{name: value})
        assert is_one_clear_sentence(str(caught.value))


@pytest.mark.parametrize("value", [*VALUES, None], ids=repr)
def test_a_learning_rate_must_be_positive_and_finite(make_flow: Any, value: Any) -> None:
    refuses(make_flow(network, sgd, LOSS, (INPUTS, TARGETS)), "learning_rate", value, 0.1)


@pytest.mark.parametrize("name", ["learning_rate", "clip_norm", "clip_value"])
def test_a_number_beyond_every_float_is_not_finite(make_flow: Any, name: str) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    with pytest.raises(ValueError, match=rf"^{name} must be a positive, finite number, not 1000"):
        setattr(flow, name, 10**400)


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_clip_must_be_positive_and_finite(make_flow: Any, name: str, value: Any) -> None:
    refuses(make_flow(network, sgd, LOSS, (INPUTS, TARGETS)), name, value, None)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, None, 21], ids=repr)
def test_a_batch_size_must_be_whole_and_at_most_the_data(make_flow: Any, value: Any) -> None:
    refuses(make_flow(network, sgd, LOSS, (INPUTS, TARGETS)), "batch_size", value, 20)


def test_batches_of_their_own_have_no_batch_size(make_flow: Any) -> None:
    flow = make_flow(network, sgd, LOSS, [(INPUTS, TARGETS)])
    refuses(flow, "batch_size", 4, None)


@pytest.mark.parametrize("value", [0, 65, 2.0, "4", True, None], ids=repr)
def test_a_depth_must_be_in_range(value: Any) -> None:
    flow = GradientFlow.playground(depth=3)
    refuses(flow, "depth", value, 3)
    flow.close()


@pytest.mark.parametrize("value", ["swish", "ReLU", "", 3, None], ids=repr)
def test_an_activation_must_be_known(value: Any) -> None:
    flow = GradientFlow.playground(depth=2)
    refuses(flow, "activation", value, "tanh")
    flow.close()


@pytest.mark.parametrize("value", [0, -3, 1.5, "fast", True, None], ids=repr)
def test_a_speed_must_be_known(make_flow: Any, value: Any) -> None:
    refuses(make_flow(network, sgd, LOSS, (INPUTS, TARGETS)), "speed", value, 1)


def test_any_whole_speed_will_do(make_flow: Any) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    for speed in (3, 7, "max", 1):
        flow.speed = speed
        assert flow.speed == speed
        flow.step()


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, None], ids=repr)
def test_a_number_of_steps_must_be_whole(make_flow: Any, count: Any) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    for use in (flow.step, flow.steps):
        with pytest.raises(ValueError, match=r"^n must be a whole number .*\.$"):
            use(count)
    if count is not None:
        with pytest.raises(ValueError, match=r"^steps must be a whole number .*\.$"):
            flow.wait(count)
    assert flow.step_number == 0


@pytest.mark.parametrize("timeout", ["x", float("nan"), -1, True, [1]], ids=repr)
def test_a_timeout_must_be_a_number_from_0(make_flow: Any, timeout: Any) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    flow.play()
    for steps in (None, 1):
        with pytest.raises(ValueError, match=r"^timeout must be a number .*\.$"):
            flow.wait(steps, timeout=timeout)
    assert flow.playing


@pytest.mark.parametrize("timeout", [float("inf"), 10**400, 1e30, None], ids=repr)
def test_a_timeout_may_be_without_limit(make_flow: Any, timeout: Any) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    flow.play()
    assert flow.wait(2, timeout=timeout)
    flow.pause()
    assert flow.wait(timeout=timeout)


def test_a_loop_that_needs_arguments_is_refused_at_once(make_flow: Any) -> None:
    flow = make_flow(model := network(), sgd(model.parameters()))

    def train(epochs: int, *, rate: float, shuffle: bool = True) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match=r"needs epochs, rate: give run\(lambda: .*\.$"):
        flow.run(train)
    assert not flow.playing

    def free(epochs: int = 1, *more: int, **options: int) -> None:
        optimizer.step()

    optimizer = flow.optimizer
    flow.run(free)
    assert flow.wait()


@pytest.mark.parametrize("seed", [-1, 0.5, "1", True, 2**63], ids=repr)
def test_a_reset_with_a_bad_seed_changes_nothing(make_flow: Any, seed: Any) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    flow.step(2)
    with pytest.raises(ValueError, match=r"^seed must be .*\.$"):
        flow.reset(seed)
    assert flow.step_number == 2


def refuses(flow: GradientFlow, name: str, value: Any, kept: Any) -> None:
    """Nothing learned so far is lost: the knob and the run are as before."""
    flow.step(2)
    settings = flow._training.settings
    with pytest.raises((ValueError, TypeError)) as caught:
        setattr(flow, name, value)
    assert name in str(caught.value)
    assert is_one_clear_sentence(str(caught.value))
    assert getattr(flow, name) == kept
    assert flow._training.settings is settings
    assert flow.step_number == len(flow.history) == 2
    flow.step()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "did you mean learning_rate?"),
        ("learning_rat", "did you mean learning_rate?"),
        ("wd", "did you mean weight_decay?"),
        ("normalisation", "did you mean normalization?"),
        ("Depth", "did you mean depth?"),
        ("width", "there are learning_rate, clip_norm, clip_value, batch_size, "),
    ],
)
def test_a_knob_that_is_not_there_is_refused_by_name(make_flow: Any, name: str, meant: str) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    with pytest.raises(AttributeError) as caught:
        setattr(flow, name, 0.1)
    assert str(caught.value).startswith(f"GradientFlow has no knob {name!r}: {meant}")
    assert not hasattr(flow, name)


@pytest.mark.parametrize("name", ["play", "step", "reset", "load_preset", "preset", "presets"])
def test_a_method_is_not_set(make_flow: Any, name: str) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    with pytest.raises(AttributeError) as caught:
        setattr(flow, name, True)
    assert str(caught.value) == f"{name} is a method: call it, as flow.{name}(...)."
    flow.step()
    with flow.hold_trait_notifications():  # sets a method of its own
        flow.learning_rate = 0.02
    assert flow.learning_rate == 0.02


def test_a_subclass_may_have_attributes_of_its_own(nothing_is_left: None) -> None:
    class Mine(GradientFlow):
        def __init__(self) -> None:
            super().__init__(network, sgd, LOSS, (INPUTS, TARGETS))
            self.name = "mine"

    flow = Mine()
    flow.other = 1
    assert (flow.name, flow.other) == ("mine", 1)
    flow.close()


def test_a_trait_that_is_added_can_be_set(make_flow: Any) -> None:
    flow = make_flow(network, sgd, LOSS, (INPUTS, TARGETS))
    flow.add_traits(note=traitlets.Unicode())
    flow.note = "first run"
    assert flow.note == "first run"

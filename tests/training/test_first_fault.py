"""Which tensor is named as the first that was not finite, and of which step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget import GradientProbe
from gradflow_widget.measurement.nonfinite import NonFinite, first_nonfinite_of_pass
from gradflow_widget.training.first_fault import FirstFault

from .parts import CROSS_ENTROPY, plain_network, samples

INPUTS, TARGETS = samples()
TWO_CLASSES = INPUTS, TARGETS % 2  # of the three that the network tells apart


def the_logit_of_no_target(value: float) -> Callable[[nn.Module], None]:
    """Spoil an output that no loss depends on, while it is -inf."""

    def spoil(model: Any) -> None:
        with torch.no_grad():
            model[4].bias[2] = value

    return spoil


def the_first_layer(model: Any) -> None:
    with torch.no_grad():
        model[0].bias[0] = math.nan


def a_gradient(model: Any) -> None:
    model[0].weight.grad[0, 0] = math.nan


def fault_of(
    *, full: set[int], before: Mapping[int, Any], behind: Mapping[int, Any] | None = None
) -> list[NonFinite | None]:
    """Return what is known after each step of a loop that spoils things before some of them.

    Args:
        full: the steps that are read in full.
        before: by step, what is done to the model before its forward pass.
        behind: by step, what is done to it behind its backward pass.
    """
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fault, known = FirstFault(model), []
    with GradientProbe(model, optimizer) as probe:
        probe.on_reading = fault.take
        for step in range(1, 7):
            probe.full = step in full
            before.get(step, lambda _: None)(model)
            optimizer.zero_grad()
            loss = CROSS_ENTROPY(model(INPUTS), TWO_CLASSES[1])
            if not math.isfinite(loss.item()):
                fault.look_again(step)
            loss.backward()
            (behind or {}).get(step, lambda _: None)(model)
            optimizer.step()
            known.append(fault.found)
    fault.close()
    return known


def test_an_output_of_minus_infinity_with_a_finite_loss_is_no_fault() -> None:
    known = fault_of(full={1, 2, 3, 4, 5, 6}, before={3: the_logit_of_no_target(-math.inf)})
    assert known == [None] * 6


def test_an_output_is_named_with_the_step_that_first_showed_it() -> None:
    known = fault_of(
        full={1, 2, 3, 4, 5, 6},
        before={3: the_logit_of_no_target(-math.inf), 5: the_logit_of_no_target(math.nan)},
    )
    assert known == [None] * 4 + [NonFinite(3, "4", "output")] * 2


def test_an_output_before_it_is_named_with_its_own_step() -> None:
    known = fault_of(
        full={1, 2, 3, 4, 5, 6},
        before={3: the_logit_of_no_target(-math.inf), 5: the_first_layer},
    )
    assert known == [None] * 4 + [NonFinite(5, "0", "output")] * 2


@pytest.mark.parametrize(
    ("full", "found"),
    [
        (set(), NonFinite(5, "0", "gradient")),
        ({4}, NonFinite(4, "4", "output")),
        ({3, 4}, NonFinite(3, "4", "output")),
    ],
)
def test_where_a_step_tells_of_no_output_those_before_are_named(
    full: set[int], found: NonFinite
) -> None:
    known = fault_of(
        full=full, before={3: the_logit_of_no_target(-math.inf)}, behind={5: a_gradient}
    )
    assert known == [None] * 4 + [found] * 2


def test_the_widget_says_so(make_flow: Any) -> None:
    model = plain_network()
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, TWO_CLASSES)
    flow.step(2)
    the_logit_of_no_target(-math.inf)(model)
    flow.step()  # the last of those asked for is read in full
    flow.step()
    assert "Not finite" not in flow.status
    the_logit_of_no_target(math.nan)(model)
    flow.step()
    assert "Not finite: the output of layer 3 (4) was first, at step 3." in flow.status


def test_a_model_that_is_one_layer_is_named_too(make_flow: Any) -> None:
    model = nn.Linear(6, 3)
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), CROSS_ENTROPY, samples())
    flow.step()
    with torch.no_grad():
        model.bias[0] = math.nan
    flow.step()
    assert "Not finite: the output of the model itself was first, at step 2." in flow.status


class LosesItsHead(nn.MSELoss):
    """Is infinite at every third call that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss: torch.Tensor = super().forward(output, target)
        return loss + math.inf if self.calls % 3 == 0 else loss


@pytest.mark.parametrize("rate", [0.1, 1e20])
def test_a_network_with_batch_norm_goes_on_as_its_bare_loop_does(
    make_flow: Any, rate: float
) -> None:
    """Its graph has saved the running mean, which the search for the fault passes over."""

    def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        return model, torch.optim.SGD(model.parameters(), lr=rate)

    inputs, targets = INPUTS[:16], torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    (model, optimizer), loss_fn, expected = parts(), LosesItsHead(), []
    for _ in range(7):
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    flow = make_flow(*parts(), LosesItsHead(), [(inputs, targets)])
    flow.step(7)
    assert not all(map(math.isfinite, expected))
    assert flow.history.loss.tolist() == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(
            flow.model.state_dict()[name], value, rtol=0, atol=0, equal_nan=True
        )


# -- in the data ---------------------------------------------------------------------------


def linear_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))


def spoilt(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[5, 0] = value
    return tensor


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("own_loop", [False, True], ids=["ours", "own loop"])
def test_a_value_in_the_data_is_blamed_on_no_layer(
    make_flow: Any, value: float, own_loop: bool
) -> None:
    batches = [(INPUTS, INPUTS[:, :2])] * 2 + [(spoilt(INPUTS, value), INPUTS[:, :2])]
    model, loss_fn = linear_network(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if own_loop:
        flow = make_flow(model, optimizer)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
    else:
        flow = make_flow(model, optimizer, loss_fn, batches)
        flow.step(3)
    assert (
        "Not finite: the model's input (the data of that batch) was first, at step 3."
        in flow.status
    )


def test_a_target_is_blamed_where_the_network_s_output_is_finite(make_flow: Any) -> None:
    batches = [(INPUTS, INPUTS[:, :2])] * 2 + [(INPUTS, spoilt(INPUTS[:, :2], math.nan))]
    model = linear_network()
    flow = make_flow(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), batches)
    flow.step(3)
    assert "Not finite: a target of that batch was first, at step 3." in flow.status


class Masked(nn.Module):
    """Attention's way: minus infinity beside the input keeps places out."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.softmax(self.scores(x) + mask, dim=-1))
        return out


@pytest.mark.parametrize(
    ("value", "found"),
    [(-math.inf, NonFinite(1, "out", "output")), (math.nan, NonFinite(1, "", "input"))],
    ids=str,
)
def test_a_mask_beside_the_input_may_be_minus_infinity(value: float, found: NonFinite) -> None:
    model = Masked()
    fault = FirstFault(model)
    with torch.no_grad():
        model.out.bias[0] = math.nan
    mask = torch.zeros(6)
    mask[2] = value
    model(INPUTS, mask=mask)
    fault.look_again(1)
    fault.close()
    assert fault.found == found


class TokensBeside(nn.Module):
    """Takes tokens and a causal mask, as a language model does, or a sparse graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer = nn.Embedding(10, 8), nn.Linear(8, 8)

    def forward(self, tokens: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(self.embedding(tokens))
        return out


_TOKENS = torch.randint(10, (4, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "beside",
    [
        nn.Transformer.generate_square_subsequent_mask(5),
        torch.eye(5).to_sparse(),
        torch.eye(5).to_sparse_csr(),
        torch.eye(5).to(torch.float8_e4m3fn),
    ],
    ids=["causal mask", "sparse", "CSR", "float8"],
)
def test_what_comes_beside_the_input_is_blamed_for_no_nan_of_the_weights(
    beside: torch.Tensor,
) -> None:
    model = TokensBeside()
    with torch.no_grad():
        model.layer.bias[0] = math.nan
    found = first_nonfinite_of_pass(model, lambda: model(_TOKENS, beside), 3)
    assert found == NonFinite(3, "layer", "output")


@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sparse_input_is_looked_at_too(sparse: Any, value: float) -> None:
    model = nn.Linear(4, 4)
    inputs = torch.eye(4)
    inputs[1, 1] = value
    found = first_nonfinite_of_pass(model, lambda: model(sparse(inputs)), 3)
    assert found == NonFinite(3, "", "input")

"""A copy that does not fit in memory, and arguments that are no model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradflow_widget.tweaks import copying
from gradflow_widget.tweaks.activation import with_activation
from gradflow_widget.tweaks.copying import NO_ROOM
from gradflow_widget.tweaks.depth import depth_of, with_depth
from gradflow_widget.tweaks.errors import CannotTweak
from gradflow_widget.tweaks.initialization import with_initialization
from gradflow_widget.tweaks.normalization import with_normalization
from gradflow_widget.tweaks.orthogonality import with_orthogonality
from gradflow_widget.tweaks.skips import with_skips
from tests.models.zoo import fingerprint, mlp

# What torch.empty(10**15) raises on a CPU.
ON_A_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
ON_WINDOWS = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried "
    "to allocate 4000000000000000 bytes."
)
ON_A_MAC = RuntimeError("MPS backend out of memory (MPS allocated: 8.02 GB, max allowed: 9.07 GB).")
ON_CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
TWEAKS: dict[str, Callable[[Any], object]] = {
    "depth": lambda model: with_depth(model, 2),
    "depth of": depth_of,
    "activation": lambda model: with_activation(model, "relu"),
    "initialization": lambda model: with_initialization(model, "he"),
    "normalization": lambda model: with_normalization(model, "batch"),
    "no normalization": lambda model: with_normalization(model, None),
    "skips": lambda model: with_skips(model, 1.0),
    "no skips": lambda model: with_skips(model, None),
    "penalty": lambda model: with_orthogonality(model, 0.1),
    "hard": lambda model: with_orthogonality(model, "hard"),
}


def raising(error: BaseException) -> Callable[..., Any]:
    def run_out(*_: object, **__: object) -> Any:
        raise error

    return run_out


@pytest.mark.parametrize(
    "error",
    [MemoryError(), ON_CUDA, ON_A_CPU, ON_WINDOWS, ON_A_MAC],
    ids=["Python", "CUDA", "CPU", "Windows", "Mac"],
)
@pytest.mark.parametrize("name", sorted(set(TWEAKS) - {"depth of"}))
def test_a_copy_that_does_not_fit_is_refused_in_one_sentence(
    name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    before = fingerprint(model)
    monkeypatch.setattr(copying.copy, "deepcopy", raising(error))
    with pytest.raises(CannotTweak) as caught:
        TWEAKS[name](model)
    monkeypatch.undo()
    assert str(caught.value) == NO_ROOM
    assert caught.value.__cause__ is error
    assert fingerprint(model) == before


@pytest.mark.parametrize("error", [MemoryError(), ON_CUDA, ON_A_CPU], ids=["Python", "CUDA", "CPU"])
def test_new_blocks_that_do_not_fit_are_refused(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradflow_widget.tweaks.depth.fresh_copy", raising(error))
    with pytest.raises(CannotTweak) as caught:
        with_depth(mlp(), 5)
    assert str(caught.value) == NO_ROOM


def test_another_error_while_copying_keeps_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying.copy, "deepcopy", raising(RuntimeError("no thread can be copied")))
    with pytest.raises(CannotTweak, match=r"can't be copied \(RuntimeError: no thread can be"):
        with_depth(mlp(), 5)


def test_what_pytorch_really_raises_is_known() -> None:
    with pytest.raises(CannotTweak) as caught, copying.refusing_without_room():
        # More than any machine can address, so that nothing is allocated.
        torch.empty(10**17, dtype=torch.uint8)
    assert str(caught.value) == NO_ROOM


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "not int."),
        (None, "not NoneType."),
        ([nn.Linear(2, 2)], "not list."),
        (mlp, "not function."),
        (nn.Tanh, "not the class Tanh itself: pass Tanh(...)."),
    ],
    ids=["number", "None", "list", "function", "class"],
)
@pytest.mark.parametrize("name", TWEAKS)
def test_what_is_no_model_is_named(name: str, given: object, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        TWEAKS[name](given)
    assert str(caught.value) == f"model must be a torch.nn.Module, {says}"


@pytest.mark.parametrize(
    "function",
    [
        depth_of,
        with_activation,
        with_depth,
        with_initialization,
        with_normalization,
        with_orthogonality,
        with_skips,
    ],
)
def test_it_is_documented_that_what_is_no_model_is_refused(function: Callable[..., Any]) -> None:
    assert "TypeError: ``model`` is no module" in (inspect.getdoc(function) or "")

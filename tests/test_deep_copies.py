"""Functions in a deep copy refer to the copy, and those that lead nowhere stay as they are."""

from __future__ import annotations

import copy
import functools
from collections import Counter, deque
from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from gradflow_widget import deep_copies
from gradflow_widget.deep_copies import deep_copy, refer_to_new


class Layers(NamedTuple):
    first: nn.Module
    rest: tuple[nn.Module, ...] = ()


class Named(tuple[nn.Module, ...]):
    name = "unnamed"


def holder() -> Any:
    model = nn.Module()
    model.fc = nn.Linear(2, 2)
    return model


def copied(model: Any) -> Any:
    return deep_copy(model, {})


def test_what_a_function_leads_to_is_the_copy_s_whatever_lies_between() -> None:
    model = holder()
    fc = model.fc
    kept, layers, named = SimpleNamespace(layers=deque([fc])), Layers(fc), Named([fc])
    named.name = "one"
    ways = {
        "closure": lambda: fc,
        "closure of a closure": lambda: (lambda: fc)(),
        "default": lambda layer=fc: layer,
        "keyword": functools.partial(lambda *, layer: layer, layer=fc),
        "container": lambda: [{"a": (fc,)}][0]["a"][0],
        "namedtuple": lambda: layers.first,
        "tuple of its own": lambda: named[0],
        "object": lambda: kept.layers[0],
        "method": MethodType(lambda self: self.fc, model),
        "cached": functools.lru_cache(maxsize=4)(lambda: fc),
        "tuple": (lambda: fc, 1),
        "list": [lambda: fc],
    }
    model.ways = ways
    twin = copied(model)
    for name, way in twin.ways.items():
        found = way[0]() if isinstance(way, tuple | list) else way()
        assert found is twin.fc, name
    made = twin.ways["tuple of its own"].__closure__[0].cell_contents
    assert (type(made), made.name) == (Named, "one")
    assert kept.layers[0] is fc
    assert all(way() is fc for way in ways.values() if callable(way))


def test_a_function_that_leads_to_nothing_of_the_model_stays_itself() -> None:
    model, outside = holder(), [nn.Linear(2, 2)]
    model.plain, model.closed = (lambda x: x), (lambda x: outside[0](x))
    model.torch_s = torch.relu
    twin = copied(model)
    assert twin.plain is model.plain
    assert twin.closed is model.closed
    assert twin.torch_s is torch.relu


def test_a_function_keeps_its_name_its_attributes_and_one_twin() -> None:
    model = holder()
    fc = model.fc

    def compute(x: Any, scale: float = 2.0, *, shift: float = 1.0) -> Any:
        """Compute."""
        return fc(x) * scale + shift

    compute.layer = fc
    model.one, model.other = compute, compute
    twin = copied(model)
    assert twin.one is twin.other
    assert twin.one.layer is twin.fc
    assert (twin.one.__name__, twin.one.__doc__) == ("compute", "Compute.")
    assert twin.one.__qualname__ == compute.__qualname__
    x = torch.ones(2)
    assert torch.equal(twin.one(x, shift=3.0), compute(x, shift=3.0))
    assert compute.layer is fc


def test_a_function_that_calls_itself_and_cells_that_two_share() -> None:
    model = holder()
    fc, count = model.fc, 0

    def again(n: int) -> Any:
        return fc if n == 0 else again(n - 1)

    def exchange(layer: Any) -> None:
        nonlocal fc
        fc = layer

    model.again, model.exchange = again, exchange
    twin = copied(model)
    assert twin.again(3) is twin.fc
    twin.exchange(None)
    assert twin.again(3) is None
    assert again(3) is model.fc
    assert count == 0


def test_an_empty_cell_stays_empty_until_it_is_filled() -> None:
    model = holder()
    fc = model.fc

    def later() -> Any:
        return fc, unset

    model.later = later
    twin = copied(model)
    unset = 1
    assert twin.later() == (twin.fc, 1)


def test_a_hook_of_the_copy_refers_to_the_copy() -> None:
    model = holder()
    met: list[Any] = []
    model.fc.register_forward_hook(lambda *_: met.append(model))
    twin = copied(model)
    twin.fc(torch.ones(2))
    assert met == [twin]


def test_what_was_copied_before_can_be_copied_again() -> None:
    model = holder()
    fc = model.fc
    model.run = lambda x: fc(x)
    twin = copied(copied(model))
    assert twin.run.__closure__[0].cell_contents is twin.fc
    assert copy.deepcopy(model).run is model.run


def test_data_that_many_blocks_know_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(tokens=[SimpleNamespace(word=str(n)) for n in range(500)])
    model = nn.ModuleList(holder() for _ in range(100))
    for block in model:
        block.config = config
    looked_into = Counter[str]()
    original = deep_copies._parts_of

    def counted(value: Any) -> Any:
        looked_into[type(value).__name__] += 1
        return original(value)

    monkeypatch.setattr(deep_copies, "_parts_of", counted)
    new = [nn.Linear(2, 2) for _ in model]
    refer_to_new(model, [(block.fc, fc) for block, fc in zip(model, new, strict=True)])
    assert looked_into["SimpleNamespace"] == 501


@pytest.mark.parametrize("kind", [list, tuple, lambda tokens: dict(enumerate(tokens))])
def test_a_long_vocabulary_is_not_gone_through(
    kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_into: list[Any] = []
    original = deep_copies._parts_of
    monkeypatch.setattr(
        deep_copies, "_parts_of", lambda value: looked_into.append(value) or original(value)
    )
    model = holder()
    fc, words = model.fc, kind([object() for _ in range(9_000)])
    model.run = lambda: (words, fc)
    twin = copied(model)
    assert twin.run()[1] is twin.fc
    assert twin.run()[0] is words
    assert len(looked_into) < 100


def test_a_layer_is_found_behind_much_data_of_the_user_s() -> None:
    model = holder()
    words = [[SimpleNamespace(n=n) for n in range(20)] for _ in range(900)]
    layers = [*(nn.Identity() for _ in range(500)), model.fc]
    model.run = lambda: (layers, words)
    twin = copied(model)
    assert twin.run()[0][-1] is twin.fc
    assert twin.run()[1] is words

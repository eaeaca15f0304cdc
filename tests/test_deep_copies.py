"""Functions in a deep copy refer to the copy, and those that lead nowhere stay as they are."""

from __future__ import annotations

import copy
import functools
from collections import deque
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from gradflow_widget.deep_copies import deep_copy


def holder() -> Any:
    model = nn.Module()
    model.fc = nn.Linear(2, 2)
    return model


def copied(model: Any) -> Any:
    return deep_copy(model, {})


def test_what_a_function_leads_to_is_the_copy_s_whatever_lies_between() -> None:
    model = holder()
    fc = model.fc
    kept = SimpleNamespace(layers=deque([fc]))
    ways = {
        "closure": lambda: fc,
        "closure of a closure": lambda: (lambda: fc)(),
        "default": lambda layer=fc: layer,
        "keyword": functools.partial(lambda *, layer: layer, layer=fc),
        "container": lambda: [{"a": (fc,)}][0]["a"][0],
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

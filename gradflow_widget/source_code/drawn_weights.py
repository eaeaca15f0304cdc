"""Weights that a scheme has drawn from a generator of its own, drawn again by the text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..tweaks.weights import biases_of, weights_of
from .definitions import Definitions
from .values import quoted

ORTHOGONAL = '''def NAME(shape, generator=None):
    """Return a matrix with orthonormal columns, or rows where it has fewer of them."""
    q, r = torch.linalg.qr(
        torch.randn(max(shape), min(shape), generator=generator, device="cpu")
    )
    q *= r.diagonal().sign()
    return q if shape[0] >= shape[1] else q.T
'''


class _Drawn(NamedTuple):
    """How a parameter was drawn, times ``number``.

    The kinds are "normal", "orthogonal", "torch's orthogonal" (nn.init) and "constant".
    """

    name: str
    kind: str
    number: float


def drawn_text(
    model: nn.Module,
    missing: Mapping[str, Tensor],
    seeds: tuple[int, ...],
    state: Tensor,
    definitions: Definitions,
) -> tuple[str, set[str]]:
    """Return statements that draw weights anew, and the names of those that they set.

    Weight after weight is drawn in the order of the modules, by what goes on drawing where the
    making of the model ended, as nn.init does, or by a generator of its own, as
    ``with_initialization`` does. Whether that gives the weights bit for bit is found by doing
    it; where it does not, the text is "".

    Args:
        model: the model, for the order of its weights.
        missing: the weights that are wanted, by name.
        seeds: what a generator of its own may have been seeded with.
        state: torch's random state when the model has been made.
        definitions: takes in what the statements need.
    """
    going_on = torch.Generator("cpu")
    going_on.set_state(state)
    own = [(torch.Generator("cpu").manual_seed(seed), seed) for seed in dict.fromkeys(seeds)]
    for generator, seed in [(going_on, None), *own]:
        found = _sequence(model, missing, generator)
        drawn = [one for one in found if one.kind != "constant"]
        constant = [one for one in found if one.kind == "constant"]
        if found and (drawn or len(constant) == len(missing)):
            return _text(drawn, constant, seed, definitions), {one.name for one in found}
    return "", set()


def _sequence(
    model: nn.Module, missing: Mapping[str, Tensor], generator: torch.Generator
) -> list[_Drawn]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: list[_Drawn] = []
    for module in model.modules():
        # To look at a weight with a spectral norm would move its power iteration on.
        for weight in () if parametrize.is_parametrized(module) else weights_of(module):
            if weight.tied_to is None or weight.stacked > 1 or weight.inputs_first:
                continue
            for parameter in (weight.tied_to, *biases_of(weight)):
                name = names[id(parameter)]
                if name in missing and not any(one.name == name for one in found):
                    how = _how(name, missing[name], generator)
                    if how is None:
                        return []
                    found.append(how)
    return found


def _how(name: str, value: Tensor, generator: torch.Generator) -> _Drawn | None:
    """Return how a parameter was drawn, ``generator`` being moved on as it was then."""
    value = value.cpu()
    if value.dtype != torch.float32 or not value.numel():
        return None
    if bool((value == value.flatten()[0]).all()):
        return _Drawn(name, "constant", float(value.flatten()[0]))
    before = generator.get_state()
    number = _factor(value, torch.randn(value.shape, generator=generator, device="cpu"))
    if number is not None:
        return _Drawn(name, "normal", number)
    if value.dim() > 1:
        generator.set_state(before)
        number = _factor(
            value, nn.init.orthogonal_(torch.empty(value.shape, device="cpu"), generator=generator)
        )
        if number is not None:
            return _Drawn(name, "torch's orthogonal", number)
    if value.dim() == 2:
        generator.set_state(before)
        tall = (max(value.shape), min(value.shape))
        q, r = torch.linalg.qr(torch.randn(tall, generator=generator, device="cpu"))
        q *= r.diagonal().sign()
        number = _factor(value, q if value.shape[0] >= value.shape[1] else q.T)
        if number is not None:
            return _Drawn(name, "orthogonal", number)
    return None


def _factor(value: Tensor, drawn: Tensor) -> float | None:
    """Return the number with which ``drawn`` is ``value`` bit for bit, or None."""
    place = int(drawn.abs().argmax())
    ratio = float(value.flatten()[place].double() / drawn.flatten()[place].double())
    if not math.isfinite(ratio):
        return None
    near = torch.tensor(ratio, dtype=torch.float32, device="cpu")
    below = torch.nextafter(near, torch.tensor(-math.inf, device="cpu"))
    above = torch.nextafter(near, torch.tensor(math.inf, device="cpu"))
    for candidate in (near, below, above):
        if torch.equal(drawn * float(candidate), value):
            return _short(float(candidate))
    return None


def _short(number: float) -> float:
    """Return the shortest number that is the same in float32."""
    wanted = torch.tensor(number, device="cpu")
    for digits in range(1, 10):
        short = float(f"{number:.{digits}g}")
        if torch.equal(torch.tensor(short, device="cpu"), wanted):
            return short
    return number


def _text(
    drawn: list[_Drawn], constant: list[_Drawn], seed: int | None, definitions: Definitions
) -> str:
    lines = ["# The weights, drawn anew."]
    given = ""
    if drawn and seed is not None:
        lines.append(f"generator = torch.Generator().manual_seed({seed})")
        given = ", generator=generator"
    lines.append("with torch.no_grad():")
    for number, group in groupby(sorted(constant, key=lambda one: one.number), _number):
        lines += _loop([one.name for one in group])
        lines.append(f"        model.get_parameter(name).fill_({number!r})")
    calls = {kind: _call(kind, given, definitions) for kind in {one.kind for one in drawn}}
    groups = [
        (key, list(group)) for key, group in groupby(drawn, lambda one: (one.kind, one.number))
    ]
    if len(groups) > 4 and len(calls) == 1:
        lines.append("    for name, scale in (")
        lines += [f"        ({quoted(one.name)}, {one.number!r})," for one in drawn]
        lines += ["    ):", *_draw(calls[drawn[0].kind], "scale")]
        groups = []
    for (kind, number), members in groups:
        lines += [*_loop([one.name for one in members]), *_draw(calls[kind], repr(number))]
    return "\n".join(lines) + "\n"


def _number(one: _Drawn) -> float:
    return one.number


def _loop(names: list[str]) -> list[str]:
    inner = ", ".join(quoted(name) for name in names)
    comma = "," if len(names) == 1 else ""
    if len(inner) < 75:
        return [f"    for name in ({inner}{comma}):"]
    return ["    for name in (", *(f"        {quoted(name)}," for name in names), "    ):"]


def _call(kind: str, given: str, definitions: Definitions) -> str:
    if kind == "torch's orthogonal":
        return f"nn.init.orthogonal_(torch.empty(weight.shape){given})"
    if kind == "orthogonal":
        return f"{definitions.template('orthogonal', ORTHOGONAL)}(weight.shape{given})"
    return f"torch.randn(weight.shape{given})"


def _draw(call: str, scale: str) -> list[str]:
    factor = "" if scale == "1.0" else f" * {scale}"
    return [
        "        weight = model.get_parameter(name)",
        f"        weight.copy_({call}{factor})",
    ]

"""The orthogonality penalty as a function of the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..tweaks.orthogonality import penalized
from ..tweaks.record import tweaks_of
from ..tweaks.weights import Weight
from .layers import is_torch_class, plain_class
from .values import quoted


def penalty_text(model: nn.Module, refer: Callable[[Any], str]) -> str:
    """Return the definition of ``penalty(model)``; "" where the objective has none to add.

    ``refer`` names classes.
    """
    strength = next((tweak.value for tweak in tweaks_of(model) if tweak.knob == "orthogonality"), 0)
    if not isinstance(strength, float | int) or not strength:
        return ""
    weights = list(penalized(model))
    return f'''def penalty(model):
    """Return {strength:g} * sum of |W^T W - I|^2, which draws the weights to orthogonal ones."""
    terms = []
{_loops(model, weights, refer)}
    return torch.stack([term.to(terms[0]) for term in terms]).sum() * {float(strength)!r}
'''


def _loops(model: nn.Module, weights: list[Weight], refer: Callable[[Any], str]) -> str:
    classes = list(dict.fromkeys(plain_class(weight.module) for weight in weights))
    found = [module for module in model.modules() if isinstance(module, tuple(classes))]
    plain = all(weight.name == "weight" and weight.stacked == 1 for weight in weights)
    if (
        plain
        and found == [weight.module for weight in weights]
        and all(map(is_torch_class, classes))
    ):
        names = [refer(cls) for cls in classes]
        listed = names[0] if len(names) == 1 else f"({', '.join(names)})"
        return (
            "    for layer in model.modules():\n"
            f"        if isinstance(layer, {listed}):\n"
            "            matrix = layer.weight.flatten(1)\n"
        ) + _indented(_DISTANCE, 12)
    paths = {id(module): name for name, module in model.named_modules()}
    rows = "".join(
        f"        ({quoted(paths[id(weight.module)])}, {quoted(weight.name)}, {weight.stacked}),\n"
        for weight in weights
    )
    return (
        "    for path, name, count in (  # a layer, its weight, matrices stacked in it\n"
        f"{rows}    ):\n"
        "        for part in getattr(model.get_submodule(path), name).chunk(count):\n"
        "            matrix = part.flatten(1)\n"
    ) + _indented(_DISTANCE, 12)


_DISTANCE = """if matrix.shape[0] < matrix.shape[1]:
    matrix = matrix.T
gram = matrix.T @ matrix
identity = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
terms.append((gram - identity).square().sum())"""


def _indented(text: str, columns: int) -> str:
    return "\n".join(" " * columns + line for line in text.split("\n"))

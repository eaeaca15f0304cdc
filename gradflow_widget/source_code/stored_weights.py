"""Weights that no seed gives: within the text, or in a file beside it."""

from __future__ import annotations

import base64
import io
import os
import textwrap
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .comparing import state_of
from .values import Unwritable, quoted

MOST_IN_THE_TEXT = 64 * 1024
"""Bytes of weights, beyond which a file is asked for."""


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Return how many bytes the weights take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def weights_text(
    tensors: Mapping[str, Tensor], model: nn.Module, file: str | os.PathLike[str] | None
) -> tuple[str, set[str]]:
    """Return the statements that set the weights ``tensors``, by name, and their imports.

    Args:
        tensors: the weights and buffers that differ from what the seed gives.
        model: whose they are.
        file: where to save them; None writes them into the text if they are few.

    Raises:
        Unwritable: they are too many for the text, and no file is given.
    """
    if not tensors:
        return "", set()
    kept = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    total = len(state_of(model))
    # Of tied ones, which are kept once, torch asks for every name.
    strict = "" if kept.keys() == model.state_dict().keys() else ", strict=False"
    which = (
        "The weights" if len(kept) == total else f"{len(kept)} of the {total} weights and buffers"
    )
    reason = f"# {which} at the beginning of the run, which the seed does not give.\n"
    if file is not None:
        torch.save(kept, file)
        load = f"torch.load({quoted(str(os.fspath(file)))}, weights_only=True)"
        return f"{reason}model.load_state_dict({load}{strict})\n", set()
    size = size_of(kept)
    if size > MOST_IN_THE_TEXT:
        raise Unwritable(
            f"{size / 1e6:.2g} MB of its weights come from no seed and are too many for a text: "
            'give recipe(flow, weights="weights.pt") to have them saved beside it'
        )
    written = io.BytesIO()
    torch.save(kept, written)
    encoded = textwrap.fill(base64.b64encode(written.getvalue()).decode(), 96)
    text = (
        f'{reason}WEIGHTS = """\n{encoded}\n"""\n'
        "file = io.BytesIO(base64.b64decode(WEIGHTS))\n"
        f"model.load_state_dict(torch.load(file, weights_only=True){strict})\n"
    )
    return text, {"import base64", "import io"}

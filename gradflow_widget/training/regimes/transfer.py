"""Transfer: a model that starts from a saved state."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

# Where checkpoints that hold more than the weights keep them.
_NESTED = ("state_dict", "model_state_dict", "model")
_SHOWN = 3


def saved_state(source: str | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict in a file, which is loaded with ``weights_only=True``, or as given.

    A checkpoint that holds it under "state_dict", "model_state_dict" or "model" will do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what is there is no state dict, or can't be loaded safely.
    """
    found: Any = source
    if isinstance(source, str):
        try:
            found = torch.load(source, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"state names the file {source!r}, which does not exist: give the path of one "
                "saved with torch.save(model.state_dict(), path)."
            ) from None
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
            raise ValueError(
                f"state {source!r} can't be loaded as weights alone "
                f"({type(error).__name__}): save one with torch.save(model.state_dict(), path)."
            ) from error
    if isinstance(found, Mapping):
        inner = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
        tensors = {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    raise ValueError(
        "state holds no tensors by name: save one with torch.save(model.state_dict(), path)."
    )


def load_saved(model: nn.Module, source: str | Mapping[str, Any], *, strict: bool = True) -> None:
    """Write a saved state into the parameters and buffers of ``model``.

    Args:
        model: is changed in place, and not at all where an error is raised.
        source: a path or a state dict; see :func:`saved_state`.
        strict: every name and shape must fit; if not, what does not fit is left as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no state dict, or does not fit; the sentence says what does not.
    """
    saved = saved_state(source)
    own: dict[str, Any] = model.state_dict()
    missing = [name for name in own if name not in saved]
    unknown = [name for name in saved if name not in own]
    common = [name for name in own if name in saved]
    others = [name for name in common if _shape(own[name]) != _shape(saved[name])]
    fitting = [name for name in common if name not in others]
    if not fitting or (strict and (missing or unknown or others)):
        shapes = [f"{n} ({_written(saved[n])}, here {_written(own[n])})" for n in others]
        wrong = [
            part
            for part in (
                _listed("it lacks", missing),
                _listed("the model lacks", unknown),
                _listed("it has another shape for", shapes),
            )
            if part
        ]
        remedy = (
            "build the model that it was saved from"
            if not fitting
            else "build the model that it was saved from, or give strict=False to take what fits"
        )
        raise ValueError(f"state does not fit the model ({'; '.join(wrong)}): {remedy}.")
    model.load_state_dict({name: saved[name] for name in fitting}, strict=False)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _written(value: Any) -> str:
    return "×".join(map(str, _shape(value) or ())) or "a number"


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}"

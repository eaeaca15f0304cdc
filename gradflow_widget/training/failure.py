"""What the user's own code raised, told in one sentence."""

from __future__ import annotations

from torch import nn

_LONGEST = 200


class FirstBatchError(RuntimeError):
    """The user's model, loss or data raised on the first batch."""


def described(error: BaseException) -> str:
    """Return an exception's type and the first line of its message, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    first = lines[0].rstrip(".:;, ")
    if len(first) > _LONGEST:
        first = first[:_LONGEST].rstrip() + "…"
    return f"{kind}: {first}"


def came_from(error: BaseException, model: nn.Module) -> bool:
    """Whether an exception was raised inside a call of ``model``."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_locals.get("self") is model:
            return True
        traceback = traceback.tb_next
    return False

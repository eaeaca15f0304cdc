"""What the user's own code raised, told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames, walk_tb
from types import TracebackType

from torch import nn

_LONGEST = 200
_FAILED = "_gradflow_what_failed"
_PACKAGE = __name__.partition(".")[0]


class FirstBatchError(RuntimeError):
    """The user's model, loss or data raised on the first batch."""


def described(error: BaseException, *, whole: bool = False) -> str:
    """Return an exception's type and the first line of its message, without a full stop.

    ``whole``: all lines of it as one.
    """
    kind = type(error).__name__
    try:
        message = str(error)
    except Exception:  # theirs is a class of their own, which can't even say what went wrong
        return kind
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return kind
    text = (" ".join(lines) if whole else lines[0]).rstrip(".:;, ")
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rstrip() + "…"
    return f"{kind}: {text}"


@contextmanager
def noting(what_failed: str) -> Iterator[None]:
    """Note on what the user's own code raises in here ``what_failed``, to be told with it.

    The exception stays theirs. One that this package raised, where their code calls it, says
    itself what it refuses.
    """
    try:
        yield
    except Exception as error:
        # The first two frames are this one and that of the call.
        theirs = [frame for frame, _ in walk_tb(error.__traceback__)][2:]
        raised_in = theirs[-1].f_globals.get("__name__", "") if theirs else ""
        if raised_in.partition(".")[0] != _PACKAGE:
            error.__dict__[_FAILED] = what_failed
        raise


def sentence_of(error: BaseException) -> str:
    """Return what there is to tell of an exception, in one line."""
    what_failed = error.__dict__.get(_FAILED)
    if what_failed is not None:
        return f"{what_failed}: {described(error, whole=True)}."
    return " ".join(str(error).split()) or type(error).__name__


def came_from(error: BaseException, model: nn.Module) -> bool:
    """Whether an exception was raised inside a call of ``model``."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_locals.get("self") is model:
            return True
        traceback = traceback.tb_next
    return False


class LastFailure:
    """What stopped the training, kept to be told and raised again."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._is_heard = False

    def keep(self, error: BaseException, *, is_heard: bool) -> None:
        """Remember what has just been raised; ``is_heard``: to whoever asked for the steps."""
        self._error, self._traceback = error, error.__traceback__
        self._is_heard = is_heard

    def clear(self) -> None:
        """Forget it: training goes on, or anew."""
        self._error = self._traceback = None

    def let_go(self) -> None:
        """Let go of what the calls held that it was raised in, such as a loader's processes.

        It can be told and raised as before, with its traceback.
        """
        clear_frames(self._traceback)

    @property
    def text(self) -> str:
        """It in one line without a full stop; "" where nothing failed."""
        return "" if self._error is None else described(self._error)

    def raise_again(self) -> None:
        """Raise it, where there is something."""
        if self._error is not None:
            self._is_heard = True
            # Raising adds to a traceback; each time it begins where the user's code raised.
            raise self._error.with_traceback(self._traceback)

    def raise_once(self) -> None:
        """Raise it, where there is something that nobody has heard of."""
        if not self._is_heard:
            self.raise_again()

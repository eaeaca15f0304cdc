"""CannotTweak: why a model can't be changed as asked."""

from __future__ import annotations


class CannotTweak(ValueError):
    """A model can't be changed as asked; the message is one sentence that says why."""

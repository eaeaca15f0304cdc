"""Hook: one that stays with the module it was registered on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hook:
    """Calls a function for the watched module alone: a copy carries a hook that does nothing.

    A loop that keeps its best model with copy.deepcopy, or saves it whole, copies and pickles
    the module's hooks too. What watches can't be copied, and must not hear of the copy's passes.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return of_a_copy()

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return of_a_copy, ()


def of_a_copy() -> Callable[..., None]:
    """Return the hook of a copy."""
    return nothing


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""

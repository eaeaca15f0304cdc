"""A guard that lets nothing be written into tensors that were there before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class WriteGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the ``with``, on this thread: operations in place write into copies.

    Only tensors that were made within are written into themselves. It sees every operation of
    torch's, under ``.data`` and ``torch.no_grad()`` too.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Kept, so that no address is given to another one meanwhile.
        self._made: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, with copies in the place of what it may not write into."""
        arguments, keywords = list(args), dict(kwargs or {})
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            if place < len(arguments):
                arguments[place] = self._writable(arguments[place])
            elif argument.name in keywords:
                keywords[argument.name] = self._writable(keywords[argument.name])
        result = func(*arguments, **keywords)
        given = {_address(tensor) for tensor in _tensors((args, list((kwargs or {}).values())))}
        for tensor in _tensors(result):
            address = _address(tensor)
            if address and address not in given:
                self._made[address] = tensor.untyped_storage()
        return result

    def _writable(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if _address(value) in self._made else value.clone()
        if isinstance(value, (list, tuple)):
            return [self._writable(one) for one in value]
        return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _address(tensor: Tensor) -> int:
    """Return where a tensor's memory begins; 0 where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0

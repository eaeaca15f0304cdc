"""The random state of the process, as it was before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..random_generators import between_steps, python_and_numpy_kept


@contextmanager
def random_state_kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Put the random state back on leaving.

    It is that of torch on the CPU and on the GPUs with ``tensors``, of Python and of NumPy, from
    each of which a model's own code may draw.
    """
    gpus = {tensor.device.index for tensor in tensors if tensor.is_cuda}
    with (
        between_steps(),
        torch.random.fork_rng(devices=list(gpus)),
        python_and_numpy_kept(),
    ):
        yield


@contextmanager
def drawn_from(seed: int, like: Tensor) -> Iterator[None]:
    """Draw random numbers on the CPU and on the device of ``like`` from ``seed`` within."""
    with random_state_kept([like]):
        # torch.manual_seed would also seed devices whose state is not put back.
        torch.default_generator.manual_seed(seed)
        if like.is_cuda:
            torch.cuda.default_generators[like.device.index].manual_seed(seed)
        yield

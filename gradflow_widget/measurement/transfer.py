"""One transfer a step: a vector of statistics on its way from the device to the CPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class Transfer:
    """Carries a vector to the CPU without making the training stream wait.

    On a CUDA device the copy goes to pinned memory behind the work already queued, and an
    event tells when it has arrived. Elsewhere the values are there at once.
    """

    def __init__(self, vector: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if vector.device.type == "cuda":
            self._host = torch.empty(
                vector.shape, dtype=vector.dtype, device="cpu", pin_memory=True
            )
            self._host.copy_(vector, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(vector.device))
        else:
            self._host = vector.cpu()

    @property
    def arrived(self) -> bool:
        """Whether :meth:`values` would return without waiting."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def values(self) -> NDArray[np.float64]:
        """Return the vector as float64, waiting for it where it is still on its way."""
        if self._event is not None and not self.arrived:
            self._event.synchronize()
        return self._host.numpy().astype(np.float64)

"""Ahead: norms of large gradients, taken on a second core while the backward pass goes on.

A backward pass leaves the gradients of the last layers first. Where torch keeps to one core and
the machine has another, those are handed over to a thread there, as soon as the pass has come to
the layer before them: reading the gradients of 30 layers of 256 units once more costs a training
loop 3 % of its time, beside the backward pass less than half of that. A norm counts only where,
when the pass is over, the parameter still has the gradient that was handed over, at the version
that it had then.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from operator import attrgetter
from queue import SimpleQueue

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

# Smaller gradients are read before they could be handed over.
_LARGE = 32_768
# The least number of elements of large gradients for which it pays.
_WORTH_IT = 1_000_000
# Handed over are so many of their elements, at once: gathering them takes time of the pass. What
# is left of it is long enough for their norms, and the rest is read at the end.
_SHARE = 0.8

_version_of = attrgetter("_version")


class _Job:
    """Gradients handed over together; whoever comes first, claims them."""

    __slots__ = ("_claim", "_done", "gradients", "norms", "versions")

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self.gradients = gradients
        self.versions = list(map(_version_of, gradients))
        self.norms: list[float] = []
        self._claim, self._done = threading.Lock(), threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        """Take the norms; on the second core."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            # A thread begins with as many cores as torch had at that moment.
            if torch.get_num_threads() == 1:
                with torch.no_grad():
                    # Float32 even of a layer that was cast to less since.
                    norms = torch._foreach_norm(self.gradients, 2, torch.float32)
                    self.norms = torch.stack(norms).tolist()
        except RuntimeError:  # whatever it is, it will show where they are read one by one
            self.norms = []
        finally:
            self._done.release()

    def wait(self) -> bool:
        """Wait for the norms where they have been begun; False where there are none."""
        if self._claim.acquire(blocking=False):
            return False
        self._done.acquire()
        return bool(self.norms)


class Ahead:
    """Takes norms of a model's large gradients ahead of the end of each backward pass.

    Args:
        parameters: the model's, in forward order.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._trigger, self._places = _last_layers(parameters)
        self._handle: RemovableHandle | None = None
        self._queue: SimpleQueue[_Job | None] | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._job: _Job | None = None
        self._armed = False

    def begin(self) -> None:
        """Hand gradients over in the backward pass that begins now."""
        if not self._places:
            return
        self._job = None
        self._armed = torch.get_num_threads() == 1 and self._process == os.getpid()
        if self._armed and self._handle is None:
            self._start()

    def end(self, gradients: Sequence[torch.Tensor | None]) -> dict[int, float]:
        """Return the norms that were taken, by the parameter's place; the pass is over.

        Args:
            gradients: those that the parameters have now.
        """
        self._armed = False
        job, self._job = self._job, None
        if job is None or not job.wait():
            return {}
        return {
            place: norm
            for place, gradient, version, norm in zip(
                self._places, job.gradients, job.versions, job.norms, strict=True
            )
            if gradients[place] is gradient and gradient._version == version
        }

    def close(self) -> None:
        """Take the hook off and end the thread."""
        self._places, self._armed = [], False
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self._queue is not None and self._thread is not None:
            self._queue.put(None)
            if self._process == os.getpid():
                self._thread.join()
        self._queue = self._thread = None

    def _start(self) -> None:
        queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._queue = queue
        self._thread = threading.Thread(
            target=_work, args=(queue,), name="gradflow-norms", daemon=True
        )
        self._thread.start()
        # A probe that nobody has closed ends it too. The hook must not keep us alive.
        weakref.finalize(self, queue.put, None)
        here = weakref.ref(self)

        def hand_over(_: torch.Tensor) -> None:
            ahead = here()
            if ahead is not None:
                ahead._hand_over()

        trigger = self._parameters[self._trigger]
        self._handle = trigger.register_post_accumulate_grad_hook(hand_over)  # type: ignore[no-untyped-call]

    def _hand_over(self) -> None:
        if not self._armed or self._job is not None or self._queue is None:
            return
        parameters = self._parameters
        gradients = [parameters[place].grad for place in self._places]
        held = [gradient for gradient in gradients if gradient is not None]
        if len(held) == len(gradients):
            self._job = _Job(held)
            self._queue.put(self._job)


def _last_layers(parameters: Sequence[nn.Parameter]) -> tuple[int, list[int]]:
    """Return the parameter at whose gradient those of the last layers are there, and their places.

    No places where it is not worth it, or where there is no second core.
    """
    large = [
        place
        for place, parameter in enumerate(parameters)
        if parameter.numel() >= _LARGE
        and parameter.requires_grad
        and parameter.dtype is torch.float32
        and parameter.device.type == "cpu"
    ]
    total = sum(parameters[place].numel() for place in large)
    if total < _WORTH_IT or _cores() < 2:
        return 0, []
    handed: list[int] = []
    done = 0
    for place in reversed(large):
        if done >= _SHARE * total:
            return place, handed
        handed.append(place)
        done += parameters[place].numel()
    return 0, []  # the first layer has it all


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(queue: SimpleQueue[_Job | None]) -> None:
    while (job := queue.get()) is not None:
        job.run()
        del job

"""Max-pooling between a layer and its activation, as autograd's nodes tell of it."""

from __future__ import annotations

from typing import Any

_MAX_POOLINGS = ("MaxPool2DWithIndicesBackward0", "MaxPool3DWithIndicesBackward0")
# Their windows meet or overlap, and reach from one end to the other.
_ADAPTIVE = ("AdaptiveMaxPool2DBackward0", "AdaptiveMaxPool3DBackward0")


def sees_every_element(node: Any) -> bool:
    """Whether ``node`` is of a max-pooling whose windows leave out no element of its input.

    Then its output is at most z everywhere just where its input is. A pooling over one
    dimension is one over two to autograd.
    """
    name = type(node).__name__
    if name in _ADAPTIVE:
        return True
    if name not in _MAX_POOLINGS:
        return False
    producer, place = node.next_functions[0]
    kernel, padding = node._saved_kernel_size, node._saved_padding
    # The shapes of the gradients that go into a node are those of its outputs.
    before = producer._input_metadata[place].shape[-len(kernel) :]
    after = node._input_metadata[0].shape[-len(kernel) :]
    stride = node._saved_stride or kernel
    return all(
        dilation == 1 and step <= width and (windows - 1) * step + width - pad >= size
        for dilation, step, width, pad, windows, size in zip(
            node._saved_dilation, stride, kernel, padding, after, before, strict=True
        )
    )

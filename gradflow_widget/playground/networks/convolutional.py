"""Convolutional networks: plain, VGG-like and residual.

All map images (batch, channels, height, width) of any size to (batch, outputs). Convolutions
without norms have He's weights (He et al. 2015), as torchvision's VGG has: with PyTorch's
default their signal vanishes, and training takes long to begin.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ...tweaks.activation import activation_module, checked_activation
from ...tweaks.depth import checked_depth
from .skips import joined, skip_scale
from .widths import checked_width


def _as_he(network: nn.Sequential) -> nn.Sequential:
    """Draw the convolutions' weights with Var W = 2/fan_out, and set their biases to 0."""
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def cnn(
    depth: int = 4,
    activation: str = "relu",
    *,
    channels: int = 1,
    width: int = 16,
    outputs: int = 10,
) -> nn.Sequential:
    """Return a plain convolutional network: ``depth`` 3×3 convolutions of ``width`` channels.

    The first halves the image with its stride, as a pooling would; the others keep its size.
    The mean over the image goes to a Linear layer.

    Raises:
        ValueError: depth is out of range or the activation unknown.
    """
    checked_depth(depth)
    checked_activation(activation)
    checked_width(width)
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *[width] * depth]):
        stride = 1 if layers else 2
        layers += [
            nn.Conv2d(before, after, 3, stride=stride, padding=1),
            activation_module(activation),
        ]
    return _as_he(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))
    )


def vgg(
    depth: int = 6,
    activation: str = "relu",
    *,
    channels: int = 1,
    width: int = 16,
    outputs: int = 10,
) -> nn.Sequential:
    """Return a network in the manner of VGG (Simonyan & Zisserman 2015).

    ``depth`` 3×3 convolutions in up to three stages; after each stage the image is halved,
    and the next has twice the channels, beginning with ``width``. Two Linear layers follow.

    Raises:
        ValueError: depth is out of range or the activation unknown.
    """
    checked_depth(depth)
    checked_activation(activation)
    checked_width(width)
    stages = min(depth, 3)
    layers: list[nn.Module] = []
    for stage in range(stages):
        # As even as can be, what is left over in the later, smaller stages.
        for _ in range((depth + stage) // stages):
            layers += [nn.Conv2d(channels, width, 3, padding=1), activation_module(activation)]
            channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        width *= 2
    return _as_he(
        nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, width),
            activation_module(activation),
            nn.Linear(width, outputs),
        )
    )


class ConvolutionalBlock(nn.Module):
    """φ(x + scale·f(x)), f two 3×3 convolutions with batch norm (He et al. 2016, "ResNet").

    Keeps the shape (batch, width, height, width of the image).
    """

    def __init__(self, width: int, activation: str, scale: float | nn.Parameter | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = activation_module(activation)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = activation_module(activation)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum."""
        f_x = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        sum_: Tensor = self.act2(joined(x, f_x, self.scale))
        return sum_


def resnet(
    depth: int = 3,
    activation: str = "relu",
    skips: Any = 1.0,
    *,
    channels: int = 1,
    width: int = 16,
    outputs: int = 10,
) -> nn.Sequential:
    """Return a residual network: a convolution that halves the image, and ``depth`` blocks.

    ``skips`` is the scale as in ``skip_scale``.

    Raises:
        ValueError: depth is out of range, the activation or the scale unknown.
    """
    checked_depth(depth)
    checked_activation(activation)
    checked_width(width)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        activation_module(activation),
        *(ConvolutionalBlock(width, activation, skip_scale(skips, depth)) for _ in range(depth)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, outputs),
    )

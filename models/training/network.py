"""The network: a plain residual U-Net with an image-level head. Knows nothing about data, losses or files.

Only convolutions, ReLU, additions, fixed resizes and pools, so that every backend has fast kernels for it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name

WIDTHS = (16, 32, 64, 96)  # at 1/2, 1/4, 1/8 and 1/16 of the grid


class Output(NamedTuple):
    """Logits: `mask` (n, 1, h, w) on the grid of the input, `presence` (n, 1)."""

    mask: Tensor
    presence: Tensor


class Block(nn.Module):
    """Two 3x3 convolutions and the way around them, in (n, channels, h, w), out the same."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3, dilation=dilation)
        self.second = _conv(channels, channels, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class HeadNet(nn.Module):
    """Grey (n, 1, h, w) in 0 to 255 to logits; h and w are multiples of 16."""

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        half, quarter, eighth, bottom = widths
        self.stem = _conv(1, half, 5, stride=2)
        self.down = nn.ModuleList(
            _conv(a, b, 3, stride=2) for a, b in ((half, quarter), (quarter, eighth), (eighth, bottom))
        )
        self.encode = nn.ModuleList(Block(width) for width in (half, quarter, eighth))
        self.bottom = nn.Sequential(Block(bottom, 1), Block(bottom, 2), Block(bottom, 4))
        self.up = nn.ModuleList(
            _conv(a, b, 1) for a, b in ((bottom, eighth), (eighth, quarter), (quarter, half))
        )
        self.decode = nn.ModuleList(Block(width) for width in (eighth, quarter, half))
        self.mask = nn.Conv2d(half, 1, 3, padding=1)
        self.judge = nn.Sequential(_conv(bottom, bottom, 1), nn.ReLU())
        self.presence = nn.Sequential(nn.Dropout(0.2), nn.Linear(bottom, 1))

    def forward(self, grey: Tensor) -> Output:
        x = F.relu(self.stem(grey * (1 / 64)))
        skips = []
        for block, down in zip(self.encode, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = F.relu(down(x))
        x = self.bottom(x)
        presence = self.presence(F.adaptive_avg_pool2d(self.judge(x), 1).flatten(1))
        for up, block, skip in zip(self.up, self.decode, reversed(skips), strict=True):
            x = block(F.relu(F.interpolate(up(x), scale_factor=2.0, mode="nearest") + skip))
        mask = F.interpolate(self.mask(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return Output(mask, presence)


class Shipped(nn.Module):
    """What is exported: uint8 (1, 1, h, w) in, probabilities out, normalisation and sigmoids in the graph."""

    def __init__(self, network: HeadNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mask, presence = self.network(image.to(torch.float32))
        return torch.sigmoid(mask), torch.sigmoid(presence)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False), nn.BatchNorm2d(outputs)
    )

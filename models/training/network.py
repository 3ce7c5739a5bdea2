"""The network of every model: a residual encoder and decoder at a quarter of the grid, and an image-level head.

Shaped by what inference costs: nothing but convolutions, ReLU, additions, fixed copies of pixels and one mean;
no layer at full size, where a channel costs more than a layer below; the mask leaves a quarter-size layer as
4 x 4 pixels a cell. Knows nothing about data, losses or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name

CELL = 4  # pixels of the grid to a side of the finest layer's cell


class Output(NamedTuple):
    """Logits: `mask` (n, classes, h, w) on the grid of the input, `view` (n, views) of the whole picture."""

    mask: Tensor
    view: Tensor


class Block(nn.Module):
    """Two 3x3 convolutions and the way around them, in (n, channels, h, w), out the same."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3, dilation=dilation)
        self.second = _conv(channels, channels, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Network(nn.Module):
    """Grey (n, 1, h, w) in 0 to 255 to logits.

    `widths` are channels at 1/2, 1/4, 1/8 and 1/16 of the grid, `bottom` the dilations of the coarsest blocks.
    """

    def __init__(self, classes: int, views: int, widths: Sequence[int], bottom: Sequence[int]) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = widths
        self.stem = nn.Sequential(_conv(1, half, 3, 2), nn.ReLU(), _conv(half, quarter, 3, 2), nn.ReLU())
        self.to_eighth = nn.Sequential(_conv(quarter, eighth, 3, 2), nn.ReLU(), Block(eighth))
        self.to_sixteenth = nn.Sequential(_conv(eighth, sixteenth, 3, 2), nn.ReLU())
        self.bottom = nn.Sequential(*(Block(sixteenth, dilation) for dilation in bottom))
        self.up_eighth, self.at_eighth = _conv(sixteenth, eighth, 1), Block(eighth)
        self.up_quarter, self.at_quarter = _conv(eighth, quarter, 1), Block(quarter)
        self.mask = nn.Conv2d(quarter, classes * CELL * CELL, 3, padding=1)
        self.judge = nn.Sequential(_conv(sixteenth, sixteenth, 1), nn.ReLU())
        self.view = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(sixteenth, views, 1))

    def forward(self, grey: Tensor) -> Output:
        quarter = self.stem(grey * (1 / 64))
        eighth = self.to_eighth(quarter)
        x = self.bottom(self.to_sixteenth(eighth))
        view = self.view(F.adaptive_avg_pool2d(self.judge(x), 1)).flatten(1)
        x = self.at_eighth(F.relu(_doubled(self.up_eighth(x)) + eighth))
        x = self.at_quarter(F.relu(_doubled(self.up_quarter(x)) + quarter))
        return Output(F.pixel_shuffle(self.mask(x), CELL), view)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False), nn.BatchNorm2d(outputs)
    )


class Shipped(nn.Module):
    """What is exported: uint8 (1, 1, h, w) in, probabilities out, normalisation inside.

    Outputs: mask (1, classes, h, w), of one label by sigmoid, of more, background first, by softmax; presence
    (1, 1); and where the network has them, rotation (1, 4) and polarity (1, 1).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        mask, view = self.network(image.to(torch.float32))
        probability = torch.sigmoid(mask) if mask.shape[1] == 1 else torch.softmax(mask, 1)
        presence = torch.sigmoid(view[:, :1])
        if view.shape[1] == 1:
            return probability, presence
        return probability, presence, torch.softmax(view[:, 1:5], 1), torch.sigmoid(view[:, 5:6])

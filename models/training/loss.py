"""What training minimises: parts of the loss of a batch, each a scalar. Knows no schedule."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name

from models.training.examples import Example
from models.training.network import Output

BAND_WEIGHT = 3.0  # added to 1 near an outline


class Batch:
    """Examples stacked as tensors."""

    def __init__(self, examples: list[Example], device: torch.device) -> None:
        columns = zip(*examples, strict=True)
        parts = [torch.from_numpy(np.stack(column)).to(device) for column in columns]
        self.image, masks, band, self.known, self.presence, self.turned, self.inverted = parts
        self.masks = masks.float() / 255  # (n, labels, h, w)
        self.weight = 1 + BAND_WEIGHT * band.float() / 255  # (n, 1, h, w)


def loss_of(output: Output, batch: Batch, elliptic: bool) -> dict[str, Tensor]:
    """`cross` and `dice` of the mask; `size` of each structure, by its circumference where it is `elliptic`, else
    its area; `shape`, its moments against the true ones; `presence`; `view`."""
    logits, known = output.mask.float(), batch.known / batch.known.sum().clamp_min(1)
    if logits.shape[1] == 1:
        probability = torch.sigmoid(logits)
        cross = F.binary_cross_entropy_with_logits(logits, batch.masks, reduction="none")
    else:
        background = (1 - batch.masks.sum(1, keepdim=True)).clamp_min(0)
        truth = torch.cat([background, batch.masks], 1)
        cross = -(truth * F.log_softmax(logits, 1)).sum(1, keepdim=True)
        probability = torch.softmax(logits, 1)[:, 1:]
    overlap = (probability * batch.masks).sum((2, 3))
    squares = probability.square().sum((2, 3)) + batch.masks.square().sum((2, 3))
    dice = 1 - (2 * overlap + 20) / (squares + 20)
    there = (batch.masks.amax((2, 3)) > 0.5).float()  # (n, labels)
    sizes, shapes = sizes_of(probability, elliptic), sizes_of(batch.masks, elliptic)
    size = (sizes.size / shapes.size.clamp_min(1) - 1).abs().clamp_max(0.5) * there
    found = {
        "cross": ((cross * batch.weight).mean((1, 2, 3)) * known).sum(),
        "dice": (dice.mean(1) * known).sum(),
        "size": (size.mean(1) * known).sum(),
        "presence": F.binary_cross_entropy_with_logits(output.view[:, 0].float(), batch.presence),
    }
    if elliptic:
        found["shape"] = ((_moments_apart(sizes, shapes) * there).mean(1) * known).sum()
    if output.view.shape[1] > 1:
        view = output.view.float()
        turned = F.cross_entropy(view[:, 1:5], batch.turned, reduction="none")
        inverted = F.binary_cross_entropy_with_logits(view[:, 5], batch.inverted, reduction="none")
        found["view"] = ((turned + inverted) * batch.presence).sum() / batch.presence.sum().clamp_min(1)
    return found


class Sizes(NamedTuple):
    """Moments of weights, each (n, labels): centre, spread and the size that is measured."""

    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    size: Tensor


def sizes_of(weight: Tensor, elliptic: bool) -> Sizes:
    """Of weights (n, labels, h, w): the moments, and in cells Ramanujan's circumference of their ellipse, or the
    area in cells."""
    _, _, height, width = weight.shape
    y = torch.arange(height, dtype=torch.float32, device=weight.device)
    x = torch.arange(width, dtype=torch.float32, device=weight.device)
    area = weight.sum((2, 3))
    total = area + 1e-3
    rows, columns = weight.sum(3), weight.sum(2)
    my, mx = (rows @ y) / total, (columns @ x) / total
    yy = (rows * (y - my[..., None]).square()).sum(2) / total + 1 / 12
    xx = (columns * (x - mx[..., None]).square()).sum(2) / total + 1 / 12
    xy = torch.einsum("nkhw,h,w->nk", weight, y, x) / total - mx * my
    if not elliptic:
        return Sizes(mx, my, xx, yy, xy, area)
    spread = torch.sqrt((xx - yy).square() / 4 + xy.square() + 1e-4)
    middle = (xx + yy) / 2
    a, b = 2 * torch.sqrt(middle + spread), 2 * torch.sqrt((middle - spread).clamp_min(0.1))
    h = ((a - b) / (a + b)).square()
    return Sizes(mx, my, xx, yy, xy, math.pi * (a + b) * (1 + 3 * h / (10 + torch.sqrt(4 - 3 * h))))


def _moments_apart(found: Sizes, true: Sizes) -> Tensor:
    """How far the found ellipse is from the true one, (n, labels): centre and spread in units of the true one."""
    unit = torch.sqrt((true.xx * true.yy - true.xy.square()).clamp_min(1))
    root = torch.sqrt(unit)
    centre = torch.hypot((found.x - true.x) / root + 1e-4, (found.y - true.y) / root + 1e-4)
    spread = ((found.xx - true.xx).abs() + (found.yy - true.yy).abs() + 2 * (found.xy - true.xy).abs()) / unit
    return (centre + spread / 2).clamp_max(1.0)

"""Does a structure go on behind a part of the picture that is covered: a bar, a name masked out, half of a split screen.

A network completes what it knows: the mask of a head whose half is black goes on into the black, and its ellipse is
5 to 13 % small. Knows no anatomy and no millimetres.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.measure.acquisition import shows_nothing, visible
from edge_runtime.measure.ellipse import border_contact, moment_ellipse
from edge_runtime.types import Mask

# Grey of what somebody covered: nearer to black and white than tissue in shadow. None of 743 heads of HC18 is cut by a band
# of it, of 76 with a black half 75 are. With 10 in the place of 3, 3 and 75; of dim ones (half the grey) 9 instead of 1.
BLACK, WHITE = 3, 252
MAX_SHARE = 0.06  # of the circumference, as at the border of the picture


def covered(mask: Mask, picture: NDArray[np.uint8]) -> bool:
    """Whether what `mask` found in `picture`, (h, w), both on the model's grid, lies against a band that shows nothing."""
    # Nearly always no line shows nothing, and four lines cost a tenth of looking for bands in the whole picture.
    if not _nothing_beside(mask, picture):
        return False
    content = mask.geometry.content
    seen = visible(picture, content, BLACK, WHITE)
    found = mask.labels > 0
    ellipse = None if seen == content else moment_ellipse(found, (1.0, 1.0))
    if ellipse is None:
        return False
    return border_contact(found, seen, (1.0, 1.0)) > MAX_SHARE * ellipse.circumference


def _lines_beside(mask: Mask, picture: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The rows and columns of the picture next to the structure: a band over it, or at it, covers one of them."""
    content = mask.geometry.content
    x, y, width, height = cv2.boundingRect(mask.labels)
    if width == 0:
        return
    inside = picture[content.y0 : content.y1, content.x0 : content.x1]
    rows, columns = inside.shape
    yield inside[max(0, y - 1 - content.y0)]
    yield inside[min(rows - 1, y + height - content.y0)]
    yield inside[:, max(0, x - 1 - content.x0)]
    yield inside[:, min(columns - 1, x + width - content.x0)]


def _nothing_beside(mask: Mask, picture: NDArray[np.uint8]) -> bool:
    counts = [
        (np.count_nonzero(line <= BLACK), np.count_nonzero(line >= WHITE), line.size)
        for line in _lines_beside(mask, picture)
    ]
    dark, bright, sizes = np.array(counts, np.float32).reshape(-1, 3).T
    return bool(shows_nothing(dark / sizes, bright / sizes).any())

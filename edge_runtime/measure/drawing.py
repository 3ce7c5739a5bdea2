"""Is an ultrasound picture a drawing: a test pattern, a figure on a screen, what no probe has seen.

A drawn ellipse has the shape of a head and a network takes it for one, noise or not. What a drawing lacks is what a
beam does to an edge: it comes back bright where it is met squarely and is lost where it is not, so a real outline is
never equally bright all round; and tissue has speckle, so that bright neighbours are rarely equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.measure.ellipse import Ellipse, Fit
from edge_runtime.types import Box, Mask

# Chosen on 760 heads and 240 carotids, on 2260 pictures of them with other tone curves, noise filters, sharpness, steps of
# grey and compression, on this product's phantoms, and on 1736 test patterns, 556 of which were read as a head.
# All three together: none of the real ones is called drawn, 12 of the altered (CLAHE, a gamma of 0.35), 12 of the 556 are not.
EVEN: Mapping[str, float] = {  # by anatomy: spread of grey around the outline over all of it
    "fetal_head": 0.66,  # real ones least 0.72
    "vessel": 0.5,  # a wall is met squarely nearly all round: real ones least 0.78, phantoms 0.57
}
EVEN_PEAK = 0.13  # deviation over mean of the brightest grey of each ray: real least 0.18
FLAT = 0.4  # share of the pixels brighter than the mean that equal their neighbour: real most 0.27

RAYS = 96
REACH = np.linspace(0.92, 1.05, 7)  # along each ray, where 1 is the outline
MIN_RAYS = RAYS // 4  # of them inside the picture: with fewer there is no outline to judge
_ANGLES = np.arange(RAYS) * (2 * np.pi / RAYS)
_ALONG, _ACROSS = np.outer(REACH, np.cos(_ANGLES)), np.outer(REACH, np.sin(_ANGLES))


def is_drawn(anatomy: str, mask: Mask, picture: NDArray[np.uint8], fits: tuple[Fit | None, ...]) -> bool:
    """Whether `picture`, (h, w) on the grid of `mask`, is no ultrasound; `fits` are the ellipses of the mask's parts."""
    content = mask.geometry.content
    if _flat(picture[content.y0 : content.y1, content.x0 : content.x1]) > FLAT:
        return True
    rays = [_rays(fit.ellipse, picture, content) for fit in fits if fit is not None]
    return any(_even(across, EVEN[anatomy]) for across in rays if across.shape[1] >= MIN_RAYS)


def _flat(inside: NDArray[np.uint8]) -> float:
    """The share of the brighter pixels that have exactly the grey of the one before them in the row."""
    here = inside[:, 1:]
    bright = cv2.compare(here, cv2.mean(inside)[0], cv2.CMP_GT)
    count = cv2.countNonZero(bright)
    equal = cv2.bitwise_and(bright, cv2.compare(here, inside[:, :-1], cv2.CMP_EQ))
    return cv2.countNonZero(equal) / count if count else 0.0


def _even(rays: NDArray[np.float32], limit: float) -> bool:
    """Whether the outline that `rays` cross is as bright all round."""
    mean, deviation = cv2.meanStdDev(cv2.reduce(rays, 0, cv2.REDUCE_MAX))
    if deviation[0, 0] < EVEN_PEAK * mean[0, 0]:
        return True
    _, overall = cv2.meanStdDev(rays)
    means, squares = (cv2.reduce(values, 1, cv2.REDUCE_AVG) for values in (rays, rays * rays))
    around = float(np.sqrt(np.maximum(squares - means * means, 0)).mean())
    return around < limit * float(overall[0, 0])


def _rays(ellipse: Ellipse, picture: NDArray[np.uint8], content: Box) -> NDArray[np.float32]:
    """Greys across the outline, (points of a ray, rays), of the rays that lie within the picture."""
    cos, sin = np.cos(ellipse.angle_rad), np.sin(ellipse.angle_rad)
    along, across = ellipse.semi_major * _ALONG, ellipse.semi_minor * _ACROSS
    x = np.rint(ellipse.center_xy[0] + cos * along - sin * across).astype(np.intp)
    y = np.rint(ellipse.center_xy[1] + sin * along + cos * across).astype(np.intp)
    seen = (x >= content.x0) & (x < content.x1) & (y >= content.y0) & (y < content.y1)
    whole = seen.all(axis=0)
    rays: NDArray[np.float32] = picture[y[:, whole], x[:, whole]].astype(np.float32)
    return rays

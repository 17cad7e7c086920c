"""What a network wants to see of a frame, people cut out or the whole scaled, and its geometry."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Crop:
    """Cut each person out and scale to the size of the pose network's input.

    Args:
        width: pixels.
        height: pixels.
        padding: factor by which the box grows before cropping (MMPose: 1.25).
    """

    width: int
    height: int
    padding: float = 1.25


@dataclass(frozen=True)
class Resize:
    """Scale the whole upright frame to a size in pixels, without keeping its aspect ratio."""

    width: int
    height: int


@dataclass(frozen=True)
class Fit:
    """Scale the whole upright frame to a detector's input (mmcv.imrescale: bilinear, not padded).

    Args:
        width: largest width in px; for frames in portrait format it bounds the height.
        height: largest height, likewise.
        keep_aspect: False = exactly this size, whatever the frame's shape.
    """

    width: int
    height: int
    keep_aspect: bool = True


@dataclass(frozen=True)
class Letterbox:
    """Scale the whole upright frame into the middle of a size, keeping aspect (MMPose's `BottomupResize`).

    Args:
        width: pixels.
        height: pixels.
        border: grey level around the frame.
    """

    width: int
    height: int
    border: int

    def inside(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the picture that show the frame of this width and height alone."""
        factor = min(self.width / size[0], self.height / size[1])
        margins = [
            (whole - side * factor) / 2 for whole, side in zip((self.width, self.height), size, strict=True)
        ]
        columns, rows = (
            slice(math.ceil(margin), math.floor(whole - margin))
            for margin, whole in zip(margins, (self.width, self.height), strict=True)
        )
        return rows, columns


def fit_size(width_px: int, height_px: int, fit: Fit) -> tuple[int, int]:
    """Width and height that `fit` gives a frame of this size."""
    if not fit.keep_aspect:
        return fit.width, fit.height
    long, short = max(fit.width, fit.height), min(fit.width, fit.height)
    factor = min(long / max(width_px, height_px), short / min(width_px, height_px))
    return int(width_px * factor + 0.5), int(height_px * factor + 0.5)


def box_to_center_scale(
    box: tuple[float, float, float, float], padding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and padded size of a box, as MMPose's `GetBBoxCenterScale`.

    Args:
        box: x1, y1, x2, y2 in pixels.
        padding: factor on width and height.

    Returns:
        centre (2,) and scale (2,), float32 pixels.
    """
    corners = np.asarray(box, np.float32)
    return (corners[2:] + corners[:2]) * 0.5, (corners[2:] - corners[:2]) * padding


def fix_aspect(scale: np.ndarray, width: int, height: int) -> np.ndarray:
    """Grow the shorter side so that the box has the network's aspect ratio (`TopdownAffine`).

    Args:
        scale: (2,) width and height in pixels.
        width: network input width.
        height: network input height.

    Returns:
        (2,) width and height with ratio width / height.
    """
    ratio = width / height
    w, h = scale[:1], scale[1:]
    return np.where(w > h * ratio, np.hstack([w, w / ratio]), np.hstack([h * ratio, h]))


def warp_matrix(center: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Affine matrix from frame to network input, as MMPose's `get_warp_matrix` without rotation.

    Args:
        center: (2,) pixels of the frame.
        scale: (2,) width and height, pixels of the frame, aspect already fixed.
        size: width and height of the network input.

    Returns:
        (2, 3) float64 matrix for `cv2.warpAffine`.
    """
    import cv2

    width, height = size
    source = np.zeros((3, 2), np.float32)
    source[0] = center
    source[1] = center + np.array([scale[0] * -0.5, 0.0])
    target = np.zeros((3, 2), np.float32)
    target[0] = [width * 0.5, height * 0.5]
    target[1] = np.array([width * 0.5, height * 0.5]) + np.array([width * -0.5, 0.0])
    for points in (source, target):  # third corner: the first edge turned by 90 degrees
        edge = points[0] - points[1]
        points[2] = points[1] + np.r_[-edge[1], edge[0]]
    return cv2.getAffineTransform(source, target)


def scaled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in another size: areas are averaged when it shrinks both ways, else linear."""
    import cv2

    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    shrinks = size[0] <= width and size[1] <= height
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=16)
def crop_matrix(box: tuple[float, ...], padding: float, size: tuple[int, int]) -> np.ndarray:
    """Affine matrix of a crop."""
    center, scale = box_to_center_scale(box, padding)  # type: ignore[arg-type]
    return warp_matrix(center, fix_aspect(scale, *size), size)

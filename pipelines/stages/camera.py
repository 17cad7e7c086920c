"""Motion of the camera and cuts, measured on the background between neighbouring frames."""

from __future__ import annotations

import numpy as np

_SIDE = 240  # longest side of the grey pictures that are compared, px
_CORNERS = 120
_FEWEST = 10  # corners of the background that must be followed


def camera_motion(
    pictures: np.ndarray, boxes: list[np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """How the picture of the background moves from frame to frame.

    Corners outside the boxes of people are followed by optical flow (Lucas & Kanade, pyramids), and a
    similarity is fitted to them by RANSAC: people who were not detected count as outliers.

    Args:
        pictures: (T, h, w, 3) uint8 RGB of one part of a clip.
        boxes: T arrays (N, 4) of people, px of the upright frame.
        size: width and height of the upright frame.

    Returns:
        camera (T, 4) float32: a, b, x, y of (u, v) -> (au - bv + x, bu + av + y), frame before -> frame,
            px of the upright frame; NaN where it is not known: in the first frame, in blank pictures.
        change (T,) float32: mean absolute difference of grey levels to the frame before, 0 to 255; NaN
            in the first frame.
    """
    import cv2

    camera = np.full((len(pictures), 4), np.nan, np.float32)
    change = np.full(len(pictures), np.nan, np.float32)
    height, width = pictures.shape[1:3]
    factor = min(1.0, _SIDE / max(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    per_px = np.array([size[0] / small[0], size[1] / small[1]])
    before = None
    for frame, picture in enumerate(pictures):
        # Grey first: the area filter then reads a third of the bytes.
        grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), small, interpolation=cv2.INTER_AREA)
        if before is not None:
            change[frame] = cv2.mean(cv2.absdiff(before, grey))[0]
            camera[frame] = _similarity(before, grey, boxes[frame - 1] / np.tile(per_px, 2), per_px)
        before = grey
    return camera, change


def _similarity(before: np.ndarray, grey: np.ndarray, boxes: np.ndarray, per_px: np.ndarray) -> np.ndarray:
    """(4,) motion of the background between two grey pictures, or NaN."""
    import cv2

    unknown = np.full(4, np.nan, np.float32)
    mask = np.full(before.shape, 255, np.uint8)
    for x1, y1, x2, y2 in np.rint(boxes).astype(int):
        mask[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1] = 0
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 5, mask=mask)
    if corners is None or len(corners) < _FEWEST:
        return unknown
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, grey, corners, None, winSize=(15, 15), maxLevel=3)
    seen = found.ravel() == 1
    if seen.sum() < _FEWEST:
        return unknown
    start, end = corners[seen, 0] * per_px, moved[seen, 0] * per_px
    cv2.setRNGSeed(0)
    reach = 1.5 * float(per_px.max())
    fitted, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=reach)
    if fitted is None or inliers.sum() < max(_FEWEST, 0.3 * seen.sum()):
        return unknown
    return np.array([fitted[0, 0], fitted[1, 0], fitted[0, 2], fitted[1, 2]], np.float32)

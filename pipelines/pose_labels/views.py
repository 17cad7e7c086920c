"""What a pose network is shown: boxes cut out of images as MMPose cuts them, turned, mirrored, disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipelines.errors import DataError
from pipelines.rendered import network

if TYPE_CHECKING:
    from mmengine import Config

FLIP = np.array(network.FLIP)


@dataclass(frozen=True)
class Input:
    """What a network expects to see.

    Attributes:
        width, height: px of its input.
        padding: factor from the labelled box to what is cut out.
        udp: whether pixel centres (True) or pixel corners count as borders (Huang et al. 2020,
            arXiv:1911.07524).
    """

    width: int
    height: int
    padding: float
    udp: bool

    @classmethod
    def of(cls, config: Config) -> Input:
        """Read it from the test pipeline of a top-down config."""
        pipeline = config.test_dataloader.dataset.pipeline
        steps = {step["type"].rsplit(".", 1)[-1]: step for step in pipeline}
        width, height = steps["TopdownAffine"]["input_size"]
        padding = steps["GetBBoxCenterScale"].get("padding", 1.25)
        return cls(width, height, padding, bool(steps["TopdownAffine"].get("use_udp", False)))

    def box(self, side: float) -> np.ndarray:
        """(2,) px: the padded square box, widened to the input's aspect."""
        short = min(self.width, self.height)
        return side * self.padding * np.array([self.width / short, self.height / short])

    def matrix(self, center: np.ndarray, size: np.ndarray, turn: float) -> np.ndarray:
        """(2, 3) affine map from image px to input px; the box is turned by `turn` radians round its centre.

        For turn 0 equal to MMPose's `get_warp_matrix` and `get_udp_warp_matrix`.
        """
        edge = 1.0 if self.udp else 0.0
        grow = (np.array([self.width, self.height]) - edge) / size
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.diag(grow) @ np.array([[cos, -sin], [sin, cos]])
        middle = (np.array([self.width, self.height]) - edge) / 2
        return np.concatenate([linear, (middle - linear @ center)[:, None]], axis=1)

    def cut(self, image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """(height, width, 3) view of an image through `matrix`, as the extraction cuts it."""
        return cv2.warpAffine(image, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR)


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(..., 2) points through a (2, 3) affine map."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; DataError if OpenCV cannot read it."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(path, "is not readable as an image", "copy the file again, as JPEG or PNG")
    return np.ascontiguousarray(image[..., ::-1])


def augment(
    random: np.random.Generator,
    image: np.ndarray,
    joints: np.ndarray,
    visible: np.ndarray,
    center: np.ndarray,
    side: float,
    shown: Input,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One training view: box shaken, scaled and turned, then mirrored and disturbed.

    Two thirds of the views are turned by any angle, as divers are; the others by about 15 degrees.

    Args:
        image: (H, W, 3) uint8 RGB.
        joints: (16, 2) px of the image.
        visible: (16,) bool: joints that count.
        center, side: the labelled box.
        shown: the network's input.

    Returns:
        (height, width, 3) uint8 RGB, (16, 2) joints in its px, (16,) bool: counts and is inside it.
    """
    turn = random.uniform(-np.pi, np.pi) if random.random() < 0.67 else random.normal(0, 0.26)
    box = shown.box(side) * np.exp(random.normal(0.0, 0.16))
    matrix = shown.matrix(center + random.normal(0, 0.05, 2) * side, box, turn)
    border = tuple(random.uniform(0, 255, 3)) if random.random() < 0.2 else (0, 0, 0)
    size = (shown.width, shown.height)
    view = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=border)
    seen, counts = move(joints, matrix), visible
    if random.random() < 0.5:
        view, seen = np.ascontiguousarray(view[:, ::-1]), seen[FLIP] * [-1, 1] + [shown.width - 1, 0]
        counts = visible[FLIP]
    inside = counts & ((seen >= 0) & (seen <= np.array(size) - 1)).all(axis=1)
    return disturb(random, view), seen, inside


def disturb(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Colour, motion blur, lost resolution, covered patches, noise and compression."""
    if random.random() < 0.7:
        gain = random.uniform(0.65, 1.35) * random.uniform(0.85, 1.15, 3)
        table = np.clip(np.arange(256)[:, None] * gain + random.normal(0, 12), 0, 255).astype(np.uint8)
        image = cv2.LUT(image, table[None])
    if random.random() < 0.3:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + random.integers(-12, 13)) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * random.uniform(0.4, 1.6), 0, 255)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if random.random() < 0.3:
        image = _motion_blur(random, image)
    if random.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.3, 1.5))
    height, width = image.shape[:2]
    for _ in range(random.integers(1, 4) if random.random() < 0.3 else 0):
        left, top = random.integers(0, width), random.integers(0, height)
        right, bottom = left + random.integers(8, width // 4), top + random.integers(8, height // 4)
        image[top:bottom, left:right] = random.uniform(0, 255, 3)
    if random.random() < 0.3:
        noise = random.normal(0, random.uniform(2, 12), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if random.random() < 0.3:
        image = _compress(image, int(random.integers(25, 90)))
    return image


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    """What JPEG of this quality leaves of an image."""
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def _motion_blur(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Blur along a line of 3 to 13 px in any direction."""
    length = int(random.integers(3, 14))
    angle, middle = random.uniform(0, np.pi), (length - 1) / 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * middle
    kernel = np.zeros((length, length), np.float32)
    ends = [np.round(middle + sign * reach).astype(int).tolist() for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def shrink(
    random: np.random.Generator, image: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A rendered frame made as small as broadcasts show divers: the torso 25 to 70 px, compressed.

    Returns the smaller image and its joints.
    """
    torso = float(np.linalg.norm(joints[7] - joints[6]))
    factor = min(1.0, random.uniform(25, 70) / max(torso, 1.0))
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    if random.random() < 0.7:
        small = _compress(small, int(random.integers(30, 92)))
    scale = np.array(small.shape[1::-1]) / np.array(image.shape[1::-1])
    return small, (joints + 0.5) * scale - 0.5

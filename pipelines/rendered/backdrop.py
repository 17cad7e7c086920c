"""Backgrounds, things in front of the athlete, and what a camera adds: blur, noise, exposure."""

from __future__ import annotations

import cv2
import numpy as np

KINDS = ("plain", "room", "hall", "clutter", "pool")


def make_backdrop(random: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    """A background of `size` (width, height) as (H, W, 3) uint8 RGB; `kind` is one of `KINDS`."""
    width, height = size
    image = _gradient(random, width, height)
    if kind == "room":
        _room(random, image)
    elif kind == "hall":
        _hall(random, image)
    elif kind == "clutter":
        _clutter(random, image, int(random.integers(15, 60)))
    elif kind == "pool":
        _pool(random, image)
    _roughen(random, image, random.uniform(3, 22) if kind != "clutter" else random.uniform(5, 35))
    blur = random.uniform(0, 1.6)
    return cv2.GaussianBlur(image, (0, 0), blur) if blur > 0.3 else image


def add_occluder(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A still object in front: (H, W, 3) uint8 colours and (H, W, 1) uint8 mask, 255 where it covers."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    x, y = int(random.uniform(0.15, 0.85) * width), int(random.uniform(0.25, 0.95) * height)
    kind = random.integers(3)
    if kind == 0:  # post
        half = int(random.integers(2, 7))
        cv2.rectangle(mask, (x - half, 0), (x + half, height), 255, -1)
    elif kind == 1:  # box or chair
        half_x, half_y = random.integers(6, 26, 2).tolist()
        cv2.rectangle(
            mask, (x - half_x, y - half_y), (x + half_x, height if y > 0.7 * height else y + half_y), 255, -1
        )
    else:  # plant or person's head in front
        axes = random.integers(8, 28, 2).tolist()
        cv2.ellipse(mask, (x, y), axes, float(random.uniform(0, 180)), 0, 360, 255, -1)
    colours = np.empty((height, width, 3), np.uint8)
    colours[:] = random_colour(random)
    _roughen(random, colours, random.uniform(5, 30))
    return colours, mask[..., None]


def random_colour(random: np.random.Generator) -> tuple[int, ...]:
    """Any RGB colour, muted more often than bright."""
    grey = random.uniform(20, 235)
    spread = random.choice([6, 25, 70])
    return tuple(int(v) for v in np.clip(grey + random.normal(0, spread, 3), 0, 255))


def _gradient(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    corners = np.array([random_colour(random) for _ in range(4)], np.float32).reshape(2, 2, 3)
    if random.random() < 0.5:
        corners = corners.mean(axis=(0, 1)) + 0.35 * (corners - corners.mean(axis=(0, 1)))
    return cv2.resize(corners.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)


def _roughen(random: np.random.Generator, image: np.ndarray, strength: float) -> None:
    """Add noise of several sizes in place."""
    height, width = image.shape[:2]
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 11, 37):
        rows = max(2, cells * height // width)
        small = random.normal(0, strength, (rows, cells, 3)).astype(np.float32)
        if random.random() < 0.7:
            small[:] = small.mean(axis=2, keepdims=True) * 1.4
        total += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) * (
            1.0 if cells < 37 else 0.5
        )
    cv2.add(image, total, dst=image, dtype=cv2.CV_8U)


def _room(random: np.random.Generator, image: np.ndarray) -> None:
    """Wall and floor, perhaps with windows, doors, pictures, furniture and floor boards."""
    height, width = image.shape[:2]
    floor = int(random.uniform(0.55, 0.9) * height)
    image[floor:] = (image[floor:].astype(int) // 2 + np.array(random_colour(random)) // 2).astype(np.uint8)
    if random.random() < 0.7:
        cv2.rectangle(image, (0, floor - 4), (width, floor), random_colour(random), -1)
    for _ in range(random.integers(0, 6)):
        left, top = random.uniform(-0.1, 0.9) * width, random.uniform(-0.1, 0.6) * floor
        right, bottom = left + random.uniform(0.08, 0.35) * width, top + random.uniform(0.15, 0.9) * floor
        corners = (int(left), int(top)), (int(right), int(min(bottom, floor + 10)))
        cv2.rectangle(image, *corners, random_colour(random), -1)
        cv2.rectangle(image, *corners, random_colour(random), int(random.integers(1, 4)))
    if random.random() < 0.5:
        vanish = int(random.uniform(0.2, 0.8) * width)
        colour = random_colour(random)
        for end in range(-width, 2 * width, int(random.integers(15, 50))):
            cv2.line(image, (vanish + (end - vanish) // 4, floor), (end, height), colour, 1, cv2.LINE_AA)


def _hall(random: np.random.Generator, image: np.ndarray) -> None:
    """A sports hall: wall bars, stripes, mats, a few bystanders."""
    height, width = image.shape[:2]
    floor = int(random.uniform(0.5, 0.85) * height)
    step, colour = int(random.integers(6, 22)), random_colour(random)
    upright = random.random() < 0.5
    for place in range(0, width if upright else floor, step):
        ends = ((place, 0), (place, floor)) if upright else ((0, place), (width, place))
        cv2.line(image, *ends, colour, int(random.integers(1, 4)))
    image[floor:] = random_colour(random)
    for _ in range(random.integers(0, 5)):
        x, y = int(random.uniform(0, width)), int(random.uniform(0.45, 1.0) * height)
        corners = (x, y), (x + int(random.integers(20, 120)), y + int(random.integers(6, 40)))
        cv2.rectangle(image, *corners, random_colour(random), -1)
    for _ in range(random.integers(0, 4)):
        _bystander(random, image)


def _bystander(random: np.random.Generator, image: np.ndarray) -> None:
    """A still, coarse figure that must not be taken for the athlete."""
    height, width = image.shape[:2]
    tall = random.uniform(0.12, 0.35) * min(height, 256)
    x, y = int(random.uniform(0, width)), int(random.uniform(0.3, 0.9) * height)
    cv2.ellipse(
        image, (x, y), (int(tall * 0.17), int(tall * 0.3)), 0, 0, 360, random_colour(random), -1, cv2.LINE_AA
    )
    legs = random_colour(random)
    for side in (-1, 1):
        foot = (x + side * int(tall * 0.1), y + int(tall * 0.75))
        cv2.line(image, (x + side * 2, y + int(tall * 0.2)), foot, legs, max(2, int(tall * 0.1)))
    skin = tuple(int(v) for v in np.array([225, 175, 140]) * random.uniform(0.4, 1.05))
    cv2.circle(image, (x, y - int(tall * 0.4)), max(2, int(tall * 0.12)), skin, -1, cv2.LINE_AA)


def _clutter(random: np.random.Generator, image: np.ndarray, count: int) -> None:
    """Lines, discs and polygons everywhere."""
    height, width = image.shape[:2]
    for _ in range(count):
        x, y = int(random.uniform(0, width)), int(random.uniform(0, height))
        reach = random.uniform(5, 70, 2).astype(int).tolist()
        colour, kind = random_colour(random), random.integers(4)
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + reach[0], y + reach[1]), colour, -1)
        elif kind == 1:
            cv2.ellipse(image, (x, y), reach, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 2:
            end = (x + int(random.normal(0, 80)), y + int(random.normal(0, 80)))
            cv2.line(image, (x, y), end, colour, int(random.integers(1, 14)), cv2.LINE_AA)
        else:
            corners = np.array([x, y]) + random.normal(0, 35, (4, 2))
            cv2.fillConvexPoly(image, cv2.convexHull(corners.astype(np.int32)), colour, cv2.LINE_AA)


def _pool(random: np.random.Generator, image: np.ndarray) -> None:
    """Stands with spectators, banners, tiled wall, windows or the steel of a tower."""
    height, width = image.shape[:2]
    top = int(random.uniform(0.05, 0.5) * height)
    if random.random() < 0.6:  # spectators
        rows = int(random.uniform(0.1, 0.45) * height)
        count = width * rows // 90
        places = np.stack([random.uniform(0, width, count), random.uniform(top, top + rows, count)], axis=1)
        for x, y in places.astype(int).tolist():
            cv2.circle(image, (x, y), int(random.integers(2, 5)), random_colour(random), -1)
    for _ in range(random.integers(0, 5)):  # banners
        y, x = int(random.uniform(0, height)), int(random.uniform(-60, width))
        corners = (x, y), (x + int(random.integers(40, 220)), y + int(random.integers(8, 36)))
        cv2.rectangle(image, *corners, random_colour(random), -1)
        for _ in range(random.integers(0, 6)):
            at = (int(random.uniform(x, corners[1][0])), corners[1][1] - 4)
            cv2.putText(
                image, "AQO"[random.integers(3)], at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, random_colour(random), 2
            )
    if random.random() < 0.5:  # tiles or window bars
        step, colour = int(random.integers(8, 40)), random_colour(random)
        low = int(random.uniform(0.3, 0.9) * height)
        for place in range(low, height, step):
            cv2.line(image, (0, place), (width, place), colour, 1)
        for place in range(0, width, step):
            cv2.line(image, (place, low), (place, height), colour, 1)
    for _ in range(random.integers(0, 3)):  # columns and stairs of the tower
        x, colour = int(random.uniform(0, width)), random_colour(random)
        cv2.line(image, (x, 0), (x + int(random.normal(0, 40)), height), colour, int(random.integers(4, 26)))

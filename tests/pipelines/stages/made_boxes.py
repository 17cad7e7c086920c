"""Seeded scenes of an athlete and bystanders as boxes with noise, misses and false alarms, and who is who."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.stages.detect import DETECTIONS

WIDTH, HEIGHT = 1280, 720


@dataclass
class Scene:
    """A row of DETECTIONS and, for each of its boxes, the person (-1 = false alarm)."""

    row: dict
    persons: np.ndarray

    def persons_of(self, frames, boxes) -> list[int]:
        """Persons of boxes that were detected; filled boxes are left out."""
        counts = np.asarray(self.row["frame_detections"])
        all_boxes, ends = np.asarray(self.row["boxes"], np.float32).reshape(-1, 4), np.cumsum(counts)
        known = {
            (frame, all_boxes[place].tobytes()): int(self.persons[place])
            for frame, (end, count) in enumerate(zip(ends, counts, strict=True))
            for place in range(end - count, end)
        }
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        keys = [(int(frame), box.tobytes()) for frame, box in zip(frames, boxes, strict=True)]
        return [known[key] for key in keys if key in known]


def detections_row(frames: list[list[tuple]], fps: float = 25.0, **columns) -> dict:
    """A row of DETECTIONS from lists of (x1, y1, x2, y2, score) per frame; the camera stands still."""
    boxes = [box for frame in frames for box in frame]
    count = len(frames)
    return dict.fromkeys(DETECTIONS.names) | {
        "clip_id": "clip",
        "uri": "clip.mp4",
        "status": "ok",
        "attempts": 1,
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "num_frames": count,
        "frame_index": np.arange(count, dtype=np.int32),
        "time_s": np.arange(count) / fps,
        "frame_detections": [len(frame) for frame in frames],
        "boxes": [float(side) for box in boxes for side in box[:4]],
        "box_scores": [box[4] for box in boxes],
        "camera": np.tile(np.float32([1, 0, 0, 0]), count),
        "picture_change": np.full(count, 3.0),
        **columns,
    }


def make_scene(seed: int, count: int = 120, fps: float = 25.0) -> Scene:
    """A diver, a walker or somebody who squats, and up to four others who stand or stroll.

    Half of the scenes are filmed by a camera that follows the athlete (person 0).
    """
    random = np.random.default_rng(seed)
    time = np.arange(count) / fps
    tall = random.uniform(120, 260)
    tracks = [
        _athlete(random, time, tall),
        *(_bystander(random, time, tall) for _ in range(random.integers(1, 5))),
    ]
    camera = np.cumsum(random.normal(0, 0.5, (count, 2)), axis=0)
    if random.random() < 0.5:
        smooth = [np.convolve(np.pad(axis, 4, "edge"), np.ones(9) / 9, "valid") for axis in tracks[0][:2]]
        camera += np.array([WIDTH / 2, HEIGHT / 2]) - np.stack(smooth, axis=1)
    motion = np.tile([1.0, 0, 0, 0], (count, 1))
    motion[1:, 2:] = np.diff(camera, axis=0) + random.normal(0, 0.3, (count - 1, 2))
    motion[0] = np.nan
    frames, persons = [], []
    for frame in range(count):
        there = np.array([(x[frame], y[frame], w[frame], h[frame]) for x, y, w, h in tracks])
        there[:, :2] += camera[frame]
        found = _detect(
            random, np.concatenate([there[:, :2] - there[:, 2:] / 2, there[:, :2] + there[:, 2:] / 2], 1)
        )
        frames.append([box for box, _ in found])
        persons += [person for _, person in found]
    row = detections_row(frames, fps, camera=motion.astype(np.float32).ravel())
    return Scene(row, np.array(persons))


def _athlete(random: np.random.Generator, time: np.ndarray, tall: float) -> tuple[np.ndarray, ...]:
    kind, still = random.choice(["dive", "walk", "squat"]), np.ones(len(time))
    if kind == "walk":
        x = random.uniform(100, 400) + time * tall * random.uniform(0.5, 1.5)
        return x, 400 * still, tall * (0.4 + 0.1 * np.sin(12 * time)), tall * still
    if kind == "squat":
        down = 0.5 - 0.5 * np.cos(2 * np.pi * time / 2.5)
        return (
            random.uniform(400, 900) * still,
            400 + 0.2 * tall * down,
            tall * (0.4 + 0.3 * down),
            tall * (1 - 0.4 * down),
        )
    start, flight = random.uniform(0.5, 1.5), random.uniform(1.2, 1.7)
    air = np.clip(time - start, 0, flight + 0.2)
    tuck = np.where((air > 0.2) & (air < flight - 0.2), 0.55, 1.0)
    tuck = np.convolve(np.pad(tuck, 4, "edge"), np.ones(9) / 9, "valid")
    y = 150 - air * tall * 1.2 + 0.5 * 9.8 / 1.7 * air**2 * tall
    return random.uniform(300, 900) + 0.5 * air * tall, y, tall * (0.9 - 0.5 * tuck), tall * tuck


def _bystander(random: np.random.Generator, time: np.ndarray, tall: float) -> tuple[np.ndarray, ...]:
    size = tall * random.uniform(0.6, 1.1)
    stroll = random.uniform(-0.2, 0.2) if random.random() < 0.25 else 0.0
    x = (
        random.uniform(100, WIDTH - 100)
        + stroll * size * time
        + 0.02 * size * np.sin(random.uniform(1, 3) * time)
    )
    still = np.ones(len(time))
    return x, random.uniform(250, 550) * still, 0.4 * size * still, size * still


def _detect(random: np.random.Generator, boxes: np.ndarray) -> list[tuple[tuple, int]]:
    """What a detector makes of true boxes; later ones stand in front."""
    found = []
    for person, box in enumerate(boxes):
        size = box[2:] - box[:2]
        cover = max((_inner(box, other) / size.prod() for other in boxes[person + 1 :]), default=0.0)
        missed = 0.06 if cover < 0.4 else 0.4 if cover < 0.65 else 0.95
        cut = np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        if _inner(box, np.array([0, 0, WIDTH, HEIGHT])) < 0.3 * size.prod() or random.random() < missed:
            continue
        noisy = cut + random.normal(0, 0.02, 4) * np.tile(size, 2)
        score = np.clip(random.normal(0.75 - 0.5 * cover, 0.15), 0.1, 0.99)
        found.append(((*noisy.tolist(), float(score)), person))
    for _ in range(random.poisson(0.1)):  # false alarms
        x, y, size = random.uniform(0, WIDTH), random.uniform(0, HEIGHT), random.uniform(60, 200)
        found.append(((x, y, x + 0.4 * size, y + size, float(random.uniform(0.1, 0.5))), -1))
    return sorted(found, key=lambda entry: -entry[0][4])


def _inner(box: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    return float(np.clip(sides, 0, None).prod())

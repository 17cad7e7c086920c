"""Trains the pose network on frames rendered while it learns.

    python -m pipelines.rendered.train_network --minutes 60 --out runs/pose_network

May be killed at any time; the same command goes on where the last checkpoint ended. Bodies, looks and
backgrounds come from random seeds that the built-in data and the held-out measurement never use.

The weights in the package had 9,738 steps. The first 321 ran with batch 32, an evenly weighted loss and
fewer clip frames, so one run of this script gives similar weights, not the same.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipelines.rendered import dives, exercises
from pipelines.rendered.backdrop import KINDS, add_occluder, make_backdrop, random_colour
from pipelines.rendered.body import NUM_JOINTS, Camera, Shape, pose_body
from pipelines.rendered.draw import Figure, Look
from pipelines.rendered.film import FPS, film_dive, film_exercise
from pipelines.rendered.network import FLIP, HEATMAP_SIZE, INPUT_SIZE, WEIGHTS, pose_network_config
from pipelines.rendered.poses import MIXED, random_motion
from pipelines.stages import mmpose_compat

FRAME = 256
TRAIN_SEEDS = 1_000_000
"""Training seeds start here; the built-in data and the measurement use smaller ones."""

SMALL, SMALL_SHARE = 128, 0.7
"""Side of the windows learned from in the first share of the time; afterwards the whole input."""


def render_poses(
    seed: int, count: int = 8, kinds: tuple[float, ...] = MIXED
) -> tuple[np.ndarray, np.ndarray]:
    """One random person in `count` poses of `kinds`: ((count, 256, 256, 3) uint8 RGB, (count, 16, 2) px)."""
    random = np.random.default_rng(seed)
    swimwear = random.random() < 0.5
    posed = pose_body(random_motion(random, count, kinds), Shape.sample(random))
    camera = _camera(random, posed.joints)
    figure = Figure(posed, camera, Look.sample(random, swimwear))
    kind = str(random.choice(KINDS, p=(0.15, 0.25, 0.15, 0.2, 0.25)))
    backdrop = make_backdrop(random, kind, (FRAME + 64, FRAME + 96))
    keypoints, _ = camera.project(posed.joints)
    frames = np.empty((count, FRAME, FRAME, 3), np.uint8)
    for index in range(count):
        x, y = random.integers(0, 65), random.integers(0, 97)
        frames[index] = backdrop[y : y + FRAME, x : x + FRAME]
        figure.draw(frames[index], index)
        _cover(random, frames[index], keypoints[index])
    return frames, keypoints.astype(np.float32)


def render_clip(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """`count` frames of one random clip as the built-in data has them, of dives those before the entry."""
    random = np.random.default_rng(seed)
    if random.random() < 0.5:
        subject = exercises.Subject.sample(random, "", random.uniform(0, 1))
        look = Look.sample(random, swimwear=False)
        film = film_exercise(random, str(random.choice(exercises.EXERCISES)), subject, look)
        last = len(film.frames)
    else:
        number = dives.DiveNumber.parse(str(random.choice(dives.PROGRAMME)))
        faults, look = dives.sample_faults(random, random.uniform(0, 0.8)), Look.sample(random, swimwear=True)
        film, dive = film_dive(random, number, faults, Shape.sample(random), look)
        last = int(dive.entry_s * FPS) + 1
    picked = random.integers(0, last, count)
    return film.frames[picked], film.joints[picked]


def _camera(random: np.random.Generator, joints: np.ndarray) -> Camera:
    """Cameras near and far, high and low, so that the body is small or large and anywhere in the frame."""
    count = len(joints)
    middle = 0.5 * (joints.min(axis=1) + joints.max(axis=1))
    reach = np.linalg.norm(joints - middle[:, None], axis=-1).max(axis=1)
    distance = random.uniform(2.5, 14.0)
    around, above = random.normal(0, 0.15, count), random.normal(0.05, 0.18, count)
    direction = np.stack(
        [np.sin(around) * np.cos(above), np.sin(above), np.cos(around) * np.cos(above)], axis=-1
    )
    share = np.clip(random.uniform(0.38, 1.0, count), None, 0.95)
    # a body that is folded up is seen as large as it is, so half the time the scale is that of a standing one
    extent = np.where(random.random(count) < 0.5, np.maximum(reach * 2, 1.3), 1.75)
    spare = np.maximum(0.0, extent / share - reach * 2) / 2
    target = middle + random.uniform(-1, 1, (count, 3)) * spare[:, None] * 0.8
    focal = FRAME * share * distance / extent
    return Camera.looking(
        middle + distance * direction, target, focal, (FRAME, FRAME), random.normal(0, 0.05)
    )


def _cover(random: np.random.Generator, frame: np.ndarray, keypoints: np.ndarray) -> None:
    """Sometimes put an object, water or spray in front, or blur along a direction."""
    if random.random() < 0.15:
        colours, mask = add_occluder(random, (FRAME, FRAME))
        np.copyto(frame, colours, where=mask > 0)
    if random.random() < 0.10:
        low, high = np.percentile(keypoints[:, 1], [35, 100]).astype(int)
        level = int(np.clip(random.uniform(low, high + 20), 0, FRAME - 1))
        water = np.array([random.uniform(10, 90), random.uniform(80, 170), random.uniform(120, 220)])
        cover = random.uniform(0.3, 0.85)
        frame[level:] = (frame[level:] * (1 - cover) + cover * water).astype(np.uint8)
        for _ in range(random.integers(0, 60)):
            at = (int(random.normal(keypoints[:, 0].mean(), 18)), int(level - abs(random.normal(0, 14))))
            cv2.circle(frame, at, int(random.integers(1, 5)), (235, 240, 245), -1, cv2.LINE_AA)
    if random.random() < 0.25:
        length = int(random.integers(3, 9))
        kernel = np.zeros((length, length), np.float32)
        end = np.array([np.cos(a := random.uniform(0, np.pi)), np.sin(a)]) * length / 2
        middle = (length - 1) / 2
        cv2.line(
            kernel,
            np.round(middle - end).astype(int).tolist(),
            np.round(middle + end).astype(int).tolist(),
            1.0,
        )
        frame[:] = cv2.filter2D(frame, -1, kernel / kernel.sum())


def augment(
    random: np.random.Generator, frame: np.ndarray, keypoints: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut out the network's input as a box would, and disturb it.

    Args:
        random: source of all choices.
        frame: (256, 256, 3) uint8 RGB.
        keypoints: (16, 2) px.
        window: side of what is returned: the whole input (192), or less round the athlete, at the same
            scale. The network is convolutional, so it learns from smaller windows at less cost.

    Returns:
        (window, window, 3) uint8 RGB, (16, 2) joints in its pixels, (16,) weights: 0 outside.
    """
    size = INPUT_SIZE[0]
    if random.random() < (0.65 if window == size else 0.85):  # the whole frame is the box
        centre, side = np.full(2, FRAME / 2), FRAME * random.uniform(0.95, 1.35)
        centre = centre + random.normal(0, 4, 2)
    else:  # a box round the athlete
        low, high = keypoints.min(axis=0), keypoints.max(axis=0)
        side = float((high - low).max()) * random.uniform(1.05, 1.9) + 10
        centre = 0.5 * (low + high) + random.normal(0, 0.06, 2) * side
    turn = random.uniform(-180, 180) if random.random() < 0.2 else random.normal(0, 8)
    matrix = cv2.getRotationMatrix2D(centre.tolist(), turn, size / side)
    matrix[:, 2] += size / 2 - centre
    border = random_colour(random) if random.random() < 0.2 else (0, 0, 0)
    middle = keypoints.mean(axis=0) @ matrix[:, :2].T + matrix[:, 2]
    corner = np.clip(middle - window / 2 + random.normal(0, 0.05 * window, 2), 0, size - window)
    matrix[:, 2] -= np.round(corner)
    image = cv2.warpAffine(frame, matrix, (window, window), flags=cv2.INTER_LINEAR, borderValue=border)
    joints = keypoints @ matrix[:, :2].T + matrix[:, 2]
    if random.random() < 0.5:
        image, joints = image[:, ::-1], joints[list(FLIP)] * [-1, 1] + [window - 1, 0]
    weights = ((joints >= 0) & (joints <= window - 1)).all(axis=1)
    return _disturb(random, np.ascontiguousarray(image)), joints, weights


def _disturb(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Colour, blur, erased patches, sensor noise and compression."""
    if random.random() < 0.5:
        gain = random.uniform(0.65, 1.35) * random.uniform(0.88, 1.12, 3)
        table = np.clip(np.arange(256)[:, None] * gain + random.normal(0, 12), 0, 255).astype(np.uint8)
        image = cv2.LUT(image, table[None])
    if random.random() < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if random.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.3, 1.5))
    if random.random() < 0.15:
        x, y = random.integers(0, image.shape[0], 2)
        wide, high = random.integers(8, 45, 2)
        image[y : y + high, x : x + wide] = random_colour(random)
    if random.random() < 0.35:
        noise = np.empty(image.shape, np.int16)
        cv2.randn(noise, (0, 0, 0), (random.uniform(2, 14),) * 3)
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if random.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(20, 85))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


class FrameRing:
    """A ring of rendered frames: new ones replace the oldest, batches are drawn from all."""

    def __init__(self, capacity: int, first_seed: int):
        self.frames = np.empty((capacity, FRAME, FRAME, 3), np.uint8)
        self.keypoints = np.empty((capacity, NUM_JOINTS, 2), np.float32)
        self.seed, self.filled, self.at = first_seed, 0, 0

    def render(self, count: int) -> None:
        """Add at least `count` frames: random poses, and for about 60 % frames of clips."""
        added = 0
        while added < count:
            frames, keypoints = (render_clip if self.seed % 4 == 0 else render_poses)(self.seed)
            where = (self.at + np.arange(len(frames))) % len(self.frames)
            self.frames[where], self.keypoints[where] = frames, keypoints
            self.seed, self.at, added = self.seed + 1, int(where[-1]) + 1, added + len(frames)
            self.filled = min(len(self.frames), self.filled + len(frames))

    def batch(
        self, random: np.random.Generator, size: int, window: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, 3, window, window) RGB 0-255, (B, 16, 2) px, (B, 16) weights."""
        indices = random.integers(0, self.filled, size)
        picked = [augment(random, self.frames[i], self.keypoints[i], window) for i in indices]
        images, joints, weights = (np.stack(column) for column in zip(*picked, strict=True))
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return pixels, torch.from_numpy(joints).float(), torch.from_numpy(weights).float()


class Trainer:
    """Network, averaged network, optimiser and clock, saved together."""

    def __init__(self, out: Path, minutes: float, learning_rate: float):
        from mmpose.apis import init_model

        torch.manual_seed(0)
        self.out, self.seconds, self.peak = out, minutes * 60, learning_rate
        self.model = init_model(pose_network_config(), None, device="cpu").to(
            memory_format=torch.channels_last
        )
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate)
        self.steps, self.spent = 0, 0.0
        if (out / "state.json").exists():
            self._resume()

    def _resume(self) -> None:
        state = json.loads((self.out / "state.json").read_text())
        stem = self.out / f"step{state['steps']}"
        self.model.load_state_dict(load_file(f"{stem}.model.safetensors"))
        self.average = load_file(f"{stem}.average.safetensors")
        self.optimizer.load_state_dict(torch.load(f"{stem}.optimizer.pt", weights_only=True))
        self.steps, self.spent = state["steps"], state["spent"]

    def save(self) -> None:
        """Write a checkpoint; its marker last, so that a kill leaves the one before."""
        self.out.mkdir(parents=True, exist_ok=True)
        old, stem = list(self.out.glob("step*")), self.out / f"step{self.steps}"
        save_file(
            {k: v.contiguous() for k, v in self.model.state_dict().items()}, f"{stem}.model.safetensors"
        )
        save_file({k: v.contiguous() for k, v in self.average.items()}, f"{stem}.average.safetensors")
        torch.save(self.optimizer.state_dict(), f"{stem}.optimizer.pt")
        marker = self.out / "state.json.part"
        marker.write_text(json.dumps({"steps": self.steps, "spent": self.spent}))
        marker.replace(self.out / "state.json")
        export(self.average, self.out / WEIGHTS.name)
        for path in old:
            if not path.name.startswith(f"{stem.name}."):
                path.unlink()

    def step(self, pixels: torch.Tensor, joints: torch.Tensor, weights: torch.Tensor) -> float:
        """One update; returns the loss."""
        progress = min(1.0, self.spent / self.seconds)
        rate = (
            self.peak
            * min(1.0, (self.steps + 1) / 300)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        preprocessor = self.model.data_preprocessor
        inputs = ((pixels.float() - preprocessor.mean) / preprocessor.std).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.model(inputs, None, mode="tensor")
        loss = heatmap_loss(predicted.float(), heatmaps(joints, predicted.shape[-1]), weights)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.steps += 1
        keep = min(0.998, (1 + self.steps) / (10 + self.steps))
        for name, value in self.model.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)
        return float(loss.detach())


def heatmaps(joints: torch.Tensor, size: int, sigma: float = 2.0) -> torch.Tensor:
    """(B, J, 2) input px -> (B, J, size, size) Gaussians of peak 1 (mmpose's unbiased MSRAHeatmap)."""
    centre = joints * (HEATMAP_SIZE[0] / INPUT_SIZE[0])
    along = torch.exp(-((torch.arange(size) - centre[..., None]) ** 2) / (2 * sigma**2))
    return along[..., 1, :, None] * along[..., 0, None, :]


def heatmap_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Squared error of (B, J, H, W) heatmaps, 20 times as strong on a peak as off it.

    Peaks fill about 1 % of a map: with even weights the network stays at zero for thousands of steps.
    """
    error = (1 + 19 * target) * (predicted - target) ** 2
    return 100 * (error.mean(dim=(2, 3)) * weights).sum() / weights.sum().clamp(min=1)


def export(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights in half precision."""
    halves = {k: v.half() if v.dtype.is_floating_point else v for k, v in weights.items()}
    save_file({k: v.contiguous() for k, v in halves.items()}, path)


def train(out: Path, minutes: float, threads: int, batch: int, capacity: int, learning_rate: float) -> None:
    """Train until `minutes` of training have been spent, over all runs into `out`."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    mmpose_compat.install()
    trainer = Trainer(out, minutes, learning_rate)
    random = np.random.default_rng(TRAIN_SEEDS + trainer.steps)
    ring = FrameRing(capacity, TRAIN_SEEDS * (1 + trainer.steps))
    ring.render(min(capacity, 3072))
    losses, saved, last = [], time.monotonic(), time.monotonic()
    while trainer.spent < trainer.seconds:
        if trainer.steps % 4 == 0:
            ring.render(8)
        window = SMALL if trainer.spent < SMALL_SHARE * trainer.seconds else INPUT_SIZE[0]
        losses.append(trainer.step(*ring.batch(random, batch, window)))
        now = time.monotonic()
        trainer.spent, last = trainer.spent + now - last, now
        if trainer.steps % 100 == 0:
            print(
                f"step {trainer.steps} minute {trainer.spent / 60:.1f} loss {np.mean(losses[-100:]):.4f}",
                flush=True,
            )
        if now - saved > 180:
            trainer.save()
            saved = time.monotonic()
    trainer.save()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="training time over all runs (default 60)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--capacity", type=int, default=8192, help="rendered frames kept in memory (192 KiB each)"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args()
    train(**vars(options))


if __name__ == "__main__":
    main()

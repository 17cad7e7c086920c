"""Films a performance: scene, camera work, drawing, sensor, and H.264 encoding."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from pipelines.errors import StorageError
from pipelines.rendered import dives, exercises
from pipelines.rendered.backdrop import add_occluder, make_backdrop
from pipelines.rendered.body import Camera, Motion, Shape, pose_body
from pipelines.rendered.draw import Figure, Look

SIZE = (256, 256)
"""Width and height of the frames in pixels."""
FPS = 25
SUBFRAMES = 3
"""Exposures that blur one frame."""
_SHUTTER = 0.35
"""Share of the frame time for which the shutter is open."""


@dataclass
class Film:
    """Frames and what is in them.

    Attributes:
        frames: (T, 256, 256, 3) uint8 RGB.
        joints: (T, 16, 2) px, MPII order; where the joints truly are, seen or not.
        crf: quality at which to encode.
    """

    frames: np.ndarray
    joints: np.ndarray
    crf: int


def film_exercise(random: np.random.Generator, exercise: str, subject: exercises.Subject, look: Look) -> Film:
    """One exercise clip of 4-8 s: a tripod or hand-held camera in front of the person."""
    num_frames = int(random.integers(4 * FPS, 8 * FPS + 1))
    motion = exercises.perform(random, exercise, subject, np.arange(num_frames) / FPS)
    posed = pose_body(motion, subject.shape)
    tall = subject.shape.leg + subject.shape.trunk + subject.shape.neck + subject.shape.head
    azimuth, distance = random.normal(0, 0.22), random.uniform(3.0, 5.0)
    shake = _wander(random, num_frames, random.choice([0.0, 0.006, 0.02]))
    target = np.array([0.0, 0.62 * tall, 0.0]) + shake + random.normal(0, [0.08, 0.03, 0])
    place = np.array([np.sin(azimuth) * distance, random.uniform(0.7, 1.6), np.cos(azimuth) * distance])
    focal = SIZE[1] * random.uniform(0.68, 0.80) / (1.28 * tall) * distance
    camera = Camera.looking(
        place + 0 * shake, target, np.full(num_frames, focal), SIZE, random.normal(0, 0.015)
    )
    kind = str(random.choice(["room", "hall", "plain", "clutter"], p=[0.45, 0.25, 0.15, 0.15]))
    scene = _Scene(random, camera, kind)
    occluder = add_occluder(random, SIZE) if random.random() < 0.12 else None
    figure, joints = Figure(posed, camera, look), camera.project(posed.joints)[0]
    frames = np.empty((num_frames, SIZE[1], SIZE[0], 3), np.uint8)
    for time in range(num_frames):
        frame = scene.view(time)
        _shadow(frame, joints[time])
        figure.draw(frame, time)
        if occluder:
            np.copyto(frame, occluder[0], where=occluder[1] > 0)
        frames[time] = frame
    _sensor(random, frames)
    return Film(frames, joints.astype(np.float32), int(random.integers(20, 29)))


def film_dive(random: np.random.Generator, number: dives.DiveNumber, faults: dict[str, float], shape: Shape,
              look: Look) -> tuple[Film, dives.Dive]:  # fmt: skip
    """One dive of 2-3 s, filmed from the side by a camera that follows with a lag."""
    needs = number.half_somersaults / 2 + number.half_twists / 4 + number.armstand
    height = 10.0 if needs > 2.2 or random.random() < 0.5 else 3.0
    takeoff_s = random.uniform(0.40, 0.60)
    times = shutter_times(int(3.2 * FPS))
    dive = dives.perform(random, number, faults, shape, times, height, takeoff_s)
    num_frames = min(int((dive.entry_s + random.uniform(0.25, 0.45)) * FPS), len(times) // SUBFRAMES)
    return shoot_dive(random, dive, times[: num_frames * SUBFRAMES], shape, look)[0], dive


def shutter_times(num_frames: int) -> np.ndarray:
    """(T x 3,) seconds of the sub-frames of `num_frames` frames: three exposures blur a frame."""
    index = np.arange(num_frames * SUBFRAMES)
    return (index // SUBFRAMES + (index % SUBFRAMES) * _SHUTTER / SUBFRAMES) / FPS


def shoot_dive(random: np.random.Generator, dive: dives.Dive, times: np.ndarray, shape: Shape,
               look: Look) -> tuple[Film, np.ndarray]:  # fmt: skip
    """Film a performed dive from the side.

    Args:
        random: source of the camera, the pool and the sensor.
        dive: its motion has at least as many poses as there are `times`.
        times: (T x 3,) seconds of the dive's own clock, at which the sub-frames are exposed.
        shape: of the body.
        look: of the body.

    Returns:
        The film, and (T,) share of the picture that the drops of the splash cover.
    """
    count = len(times)
    num_frames = count // SUBFRAMES
    motion = Motion(dive.motion.root[:count], dive.motion.turn[:count], dive.motion.angles[:count])
    posed, camera = pose_body(motion, shape), _follow(random, motion.root, dive, shape)
    figure, joints = Figure(posed, camera, look), camera.project(posed.joints)[0]
    scene, pool = _Scene(random, camera, "pool"), _Pool(random, camera, dive)
    frames, wet = np.empty((num_frames, SIZE[1], SIZE[0], 3), np.uint8), np.zeros(num_frames)
    for time in range(num_frames):
        total = np.zeros((SIZE[1], SIZE[0], 3), np.uint16)
        for sub in range(time * SUBFRAMES, (time + 1) * SUBFRAMES):
            frame = scene.view(sub)
            pool.platform(frame, sub)
            figure.draw(frame, sub)
            pool.water(frame, sub, float(times[sub]))
            total += frame
        frames[time] = total // SUBFRAMES
        middle = time * SUBFRAMES + SUBFRAMES // 2
        wet[time] = pool.covered(middle, float(times[middle]))
    _sensor(random, frames)
    # the middle sub-frame stands for the frame
    film = Film(frames, joints[SUBFRAMES // 2 :: SUBFRAMES].astype(np.float32), int(random.integers(20, 29)))
    return film, wet


def track_dive(random: np.random.Generator, dive: dives.Dive, times: np.ndarray, shape: Shape) -> np.ndarray:
    """Where the joints of `shoot_dive`'s film are, without drawing it: (T, 16, 2) px, MPII order."""
    count = len(times)
    motion = Motion(dive.motion.root[:count], dive.motion.turn[:count], dive.motion.angles[:count])
    camera = _follow(random, motion.root, dive, shape)
    joints = camera.project(pose_body(motion, shape).joints)[0]
    return joints[SUBFRAMES // 2 :: SUBFRAMES].astype(np.float32)


def _wander(random: np.random.Generator, count: int, size: float) -> np.ndarray:
    """(T, 3) slow, smooth random displacement of about `size` metres."""
    knots = random.normal(0, size, (count // 12 + 3, 3))
    at = np.linspace(0, len(knots) - 1, count)
    return np.stack([np.interp(at, np.arange(len(knots)), column) for column in knots.T], axis=-1)


def _follow(random: np.random.Generator, root: np.ndarray, dive: dives.Dive, shape: Shape) -> Camera:
    """A camera beside the pool that turns after the diver and stays above the water."""
    count = len(root)
    side = 1.0 if random.random() < 0.5 else -1.0
    distance = random.uniform(11, 16)
    place = np.array([side * distance, dive.height * random.uniform(0.35, 0.9) + 1.0, random.uniform(0, 4)])
    aim = root.copy()
    aim[:, 1] = np.maximum(aim[:, 1], random.uniform(0.3, 0.6))
    half = FPS * SUBFRAMES // 8
    padded = np.concatenate([np.repeat(aim[:1], half, 0), aim, np.repeat(aim[-1:], half, 0)])
    total = np.cumsum(np.concatenate([np.zeros((1, 3)), padded]), axis=0)
    smooth = (total[2 * half :] - total[: -2 * half])[:count] / (2 * half)
    lag = int(random.integers(0, 4))
    smooth = np.concatenate([np.repeat(smooth[:1], lag, 0), smooth])[:count]
    aim = smooth + _wander(random, count, 0.05)
    range_m = np.linalg.norm(aim - place, axis=1)
    tall = shape.leg + shape.trunk + shape.neck + shape.head + shape.upper_arm
    focal = SIZE[1] * random.uniform(0.66, 0.85) / tall * range_m.mean()
    return Camera.looking(
        place + np.zeros((count, 3)), aim, np.full(count, focal), SIZE, random.normal(0, 0.01)
    )


class _Scene:
    """A background that moves as the camera turns.

    Args:
        random: source of the background.
        camera: whose pan and tilt move the background.
        kind: of `make_backdrop`.
    """

    def __init__(self, random: np.random.Generator, camera: Camera, kind: str):
        forward = camera.turn[:, 2]
        start = forward.mean(axis=0)
        across = np.cross(start, [0.0, 1.0, 0.0])
        across /= np.linalg.norm(across)
        pan = camera.focal * (forward @ across)
        tilt = -camera.focal * np.arcsin(forward[:, 1])
        self._x, self._y = pan - pan.min() + 1, tilt - tilt.min() + 1
        width, height = (int(np.ceil(v.max())) + 2 for v in (self._x, self._y))
        self._image = make_backdrop(random, kind, (SIZE[0] + width, SIZE[1] + height))

    def view(self, time: int) -> np.ndarray:
        """(256, 256, 3) background at `time`, a fresh copy."""
        centre = (self._x[time] + SIZE[0] / 2, self._y[time] + SIZE[1] / 2)
        return cv2.getRectSubPix(self._image, SIZE, centre)


class _Pool:
    """Platform, water and splash of one dive."""

    def __init__(self, random: np.random.Generator, camera: Camera, dive: dives.Dive):
        self._colour = tuple(random.uniform((10, 90, 120), (70, 165, 215)))
        self._cover = random.uniform(0.72, 0.9)
        count, half = len(camera.position), random.uniform(0.5, 1.2)
        thick = 0.3 if dive.height > 5 else 0.08
        low, high = np.array([-half, dive.height - thick, -5.0]), np.array([half, dive.height, 0.35])
        corners = np.array(
            [[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
        )
        self._platform = camera.project(np.tile(corners, (count, 1, 1)))[0]
        self._steel = tuple(np.full(3, random.uniform(60, 220)) + random.normal(0, 10, 3))
        entry = np.array([[0.0, 0.0, dive.entry_z]])
        pixels, scale = camera.project(np.tile(entry, (count, 1, 1)))
        self._entry, self._scale = pixels[:, 0], scale[:, 0]
        self._entry_s = dive.entry_s
        drops = int(60 + 200 * dive.splash)
        spread = random.normal(0, 1, (drops, 2))
        self._speed = np.stack([spread[:, 0] * 0.9, 0.6 + abs(spread[:, 1]) * 1.6], axis=1) * dive.splash
        self._radius = random.uniform(0.012, 0.05, drops)
        self._ripples = random.uniform(0, 1, (12, 3))

    def platform(self, frame: np.ndarray, time: int) -> None:
        """Draw the platform or board."""
        hull = cv2.convexHull(self._platform[time].astype(np.float32))[:, 0]
        points = (np.clip(hull, -1500, 1500) * 16).astype(np.int32)
        cv2.fillConvexPoly(frame, points, self._steel, cv2.LINE_AA, 4)
        cv2.polylines(frame, [points], True, tuple(0.6 * c for c in self._steel), 1, cv2.LINE_AA, 4)

    def water(self, frame: np.ndarray, time: int, seconds: float) -> None:
        """Cover what is under water, then draw the splash."""
        level = round(float(self._entry[time, 1]))
        if level < SIZE[1]:
            below = frame[max(level, 0) :]
            sheet = np.empty_like(below)
            sheet[:] = np.array(self._colour, np.uint8)
            cv2.addWeighted(below, 1 - self._cover, sheet, self._cover, 0, dst=below)
            for x, y, length in self._ripples:
                row, column = int(max(level, 0) + y * (SIZE[1] - max(level, 0))), int(x * SIZE[0])
                end = (column + int(10 + 50 * length), row)
                cv2.line(frame, (column, row), end, tuple(min(255, c * 1.25) for c in self._colour), 1)
        self._drops(frame, time, seconds, (236, 243, 247))

    def covered(self, time: int, seconds: float) -> float:
        """Share of the picture that drops cover at `time`."""
        mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        self._drops(mask, time, seconds, (255.0,))
        return float((mask > 127).mean())

    def _drops(self, frame: np.ndarray, time: int, seconds: float, colour: tuple[float, ...]) -> None:
        after = seconds - self._entry_s
        if after < 0 or round(float(self._entry[time, 1])) > SIZE[1] + 60:
            return
        travelled = self._speed * [[after, after]] - [[0.0, 0.5 * dives.GRAVITY * after**2 * 0.5]]
        for (x, y), radius in zip(travelled, self._radius, strict=True):
            if y > 0:
                at = self._entry[time] + self._scale[time] * np.array([x, -y])
                centre = (np.clip(at, -500, 800) * 16).astype(int).tolist()
                cv2.circle(frame, centre, int(16 * radius * self._scale[time]), colour, -1, cv2.LINE_AA, 4)


def _shadow(frame: np.ndarray, joints: np.ndarray) -> None:
    """A dark patch on the floor under the feet."""
    feet = joints[[0, 5]]
    middle = feet.mean(axis=0) + np.array([0, 4])
    reach = abs(feet[0, 0] - feet[1, 0]) / 2 + 12
    low, high = max(int(middle[1] - 6), 0), min(int(middle[1] + 7), SIZE[1])
    left, right = max(int(middle[0] - reach), 0), min(int(middle[0] + reach), SIZE[0])
    if low >= high or left >= right:
        return
    patch = frame[low:high, left:right]
    dark = patch.copy()
    axes = (int(reach), 6)
    cv2.ellipse(
        dark, (int(middle[0]) - left, int(middle[1]) - low), axes, 0, 0, 360, (25, 25, 25), -1, cv2.LINE_AA
    )
    cv2.addWeighted(patch, 0.65, dark, 0.35, 0, dst=patch)


def _sensor(random: np.random.Generator, frames: np.ndarray) -> None:
    """Softness, exposure drift and noise of a camera, in place."""
    blur, grain = random.uniform(0, 0.9), random.uniform(1, 7)
    pool = random.normal(0, grain, (4, SIZE[1] + 16, SIZE[0] + 16, 3)).astype(np.int16)
    drift = random.normal(0, 3) * np.sin(np.linspace(0, random.uniform(1, 5), len(frames)))
    offsets = random.integers(0, 17, (len(frames), 2))
    for time, frame in enumerate(frames):
        if blur > 0.35:
            cv2.GaussianBlur(frame, (5, 5), blur, dst=frame)
        row, column = offsets[time]
        noise = pool[time % 4, row : row + SIZE[1], column : column + SIZE[0]] + np.int16(drift[time])
        cv2.add(frame, noise, dst=frame, dtype=cv2.CV_8U)


def write_mp4(path: Path, film: Film) -> None:
    """Encode as H.264 in MP4 at 25 frames per second, one thread, so that the bytes repeat.

    Raises StorageError if the file cannot be written.
    """
    import av

    try:
        with av.open(str(path), "w") as container:
            options = {"crf": str(film.crf), "preset": "veryfast", "threads": "1"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            stream.time_base = Fraction(1, FPS)
            for image in film.frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    except OSError as error:
        raise StorageError(
            path, f"the video cannot be written ({error})", "check the folder and free space"
        ) from error

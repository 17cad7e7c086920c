"""Rehabilitation exercises of healthy and impaired people, with clinical-style scores.

Exercises are named as in KIMORE (Capecci et al. 2019): Es1 lifting the arms, Es2 tilting the trunk
sideways with the arms held out, Es5 squatting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.rendered.body import COLUMN, Motion, Shape, pose_body, rotation

EXERCISES = ("Es1", "Es2", "Es5")
SYMPTOMS = ("slow", "range", "tremor", "compensation")


@dataclass(frozen=True)
class Subject:
    """One person's condition.

    Attributes:
        subject_id: name.
        group: control or impaired.
        severity: 0 healthy to 1 severe; the mean of the four symptoms.
        symptoms: size 0-1 of each of `SYMPTOMS`.
        side: right or left, the side whose limbs lack range.
        shape: of the body.
    """

    subject_id: str
    group: str
    severity: float
    symptoms: dict[str, float]
    side: str
    shape: Shape

    @classmethod
    def sample(cls, random: np.random.Generator, subject_id: str, severity: float) -> Subject:
        """A random person of a given severity; how it shows differs from person to person."""
        weights = random.uniform(0.5, 1.5, len(SYMPTOMS))
        sizes = np.clip(severity * weights / weights.mean(), 0, 1)
        sizes *= severity / max(sizes.mean(), 1e-9) if severity else 0.0
        return cls(
            subject_id,
            "control" if severity < 0.2 else "impaired",
            severity,
            dict(zip(SYMPTOMS, np.clip(sizes, 0, 1).tolist(), strict=True)),
            str(random.choice(["right", "left"])),
            Shape.sample(random),
        )


def clinical_score(random: np.random.Generator, severity: float) -> float:
    """Score 0-50, higher is better, as a rater with an error of about one point gives it."""
    return round(float(np.clip(48.5 - 40 * severity + random.normal(0, 1.0), 0, 50)), 2)


def perform(random: np.random.Generator, exercise: str, subject: Subject, times: np.ndarray) -> Motion:
    """Motion of one exercise, repeated until the time is up.

    Args:
        random: differences from repetition to repetition.
        exercise: one of `EXERCISES`.
        subject: who does it.
        times: (T,) seconds.

    Returns:
        The motion with the lower foot on the ground (y = 0).
    """
    motion = Motion.standing(len(times), subject.shape.leg)
    cycle = _cycle(random, times, subject.symptoms["slow"])
    _MOVES[exercise](motion, cycle, subject, random.uniform(0.93, 1.0))
    _tremble(random, motion, subject.symptoms["tremor"], times)
    _sway(random, motion, times)
    _ground(motion, subject.shape)
    return motion


def _cycle(random: np.random.Generator, times: np.ndarray, slow: float) -> np.ndarray:
    """(T,) repetitions done: whole numbers are the rest position; slowness stretches each one."""
    period = random.uniform(1.7, 2.3) * (1 + 1.0 * slow)
    starts = [random.uniform(0.0, 0.3)]
    while starts[-1] < times[-1] + 1:
        starts.append(starts[-1] + period * random.normal(1, 0.05 + 0.08 * slow))
    return np.interp(times, starts, np.arange(len(starts)))


def _raise(cycle: np.ndarray) -> np.ndarray:
    """0 at rest, 1 at the turning point, smooth."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * cycle)


def _lift_arms(motion: Motion, cycle: np.ndarray, subject: Subject, effort: float) -> None:
    """Es1: both arms forward and up over the head."""
    up, symptoms = _raise(cycle), subject.symptoms
    for side in ("right", "left"):
        weak = symptoms["range"] if side == subject.side else 0.15 * symptoms["range"]
        motion[f"{side}_shoulder_flex"][:] = 2.95 * effort * (1 - 0.65 * weak) * up
        motion[f"{side}_shoulder_abduct"][:] = 0.10 + 0.08 * up
        motion[f"{side}_elbow"][:] = 0.12 + 0.5 * weak * up
    away = -1 if subject.side == "left" else 1
    motion["spine_side"][:] = away * 0.45 * symptoms["compensation"] * up
    motion["spine_flex"][:] = -0.30 * symptoms["compensation"] * up


def _tilt_trunk(motion: Motion, cycle: np.ndarray, subject: Subject, effort: float) -> None:
    """Es2: arms out to the sides, the trunk tilts to the left and to the right in turn."""
    symptoms = subject.symptoms
    swing = np.sin(2 * np.pi * cycle)
    weak_way = 1 if subject.side == "left" else -1
    reach = np.where(swing * weak_way > 0, 1 - 0.7 * symptoms["range"], 1 - 0.15 * symptoms["range"])
    motion["spine_side"][:] = 0.62 * effort * swing * reach
    for side in ("right", "left"):
        weak = symptoms["range"] if side == subject.side else 0.0
        motion[f"{side}_shoulder_abduct"][:] = 1.5 * (1 - 0.45 * weak)
        motion[f"{side}_elbow"][:] = 0.08 + 0.5 * weak
    motion["spine_flex"][:] = 0.45 * symptoms["compensation"] * np.abs(swing)
    roll = -0.22 * symptoms["compensation"] * swing
    motion.turn[:] = rotation("z", roll)
    for side, sign in (("right", -1), ("left", 1)):
        motion[f"{side}_hip_abduct"][:] = 0.10 - sign * roll
    motion["spine_twist"][:] = 0.35 * symptoms["compensation"] * swing


def _squat(motion: Motion, cycle: np.ndarray, subject: Subject, effort: float) -> None:
    """Es5: squat with the arms held forward."""
    down, symptoms = _raise(cycle), subject.symptoms
    depth = effort * (1 - 0.6 * symptoms["range"]) * down
    for side in ("right", "left"):
        motion[f"{side}_hip_flex"][:] = 1.75 * depth
        motion[f"{side}_knee"][:] = 2.0 * depth + 0.03
        motion[f"{side}_ankle"][:] = -0.45 * depth
        motion[f"{side}_hip_abduct"][:] = 0.16
        motion[f"{side}_hip_twist"][:] = 0.25 * depth
        weak = symptoms["range"] if side == subject.side else 0.0
        motion[f"{side}_shoulder_flex"][:] = 1.45 * (1 - 0.5 * weak) * (0.35 + 0.65 * down)
    away = 1 if subject.side == "right" else -1
    motion["spine_flex"][:] = (0.35 + 0.6 * symptoms["compensation"]) * down * effort
    motion["spine_side"][:] = away * 0.35 * symptoms["compensation"] * down
    motion.turn[:] = rotation("z", -away * 0.16 * symptoms["compensation"] * down)


_MOVES = {"Es1": _lift_arms, "Es2": _tilt_trunk, "Es5": _squat}


def _tremble(random: np.random.Generator, motion: Motion, tremor: float, times: np.ndarray) -> None:
    """Shaking of arms and trunk at 4-6 Hz."""
    for name in ("shoulder_flex", "shoulder_abduct", "elbow"):
        for side in ("right", "left"):
            wave = np.sin(2 * np.pi * random.uniform(4, 6) * times + random.uniform(0, 6.3))
            motion.angles[:, COLUMN[f"{side}_{name}"]] += 0.13 * tremor * wave
    for name in ("spine_flex", "neck_side"):
        wave = np.sin(2 * np.pi * random.uniform(4, 6) * times + random.uniform(0, 6.3))
        motion.angles[:, COLUMN[name]] += 0.04 * tremor * wave


def _sway(random: np.random.Generator, motion: Motion, times: np.ndarray) -> None:
    """Slow small movements that everybody makes."""
    for name in ("spine_side", "spine_twist", "spine_flex", "neck_twist", "neck_flex", "neck_side"):
        wave = np.sin(2 * np.pi * random.uniform(0.15, 0.5) * times + random.uniform(0, 6.3))
        motion.angles[:, COLUMN[name]] += random.uniform(0.0, 0.05) * wave
    motion.root[:, 0] += 0.01 * np.sin(2 * np.pi * random.uniform(0.2, 0.4) * times + random.uniform(0, 6.3))


def _ground(motion: Motion, shape: Shape) -> None:
    """Lower or raise the body so that its lower ankle stays 6 cm above the ground, under the pelvis."""
    posed = pose_body(motion, shape)
    ankles = posed.joints[:, [0, 5]]
    motion.root[:, 1] += 0.06 - ankles[..., 1].min(axis=1)
    motion.root[:, [0, 2]] -= ankles[..., [0, 2]].mean(axis=1) - motion.root[:, [0, 2]].mean(axis=0)

"""Random poses that cover far more than the built-in clips show; the pose network is trained on them."""

from __future__ import annotations

import numpy as np

from pipelines.rendered.body import COLUMN, Motion, rotation

KINDS = ("upright", "bend", "tuck", "pike", "straight", "twist", "anything")
MIXED = (0.30, 0.14, 0.10, 0.12, 0.12, 0.08, 0.14)
"""Shares of the kinds the shipped network learned from: about half upright."""
DIVING = (0.04, 0.06, 0.18, 0.32, 0.20, 0.10, 0.10)
"""Shares of the kinds as divers take them."""


def random_motion(random: np.random.Generator, count: int, kinds: tuple[float, ...] = MIXED) -> Motion:
    """`count` unrelated poses, `kinds` the shares of KINDS; all but the upright are turned any way."""
    motion = Motion.standing(count, 0.0)
    for index in range(count):
        kind = str(random.choice(KINDS, p=kinds))
        angles = _POSES[kind](random)
        angles["neck_flex"] = angles.get("neck_flex", 0.0) + random.normal(0, 0.15)
        angles["neck_side"], angles["neck_twist"] = random.normal(0, 0.12), random.normal(0, 0.35)
        for name, value in angles.items():
            motion.angles[index, COLUMN[name]] = value + random.normal(0, 0.05)
        motion.turn[index] = _turn(random, kind)
    return motion


def _turn(random: np.random.Generator, kind: str) -> np.ndarray:
    """Upright kinds face the camera more or less; the others are turned all the way round."""
    if kind in ("upright", "bend") and random.random() < 0.85:
        heading = random.normal(0, 0.6) if random.random() < 0.65 else random.uniform(-np.pi, np.pi)
        lean = rotation("z", random.normal(0, 0.06)) @ rotation("x", random.normal(0, 0.06))
        return rotation("y", heading) @ lean
    somersault, heading = random.uniform(-np.pi, np.pi), random.uniform(-np.pi, np.pi)
    if random.random() < 0.6:  # broadcast cameras look from the side
        heading = random.choice([-1, 1]) * np.pi / 2 + random.normal(0, 0.35)
    twist = random.uniform(-np.pi, np.pi) if random.random() < 0.4 else random.normal(0, 0.1)
    return (
        rotation("y", heading)
        @ rotation("z", random.normal(0, 0.12))
        @ rotation("x", somersault)
        @ rotation("y", twist)
    )


def _sides(random: np.random.Generator, part: str, value: float, spread: float) -> dict[str, float]:
    """The same angle right and left, up to `spread` between them."""
    return {f"{side}_{part}": value + random.normal(0, spread) for side in ("right", "left")}


def _arms(random: np.random.Generator) -> dict[str, float]:
    """Each arm down, forward, sideways, up, on the hip, or anywhere; often both alike."""
    angles: dict[str, float] = {}
    both = random.random() < 0.65
    drawn: tuple[float, float, float, float] | None = None
    for side in ("right", "left"):
        if drawn is None or not both:
            kind = random.integers(6)
            drawn = (
                (random.normal(0, 0.2), random.uniform(0, 0.4), 0.0, random.uniform(0, 0.4)),
                (random.uniform(0.2, 3.1), random.uniform(-0.2, 0.4), 0.0, random.uniform(0, 0.4)),
                (random.normal(0, 0.2), random.uniform(0.3, 3.0), 0.0, random.uniform(0, 0.5)),
                (random.uniform(2.4, 3.2), random.uniform(-0.2, 0.5), 0.0, random.uniform(0, 0.9)),
                (
                    random.uniform(-0.5, 0.1),
                    random.uniform(0.4, 0.9),
                    random.uniform(0.8, 1.6),
                    random.uniform(1.2, 2),
                ),
                (
                    random.uniform(-0.8, 3.2),
                    random.uniform(-0.3, 2.6),
                    random.normal(0, 1.0),
                    random.uniform(0, 2.4),
                ),
            )[kind]
        spread = random.normal(0, 0.1, 4) if both else np.zeros(4)
        names = ("shoulder_flex", "shoulder_abduct", "shoulder_twist", "elbow")
        for name, value, extra in zip(names, drawn, spread, strict=True):
            angles[f"{side}_{name}"] = value + extra
    return angles


def _upright(random: np.random.Generator) -> dict[str, float]:
    """Standing to deep squat with any arms."""
    depth = random.uniform(0, 1) ** 1.5
    angles = _arms(random)
    angles |= _sides(random, "hip_flex", 1.9 * depth, 0.12)
    angles |= _sides(random, "knee", 2.1 * depth + 0.02, 0.12)
    angles |= _sides(random, "ankle", -0.5 * depth, 0.1)
    angles |= _sides(random, "hip_abduct", random.uniform(0, 0.35), 0.05)
    angles |= _sides(random, "hip_twist", random.normal(0, 0.15), 0.1)
    if random.random() < 0.2:  # one leg lifted
        side = random.choice(["right", "left"])
        angles[f"{side}_hip_flex"], angles[f"{side}_knee"] = random.uniform(0.2, 1.8), random.uniform(0, 1.8)
        angles[f"{side}_hip_abduct"] = random.uniform(-0.1, 0.8)
    angles |= {"spine_flex": 0.5 * depth + random.normal(0, 0.12), "spine_side": random.normal(0, 0.1)}
    return angles | {"spine_twist": random.normal(0, 0.15)}


def _bend(random: np.random.Generator) -> dict[str, float]:
    """Trunk tilted sideways, turned or bent forward."""
    angles = _upright(random)
    tilt = random.normal(0, 0.5)
    flex = random.uniform(-0.3, 1.4) if random.random() < 0.4 else random.normal(0, 0.15)
    hips = max(0.0, flex) * random.uniform(0, 1)
    angles |= {"spine_side": tilt, "spine_flex": flex, "spine_twist": random.normal(0, 0.5)}
    for side in ("right", "left"):
        angles[f"{side}_hip_flex"] += hips
    return angles


def _tuck(random: np.random.Generator) -> dict[str, float]:
    """Knees to the chest, hands on the shins."""
    close = random.uniform(0.6, 1.05)
    angles = _sides(random, "hip_flex", 2.35 * close, 0.08) | _sides(random, "knee", 2.4 * close, 0.1)
    angles |= _sides(random, "hip_abduct", random.uniform(-0.05, 0.3), 0.05) | _sides(
        random, "ankle", 0.6, 0.15
    )
    angles |= _sides(random, "shoulder_flex", random.uniform(0.5, 1.2), 0.1)
    angles |= _sides(random, "shoulder_abduct", random.uniform(0, 0.3), 0.1)
    angles |= _sides(random, "elbow", random.uniform(0.3, 1.4), 0.1)
    return angles | {"spine_flex": random.uniform(0.2, 0.8), "neck_flex": random.uniform(0, 0.5)}


def _pike(random: np.random.Generator) -> dict[str, float]:
    """Bent at the hips, knees straight; arms at the feet, round the thighs, or to the sides."""
    angles = _sides(random, "hip_flex", random.uniform(0.8, 2.6), 0.06)
    angles |= _sides(random, "knee", abs(random.normal(0, 0.15)), 0.05) | _sides(random, "ankle", 0.8, 0.2)
    reach = random.uniform(0.6, 2.4)
    angles |= _sides(random, "shoulder_flex", reach, 0.08)
    angles |= _sides(random, "shoulder_abduct", random.choice([0.0, 0.1, 1.3]), 0.1)
    angles |= _sides(random, "elbow", random.choice([0.1, 0.2, 1.2]), 0.1)
    return angles | {"spine_flex": random.uniform(0, 0.7), "neck_flex": random.uniform(-0.3, 0.4)}


def _straight(random: np.random.Generator) -> dict[str, float]:
    """Stretched for the entry or in flight, arms over the head, to the sides, or along the body."""
    angles = _sides(random, "knee", abs(random.normal(0, 0.1)), 0.05) | _sides(random, "ankle", 0.7, 0.2)
    angles |= _sides(random, "hip_flex", random.normal(0, 0.2), 0.05)
    angles |= _sides(random, "hip_abduct", abs(random.normal(0, 0.06)), 0.03)
    kind = random.integers(3)
    flex, abduct = ((3.05, random.normal(-0.05, 0.1)), (0.0, random.uniform(0.9, 1.8)), (0.1, 0.05))[kind]
    angles |= _sides(random, "shoulder_flex", flex, 0.08) | _sides(random, "shoulder_abduct", abduct, 0.06)
    angles |= _sides(random, "elbow", abs(random.normal(0.1, 0.15)), 0.05)
    return angles | {"spine_flex": random.normal(-0.05, 0.15), "spine_side": random.normal(0, 0.06)}


def _twist(random: np.random.Generator) -> dict[str, float]:
    """Straight body, one arm over the head and the other across the chest."""
    angles = _straight(random)
    up, across = ("right", "left") if random.random() < 0.5 else ("left", "right")
    angles |= {f"{up}_shoulder_flex": random.uniform(2.2, 3.1), f"{up}_elbow": random.uniform(0.8, 2.3)}
    angles |= {f"{across}_shoulder_flex": random.uniform(0.2, 1.0), f"{across}_shoulder_abduct": 0.1}
    return angles | {
        f"{across}_shoulder_twist": random.uniform(0.8, 1.6),
        f"{across}_elbow": random.uniform(1.4, 2.3),
    }


def _anything(random: np.random.Generator) -> dict[str, float]:
    """Every joint anywhere in its range."""
    angles = _arms(random)
    for side in ("right", "left"):
        angles[f"{side}_hip_flex"] = random.uniform(-0.4, 2.3)
        angles[f"{side}_hip_abduct"] = random.uniform(-0.2, 0.8)
        angles[f"{side}_hip_twist"] = random.normal(0, 0.4)
        angles[f"{side}_knee"] = random.uniform(0, 2.3)
        angles[f"{side}_ankle"] = random.uniform(-0.4, 0.9)
    angles |= {"spine_flex": random.uniform(-0.4, 1.0), "spine_side": random.normal(0, 0.3)}
    return angles | {"spine_twist": random.normal(0, 0.35)}


_POSES = {
    "upright": _upright, "bend": _bend, "tuck": _tuck, "pike": _pike, "straight": _straight, "twist": _twist,
    "anything": _anything,
}  # fmt: skip

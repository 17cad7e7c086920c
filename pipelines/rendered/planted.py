"""Dives with faults in known procedures and limbs: what an explanation of a score is measured on.

The faults of `dives.FAULT_COST` last for a whole flight and are the same on both sides. These here are one
joint's: it is bent, or held away from where it belongs, in one procedure, and takes points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.rendered import dives
from pipelines.rendered.body import COLUMN, Shape
from pipelines.rendered.dives import DiveNumber
from pipelines.rendered.draw import Look
from pipelines.rendered.film import FPS, SUBFRAMES, Film, shoot_dive, shutter_times, track_dive

PROCEDURES = ("Take-off", "Flight", "Entry")
ENTRY_SHARE = 0.78
"""Share of the flight at which the entry begins: the body opens and reaches for the water."""
LIMBS = {
    "left arm": ("left_elbow", "left_shoulder_flex"),
    "right arm": ("right_elbow", "right_shoulder_flex"),
    "left leg": ("left_knee", "left_hip_flex"),
    "right leg": ("right_knee", "right_hip_flex"),
}
"""Limb -> angles of the body in which it can be wrong."""
COST = 3.0
"""Points of execution (0 to 10) that a complete fault takes."""
NUMBERS = ("103B", "105B", "107C", "205C", "305C", "405C", "5132D", "5231D")
_SIZE_RAD = {"elbow": 1.3, "shoulder_flex": 1.0, "knee": 1.2, "hip_flex": 0.8}
_AFTER_S = 0.30
"""A clip ends so long after the water is met."""


@dataclass(frozen=True)
class Fault:
    """One joint held wrong in one procedure.

    Attributes:
        procedure: position in PROCEDURES.
        limb: of LIMBS.
        angle: one of the limb's, as `body.ANGLES` names it.
        size: 0 to 1.
    """

    procedure: int
    limb: str
    angle: str
    size: float


@dataclass
class PlantedDive:
    """A dive and the truth about it.

    Attributes:
        number: which dive.
        faults: planted ones.
        execution: 0 to 10, less the faults.
        joints: (T, 16, 2) px, where they truly are, MPII order.
        transitions_s: when flight and entry begin.
        film: the pictures; None if nobody asked for them.
    """

    number: DiveNumber
    faults: tuple[Fault, ...]
    execution: float
    joints: np.ndarray
    transitions_s: tuple[float, float]
    film: Film | None = None

    @property
    def score(self) -> float:
        """Points: three awards count."""
        return 3 * self.number.difficulty * self.execution


def draw_fault(random: np.random.Generator, least: float = 0.2) -> Fault:
    """A fault of any procedure and limb, each as likely as the others, of size `least` to 1."""
    limb = str(random.choice(list(LIMBS)))
    angle = str(random.choice(LIMBS[limb]))
    return Fault(int(random.integers(len(PROCEDURES))), limb, angle, float(random.uniform(least, 1)))


def planted_dive(seed: int, name: str, number: str, faults: tuple[Fault, ...], film: bool) -> PlantedDive:
    """Performs a dive with these faults and small personal ways that cost nothing.

    Body, camera and personal ways depend on seed and name alone, not on the faults.

    Args:
        seed: of a whole set.
        name: of the dive.
        number: its dive number.
        faults: what is wrong in it.
        film: draw the pictures too; a second and more, where the joints alone take hundredths.
    """
    random = np.random.default_rng([seed, *name.encode()])
    parsed, shape, look = DiveNumber.parse(number), Shape.sample(random), Look.sample(random, swimwear=True)
    height = 10.0 if random.random() < 0.5 else 3.0
    takeoff_s = random.uniform(0.48, 0.64)
    clean = dict.fromkeys(dives.FAULT_COST, 0.0)
    style = dict(zip(clean, random.uniform(0, 0.12, len(clean)).tolist(), strict=True))
    own = random.normal(0, 0.05, len(COLUMN))  # a few degrees in every joint
    times = shutter_times(int(3.4 * FPS))
    dive = dives.perform(random, parsed, style, shape, times, height, takeoff_s)
    count = min(int((dive.entry_s + _AFTER_S) * FPS), len(times) // SUBFRAMES)
    begins = (takeoff_s, takeoff_s + ENTRY_SHARE * (dive.entry_s - takeoff_s))
    dive.motion.angles += own
    spans = ((times[0], begins[0]), begins, (begins[1], count / FPS))
    for fault in faults:
        _plant(dive.motion[fault.angle], times, spans[fault.procedure], fault)
    times = times[: SUBFRAMES * count]
    execution = float(np.clip(10 - COST * sum(fault.size for fault in faults), 0, 10))
    told = (round(float(begins[0]), 3), round(float(begins[1]), 3))
    if not film:
        return PlantedDive(parsed, faults, execution, track_dive(random, dive, times, shape), told)
    filmed = shoot_dive(random, dive, times, shape, look)[0]
    return PlantedDive(parsed, faults, execution, filmed.joints, told, filmed)


def _plant(angle: np.ndarray, times: np.ndarray, span: tuple[float, float], fault: Fault) -> None:
    """Add the fault to one angle (T,) in place, with soft edges inside of the span."""
    start, end = span
    edge = 0.2 * (end - start)
    rise = np.clip((times - start) / edge, 0, 1) * np.clip((end - times) / edge, 0, 1)
    kind = fault.angle.partition("_")[2]
    inside = (times >= start) & (times < end)
    # Away from where the joint is held: what is bent is opened, what is stretched is bent.
    away = -1.0 if np.median(angle[inside]) > 1.2 else 1.0
    angle += away * _SIZE_RAD[kind] * fault.size * rise
    if kind in ("elbow", "knee"):
        np.clip(angle, 0, None, out=angle)

"""Dives: numbers with the grammar of World Aquatics (FINA), motion in flight, faults and judges.

A dive number is three or four digits and a letter:

    groups 1-4   g f h      forward, back, reverse, inward; f = 1 if flying; h half-somersaults
    group 5      5 d h t    twisting: d = direction as groups 1-4; h half-somersaults; t half-twists
    group 6      6 d h [t]  armstand: d = 1 forward, 2 back, 3 reverse
    letter       A straight, B pike, C tuck, D free (twisting dives only)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipelines.rendered.body import COLUMN, Motion, Shape, rotation

GRAVITY = 9.81
GROUPS = {1: "forward", 2: "back", 3: "reverse", 4: "inward", 5: "twisting", 6: "armstand"}

# What each fault takes from 10 points when it is complete (1.0).
FAULT_COST = {"late_opening": 2.0, "bent_knees": 2.0, "rotation": 3.0, "splash": 1.5, "legs_apart": 1.0}

# Moment of inertia about the somersault axis against that of the straight body; chosen, not measured.
_INERTIA = {"A": 1.0, "B": 0.42, "C": 0.27, "D": 0.9}


@dataclass(frozen=True)
class DiveNumber:
    """A parsed dive number.

    Attributes:
        group: 1-6.
        direction: 1-4; equals `group` for groups 1-4.
        half_somersaults: 1-9.
        half_twists: 0-9.
        position: A, B, C or D.
        flying: whether the body stays straight for the first half-somersault.
    """

    group: int
    direction: int
    half_somersaults: int
    half_twists: int
    position: str
    flying: bool = False

    @classmethod
    def parse(cls, text: str) -> DiveNumber:
        """Parse e.g. 107B, 5253B, 626c; raises ValueError naming what is wrong."""
        match = re.fullmatch(r"([1-6])(\d)(\d)(\d?)([A-D])", text.strip().upper())
        if not match:
            raise ValueError(
                f"dive number {text!r}: expected three or four digits and a letter A-D, e.g. 107B"
            )
        group, second, third, fourth = int(match[1]), int(match[2]), int(match[3]), match[4]
        if group <= 4:
            if fourth or second > 1:
                raise ValueError(
                    f"dive number {text!r}: group {group} has three digits, the second 0 or 1 (flying)"
                )
            number = cls(group, group, third, 0, match[5], flying=second == 1)
        else:
            if group == 5 and not fourth:
                raise ValueError(f"dive number {text!r}: twisting dives have four digits")
            if not 1 <= second <= (4 if group == 5 else 3):
                raise ValueError(f"dive number {text!r}: direction {second} does not exist in group {group}")
            number = cls(group, second, third, int(fourth or 0), match[5])
            if fourth == "0":
                raise ValueError(f"dive number {text!r}: the number of half-twists is 1-9")
        if number.half_somersaults == 0:
            raise ValueError(f"dive number {text!r}: the number of half-somersaults is 1-9")
        if number.position == "D" and not number.half_twists:
            raise ValueError(f"dive number {text!r}: free position D is for twisting dives only")
        if number.position in "BC" and number.flying and number.half_somersaults < 2:
            raise ValueError(f"dive number {text!r}: a flying dive needs at least one somersault")
        return number

    def __str__(self) -> str:
        if self.group <= 4:
            return f"{self.group}{int(self.flying)}{self.half_somersaults}{self.position}"
        return f"{self.group}{self.direction}{self.half_somersaults}{self.half_twists or ''}{self.position}"

    @property
    def armstand(self) -> bool:
        """Whether it starts from a handstand."""
        return self.group == 6

    @property
    def head_first(self) -> bool:
        """Whether the hands meet the water first."""
        return (self.half_somersaults + self.armstand) % 2 == 1

    @property
    def rotates_forward(self) -> bool:
        """Forward and inward dives rotate face first."""
        return self.direction in (1, 4)

    @property
    def difficulty(self) -> float:
        """Degree of difficulty in tenths.

        A simple approximation of the official table from somersaults, twists, position and kind of start;
        its coefficients were fitted to the difficulties listed in FineDiving and rounded, and the mean
        absolute difference of 0.15 is on these same dives (tests/pipelines/rendered/test_dives.py).
        """
        somersaults, twists = self.half_somersaults / 2, self.half_twists / 2
        value = 0.9 + 0.55 * somersaults + 0.15 * max(0.0, somersaults - 3) + 0.35 * twists
        value += {"A": 0.3, "B": 0.2, "C": 0.0, "D": 0.1}[self.position] + 0.2 * self.flying
        value += {1: 0.0, 2: 0.1, 3: 0.2, 4: 0.1}[self.direction] + 0.35 * self.armstand
        value += 0.1 * somersaults * (self.direction != 1)
        return round(value, 1)


# Dives the renderer draws from: common ones of all groups.
PROGRAMME = (
    "101B", "103B", "105B", "107B", "107C", "201A", "203B", "205C", "301B", "303C", "305C", "401B", "403B",
    "405C", "407C", "5132D", "5152B", "5231D", "5253B", "5337D", "612B", "614B", "624C",
)  # fmt: skip


def score(judges: list[float], difficulty: float) -> float:
    """Score of a dive: the middle three of seven judges (two highest and two lowest struck) x difficulty."""
    if len(judges) != 7:
        raise ValueError(f"expected seven judges, got {len(judges)}")
    return round(sum(sorted(judges)[2:5]) * difficulty, 2)


def execution(faults: dict[str, float]) -> float:
    """Execution 0-10: ten less the cost of each fault (0 none, 1 complete)."""
    return float(np.clip(10 - sum(FAULT_COST[name] * value for name, value in faults.items()), 0, 10))


def judge(random: np.random.Generator, value: float) -> list[float]:
    """Seven judges' awards in halves, 0-10, around execution `value`."""
    awards = np.clip(np.round(2 * (value + random.normal(0, 0.35, 7))) / 2, 0, 10)
    return [float(award) for award in awards]


def sample_faults(random: np.random.Generator, weakness: float) -> dict[str, float]:
    """Faults of one dive by a diver of `weakness` 0-1; a botched rotation always splashes."""
    faults = {name: float(np.clip(random.normal(weakness, 0.22), 0, 1)) for name in FAULT_COST}
    faults["splash"] = float(np.clip(0.5 * faults["splash"] + 0.5 * faults["rotation"], 0, 1))
    return faults


@dataclass(frozen=True)
class Fold:
    """One span in pike or tuck, in shares of the flight.

    Attributes:
        start: when the body begins to fold.
        closing: how long that takes.
        opening: when a clean diver begins to open.
        extending: how long that takes.
        late: how much later a diver opens whose opening is as late as can be.
    """

    start: float
    closing: float
    opening: float
    extending: float
    late: float

    def tightness(self, late_opening: float, share: np.ndarray) -> np.ndarray:
        """0 straight, 1 folded, at (T,) shares of the flight."""
        open_at = self.opening + self.late * late_opening
        closed = _smooth(share, self.start, self.start + self.closing)
        return closed * (1 - _smooth(share, open_at, min(open_at + self.extending, 1.04)))


@dataclass(frozen=True)
class Choreography:
    """What the body does when in the flight, and how far complete faults (1.0) can be seen.

    Attributes:
        twist: shares of the flight between which the body twists.
        folds: spans in position.
        position: A, B or C, what it folds into; D is not folded.
        turn_rad: error of the rotation at the entry.
        knees_rad: bend of the knees.
        apart_rad: angle of each leg to the side.
        scissors_rad: angle of one leg forward and of the other back; seen from the side, unlike `apart_rad`.
        loose: share of a tuck that bent knees undo, in which they cannot be seen otherwise.
    """

    twist: tuple[float, float]
    folds: tuple[Fold, ...]
    position: str
    turn_rad: float = 0.6
    knees_rad: float = 0.9
    apart_rad: float = 0.28
    scissors_rad: float = 0.0
    loose: float = 0.0

    @classmethod
    def usual(cls, number: DiveNumber) -> Choreography:
        """As most divers perform `number`; straight and free dives without a fold."""
        twist = (0.10, 0.82) if number.position in "AD" else (0.08, 0.45)
        start = 0.40 if number.half_twists else (0.42 if number.flying else 0.04)
        folds = () if number.position in "AD" else (Fold(start, 0.13, 0.66, 0.17, 0.24),)
        return cls(twist, folds, number.position)

    def tightness(self, faults: dict[str, float], share: np.ndarray) -> np.ndarray:
        """0 straight, 1 fully in position, at (T,) shares; a late opening moves its end to the entry."""
        tight = np.zeros_like(share)
        for fold in self.folds:
            tight = np.maximum(tight, fold.tightness(faults["late_opening"], share))
        return tight


@dataclass
class Dive:
    """One performed dive.

    Attributes:
        number: which dive.
        faults: sizes 0-1 of `FAULT_COST`'s faults.
        motion: poses at the frame times.
        takeoff_s: when the feet (or hands) leave the platform.
        entry_s: when the body meets the water.
        height: of the platform above the water, metres.
        entry_z: where it enters, metres from the platform's end.
        splash: radius of the splash in metres.
    """

    number: DiveNumber
    faults: dict[str, float]
    motion: Motion
    takeoff_s: float
    entry_s: float
    height: float
    entry_z: float
    splash: float


@dataclass(frozen=True)
class _Flight:
    """Ballistic path of the pelvis: start height and speeds, metres and seconds."""

    start: float
    up: float
    out: float
    end: float

    @property
    def seconds(self) -> float:
        return (self.up + np.sqrt(self.up**2 + 2 * GRAVITY * (self.start - self.end))) / GRAVITY


def perform(random: np.random.Generator, number: DiveNumber, faults: dict[str, float], shape: Shape,
            times: np.ndarray, height: float, takeoff_s: float,
            choreography: Choreography | None = None) -> Dive:  # fmt: skip
    """Move a body through a dive.

    Args:
        random: small personal differences.
        number: the dive.
        faults: sizes 0-1.
        shape: of the body.
        times: (T,) seconds of the frames (or sub-frames).
        height: platform above the water in metres, 3 or 10.
        takeoff_s: when flight begins.
        choreography: what the body does when; without it, as usual for the number.
    """
    plan = choreography or Choreography.usual(number)
    reach = shape.upper_arm + shape.forearm + shape.trunk
    stand = shape.leg + 0.06
    jump = np.sqrt(2 * GRAVITY * (0.45 if height > 5 else 1.3)) * random.uniform(0.92, 1.08)
    flight = _Flight(
        start=height + (reach if number.armstand else stand),
        up=random.uniform(1.2, 1.7) if number.armstand else jump,
        out=random.uniform(0.9, 1.3),
        end=reach * 0.9 if number.head_first else stand * 0.95,
    )
    entry_s = takeoff_s + flight.seconds
    motion = Motion.standing(len(times), 0.0)
    motion.root[:] = _path(flight, times - takeoff_s, number, stand, height)
    share = np.clip((times - takeoff_s) / flight.seconds, 0, 1)
    _pose(motion, number, faults, share, plan, times - takeoff_s)
    motion.turn[:] = _turn(number, faults, plan, share, random)
    splash = 0.25 + 1.1 * faults["splash"]
    entry_z = 0.25 + flight.out * flight.seconds
    return Dive(number, faults, motion, takeoff_s, entry_s, height, entry_z, splash)


def _path(flight: _Flight, time: np.ndarray, number: DiveNumber, stand: float, height: float) -> np.ndarray:
    """(T, 3) pelvis: crouch and push, ballistic flight, then braked by the water."""
    root = np.zeros((len(time), 3))
    air = np.clip(time, 0, flight.seconds)
    root[:, 1] = flight.start + flight.up * air - 0.5 * GRAVITY * air**2
    root[:, 2] = 0.25 + flight.out * air
    before = time < 0
    if not number.armstand:
        # from rest down by `dip`, then up so that the speed at take-off is flight.up
        rise = np.clip(-time / 0.35, 0, 1)
        dip = np.where(rise < 0.5, 2 * rise * flight.up * 0.06, 0.12 * flight.up * (1 - rise))
        root[before, 1] = flight.start - dip[before]
    wet = np.maximum(time - flight.seconds, 0)
    speed, brake = flight.up - GRAVITY * flight.seconds, 0.30
    root[:, 1] += speed * brake * (1 - np.exp(-wet / brake))
    root[:, 2] += flight.out * brake * (1 - np.exp(-wet / brake))
    return root


def _smooth(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before `start`, 1 after `end`, smooth between."""
    share = np.clip((value - start) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


def _turn(number: DiveNumber, faults: dict[str, float], plan: Choreography, share: np.ndarray,
          random: np.random.Generator) -> np.ndarray:  # fmt: skip
    """Orientation of the pelvis: heading, somersault with conserved angular momentum, twist."""
    fine = np.linspace(0, 1, 400)
    inertia = 1 - (1 - _INERTIA[plan.position]) * plan.tightness(faults, fine)
    turned = np.concatenate([[0], np.cumsum(0.5 * (1 / inertia[1:] + 1 / inertia[:-1]))])
    side = 1 if random.random() < 0.75 else -1  # mostly over-rotated
    total = number.half_somersaults * np.pi + side * faults["rotation"] * plan.turn_rad
    somersault = np.interp(share, fine, turned / turned[-1]) * total
    somersault = somersault if number.rotates_forward else -somersault
    start = np.pi if number.armstand else 0.0
    heading = np.pi if number.direction in (2, 4) else 0.0
    sense = 1 if random.random() < 0.5 else -1
    twist = _smooth(share, *plan.twist) * number.half_twists * np.pi * sense
    return rotation("y", heading) @ rotation("x", start + somersault) @ rotation("y", twist)


def _pose(motion: Motion, number: DiveNumber, faults: dict[str, float], share: np.ndarray, plan: Choreography,
          time: np.ndarray) -> None:  # fmt: skip
    """Set the joint angles: arms and legs before take-off, in position, twisting and at the entry."""
    entry = _smooth(share, 0.80, 0.97)
    first, last = plan.twist
    tight = plan.tightness(faults, share)
    twisting = _smooth(share, first - 0.05, first + 0.06) * (1 - _smooth(share, last - 0.08, last))
    twisting = twisting if number.half_twists else np.zeros_like(share)
    up_at_end = 3.0 if number.head_first else 0.05
    before = np.clip(-time / 0.35, 0, 1)
    arms = 3.0 - 2.6 * np.sin(np.pi * before) if not number.armstand else np.full_like(share, 3.05)
    base = {
        "shoulder_flex": arms * (1 - entry) + up_at_end * entry, "shoulder_abduct": 0.08 + 0 * share,
        "elbow": 0.08 + 0 * share, "shoulder_twist": 0 * share,
        "hip_flex": 0.05 + 0 * share, "knee": 0.03 + 0 * share,
        "ankle": 0.15 + 0.65 * _smooth(share, 0, 0.05),
    }  # fmt: skip
    position = {"B": {"shoulder_flex": 1.55, "elbow": 0.35, "hip_flex": 2.1, "knee": 0.03},
                "C": {"shoulder_flex": 0.95, "elbow": 0.9, "hip_flex": 2.25, "knee": 2.3}}  # fmt: skip
    hold = tight * (1 - plan.loose * faults["bent_knees"]) if plan.position == "C" else tight
    for name, value in position.get(plan.position, {}).items():
        base[name] = base[name] * (1 - hold) + value * hold
    for side, folded in (("right", 1.0), ("left", 0.0)):
        wrap = {"shoulder_flex": 0.7 if folded else 2.5, "elbow": 1.9 if folded else 1.5,
                "shoulder_twist": 1.2 if folded else 0.0}  # fmt: skip
        for name, value in base.items():
            target = wrap.get(name)
            blended = value if target is None else value * (1 - twisting) + target * twisting
            motion.angles[:, COLUMN[f"{side}_{name}"]] = blended
    _crouch(motion, number, time)
    knees = plan.knees_rad * faults["bent_knees"] * _smooth(share, 0.05, 0.15)
    apart = plan.apart_rad * faults["legs_apart"] * _smooth(share, 0.05, 0.2)
    scissors = plan.scissors_rad * faults["legs_apart"] * _smooth(share, 0.05, 0.2)
    for side, sign in (("right", 1), ("left", -1)):
        motion[f"{side}_knee"][:] += knees * (1 - tight * (plan.position == "C"))
        motion[f"{side}_hip_abduct"][:] += apart
        motion[f"{side}_hip_flex"][:] += sign * scissors
    motion["spine_flex"][:] = 0.45 * tight
    motion["neck_flex"][:] = 0.3 * tight + 0.25 * entry * (not number.head_first) - 0.1


def _crouch(motion: Motion, number: DiveNumber, time: np.ndarray) -> None:
    """Bend hips and knees so that the feet stay on the platform while the pelvis dips."""
    if number.armstand:
        return
    rise = np.clip(-time / 0.35, 0, 1)
    bend = np.where(time < 0, np.sin(np.pi * np.clip(rise, 0, 1)), 0.0)
    for side in ("right", "left"):
        motion[f"{side}_hip_flex"][:] += 0.9 * bend
        motion[f"{side}_knee"][:] += 1.2 * bend
        motion[f"{side}_ankle"][:] -= 0.3 * bend

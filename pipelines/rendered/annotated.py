"""A dive as it is annotated - number, steps, score - and its performance by a rendered athlete."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass

import numpy as np

from pipelines.rendered import dives
from pipelines.rendered.body import Shape
from pipelines.rendered.dives import FAULT_COST, Choreography, DiveNumber, Fold
from pipelines.rendered.draw import Look
from pipelines.rendered.film import FPS, Film, shoot_dive, shutter_times

# How far complete faults can be seen: further than in other renders, and from the side, where the camera is.
_VISIBLE = {"turn_rad": 0.75, "knees_rad": 1.1, "apart_rad": 0.25, "scissors_rad": 0.40, "loose": 0.45}
_POSITIONS = {"Straight": "A", "Pike": "B", "Tuck": "C"}


@dataclass(frozen=True)
class AnnotatedDive:
    """What a data set says of one dive.

    Attributes:
        competition: name of the event.
        index: number of the dive in it.
        action_type: dive number as published, e.g. 407c.
        score: awarded points.
        difficulty: degree of difficulty.
        judge_scores: awards, as published.
        procedures: names of the ordered steps: take-off, one to three in flight, entry.
        transitions: first frame of every step but the first, one fewer than `procedures`.
        num_frames: T.
        split: train or test.
    """

    competition: str
    index: int
    action_type: str
    score: float
    difficulty: float
    judge_scores: tuple[float, ...]
    procedures: tuple[str, ...]
    transitions: tuple[int, ...]
    num_frames: int
    split: str

    @property
    def clip_id(self) -> str:
        """Name of the clip, as the adapter of the data set gives it."""
        return f"{self.competition}_{self.index}"

    @property
    def uri(self) -> str:
        """Where its video lies."""
        return f"videos/{self.competition}/{self.index}.mp4"

    @property
    def transitions_s(self) -> list[float]:
        """Seconds of the transitions at 25 frames per second."""
        return [round(frame / FPS, 3) for frame in self.transitions]

    @property
    def execution(self) -> float:
        """Execution 0-10 behind the score: three awards count, or 0.6 times five of synchronised dives."""
        return float(np.clip(self.score / (3 * self.difficulty), 0, 10))


@dataclass
class Performance:
    """One rendered dive and the truth about it.

    Attributes:
        film: frames and joints.
        faults: sizes 0-1 of the faults.
        splash: share of the picture covered by drops, summed over the seconds.
        shape: of the body.
    """

    film: Film
    faults: dict[str, float]
    splash: float
    shape: Shape


def random_of(seed: int, clip_id: str) -> np.random.Generator:
    """The stream of one dive, whichever other dives are rendered beside it."""
    return np.random.default_rng([seed, *hashlib.sha256(clip_id.encode()).digest()])


def film_annotated(dive: AnnotatedDive, seed: int) -> Performance:
    """Render a dive as annotated; synchronised dives are performed by one diver.

    Every dive has a body, clothes, a pool and a camera of its own. Take-off is at the first transition and
    entry at the last, so that the flight runs in slow motion where the annotated video does.
    """
    random = random_of(seed, dive.clip_id)
    number, faults = DiveNumber.parse(dive.action_type), faults_for(random, dive.execution)
    shape, look = Shape.sample(random), Look.sample(random, swimwear=True)
    height = _height(random, dive.competition, number)
    takeoff_s, entry_s = dive.transitions[0] / FPS, dive.transitions[-1] / FPS
    times, plan = shutter_times(dive.num_frames), choreography(number, dive)
    # How long the flight lasts is drawn while performing; the rehearsal draws the same.
    rehearsal = dives.perform(
        copy.deepcopy(random), number, faults, shape, times[:1], height, takeoff_s, plan
    )
    own = np.where(times < takeoff_s, times, rehearsal.entry_s + times - entry_s)
    flying = (times >= takeoff_s) & (times < entry_s)
    own[flying] = np.interp(times[flying], [takeoff_s, entry_s], [takeoff_s, rehearsal.entry_s])
    performed = dives.perform(random, number, faults, shape, own, height, takeoff_s, plan)
    film, wet = shoot_dive(random, performed, own, shape, look)
    return Performance(film, faults, float(wet.sum() / FPS), shape)


def faults_for(random: np.random.Generator, execution: float) -> dict[str, float]:
    """Faults that make `dives.execution` equal `execution`: a random mixture, scaled.

    The mixture varies from dive to dive by a factor of about ten, and a botched rotation always splashes.
    Where one fault is complete, the others grow on. All faults complete is execution 0.5: what is asked
    below that gets them all.
    """
    mixture = dict(zip(FAULT_COST, random.uniform(0.2, 1.8, len(FAULT_COST)).tolist(), strict=True))
    mixture["splash"] = 0.5 * mixture["splash"] + 0.5 * mixture["rotation"]

    def scaled(size: float) -> dict[str, float]:
        return {name: min(1.0, size * value) for name, value in mixture.items()}

    low, high = 0.0, 1 / min(mixture.values())
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if dives.execution(scaled(middle)) > execution else (low, middle)
    return scaled(high)


def choreography(number: DiveNumber, dive: AnnotatedDive) -> Choreography:
    """Twists and folds in the annotated steps of the flight.

    A step named after twists is twisted straight, one named after somersaults is folded. Steps that cannot
    be (an entry in mid-air; no twist in a twisting dive) are ignored: the number decides.
    """
    names = dive.procedures[1:-1]
    frames = np.array(dive.transitions, dtype=float)
    ends = ((frames - frames[0]) / (frames[-1] - frames[0])).tolist()
    steps = list(zip(names, ends[:-1], ends[1:], strict=True))
    twists = [(start, end) for name, start, end in steps if "Twist" in name]
    spans = [(start, end) for name, start, end in steps if "Som" in name]
    if len(twists) + len(spans) < len(steps) or len(twists) != bool(number.half_twists) or not spans:
        twists, spans = ([(0.05, 0.40)], [(0.40, 1.0)]) if number.half_twists else ([], [(0.0, 1.0)])
    position = number.position
    if position == "D":  # free: as the annotation says of the somersaults
        position = next((p for word, p in _POSITIONS.items() if any(word in name for name in names)), "A")
    folds = () if position == "A" else tuple(_fold(*span) for span in spans)
    return Choreography(twists[0] if twists else (0.1, 0.2), folds, position, **_VISIBLE)


def _fold(start: float, end: float) -> Fold:
    """Folded for most of a step; before the entry, up to the entry if the opening is late."""
    length = end - start
    closing = min(0.13, 0.25 * length)
    if end == 1.0:
        return Fold(start + 0.03 * length, closing, start + 0.58 * length, 0.18 * length, 0.30 * length)
    return Fold(start + 0.03 * length, closing, start + 0.75 * length, 0.20 * length, 0.0)


def _height(random: np.random.Generator, competition: str, number: DiveNumber) -> float:
    """Platform or springboard: from the event's name, else from what the dive needs."""
    drawn = random.random()
    if "10m" in competition or "Platform" in competition:
        return 10.0
    if "3m" in competition or "Springboard" in competition:
        return 3.0
    needs = number.half_somersaults / 2 + number.half_twists / 4 + number.armstand
    return 10.0 if needs > 2.2 or drawn < 0.5 else 3.0

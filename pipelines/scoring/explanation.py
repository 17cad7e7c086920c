"""What an explanation of a score consists of: sentences for people, facts for programs, curves for pictures.

The parts of a score come from the model. What the body did otherwise is measured from the poses, in degrees:
it goes along with the points, and nobody knows from it alone what caused them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.scoring.alignment import Alignment

ASSOCIATED = (
    "Differences of angles are measured in the plane of the picture. They are associated with the points; "
    "they do not prove what caused them."
)


FLOOR_DEG = 8.0
"""Differences are held against the spread of the references, and at least against this."""
STRANGE = 1.0
"""Strength from which a difference is marked in pictures: as far as the references spread, all the time."""


def limb_of(joint: str) -> str:
    """The arm or leg that a joint like "left knee" belongs to."""
    side, _, name = joint.partition(" ")
    return f"{side} {'arm' if name in ('elbow', 'shoulder') else 'leg'}"


@dataclass(frozen=True)
class Difference:
    """How one joint was held otherwise than in a reference.

    Attributes:
        part: name of the procedure, or of the repetition.
        joint: "left knee" and so on.
        start_s, end_s: when it differs most, seconds from the start of the file.
        degrees: own angle less that of the reference, mean over that span; 180 = straight.
        usual: degrees by which the references differ from each other in that part.
        strength: how unusual it is, 0 = as the references; for the order, and not a probability.
    """

    part: str
    joint: str
    start_s: float
    end_s: float
    degrees: float
    usual: float
    strength: float

    @property
    def limb(self) -> str:
        """The arm or leg that the joint belongs to."""
        return limb_of(self.joint)

    def words(self, reference: str) -> str:
        """A sentence: what is bent more or less, and when."""
        name = self.joint.partition(" ")[2]
        bent = (
            "bent more"
            if self.degrees < 0
            else "straighter"
            if name != "shoulder"
            else "further from the trunk"
        )
        if self.degrees < 0 and name == "shoulder":
            bent = "closer to the trunk"
        return (
            f"{self.joint} {abs(self.degrees):.0f} degrees {bent} than {reference} at "
            f"{self.start_s:.2f} to {self.end_s:.2f} s (usual there: {self.usual:.0f})"
        )

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "part": self.part,
            "joint": self.joint,
            "limb": self.limb,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "degrees": self.degrees,
            "usual_degrees": self.usual,
            "strength": self.strength,
        }


@dataclass(frozen=True)
class Curve:
    """One joint's angle over the time of the video, with what it is held against.

    Attributes:
        joint: "left knee" and so on.
        time_s: (T,) seconds.
        own: (T,) degrees; NaN = not surely seen.
        reference: (T,) degrees of the one exemplar, or of the middle of the control group.
        low, high: (T,) between these lie four of five references.
    """

    joint: str
    time_s: np.ndarray
    own: np.ndarray
    reference: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Reference:
    """An exemplar with its poses.

    Attributes:
        clip_id: its name.
        score: judged.
        uri: where its video was when it was extracted.
        start_s, end_s: the part of the file that it is; None = from the start, to the end.
        pose: as `Recording.pose` gives it.
        alignment: of the scored dive with it.
    """

    clip_id: str
    score: float
    uri: str
    start_s: float | None
    end_s: float | None
    pose: Mapping[str, Any]
    alignment: Alignment


@dataclass(frozen=True)
class Explanation:
    """Why a score may be what it is.

    Attributes:
        sentences: for people, the most important one first.
        facts: for programs, plain values.
        differences: strongest first.
        curves: for pictures.
        reference: what the references are, in words: one exemplar, or the control group.
        missing: what could not be said, and why.
        shown: the exemplar that pictures show beside the scored performance.
    """

    sentences: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    curves: tuple[Curve, ...] = ()
    reference: str = ""
    missing: tuple[str, ...] = ()
    shown: Reference | None = None

    def document(self) -> dict[str, Any]:
        """Plain values, times in seconds from the start of the file."""
        return {
            "sentences": list(self.sentences),
            **self.facts,
            "differences": [one.document() for one in self.differences],
            "missing": list(self.missing),
            "meaning": ASSOCIATED,
        }


def strongest(
    part: str, joint: str, time_s: np.ndarray, away: np.ndarray, spread: np.ndarray, fewest: int
) -> Difference | None:
    """What is told of one joint in one part: when it differs most, and by how much.

    Args:
        part, joint: names.
        time_s: (T,) seconds of the part.
        away: (T,) degrees, own less the middle of the references; NaN = not known.
        spread: (T,) degrees by which the references differ from each other.
        fewest: known moments that are needed; with fewer nothing is told.
    """
    strange = away / np.hypot(spread, FLOOR_DEG)
    known = np.flatnonzero(np.isfinite(strange))
    if len(known) < max(2, fewest):
        return None
    some = strange[known]
    top = int(np.abs(some).argmax())
    # The span around the strongest moment in which it is at least half as strong, to the same side.
    same = some * np.sign(some[top]) >= 0.5 * abs(some[top])
    first = last = top
    while first > 0 and same[first - 1]:
        first -= 1
    while last < len(same) - 1 and same[last + 1]:
        last += 1
    span, step = known[first : last + 1], float(np.median(np.diff(time_s)))
    return Difference(
        part=part,
        joint=joint,
        start_s=float(time_s[span[0]]),
        end_s=float(time_s[span[-1]]) + step,
        degrees=float(away[span].mean()),
        usual=float(spread[known].mean()),
        strength=float(np.abs(some).mean()),
    )

"""What a model says of one video: the score and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """A span of the video and what it adds to the score.

    Attributes:
        name: of the procedure, or which part of the whole.
        start_s, end_s: seconds from the start of the file.
        delta: points.
    """

    name: str
    start_s: float
    end_s: float
    delta: float


@dataclass(frozen=True)
class Exemplar:
    """A performance of known score that the video was compared with.

    Attributes:
        clip_id: its name in the store of the training.
        uri: where its video was then.
        score: judged, in points.
        vote: score of this video by this comparison alone.
    """

    clip_id: str
    uri: str
    score: float
    vote: float


@dataclass(frozen=True)
class Verdict:
    """One scored video.

    Attributes:
        score: points; `base` and all `parts` add up to it.
        base: points before any part counts.
        base_meaning: what the base is, in words.
        parts: in the order of time.
        action_type: as which it was scored.
        exemplars: who it was compared with, if the model compares.
        rule: what exemplars and video have in common.
        low, high: interval that the votes of the exemplars span; None without votes.
    """

    score: float
    base: float
    base_meaning: str
    parts: tuple[Part, ...]
    action_type: str
    exemplars: tuple[Exemplar, ...] = field(default=())
    rule: str = ""
    low: float | None = None
    high: float | None = None

"""Who learns, who chooses the epoch, who is only tested: subjects never cross splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipelines.config import TrainSection
from pipelines.errors import DataError
from pipelines.motion import subject_of

if TYPE_CHECKING:
    import pyarrow as pa


class Scored(Protocol):
    """What `choose_validation` must know of a clip."""

    @property
    def subject(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def score(self) -> float | None: ...


def check_subjects(clips: pa.Table) -> None:
    """DataError if a split has an unknown name or a subject is in two splits."""
    seen: dict[str, str] = {}
    columns = ("clip_id", "dataset", "subject_id", "split")
    for clip in clips.select(columns).to_pylist():
        split = clip["split"] or "train"
        if split not in ("train", "val", "test"):
            raise DataError(
                f"clip {clip['clip_id']}", f"has split {split!r}", "use train, val, test or leave it empty"
            )
        subject = subject_of(clip)
        if seen.setdefault(subject, split) != split:
            raise DataError(
                f"subject {subject}",
                f"is in the splits {seen[subject]} and {split}",
                "put all clips of a person into one split",
            )


def choose_validation(motions: Sequence[Scored], config: TrainSection) -> dict[str, str]:
    """Subject -> train or val.

    Rows with split val decide if there are any. Otherwise every k-th subject is taken, in the order of
    group and mean score, from a random start, so that validation covers the range of the scores.
    """
    subjects = {motion.subject: "val" if motion.split == "val" else "train" for motion in motions}
    if "val" not in subjects.values() and len(subjects) >= 3:
        generator = np.random.default_rng(config.seed)
        order = _by_group_and_score(motions, generator)
        count = max(1, round(config.validation_share * len(order)))
        for position in (np.arange(count) + generator.random()) * len(order) / count:
            subjects[order[int(position)]] = "val"
    counts = {split: list(subjects.values()).count(split) for split in ("train", "val")}
    if counts["train"] < 2 or counts["val"] < 1:
        raise DataError(
            "clips table",
            f"has {counts['train']} training and {counts['val']} validation subjects with usable poses",
            "at least 2 and 1 are needed (or 3 subjects and no val rows)",
        )
    return subjects


def folds(motions: Sequence[Scored], count: int, seed: int) -> list[int]:
    """Which of `count` parts of the people each clip belongs to.

    In the order of group and mean score every count-th person is in the same part, so that each covers the
    groups and the range of the scores.

    Raises:
        DataError: fewer than two people for each part.
    """
    order = _by_group_and_score(motions, np.random.default_rng(seed))
    if len(order) < 2 * count:
        raise DataError(
            "clips table",
            f"has {len(order)} training subjects, too few for {count} members that leave out others each",
            f"at least {2 * count} are needed; set members lower, or mark validation subjects with split val",
        )
    part = {subject: position % count for position, subject in enumerate(order)}
    return [part[motion.subject] for motion in motions]


def _by_group_and_score(motions: Sequence[Scored], generator: np.random.Generator) -> list[str]:
    """Subjects in the order of group and mean score, ties at random."""
    subjects = {motion.subject: motion.group for motion in motions}
    scores = {subject: [m.score or 0.0 for m in motions if m.subject == subject] for subject in subjects}
    noise = dict(zip(sorted(subjects), generator.random(len(subjects)), strict=True))
    return sorted(subjects, key=lambda s: (subjects[s], float(np.mean(scores[s])), noise[s]))


def without_test(clips: pa.Table) -> pa.Table:
    """Drops the rows of the test split, before anything else looks at them."""
    import pyarrow as pa

    keep = [split != "test" for split in clips["split"].to_pylist()]
    return clips.filter(pa.array(keep, type=pa.bool_()))

"""What an expert answers: standardised scores of each action type, or the group of a clip."""

from __future__ import annotations

import numpy as np

from pipelines.errors import DataError
from pipelines.motion import Motion


def target_statistics(motions: list[Motion]) -> dict[str, dict[str, float]]:
    """Mean, deviation, median and count of the training scores of each action type.

    Raises:
        DataError: an action type has fewer than two scores, or they are all equal.
    """
    statistics = {}
    for action in sorted({motion.action_type for motion in motions}):
        scores = np.array([motion.score for motion in motions if motion.action_type == action], dtype=float)
        if len(scores) < 2 or np.ptp(scores) == 0:
            raise DataError(
                f"action type {action!r}",
                f"has {len(scores)} training scores, all of one value",
                "train on action types with at least two different scores",
            )
        statistics[action] = {
            "mean": float(scores.mean()),
            "deviation": float(scores.std()),
            "median": float(np.median(scores)),
            "count": len(scores),
        }
    return statistics


def standardise(motion: Motion, targets: dict[str, dict[str, float]]) -> float:
    """Score in deviations from the training mean of its action type."""
    if motion.action_type not in targets:
        raise DataError(
            f"clip {motion.clip_id}",
            f"has action type {motion.action_type!r}, but training had {sorted(targets)}",
            "give training clips of this action type, or leave it out",
        )
    assert motion.score is not None
    target = targets[motion.action_type]
    return (motion.score - target["mean"]) / target["deviation"]


def class_counts(motions: list[Motion]) -> dict[str, int]:
    """Training clips of each class, the column `group` of the clips table, in the order of their names.

    Raises:
        DataError: fewer than two classes, or a class of a single person.
    """
    people: dict[str, set[str]] = {}
    for motion in motions:
        people.setdefault(motion.group, set()).add(motion.subject)
    lonely = sorted(name for name, subjects in people.items() if len(subjects) < 2)
    if len(people) < 2 or lonely:
        told = ", ".join(f"{name} {len(subjects)}" for name, subjects in sorted(people.items()))
        raise DataError(
            "clips table",
            f"training people by group: {told}; classes need at least two groups of two people each",
            "fill the column `group`, or leave clips of rare groups out",
        )
    return {name: sum(motion.group == name for motion in motions) for name in sorted(people)}


def class_of(motion: Motion, classes: list[str]) -> int:
    """Position of the clip's group among the classes of the training.

    Raises:
        DataError: training did not know this group.
    """
    if motion.group not in classes:
        raise DataError(
            f"clip {motion.clip_id}",
            f"has group {motion.group!r}, but training had {classes}",
            "give training clips of this group, or leave it out",
        )
    return classes.index(motion.group)

"""Which procedure of a dive lost points against its exemplars, and what the body did otherwise there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqa_models.hp_mcore.procedure import slots_of
from pipelines.scoring.alignment import aligned
from pipelines.scoring.curves import DISAGREE_DEG, steady_angles
from pipelines.scoring.explanation import Curve, Difference, Explanation, Reference, strongest
from pipelines.scoring.verdict import Part, Verdict

FEWEST = 3
"""Sampled frames of a procedure in which a joint must be seen."""
NAMED = 2
"""Differences told of the named procedure."""


def bounds(parts: tuple[Part, ...]) -> np.ndarray:
    """(P + 1,) seconds at which the parts begin, and the end of the last."""
    return np.array([*(part.start_s for part in parts), parts[-1].end_s])


def exemplar_bounds(clip: Mapping[str, Any], time_s: np.ndarray, num_procedures: int) -> np.ndarray:
    """(P' + 1,) seconds at which the procedures of an annotated dive begin, and its end.

    Args:
        clip: its row of CLIPS; dives of more steps are collapsed as the model does.
        time_s: (T,) of its sampled frames.
        num_procedures: P of the model.
    """
    from pipelines.hp_mcore.dives import sampled_transitions

    starts, _ = slots_of(sampled_transitions(dict(clip), time_s), num_procedures)
    step = float(np.median(np.diff(time_s)))
    begins = [float(time_s[min(start, len(time_s) - 1)]) for start in starts if start >= 0]
    return np.array([float(time_s[0]), *begins, float(time_s[-1]) + step])


def explain(verdict: Verdict, pose: Mapping[str, Any], references: list[Reference]) -> Explanation:
    """Explains the score of a dive.

    Args:
        verdict: its parts are the procedures.
        pose: of the dive.
        references: exemplars whose poses are at hand and that have as many procedures; the best judged one
            is shown.
    """
    lost = min(verdict.parts, key=lambda part: part.delta)
    facts: dict[str, Any] = {"lost_most": lost.name, "procedure": lost.name, "procedure_delta": lost.delta}
    said = f"{lost.name} ({lost.start_s:.2f} to {lost.end_s:.2f} s) "
    said += f"lost most against the exemplars: {lost.delta:+.2f} points" if lost.delta < 0 else (
        f"gained least against the exemplars: {lost.delta:+.2f} points; no procedure lost any"
    )  # fmt: skip
    if not references:
        why = "no exemplar with as many procedures and with poses is at hand: joint angles are not compared"
        return Explanation((said,), facts, missing=(why,))
    shown = max(references, key=lambda one: one.score)
    found = differences(verdict.parts, pose, references)
    named = named_part(verdict.parts, found)
    facts |= {"procedure": named.name, "procedure_delta": named.delta}
    facts |= {"exemplar": shown.clip_id, "exemplar_score": shown.score}
    facts |= {"limb": found[0].limb if found else None}
    words = [] if named == lost else [
        f"{named.name} stands out ({named.delta:+.2f} points): the body differs more from the exemplars there"
    ]  # fmt: skip
    there = [one for one in found if one.part == named.name]
    elsewhere = found[:1] if found and found[0].part != named.name else []
    words += [one.words("in the exemplars") for one in there[:NAMED]]
    words += [f"strongest in {one.part}: {one.words('in the exemplars')}" for one in elsewhere]
    reference = f"exemplar {shown.clip_id}, judged {shown.score:g}"
    return Explanation((said, *words), facts, tuple(found), curves(pose, references, shown), reference,
                       shown=shown)  # fmt: skip


def named_part(parts: tuple[Part, ...], found: list[Difference]) -> Part:
    """The procedure in which both tell that something was wrong: the points and the angles.

    The largest product of what it lost against the best of the procedures, and the strength of its
    strongest difference. Points alone, or angles alone, name the wrong one more often
    (benchmarks/faithfulness.py).
    """
    best = max(part.delta for part in parts)
    strength = {part.name: max((one.strength for one in found if one.part == part.name), default=0.0)
                for part in parts}  # fmt: skip
    return max(parts, key=lambda part: ((best - part.delta) * strength[part.name], -part.delta))


def differences(
    parts: tuple[Part, ...], pose: Mapping[str, Any], references: list[Reference]
) -> list[Difference]:
    """How each joint differs from the exemplars in each procedure, strongest first.

    Where the exemplars differ by more than DISAGREE_DEG among themselves, nothing is told.
    """
    time_s = pose["time_s"]
    own = steady_angles(pose)
    others = _aligned_angles(time_s, references)
    part_of = references[0].alignment.part_of(time_s)
    found = []
    for joint, angle in own.items():
        if joint not in others:
            continue
        middle, spread = _middle(others[joint])
        low, high = _range(others[joint])
        away = np.where(high - low > DISAGREE_DEG, np.nan, angle - middle)
        for number, part in enumerate(parts):
            inside = part_of == number
            found.append(strongest(part.name, joint, time_s[inside], away[inside], spread[inside], FEWEST))
    return sorted((one for one in found if one is not None), key=lambda one: -one.strength)


def curves(pose: Mapping[str, Any], references: list[Reference], shown: Reference) -> tuple[Curve, ...]:
    """Each joint's angle beside that of the shown exemplar and the range of all."""
    own = steady_angles(pose)
    others, one = _aligned_angles(pose["time_s"], references), _aligned_angles(pose["time_s"], [shown])
    made = []
    for joint, angle in own.items():
        if joint in others:
            low, high = _range(others[joint])
            made.append(Curve(joint, pose["time_s"], angle, one[joint][0], low, high))
    return tuple(made)


def _aligned_angles(time_s: np.ndarray, references: list[Reference]) -> dict[str, np.ndarray]:
    """Joint -> (E, T) degrees of the exemplars at the own times; joints that all of them have."""
    found: dict[str, list[np.ndarray]] = {}
    for one in references:
        wanted = one.alignment.to_other(time_s)
        theirs = steady_angles(one.pose)
        for joint, angle in theirs.items():
            found.setdefault(joint, []).append(aligned(angle, one.pose["time_s"], wanted))
    return {joint: np.stack(a) for joint, a in found.items() if len(a) == len(references)}


def _middle(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread (T,) over exemplars (E, T); NaN where none was seen."""
    seen = np.isfinite(angles).any(axis=0)
    middle, spread = np.full(angles.shape[1], np.nan), np.full(angles.shape[1], np.nan)
    middle[seen] = np.nanmedian(angles[:, seen], axis=0)
    spread[seen] = 1.4826 * np.nanmedian(np.abs(angles[:, seen] - middle[seen]), axis=0)
    return middle, spread


def _range(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tenth and ninetieth percentile (T,) over exemplars (E, T)."""
    low, high = np.full((2, angles.shape[1]), np.nan)
    seen = np.isfinite(angles).any(axis=0)
    low[seen], high[seen] = np.nanpercentile(angles[:, seen], [10, 90], axis=0)
    return low, high

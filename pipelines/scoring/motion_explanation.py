"""Which repetitions and joints of an exercise deviate from the control group, and how slow it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.motion import Motion
from pipelines.scoring.controls import Controls
from pipelines.scoring.curves import steady_angles
from pipelines.scoring.explanation import Curve, Difference, Explanation
from pipelines.scoring.inpainting import LIMBS, Pretrained, limb_errors
from pipelines.scoring.repetitions import find_repetitions

PHASES = 40
"""Points of one repetition at which angles are compared."""
FLOOR_DEG = 8.0
"""Differences are held against the spread of the control group, and at least against this."""
NAMED = 3
"""Joints told."""


@dataclass(frozen=True)
class Performed:
    """One clip, taken apart.

    Attributes:
        time_s: (T,) seconds.
        angles: joint -> (T,) degrees.
        spans: start and end of each repetition; the whole clip if nothing repeats.
        repeats: whether repetitions were found.
    """

    time_s: np.ndarray
    angles: dict[str, np.ndarray]
    spans: tuple[tuple[float, float], ...]
    repeats: bool

    def phases(self, joint: str) -> np.ndarray:
        """(R, PHASES) degrees over each repetition, start to end."""
        angle = self.angles[joint]
        seen = np.isfinite(angle)
        if seen.sum() < 0.5 * len(angle):
            return np.full((len(self.spans), PHASES), np.nan)
        at = [np.linspace(start, end, PHASES) for start, end in self.spans]
        return np.stack([np.interp(one, self.time_s[seen], angle[seen]) for one in at])

    def duration_s(self) -> float:
        """Median seconds of a repetition; NaN if nothing repeats."""
        return float(np.median([b - a for a, b in self.spans])) if self.repeats else float("nan")


def take_apart(motion: Motion, confidence: np.ndarray | None = None) -> Performed:
    """Angles and repetitions of a clip with 2-D or 3-D keypoints."""
    sure = np.ones(motion.keypoints.shape[:2]) if confidence is None else confidence
    angles = steady_angles({
        "keypoints": motion.keypoints, "confidence": sure, "skeleton": motion.skeleton, "time_s": motion.time_s,
    })  # fmt: skip
    found = find_repetitions(angles, motion.time_s)
    whole = (float(motion.time_s[0]), float(motion.time_s[-1]))
    return Performed(motion.time_s, angles, tuple(found) or (whole,), bool(found))


def explain(
    motion: Motion,
    controls: Controls,
    pretrained: Pretrained | None,
    no_network: str = "",
    confidence: np.ndarray | None = None,
) -> Explanation:
    """Explains the score of an exercise.

    Args:
        motion: what was performed.
        controls: whom it is held against.
        pretrained: network that learned healthy motion; None = `no_network` says why there is none.
        confidence: (T, J) of the keypoints; joints not surely seen are left out.
    """
    own, missing = take_apart(motion, confidence), []
    if not own.repeats:
        missing.append("nothing repeats in this clip: it is compared as one whole")
    if not controls.motions:
        missing.append(f"not held against a control group: {controls.words}")
        return Explanation((), {"repetitions": _spans(own)}, missing=tuple(missing))
    others = [take_apart(control) for control in controls.motions]
    found = differences(own, others)
    pace, facts = _pace(own, others), {"repetitions": _spans(own), "controls": len(others)}
    facts |= {"control_group": controls.words, "pace": pace, "ranges": _ranges(own, others)}
    sentences = [_pace_words(pace)] if pace else []
    joints = _by_joint(found)
    if joints:
        facts |= {"limb": _limb(joints[0][0]), "joints": dict(joints)}
        strongest = [next(one for one in found if one.joint == joint) for joint, _ in joints[:NAMED]]
        sentences += [f"{one.part}: {one.words('in the control group')}" for one in strongest]
    if pretrained is None:
        missing.append(no_network)
    else:
        facts["inpainting"] = filled = _inpainting(motion, controls, pretrained)
        sentences += _inpainting_words(filled)
    return Explanation(tuple(sentences), facts, tuple(found), curves(own, others),
                       f"control group: {len(others)} clips, {controls.words}", tuple(missing))  # fmt: skip


def differences(own: Performed, others: list[Performed]) -> list[Difference]:
    """How each joint differs from the control group in each repetition, strongest first."""
    found = []
    for joint in own.angles:
        group = [one.phases(joint) for one in others if joint in one.angles]
        band = np.array([np.median(one, axis=0) for one in group if np.isfinite(one).all()])
        mine = own.phases(joint)
        if len(band) < 2 or not np.isfinite(mine).all():
            continue
        middle = np.median(band, axis=0)
        spread = 1.4826 * np.median(np.abs(band - middle), axis=0)
        for number, (start, end) in enumerate(own.spans):
            away = mine[number] - middle
            strange = away / np.hypot(spread, FLOOR_DEG)
            first, last = _strongest(strange)
            step = (end - start) / (PHASES - 1)
            name = f"repetition {number + 1}" if own.repeats else "whole clip"
            found.append(Difference(
                name, joint, start + first * step, start + last * step, float(away[first : last + 1].mean()),
                float(spread.mean()), float(np.abs(strange).mean()),
            ))  # fmt: skip
    return sorted(found, key=lambda one: -one.strength)


def curves(own: Performed, others: list[Performed]) -> tuple[Curve, ...]:
    """Each joint's angle over the clip, with the control group's laid under each repetition."""
    made = []
    for joint, angle in own.angles.items():
        group = [one.phases(joint) for one in others if joint in one.angles]
        band = np.array([np.median(one, axis=0) for one in group if np.isfinite(one).all()])
        if len(band) < 2:
            continue
        told = np.full((3, len(own.time_s)), np.nan)
        for start, end in own.spans:
            inside = (own.time_s >= start) & (own.time_s <= end)
            at = (own.time_s[inside] - start) / (end - start) * (PHASES - 1)
            for row, level in zip(told, (50, 10, 90), strict=True):
                row[inside] = np.interp(at, np.arange(PHASES), np.percentile(band, level, axis=0))
        made.append(Curve(joint, own.time_s, angle, *told))
    return tuple(made)


def _strongest(strange: np.ndarray) -> tuple[int, int]:
    """First and last place of the span around the strongest one in which it is at least half as strong."""
    top = int(np.abs(strange).argmax())
    same = strange * np.sign(strange[top]) >= 0.5 * abs(strange[top])
    first = last = top
    while first > 0 and same[first - 1]:
        first -= 1
    while last < len(same) - 1 and same[last + 1]:
        last += 1
    return first, last


def _by_joint(found: list[Difference]) -> list[tuple[str, float]]:
    """Mean strength of each joint over the repetitions, strongest first."""
    strength: dict[str, list[float]] = {}
    for one in found:
        strength.setdefault(one.joint, []).append(one.strength)
    return sorted(((joint, float(np.mean(s))) for joint, s in strength.items()), key=lambda pair: -pair[1])


def _limb(joint: str) -> str:
    return Difference("", joint, 0, 0, 0, 0, 0).limb


def _spans(own: Performed) -> list[dict[str, float]]:
    return [{"start_s": start, "end_s": end} for start, end in own.spans] if own.repeats else []


def _pace(own: Performed, others: list[Performed]) -> dict[str, float] | None:
    """Seconds of a repetition beside those of the control group; None where nothing repeats."""
    theirs = np.array([one.duration_s() for one in others if one.repeats])
    if not own.repeats or len(theirs) < 2:
        return None
    mine, (low, middle, high) = own.duration_s(), np.percentile(theirs, [10, 50, 90])
    return {
        "seconds": mine, "control_median_s": float(middle), "control_low_s": float(low),
        "control_high_s": float(high), "percentile": _percentile(mine, theirs), "controls": len(theirs),
        "repetitions": len(own.spans),
    }  # fmt: skip


def _pace_words(pace: dict[str, float]) -> str:
    said = "slower" if pace["seconds"] > pace["control_high_s"] else (
        "faster" if pace["seconds"] < pace["control_low_s"] else "as usual"
    )  # fmt: skip
    return (
        f"pace: {said}; a repetition takes {pace['seconds']:.1f} s (median of {pace['repetitions']}), in the "
        f"control group {pace['control_median_s']:.1f} s ({pace['control_low_s']:.1f} to "
        f"{pace['control_high_s']:.1f} in four of five)"
    )


def _ranges(own: Performed, others: list[Performed]) -> dict[str, dict[str, float]]:
    """Degrees that each joint goes through in a repetition, with the percentile in the control group."""
    made = {}
    for joint in own.angles:
        mine = _range(own.phases(joint))
        theirs = np.array([_range(one.phases(joint)) for one in others if joint in one.angles])
        theirs = theirs[np.isfinite(theirs)]
        if np.isfinite(mine) and len(theirs) >= 2:
            made[joint] = {
                "degrees": mine, "control_median": float(np.median(theirs)),
                "percentile": _percentile(mine, theirs),
            }  # fmt: skip
    return made


def _range(phases: np.ndarray) -> float:
    return float(np.median(np.ptp(phases, axis=1)))


def _percentile(value: float, group: np.ndarray) -> float:
    """0 = below all of the group, 100 = above all; ties count half."""
    return float(100 * ((group < value).mean() + 0.5 * (group == value).mean()))


def _inpainting(motion: Motion, controls: Controls, pretrained: Pretrained) -> dict[str, dict[str, float]]:
    """Error of each limb beside the control group's."""
    errors = limb_errors([motion, *controls.motions], pretrained)
    made = {}
    for column, limb in enumerate(LIMBS):
        mine, theirs = float(errors[0, column]), errors[1:, column]
        theirs = theirs[np.isfinite(theirs)]
        if np.isfinite(mine) and len(theirs):
            usual = float(np.median(theirs))
            made[limb] = {
                "error": mine, "control_median": usual, "times_usual": mine / max(usual, 1e-9),
                "percentile": _percentile(mine, theirs),
            }  # fmt: skip
    return made


def _inpainting_words(filled: dict[str, dict[str, float]]) -> list[str]:
    """Of the limb that fits worst; nothing about limbs that could not be filled in."""
    if not filled:
        return []
    limb, told = max(filled.items(), key=lambda pair: pair[1]["times_usual"])
    said = (
        f"the network that learned healthy motion fills in the {limb} with an error of {told['error']:.2f} "
    )
    said += f"trunk lengths, {told['times_usual']:.1f} times that of the control group"
    if told["percentile"] < 90:
        return [f"no limb moves unlike what the network learned from healthy motion; at most: {said}"]
    return [f"{said}, more than {told['percentile']:.0f} % of its clips"]

"""Which repetitions and joints of an exercise deviate from the control group, and how slow it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.motion import Motion
from pipelines.scoring.alignment import aligned
from pipelines.scoring.controls import Controls
from pipelines.scoring.curves import steady_angles
from pipelines.scoring.explanation import Curve, Difference, Explanation, limb_of, strongest
from pipelines.scoring.inpainting import LIMBS, Pretrained, limb_errors
from pipelines.scoring.repetitions import find_repetitions

PHASES = 40
"""Points of one repetition at which angles are compared."""
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
        """(R, PHASES) degrees over each repetition, start to end; NaN where not seen."""
        at = [np.linspace(start, end, PHASES) for start, end in self.spans]
        return np.stack([aligned(self.angles[joint], self.time_s, one) for one in at])

    def duration_s(self) -> float:
        """Median seconds of a repetition; NaN if nothing repeats."""
        return float(np.median([b - a for a, b in self.spans])) if self.repeats else float("nan")


def take_apart(motion: Motion, confidence: np.ndarray | None = None) -> Performed:
    """Angles and repetitions of a clip with 2-D or 3-D keypoints."""
    sure = np.ones(motion.keypoints.shape[:2]) if confidence is None else confidence
    seen = {"keypoints": motion.keypoints, "confidence": sure, "skeleton": motion.skeleton}
    angles = steady_angles(seen | {"time_s": motion.time_s})
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
        facts |= {"limb": limb_of(joints[0][0]), "joints": dict(joints)}
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
        middle, spread = usual(joint, others)
        for number, (span, phases) in enumerate(zip(own.spans, own.phases(joint), strict=True)):
            part = f"repetition {number + 1}" if own.repeats else "whole clip"
            time_s = np.linspace(*span, PHASES)
            found.append(strongest(part, joint, time_s, phases - middle, spread, PHASES // 4))
    return sorted((one for one in found if one is not None), key=lambda one: -one.strength)


def curves(own: Performed, others: list[Performed]) -> tuple[Curve, ...]:
    """Each joint's angle over the clip, with the control group's laid under each repetition."""
    made = []
    for joint, angle in own.angles.items():
        band = _band(joint, others)
        seen = np.isfinite(band).sum(axis=0) >= max(2, len(band) / 2)
        told = np.full((3, len(own.time_s)), np.nan)
        levels = {level: np.full(PHASES, np.nan) for level in (50, 10, 90)}
        for level, values in levels.items():
            values[seen] = np.nanpercentile(band[:, seen], level, axis=0)
        for start, end in own.spans:
            inside = (own.time_s >= start) & (own.time_s <= end)
            at = (own.time_s[inside] - start) / (end - start) * (PHASES - 1)
            for row, level in zip(told, levels, strict=True):
                row[inside] = np.interp(at, np.arange(PHASES), levels[level])
        made.append(Curve(joint, own.time_s, angle, *told))
    return tuple(made)


def _band(joint: str, others: list[Performed]) -> np.ndarray:
    """(N, PHASES) median repetition of each clip of the control group; NaN where not seen."""
    made = []
    for one in others:
        phases = one.phases(joint) if joint in one.angles else np.full((1, PHASES), np.nan)
        middle, seen = np.full(PHASES, np.nan), np.isfinite(phases).any(axis=0)
        middle[seen] = np.nanmedian(phases[:, seen], axis=0)
        made.append(middle)
    return np.array(made)


def usual(joint: str, others: list[Performed]) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread (PHASES,) of the control group; NaN where half of it was not seen."""
    band = _band(joint, others)
    seen = np.isfinite(band).sum(axis=0) >= max(2, len(band) / 2)
    middle, spread = np.full(PHASES, np.nan), np.full(PHASES, np.nan)
    middle[seen] = np.nanmedian(band[:, seen], axis=0)
    spread[seen] = 1.4826 * np.nanmedian(np.abs(band[:, seen] - middle[seen]), axis=0)
    return middle, spread


def _by_joint(found: list[Difference]) -> list[tuple[str, float]]:
    """Mean strength of each joint over the repetitions, strongest first."""
    strength: dict[str, list[float]] = {}
    for one in found:
        strength.setdefault(one.joint, []).append(one.strength)
    return sorted(((joint, float(np.mean(s))) for joint, s in strength.items()), key=lambda pair: -pair[1])


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
    seen = phases[np.isfinite(phases).sum(axis=1) >= PHASES / 2]
    return float(np.median(np.nanmax(seen, axis=1) - np.nanmin(seen, axis=1))) if len(seen) else float("nan")


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

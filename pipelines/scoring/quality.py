"""What makes a score doubtful: measured on the video, each with the number and its limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aqa_models.skeletons import skeleton
from pipelines.scoring.distance import Distance, Known
from pipelines.scoring.extraction import Seen
from pipelines.scoring.neighbours import frame_rate
from pipelines.stages.quality import SEEN

UNSURE_SHARE = 0.25
SMALL_PX = 60
SLOWEST_RATE, FASTEST_RATIO = 12.0, 1.5
LONGEST_RATIO = 1.25
CROWDED_SHARE = 0.1


@dataclass(frozen=True)
class Warning:
    """One doubt.

    Attributes:
        code: for programs.
        text: for people; names the number.
        value: what was measured.
        limit: from where on it is doubtful; None where there is no number.
    """

    code: str
    text: str
    value: float | None = None
    limit: float | None = None

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return {"code": self.code, "text": self.text, "value": self.value, "limit": self.limit}


def pose_warnings(pose: dict[str, Any], seen: Seen) -> list[Warning]:
    """Doubts about the poses.

    Args:
        pose: as `Recording.pose` gives it.
        seen: what was noticed while reading.
    """
    found = _unsure_joints(pose)
    height = person_height(pose)
    if height < SMALL_PX:
        text = f"the athlete is {height:.0f} px tall; poses are reliable from about {SMALL_PX} px on"
        found.append(Warning("small_person", text, height, SMALL_PX))
    if seen.flat:
        share = seen.flat / seen.frames
        text = (
            f"{share:.0%} of the pictures are of one colour, for example black; the poses there are guesses"
        )
        found.append(Warning("blank_frames", text, share, 0.0))
    if seen.watched and seen.crowded / seen.watched > CROWDED_SHARE:
        share = seen.crowded / seen.watched
        text = f"two people or more are seen in {share:.0%} of the frames; look at the overlay whether the "
        text += "right one was followed"
        found.append(Warning("several_people", text, share, CROWDED_SHARE))
    if switches := pose.get("id_switches"):
        text = f"the athlete may have been exchanged for somebody else {switches} times"
        found.append(Warning("exchanged_person", text, switches, 0))
    missing = pose.get("missing_share")
    if missing and missing > UNSURE_SHARE:
        text = f"the athlete was not found in {missing:.0%} of the frames"
        found.append(Warning("lost_person", text, missing, UNSURE_SHARE))
    return found


def person_height(pose: dict[str, Any]) -> float:
    """Median height of the joints that are surely seen, px of the upright frame; NaN if none is."""
    sure = (pose["confidence"] >= SEEN) & np.isfinite(pose["keypoints"]).all(axis=-1)
    rows = pose["keypoints"][..., 1]
    spans = [np.ptp(row[mask]) for row, mask in zip(rows, sure, strict=True) if mask.sum() >= 4]
    return float(np.median(spans)) if spans else float("nan")


def _unsure_joints(pose: dict[str, Any]) -> list[Warning]:
    unsure = (pose["confidence"] < SEEN).mean(axis=0)
    names = skeleton(pose["skeleton"]).joints
    worst = sorted(zip(unsure.tolist(), names, strict=True), reverse=True)
    worst = [(share, name.replace("_", " ")) for share, name in worst if share > UNSURE_SHARE]
    if not worst:
        return []
    listed = ", ".join(f"{name} {share:.0%}" for share, name in worst[:4])
    more = f" and {len(worst) - 4} more" if len(worst) > 4 else ""
    text = f"joints not surely seen, share of the frames: {listed}{more}"
    return [Warning("unsure_joints", text, worst[0][0], UNSURE_SHARE)]


def time_warnings(pose: dict[str, Any], known: list[Known], action_type: str) -> list[Warning]:
    """Doubts about the clock: frame rate and duration against those of the training clips."""
    found = []
    rate = frame_rate(pose["frame_index"], pose["time_s"])
    rates = np.array([clip.frame_rate for clip in known])
    rates = rates[np.isfinite(rates)]
    if np.isfinite(rate) and rate < SLOWEST_RATE:
        text = f"{rate:.1f} frames per second; quick movements are lost below {SLOWEST_RATE:g}"
        found.append(Warning("frame_rate", text, rate, SLOWEST_RATE))
    elif np.isfinite(rate) and len(rates) and not _within(rate, rates, FASTEST_RATIO):
        text = f"{rate:.1f} frames per second, training clips have {rates.min():.1f} to {rates.max():.1f}; "
        text += "if this is slow motion, its times are not true and the score means nothing"
        found.append(Warning("frame_rate", text, rate, float(rates.max() * FASTEST_RATIO)))
    steps = np.diff(pose["time_s"])
    if len(steps) and steps.max() > 3 * np.median(steps):
        text = f"a gap of {steps.max():.2f} s between frames; the motion there is interpolated"
        found.append(Warning("gap", text, float(steps.max()), float(3 * np.median(steps))))
    lasted = float(pose["time_s"][-1] - pose["time_s"][0])
    alike = np.array([clip.seconds for clip in known if clip.action_type == action_type])
    if len(alike) and not _within(lasted, alike, LONGEST_RATIO):
        text = (
            f"lasts {lasted:.1f} s, training clips of {action_type} {alike.min():.1f} to {alike.max():.1f} s"
        )
        found.append(Warning("duration", text, lasted, float(alike.max() * LONGEST_RATIO)))
    return found


def _within(value: float, others: np.ndarray, ratio: float) -> bool:
    return bool(others.min() / ratio <= value <= others.max() * ratio)


def distance_warnings(found: list[Distance], action_type: str, looks_like: str) -> list[Warning]:
    """Doubts whether this is what the model learned."""
    words = {"view": "the athlete's posture as the camera sees it", "movement": "the movement"}
    warnings = [
        Warning(
            f"far_{distance.block}",
            f"{words[distance.block]} is far from the training: distance {distance.value:.2f}, no training "
            f"person is farther than {distance.limit:.2f} from the others",
            distance.value,
            distance.limit,
        )
        for distance in found
        if distance.far
    ]
    if warnings and looks_like and looks_like != action_type:
        text = f"the movement is nearest to a training clip of {looks_like}, and was scored as {action_type}"
        warnings.append(Warning("other_action", text))
    return warnings

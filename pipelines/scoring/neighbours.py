"""The training clips that a video is held against, read from the store."""

from __future__ import annotations

import hashlib
from typing import Any

from pipelines.motion import Motion, load_motions, subject_of
from pipelines.scoring.distance import MOST_CLIPS, Known, describe
from pipelines.scoring.training import Training


def known_clips(description: dict[str, Any], training: Training) -> list[Known]:
    """Training clips as `distance.py` compares them, at most MOST_CLIPS, the same ones each time.

    Args:
        description: of the model: its training clips, or the people of the training.
        training: what it learned from; a store that is not there gives none.
    """
    if not training.available or "poses" not in training.keys:
        return []
    clips = training.clips()
    rows = clips.select(["clip_id", "dataset", "subject_id", "split", "action_type", "score"]).to_pylist()
    chosen = {row["clip_id"] for row in rows if _learned(row, description)}
    names = sorted(chosen, key=lambda name: hashlib.sha256(name.encode()).digest())[:MOST_CLIPS]
    poses = training.table("poses", set(names))
    columns = ["clip_id", "person", "frame_index", "time_s", "mean_confidence"]
    told = {row["clip_id"]: row for row in poses.select(columns).to_pylist() if row["person"] == 0}
    return [_known(motion, told[motion.clip_id]) for motion in load_motions(clips, poses)]


def frame_rate(frame_index: Any, time_s: Any) -> float:
    """Frames per second of the file that sampled frames were taken of; NaN where it cannot be known."""
    if frame_index is None or len(frame_index) < 2 or time_s[-1] <= time_s[0]:
        return float("nan")
    return float((frame_index[-1] - frame_index[0]) / (time_s[-1] - time_s[0]))


def _known(motion: Motion, row: dict[str, Any]) -> Known:
    confidence = row["mean_confidence"]
    return Known(
        clip_id=motion.clip_id,
        subject=motion.subject,
        action_type=motion.action_type,
        blocks=describe(motion.keypoints, motion.time_s, motion.skeleton),
        seconds=float(motion.time_s[-1] - motion.time_s[0]),
        frame_rate=frame_rate(row["frame_index"], row["time_s"]),
        confidence=float("inf") if confidence is None else confidence,
        score=motion.score,
    )


def _learned(row: dict[str, Any], description: dict[str, Any]) -> bool:
    if "train_clips" in description:
        return row["clip_id"] in description["train_clips"]
    return (
        row["score"] is not None
        and row["split"] != "test"
        and row["action_type"] in description["targets"]
        and subject_of(row) in description["subjects"]
    )

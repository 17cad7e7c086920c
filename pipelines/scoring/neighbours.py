"""The training clips that a video is held against, read from the store."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.motion import Motion, load_motions, subject_of
from pipelines.scoring.distance import BLOCKS, MOST_CLIPS, Known, describe
from pipelines.scoring.training import Training

KNOWN = "known.parquet"
"""The training clips in a bundle."""


def known_clips(description: dict[str, Any], training: Training, kept: Path | None = None) -> list[Known]:
    """Training clips as `distance.py` compares them, at most MOST_CLIPS, the same ones each time.

    Args:
        description: of the model: its training clips, or the people of the training.
        training: what it learned from.
        kept: folder of the weights; in a bundle the clips lie beside them. Without them, a store that is
            not there gives none.
    """
    if kept is not None and (kept / KNOWN).is_file():
        return _read_known(kept / KNOWN)
    if not training.available or "poses" not in training.keys:
        return []
    clips = training.clips()
    rows = clips.select(["clip_id", "dataset", "subject_id", "split", "action_type", "score"]).to_pylist()
    chosen = {row["clip_id"] for row in rows if _learned(row, description)}
    names = sorted(chosen, key=lambda name: hashlib.sha256(name.encode()).digest())[:MOST_CLIPS]
    poses = training.table("poses", set(names))
    columns = ["clip_id", "person", "frame_index", "time_s", "mean_confidence"]
    told = {row["clip_id"]: row for row in poses.select(columns).to_pylist() if row["person"] == 0}
    clips = clips.filter(pc.is_in(clips["clip_id"], pa.array(names, pa.string())))
    return [_known(motion, told[motion.clip_id]) for motion in load_motions(clips, poses)]


def write_known(path: Path, known: list[Known]) -> None:
    """Keeps what `distance.py` compares with, for a bundle; people become numbers."""
    people = {subject: str(number) for number, subject in enumerate(sorted({one.subject for one in known}))}
    rows = [asdict(one) | {"subject": people[one.subject]} for one in known]
    pq.write_table(pa.Table.from_pylist(rows, schema=_KNOWN), path, compression="zstd")


def _read_known(path: Path) -> list[Known]:
    rows = pq.read_table(path, schema=_KNOWN).to_pylist()
    return [
        Known(**row | {"blocks": {name: np.asarray(block) for name, block in row["blocks"].items()}})
        for row in rows
    ]


_KNOWN = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "subject", "action_type")),
        ("blocks", pa.struct([(name, pa.list_(pa.float64())) for name in BLOCKS])),
        *((name, pa.float64()) for name in ("seconds", "frame_rate", "confidence", "score")),
    ]
)


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

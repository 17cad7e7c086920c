"""Clips and poses of the store -> motions a model can read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aqa_models.two_stage.config import SequenceConfig
from pipelines.datasets.kimore_repetitions import repetitions_of
from pipelines.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from aqa_models.two_stage.sequence import Sequence


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Motion:
    """The keypoints of one clip and what is known of it.

    Attributes:
        clip_id: the clip.
        subject: data set and subject, `kimore/B_ID1`; the clip itself where no subject is given.
        subject_id: as in the clips table, empty if unknown.
        action_type: what was performed, empty if unknown.
        group: group of the subject, empty if unknown.
        split: train, val, test, or empty.
        score: judged score, None if unlabelled.
        skeleton: name of the joint set.
        keypoints: (T, J, C) float32, NaN = not available.
        time_s: (T,) float64 seconds.
        video: (S, D) float32 features of the video, None if not asked for.
        repetitions: (start, end, direction) of each that the clips table marks, on the clock of `time_s`.
    """

    clip_id: str
    subject: str
    subject_id: str
    action_type: str
    group: str
    split: str
    score: float | None
    skeleton: str
    keypoints: np.ndarray
    time_s: np.ndarray
    video: np.ndarray | None = None
    repetitions: tuple[tuple[float, float, str], ...] = ()


def load_motions(clips: pa.Table, poses: pa.Table, features: pa.Table | None = None) -> list[Motion]:
    """Joins the tables CLIPS and POSES, and FEATURES if wanted (pipelines/schema.py).

    Only rows with status ok of the chosen athlete (person 0) count. A clip without such a pose (and features)
    is left out with a warning; a pose without its clip is left out, so passing fewer clips selects.

    Returns:
        Motions in the order of the clips table.

    Raises:
        DataError: a clip or its row occurs twice, an array does not have the length its shape says, or
            features of different networks are mixed.
    """
    rows, videos = _rows(poses, "poses"), {} if features is None else _rows(features, "features")
    facts = ("clip_id", "dataset", "subject_id", "action_type", "group", "split", "score")
    names = (*facts, "transitions_s", "procedures")
    motions, seen, absent = [], set(), []
    for clip in clips.select(names).to_pylist():
        if clip["clip_id"] in seen:
            raise DataError(f"clip {clip['clip_id']}", "is in the clips table twice", "make clip_id unique")
        seen.add(clip["clip_id"])
        if clip["clip_id"] not in rows or (features is not None and clip["clip_id"] not in videos):
            absent.append(clip["clip_id"])
            continue
        motion = _motion(clip, poses, rows[clip["clip_id"]])
        if features is not None:
            motion = replace(motion, video=_video(motion.clip_id, features, videos[motion.clip_id]))
            _check_channels(motion, motions)
        motions.append(motion)
    if absent:
        what = "poses" if features is None else "poses or no features"
        message = "%d of %d clips have no %s and are left out, the first %s"
        logger.warning(message, len(absent), len(seen), what, absent[0])
    return motions


def _rows(table: pa.Table, what: str) -> dict[str, int]:
    """Clip -> its row."""
    rows: dict[str, int] = {}
    columns = zip(*(table[name].to_pylist() for name in ("clip_id", "status", "person")), strict=True)
    for row, (clip_id, status, person) in enumerate(columns):
        if status == "ok" and person == 0 and rows.setdefault(clip_id, row) != row:
            raise DataError(
                f"clip {clip_id}", f"has two {what} of person 0", f"read one table of {what} only"
            )
    return rows


def subject_of(clip: dict) -> str:
    """The person a clips row belongs to; a clip without subject_id is a person of its own."""
    person = clip["subject_id"] or f"clip:{clip['clip_id']}"
    return f"{clip['dataset'] or ''}/{person}"


def _motion(clip: dict, poses: pa.Table, row: int) -> Motion:
    shape = tuple(poses[name][row].as_py() or 0 for name in ("num_frames", "num_joints", "num_coordinates"))
    keypoints = _numbers(poses["keypoints"][row], np.float32)
    time_s = _numbers(poses["time_s"][row], np.float64)
    if keypoints.size != np.prod(shape) or len(time_s) != shape[0] or not shape[0]:
        raise DataError(
            f"clip {clip['clip_id']}",
            f"poses say shape {shape} but hold {keypoints.size} numbers and {len(time_s)} time stamps",
            "extract or import the clip again",
        )
    return Motion(
        clip_id=clip["clip_id"],
        subject=subject_of(clip),
        subject_id=clip["subject_id"] or "",
        action_type=clip["action_type"] or "",
        group=clip["group"] or "",
        split=clip["split"] or "",
        score=clip["score"],
        skeleton=poses["skeleton"][row].as_py() or "",
        keypoints=keypoints.reshape(shape),
        time_s=time_s,
        repetitions=tuple(repetitions_of(clip, float(time_s[-1]))),
    )


def _video(clip_id: str, features: pa.Table, row: int) -> np.ndarray:
    shape = tuple(features[name][row].as_py() or 0 for name in ("num_segments", "num_channels"))
    numbers = _numbers(features["features"][row], np.float32)
    if numbers.size != np.prod(shape) or not numbers.size:
        raise DataError(
            f"clip {clip_id}",
            f"features say shape {shape} but hold {numbers.size} numbers",
            "extract the features of the clip again",
        )
    return numbers.reshape(shape)


def _check_channels(motion: Motion, before: list[Motion]) -> None:
    first = before[0] if before else motion
    assert motion.video is not None
    assert first.video is not None
    if motion.video.shape[1] != first.video.shape[1]:
        raise DataError(
            f"clip {motion.clip_id}",
            f"has features of {motion.video.shape[1]} channels, clip {first.clip_id} of "
            f"{first.video.shape[1]}",
            "extract all clips with the same network",
        )


def _numbers(cell: pa.Scalar, kind: type) -> np.ndarray:
    if not cell.is_valid:
        return np.empty(0, dtype=kind)
    return cell.values.to_numpy(zero_copy_only=False).astype(kind)  # type: ignore[attr-defined]


def make_sequences(motions: list[Motion], config: SequenceConfig) -> list[Sequence]:
    """Model input of each motion; DataError names the clip that cannot be used.

    Warns of what the time policy loses, and of recordings longer than `max_frames`.

    Raises:
        DataError: a recording cannot be prepared, or 2-D and 3-D keypoints are mixed.
    """
    from aqa_models.two_stage.inputs import chosen_inputs
    from aqa_models.two_stage.sequence import lost_by, make_sequence

    if lost := lost_by(config):
        logger.warning("time policy %s: %s", config.time_policy, lost)

    sequences: list[Sequence] = []
    for motion in motions:
        where = f"clip {motion.clip_id}"
        try:
            positions = make_sequence(motion.keypoints, motion.time_s, motion.skeleton, config)
            sequences.append(chosen_inputs(positions, config))
        except ValueError as error:
            raise DataError(where, str(error), "correct the poses or take the clip out") from error
        if motion.keypoints.shape[2] != motions[0].keypoints.shape[2]:
            raise DataError(
                where,
                f"has {motion.keypoints.shape[2]} coordinates, clip {motions[0].clip_id} has "
                f"{motions[0].keypoints.shape[2]}",
                "train on 2-D or on 3-D keypoints, not on both",
            )
    if cut := [motion.clip_id for motion, item in zip(motions, sequences, strict=True) if item.cropped]:
        end = "end" if config.time_policy == "truncate_back" else "start"
        message = "%d of %d recordings are longer than %d frames and lost their %s, the first %s"
        logger.warning(message, len(cut), len(motions), config.max_frames, end, cut[0])
    return sequences

"""Keypoints that an adapter read -> rows of `pipelines.schema.POSES`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.errors import ClipError
from pipelines.schema import POSES, empty_row

# Kinect's tracking state -> confidence: not tracked, inferred from neighbours, tracked.
STATE_CONFIDENCE = np.array([0.0, 0.5, 1.0], dtype=np.float32)


def mask_non_finite(keypoints: np.ndarray, confidence: np.ndarray) -> int:
    """Make joints with NaN or infinite coordinates unavailable, in place: all NaN, confidence 0.

    Args:
        keypoints: (T, J, C) floats.
        confidence: (T, J) in [0, 1].

    Returns:
        How many joints (of T x J) were masked.
    """
    bad = ~np.isfinite(keypoints).all(axis=-1)
    keypoints[bad] = np.nan
    confidence[bad] = 0.0
    return int(bad.sum())


def pose_row(
    *,
    keypoints: np.ndarray,
    confidence: np.ndarray,
    time_s: np.ndarray,
    frame_index: np.ndarray | None = None,
    **values: object,
) -> pa.RecordBatch:
    """One row, status ok.

    Args:
        keypoints: (T, J, C) in `unit`; NaN = joint not available.
        confidence: (T, J) in [0, 1].
        time_s: (T,) seconds from the start of the file.
        frame_index: (T,) numbers of the frames in the file; default 0, 1, ...
        values: the other columns: clip_id, uri, source_sha256, decoder, decoder_note, skeleton, unit.
    """
    frames, joints, coordinates = keypoints.shape
    row = empty_row(
        POSES, person=0, status="ok", attempts=1, num_frames=frames, num_joints=joints,
        num_coordinates=coordinates, **values,
    )  # fmt: skip
    lists = {
        "frame_index": np.asarray(np.arange(frames) if frame_index is None else frame_index, dtype=np.int32),
        "time_s": np.asarray(time_s, dtype=np.float64),
        "keypoints": np.asarray(keypoints, dtype=np.float32),
        "confidence": np.asarray(confidence, dtype=np.float32),
    }
    arrays = [
        _one_list(lists[field.name], field.type)
        if field.name in lists
        else pa.array([row[field.name]], type=field.type)
        for field in POSES
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=POSES)


def rejected_row(error: ClipError, *, clip_id: str, uri: str, decoder: str) -> pa.RecordBatch:
    """The row of a recording that could not be read."""
    row = empty_row(
        POSES, clip_id=clip_id, person=0, status="rejected", error_code=error.code, error_message=error.cause,
        attempts=1, uri=uri, decoder=decoder,
    )  # fmt: skip
    return pa.RecordBatch.from_pylist([row], schema=POSES)


def _one_list(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """One list holding all values, without a detour over Python objects."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array([0, len(flat)], type=pa.int32()), flat)

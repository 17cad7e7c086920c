"""Rows of the poses table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.datasets.pose_rows import mask_non_finite, pose_row, rejected_row
from pipelines.errors import ClipError
from pipelines.schema import POSES


def test_arrays_become_one_flat_row():
    keypoints = np.arange(2 * 3 * 2, dtype=np.float64).reshape(2, 3, 2)
    row = pose_row(
        clip_id="c", keypoints=keypoints, confidence=np.full((2, 3), 0.5), time_s=np.array([0, 0.1]),
        uri="u", decoder="kimore", skeleton="s", unit="m",
    )  # fmt: skip
    assert row.schema.equals(POSES, check_metadata=True)
    row.validate(full=True)
    values = row.to_pylist()[0]
    assert (values["status"], values["person"], values["attempts"]) == ("ok", 0, 1)
    assert (values["num_frames"], values["num_joints"], values["num_coordinates"]) == (2, 3, 2)
    assert values["keypoints"] == list(range(12))
    assert values["frame_index"] == [0, 1]
    assert values["time_s"] == [0.0, 0.1]
    assert values["confidence"] == [0.5] * 6
    assert values["box"] is None
    assert values["error_code"] is None


def test_a_rejected_recording_keeps_code_and_cause():
    row = rejected_row(
        ClipError("bad_keypoints", "f", "line 3 is odd"), clip_id="c", uri="u", decoder="kimore"
    )
    pa.Table.from_batches([row], schema=POSES).validate(full=True)
    values = row.to_pylist()[0]
    assert (values["status"], values["error_code"], values["error_message"]) == (
        "rejected", "bad_keypoints", "line 3 is odd",
    )  # fmt: skip
    assert values["keypoints"] is None


def test_joints_that_are_not_finite_are_masked_whole():
    keypoints, confidence = np.ones((2, 2, 3), np.float32), np.ones((2, 2), np.float32)
    keypoints[0, 1, 2], keypoints[1, 0, 0] = np.nan, np.inf
    assert mask_non_finite(keypoints, confidence) == 2
    assert np.isnan(keypoints[0, 1]).all()
    assert np.isnan(keypoints[1, 0]).all()
    assert confidence.tolist() == [[1, 0], [0, 1]]
    assert np.isfinite(keypoints).sum() == 6

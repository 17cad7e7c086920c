from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from aqa_models.two_stage.config import SequenceConfig
from pipelines.errors import DataError
from pipelines.motion import load_motions, make_sequences
from pipelines.schema import POSES


def changed(table: pa.Table, row: int, **values) -> pa.Table:
    rows = table.to_pylist()
    rows[row] |= values
    return pa.Table.from_pylist(rows, schema=table.schema)


def test_join_keeps_order_and_values(waving_tables):
    clips, poses = waving_tables
    motions = load_motions(clips, poses.take(list(reversed(range(len(poses))))))
    assert [motion.clip_id for motion in motions] == clips["clip_id"].to_pylist()
    row = poses.to_pylist()[5]
    assert motions[5].keypoints.shape == (row["num_frames"], 15, 3)
    np.testing.assert_array_equal(motions[5].keypoints.ravel(), np.float32(row["keypoints"]))
    assert motions[5].subject == "waves/P02"
    assert motions[5].score == clips["score"][5].as_py()


def test_marked_repetitions_come_along_and_other_procedures_do_not(waving_tables):
    clips, poses = waving_tables
    marked = changed(clips, 0, transitions_s=[0.5, 1.0], procedures=["rest", "repetition 1", "repetition"])
    marked = changed(marked, 1, transitions_s=[0.5], procedures=["take-off", "entry"])
    first, second, third = load_motions(marked, poses)[:3]
    assert first.repetitions == ((0.5, 1.0, "1"), (1.0, first.time_s[-1], ""))
    assert second.repetitions == third.repetitions == ()


def test_rejected_poses_other_people_and_missing_poses_are_left_out_with_a_warning(waving_tables, caplog):
    clips, poses = waving_tables
    poses = changed(poses, 0, status="rejected", keypoints=None)
    poses = changed(poses, 1, person=1)
    names = [motion.clip_id for motion in load_motions(clips, poses.slice(0, 20))]
    assert names == clips["clip_id"].to_pylist()[2:20]
    count, first = len(clips) - 18, clips["clip_id"][0]
    assert f"{count} of {len(clips)} clips have no poses and are left out, the first {first}" in caplog.text


def test_nan_joints_survive_and_nulls_become_nan(waving_tables):
    clips, poses = waving_tables
    numbers = poses["keypoints"][0].as_py()
    numbers[3:6] = [None, float("nan"), None]
    motion = load_motions(clips, changed(poses, 0, keypoints=numbers))[0]
    assert np.isnan(motion.keypoints[0, 1]).all()
    assert np.isfinite(motion.keypoints[1:]).all()


def test_a_clip_without_subject_is_a_person_of_its_own(waving_tables):
    clips, poses = waving_tables
    motions = load_motions(changed(clips, 0, subject_id=None), poses)
    assert motions[0].subject == "waves/clip:P00_0"


def test_wrong_rows_are_named(waving_tables):
    clips, poses = waving_tables
    with pytest.raises(DataError, match="clip P00_0: has two poses of person 0"):
        load_motions(clips, pa.concat_tables([poses, poses.slice(0, 1)]))
    with pytest.raises(DataError, match="clip P00_0: is in the clips table twice"):
        load_motions(pa.concat_tables([clips, clips.slice(0, 1)]), poses)
    with pytest.raises(DataError, match=r"clip P00_1: poses say shape \(3, 15, 3\) but hold"):
        load_motions(clips, changed(poses, 1, num_frames=3))


def test_unusable_recordings_are_named(waving_tables):
    clips, poses = waving_tables
    config = SequenceConfig(skeleton="c15")
    motions = load_motions(clips, changed(poses, 4, skeleton="coco17"))
    with pytest.raises(DataError, match=r"clip P02_0: skeleton 'coco17' needs shape \(T, 17, C\)"):
        make_sequences(motions, config)
    flat = poses.to_pylist()[4]
    xy = np.reshape(flat["keypoints"], (-1, 15, 3))[..., :2].ravel()
    motions = load_motions(clips, changed(poses, 4, keypoints=xy, num_coordinates=2))
    with pytest.raises(DataError, match="clip P02_0: has 2 coordinates, clip P00_0 has 3"):
        make_sequences(motions, config)
    assert POSES.equals(poses.schema)


def test_what_the_time_policy_loses_is_said(waving_tables, caplog):
    motions = load_motions(*waving_tables)[:3]
    make_sequences(motions, SequenceConfig(skeleton="c15"))
    assert caplog.text == ""
    make_sequences(motions, SequenceConfig(skeleton="c15", time_policy="truncate_back", max_frames=3))
    assert "time policy truncate_back: frames are taken as they were recorded" in caplog.text
    assert "3 of 3 recordings are longer than 3 frames and lost their end, the first P00_0" in caplog.text

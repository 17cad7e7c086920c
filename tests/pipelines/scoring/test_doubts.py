"""Intervals, distances and warnings against answers known by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aqa_models.skeletons import skeleton
from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError, CorruptError, DataError
from pipelines.scoring.distance import Known, describe, distances, nearest_action
from pipelines.scoring.extraction import Seen, _is_flat
from pipelines.scoring.interval import conformal_reach, interval_of
from pipelines.scoring.neighbours import frame_rate
from pipelines.scoring.quality import distance_warnings, person_height, pose_warnings, time_warnings
from pipelines.scoring.settings import differences, pose_settings, works_of
from pipelines.scoring.training import Training
from pipelines.store import open_store, spec_key


def test_the_reach_of_an_interval_is_the_right_error():
    errors = np.arange(1.0, 20.0)  # 1 to 19: (19 + 1) x 0.9 = 18
    assert conformal_reach(errors, 0.9) == 18
    assert conformal_reach(np.arange(1.0, 10.0), 0.9) == 9
    assert conformal_reach(np.arange(1.0, 9.0), 0.9) is None


def test_nine_in_ten_intervals_hold_the_truth():
    draw = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        errors = np.abs(draw.normal(size=30))
        hits.append(abs(draw.normal()) <= conformal_reach(errors[:29], 0.9))
    assert 0.88 < np.mean(hits) < 0.93


def test_the_interval_comes_from_the_test_clips_of_a_run(tmp_path):
    assert "never evaluated" in interval_of(tmp_path, "Es1").reason
    rows = [
        {
            "subject_id": f"S{n}",
            "action_type": "Es1" if n < 12 else "Es2",
            "score": 10.0,
            "predicted": 10.0 + n,
        }
        for n in range(15)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "predictions.parquet")
    alike, any_kind = interval_of(tmp_path, "Es1"), interval_of(tmp_path / "model", "Es2")
    assert (alike.reach, alike.clips) == (11, 12)  # ceil(13 x 0.9) = 12th of 0 to 11
    assert "test clips of Es1" in alike.reason
    assert (any_kind.reach, any_kind.clips, any_kind.subjects) == (14, 15, 15)
    pq.write_table(pa.Table.from_pylist(rows[:5]), tmp_path / "predictions.parquet")
    assert interval_of(tmp_path, "Es1").reason == "5 test clips are too few, 9 are needed"
    (tmp_path / "predictions.parquet").write_bytes(b"no table")
    with pytest.raises(CorruptError, match="is not readable as Parquet"):
        interval_of(tmp_path, "Es1")


def standing(frames: int = 20, swing: float = 0.0, lean: float = 0.0, size: float = 1.0) -> np.ndarray:
    """(T, 16, 2) px: an upright mpii16 figure whose right arm swings."""
    names = skeleton("mpii16").joints
    place = {
        "pelvis": (0, 0), "thorax": (0, -50), "upper_neck": (0, -55), "head_top": (0, -80),
        "right_hip": (-10, 0), "left_hip": (10, 0), "right_knee": (-10, 40), "left_knee": (10, 40),
        "right_ankle": (-10, 80), "left_ankle": (10, 80), "right_shoulder": (-18, -50),
        "left_shoulder": (18, -50), "right_elbow": (-20, -20), "left_elbow": (20, -20),
        "right_wrist": (-22, 5), "left_wrist": (22, 5),
    }  # fmt: skip
    body = np.tile(np.array([place[name] for name in names], float), (frames, 1, 1))
    body[:, names.index("right_wrist"), 0] -= swing * np.sin(np.arange(frames) * 0.7)
    body[..., 0] += lean * body[..., 1]
    return body * size + 200


def test_a_distance_sees_movement_and_view_and_not_size_or_place():
    times = np.arange(20) / 25
    near, grown = describe(standing(), times, "mpii16"), describe(standing(size=2.5), times, "mpii16")
    for block in near:
        assert near[block] == pytest.approx(grown[block], abs=1e-9)
    moved, leant = (
        describe(standing(swing=50), times, "mpii16"),
        describe(standing(lean=0.4), times, "mpii16"),
    )
    assert np.abs(moved["movement"] - near["movement"]).max() > 0.3
    assert np.abs(leant["view"] - near["view"]).max() > 0.3
    assert np.abs(leant["movement"] - near["movement"]).max() < 1e-9


def people(action: str = "Es1", swing: float = 10.0, count: int = 10) -> list[Known]:
    times = np.arange(20) / 25
    return [
        Known(
            f"{action}_{n}", f"S{n}", action, describe(standing(swing=swing + n), times, "mpii16"), 0.8, 25.0
        )
        for n in range(count)
    ]


def test_the_limit_is_the_loneliest_training_person():
    known = people()
    times = np.arange(20) / 25
    inside = distances(describe(standing(swing=14.5), times, "mpii16"), known, "Es1")
    outside = distances(describe(standing(swing=60, lean=0.5), times, "mpii16"), known, "Es1")
    assert [one.block for one in inside] == ["view", "movement"]
    assert not any(one.far for one in inside)
    assert all(one.far for one in outside)
    assert outside[1].nearest == "Es1_9"
    neighbours = known[1].blocks["movement"] - known[0].blocks["movement"]
    assert inside[1].limit == pytest.approx(np.sqrt((neighbours**2).mean()), rel=0.05)
    assert distances(known[0].blocks, known[:7], "Es1") == []
    assert distances(known[0].blocks, [known[0]] * 9, "Es1") == []  # a single person


def test_a_wrong_action_type_is_named():
    known = people() + people("Es2", swing=60.0)
    blocks = describe(standing(swing=62), np.arange(20) / 25, "mpii16")
    found = distance_warnings(distances(blocks, known, "Es1"), "Es1", nearest_action(blocks, known))
    assert [one.code for one in found] == ["far_view", "far_movement", "other_action"] or [
        one.code for one in found
    ] == ["far_movement", "other_action"]
    assert found[-1].text == "the movement is nearest to a training clip of Es2, and was scored as Es1"
    assert distance_warnings(distances(blocks, known, "Es2"), "Es2", "Es2") == []


def pose(keypoints: np.ndarray, rate: float = 25.0, **more) -> dict:
    frames = np.arange(len(keypoints))
    told = {"keypoints": keypoints, "confidence": np.full(keypoints.shape[:2], 0.9), "skeleton": "mpii16"}
    return told | {"time_s": frames / rate, "frame_index": frames} | more


def test_what_makes_poses_doubtful_is_said_with_its_number():
    assert pose_warnings(pose(standing()), Seen(20, 0)) == []
    small = pose_warnings(pose(standing(size=0.2)), Seen(20, 0))
    assert [one.code for one in small] == ["small_person"]
    assert "the athlete is 32 px tall" in small[0].text
    assert person_height(pose(standing())) == pytest.approx(160)
    unsure = pose(standing())
    unsure["confidence"][:8, skeleton("mpii16").index("right_wrist")] = 0.1
    assert "right wrist 40%" in pose_warnings(unsure, Seen(20, 0))[0].text
    assert [one.code for one in pose_warnings(pose(standing()), Seen(20, 4))] == ["blank_frames"]
    crowd = pose_warnings(pose(standing(), id_switches=2, missing_share=0.5), Seen(20, 0, 6, 20))
    assert [one.code for one in crowd] == ["several_people", "exchanged_person", "lost_person"]
    assert "two people or more are seen in 30% of the frames" in crowd[0].text


def test_an_unusual_clock_is_said():
    assert time_warnings(pose(standing()), people(), "Es1") == []
    fast = time_warnings(pose(standing(96), rate=120), people(), "Es1")
    assert [one.code for one in fast] == ["frame_rate"]
    assert "120.0 frames per second" in fast[0].text
    assert "slow motion" in fast[0].text
    assert "5.0 frames per second" in time_warnings(pose(standing(), rate=5), [], "")[0].text
    long = time_warnings(pose(standing(100)), people(), "Es1")
    assert [one.code for one in long] == ["duration"]
    gap = pose(standing())
    gap["time_s"] = np.where(np.arange(20) > 9, gap["time_s"] + 0.2, gap["time_s"])
    assert [one.code for one in time_warnings(gap, [], "")] == ["gap"]
    assert np.isnan(frame_rate(None, [0.0]))


def test_a_picture_of_one_colour_is_told_from_a_small_person():
    black, white = np.zeros((192, 192, 3), np.uint8), np.zeros((192, 192, 3), np.uint8)
    white[40:150] = 235  # black margins of a wide video in a square crop
    assert _is_flat(black)
    assert _is_flat(white)
    person = white.copy()
    person[80:110, 90:100] = 120
    assert not _is_flat(person)


def test_settings_come_from_the_training_unless_somebody_says_otherwise(tmp_path):
    store = open_store(tmp_path / "store", create=True)
    learned = ExtractConfig(sampling="uniform:96", flip_test=True)
    spec = works_of(learned)[1].spec
    store.create("poses", spec)
    description = {"provenance": {"store": str(tmp_path / "store"), "poses_key": spec_key(spec)}}
    training = Training(description)
    assert pose_settings(ExtractConfig(), training) == learned
    chosen = pose_settings(ExtractConfig(sampling="all"), training)
    assert (chosen.sampling, chosen.flip_test) == ("all", True)
    assert differences(works_of(learned)[1], training) == []
    assert differences(works_of(chosen)[1], training) == ["sampling was uniform:96, here it is all"]
    gone = Training({"provenance": {"store": str(tmp_path / "gone"), "poses_key": spec_key(spec)}})
    assert not gone.available
    assert pose_settings(ExtractConfig(), gone) == ExtractConfig()
    assert "their key was" in differences(works_of(ExtractConfig())[1], gone)[0]
    with pytest.raises(ConfigError, match="the model says what it reads"):
        pose_settings(ExtractConfig(kind="i3d"), training)
    other = open_store(tmp_path / "other", create=True)
    with pytest.raises(DataError, match="which the model learned from"):
        Training(description, other.path)

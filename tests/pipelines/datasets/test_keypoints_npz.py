"""Keypoint arrays with a csv: hand-made ones, and the complete KIMORE."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.datasets.keypoints_npz import ArraySource, read_keypoints
from pipelines.errors import ConfigError, DataError, SecurityError
from pipelines.schema import CLIPS, POSES

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "kimore"
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
ARRAYS = {
    "a": np.arange(2 * 17 * 2, dtype=np.float64).reshape(2, 17, 2),
    "b": np.ones((3, 17, 2), np.float32),
}
CSV = "clip_id,score,subject_id\na,1.5,s1\nb,,s2\n"


def source(
    tmp_path: Path, arrays: dict = ARRAYS, text: str = CSV, states: dict | None = None, **values
) -> ArraySource:
    np.savez(tmp_path / "p.npz", **arrays)
    (tmp_path / "s.csv").write_text(text)
    if states is not None:
        np.savez(tmp_path / "t.npz", **states)
        values["tracking"] = tmp_path / "t.npz"
    options = {"skeleton": "coco17", "unit": "px", "rate_hz": 25.0, **values}
    return ArraySource(tmp_path / "p.npz", tmp_path / "s.csv", **options)


def test_own_arrays_become_clips_and_rows(tmp_path: Path):
    clips, poses, report = read_keypoints(source(tmp_path, dataset="mine"))
    assert clips.schema.equals(CLIPS, check_metadata=True)
    assert poses.schema.equals(POSES, check_metadata=True)
    clip, pose = clips.to_pylist()[0], poses.to_pylist()[0]
    assert (clip["clip_id"], clip["score"], clip["dataset"]) == ("a", 1.5, "mine")
    assert clip["uri"] == pose["uri"] == f"{tmp_path}/p.npz#a"
    assert pose["keypoints"] == list(range(68))
    assert pose["time_s"] == [0.0, 0.04]
    assert pose["confidence"] == [1.0] * 34
    assert (pose["skeleton"], pose["unit"], pose["num_coordinates"]) == ("coco17", "px", 2)
    assert pose["decoder_note"] == "time from the given rate of 25 Hz"
    assert (report["recordings"], report["labelled"], report["unlabelled"]) == (2, 1, ["b"])
    assert (report["frames"], report["missing"], report["warnings"]) == (5, [], [])


def test_tracking_states_become_confidence_and_bad_joints_are_masked(tmp_path: Path):
    arrays = {"a": np.ones((2, 17, 3), np.float32)}
    arrays["a"][0, 3, 1], arrays["a"][1, 4, 2] = np.nan, -np.inf
    states = np.full((2, 17), 2, np.uint8)
    states[0, 0], states[0, 1] = 0, 1
    _, poses, report = read_keypoints(source(tmp_path, arrays, "clip_id\na\n", {"a": states}, unit="m"))
    confidence = np.array(poses["confidence"][0].as_py()).reshape(2, 17)
    assert confidence[0, :4].tolist() == [0.0, 0.5, 1.0, 0.0]
    assert confidence[1, 4] == 0
    assert report["masked_joints"] == 2
    assert report["tracking"] == {"tracked": 32 / 34, "inferred": 1 / 34, "untracked": 1 / 34}


@pytest.mark.parametrize(
    ("arrays", "text", "message"),
    [
        ({"a": np.ones((0, 17, 2))}, "clip_id\na\n", "line 2, column clip_id: found 'a', .* frames, not 0"),
        ({"a": np.ones((2, 16, 2))}, "clip_id\na\n", r"found 'a: float64 \(2, 16, 2\)', expected floats"),
        ({"a": np.ones((2, 17, 4))}, "clip_id\na\n", r"floats of shape \(frames, 17, 2 or 3\) for coco17"),
        ({"a": np.ones((17, 2))}, "clip_id\na\n", r"found 'a: float64 \(17, 2\)'"),
        ({"a": np.ones((2, 17, 2), int)}, "clip_id\na\n", r"found 'a: int64"),
        (ARRAYS, "clip_id\na\nz\n", r"line 3.*: found 'z', expected an array of this name in p\.npz"),
        (ARRAYS, "clip_id\na\na\n", "line 3, column clip_id: .* used once, but line 2 has it too"),
        (ARRAYS, "clip_id,frames\na,3\n", "column frames: found '3', expected 2, the frames"),
        (ARRAYS, "clip_id,score\na,x\n", "line 2, column score: found 'x', expected a number"),
        (ARRAYS, "clip_id,subject_id,split\na,s,train\nb,s,test\n", "every subject in one split"),
        (ARRAYS, "sample,clip_id\na,a\n", "two columns mean 'clip_id'"),
        (ARRAYS, "clip_id,points\na,1\n", "unknown column 'points'"),
        (ARRAYS, "score\n1\n", "the column 'clip_id' is absent"),
        (ARRAYS, "clip_id\n", "there are no clips below the header"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, arrays: dict, text: str, message: str):
    with pytest.raises(DataError, match=message):
        read_keypoints(source(tmp_path, arrays, text))


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"b": np.ones((3, 17), int)}, "there are no tracking states of 'a'"),
        ({"a": np.ones((2, 16), int)}, r"array 'a' is int64 \(2, 16\), expected integers \(2, 17\)"),
        ({"a": np.ones((2, 17))}, r"array 'a' is float64"),
        ({"a": np.full((2, 17), 3)}, "array 'a' holds states outside 0 to 2"),
        ({"a": np.full((2, 17), -1)}, "array 'a' holds states outside 0 to 2"),
    ],
)
def test_wrong_tracking_states_are_named(tmp_path: Path, states: dict, message: str):
    with pytest.raises(DataError, match=message):
        read_keypoints(source(tmp_path, states=states))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"skeleton": "coco71"}, "unknown skeleton 'coco71'. Choose one of: coco17, mpii16"),
        ({"unit": "cm"}, r"unknown unit 'cm'\. Choose px \(pixels\) or m \(metres\)"),
        ({"rate_hz": 0.0}, "0.0 Hz is no frame rate"),
        ({"rate_hz": float("nan")}, "nan Hz is no frame rate"),
    ],
)
def test_options_are_checked(tmp_path: Path, values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        source(tmp_path, **values)


def test_objects_in_arrays_are_refused(tmp_path: Path):
    with pytest.raises(SecurityError, match="array 'a' holds Python objects, that is a pickle"):
        read_keypoints(source(tmp_path, {"a": np.array([{}], object)}, "clip_id\na\n"))


def test_arrays_without_a_row_are_told(tmp_path: Path):
    report = read_keypoints(source(tmp_path, text="clip_id\nb\n"))[2]
    assert report["warnings"] == ["arrays without a row in s.csv, left out: a"]


def test_kimore_names_of_columns(tmp_path: Path):
    header = "sample,subject,group,exercise,frames,TS,PO,CF\n"
    text = header + "a,E_ID1,Expert,1,2,40,10,29\nb,E_ID2,Expert,2,3,nan,nan,nan\n"
    clips, _, report = read_keypoints(source(tmp_path, text=text))
    assert clips["action_type"].to_pylist() == ["Es1", "Es2"]
    assert clips["score"].to_pylist() == [40.0, None]
    assert report["warnings"] == ["a: TS 40.00 is not PO + CF = 39.00"]
    assert report["missing"] == ["E_ID1_Es2", "E_ID2_Es1"]


@pytest.mark.data
@needs_data
def test_the_complete_kimore():
    arrays = ArraySource(
        DATA / "kimore_positions_f32.npz", DATA / "kimore_samples.csv", "kinect25", "m", 30.0,
        DATA / "kimore_tracking_u8.npz", dataset="kimore",
    )  # fmt: skip
    clips, poses, report = read_keypoints(arrays)
    assert (report["recordings"], report["subjects"], report["frames"]) == (383, 78, 286_060)
    assert (report["labelled"], len(report["unlabelled"])) == (378, 5)
    assert report["missing"] == [
        "B_ID8_Es4", "E_ID8_Es2", "NE_ID11_Es3", "NE_ID11_Es5", "NE_ID24_Es2", "P_ID7_Es5", "S_ID5_Es3",
    ]  # fmt: skip
    assert report["warnings"] == [f"E_ID{k}_Es5: TS {ts} is not PO + CF = {sum_}" for k, ts, sum_ in (
        (3, "44.67", "44.00"), (4, "43.33", "42.67"),
    )]  # fmt: skip
    assert report["tracking"]["tracked"] == pytest.approx(0.9395, abs=5e-5)
    assert report["tracking"]["untracked"] == pytest.approx(24 / (286_060 * 25), abs=1e-12)
    assert report["masked_joints"] == 0
    pairs = zip(clips["action_type"].to_pylist(), clips["score"].to_pylist(), strict=True)
    labelled = [action for action, score in pairs if score is not None]
    assert [labelled.count(f"Es{k}") for k in range(1, 6)] == [77, 75, 75, 76, 75]
    with np.load(DATA / "kimore_positions_f32.npz", allow_pickle=False) as positions:
        for row in (0, 200, 382):
            name = clips["clip_id"][row].as_py()
            xyz = poses["keypoints"][row].values.to_numpy().reshape(-1, 25, 3)
            np.testing.assert_array_equal(xyz, positions[name])

"""NW-UCLA: hand-made files in the two layouts, and the real set."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.datasets.nw_ucla import by_view, read_nw_ucla
from pipelines.errors import DataError
from pipelines.splits import check_subjects

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "nw_ucla"
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")


def put(folder: Path, name: str, frames: int = 3, **changes: object) -> None:
    folder.mkdir(exist_ok=True)
    skeletons = np.arange(frames * 60, dtype=float).reshape(frames, 20, 3).tolist()
    label = {"01": 1, "08": 7, "12": 10}.get(name[1:3], 1)
    content = {"file_name": name, "skeletons": skeletons, "label": label, **changes}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_names_say_action_person_and_camera(tmp_path: Path):
    put(tmp_path / "all_sqe", "a08_s02_e01_v03")
    put(tmp_path / "all_sqe", "a01_s10_e00_v01", frames=2)
    clips, poses, report = read_nw_ucla(tmp_path)
    rows = clips.select(["clip_id", "action_type", "subject_id", "group", "split"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("a01_s10_e00_v01", "pick up with one hand", "s10", "view_1", None),
        ("a08_s02_e01_v03", "donning", "s02", "view_3", None),
    ]
    assert poses["time_s"][0].as_py() == [0, 1 / 30]
    assert poses["keypoints"][1].as_py() == list(range(180))
    assert poses["skeleton"].to_pylist() == ["kinect20", "kinect20"]
    assert report["frames"] == 5


def test_arrays_give_the_same_as_files(tmp_path: Path):
    put(tmp_path / "json", "a12_s01_e00_v02")
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    xyz = np.arange(180, dtype=np.float32).reshape(3, 20, 3)
    np.savez(arrays / "my_joints.npz", a12_s01_e00_v02=xyz, other=xyz)
    first, second = read_nw_ucla(tmp_path / "json"), read_nw_ucla(arrays)
    assert first[1]["keypoints"].to_pylist() == second[1]["keypoints"].to_pylist()
    assert first[0].drop_columns(["uri"]).equals(second[0].drop_columns(["uri"]))
    assert second[2]["warnings"] == ["'other' is no name like a01_s01_e00_v01 and was left out"]


@pytest.mark.parametrize(
    ("name", "changes", "cause"),
    [
        ("a01_s01_e00_v01", {"frames": 1}, "a single frame holds no motion"),
        ("a07_s01_e00_v01", {}, "there is no action 7 or no view 1 in this data set"),
        ("a01_s01_e00_v04", {}, "there is no action 1 or no view 4 in this data set"),
        ("a01_s01_e00_v01", {"label": 2}, "label 2 is not that of action 1"),
        ("a01_s01_e00_v01", {"file_name": "x"}, "the file says that it is 'x'"),
        ("a01_s01_e00_v01", {"skeletons": [[1, 2], [3]]}, "the skeletons are no list of frames of 20 x 3"),
        ("a01_s01_e00_v01", {"skeletons": [[1, 2, 3]]}, r"skeletons of shape (1, 3), expected"),
        ("a01_s01_e00_v01", {"skeletons": "x"}, "the skeletons are no list of frames of 20 x 3"),
    ],
)
def test_a_wrong_file_becomes_a_rejected_row(tmp_path: Path, name: str, changes: dict, cause: str):
    put(tmp_path, name, **changes)
    put(tmp_path, "a01_s09_e00_v01")
    _, poses, report = read_nw_ucla(tmp_path)
    assert sorted(poses["status"].to_pylist()) == ["ok", "rejected"]
    assert report["rejected"][0]["message"].startswith(cause)


def test_unreadable_files_and_empty_folders(tmp_path: Path):
    with pytest.raises(DataError, match="no recording found"):
        read_nw_ucla(tmp_path)
    (tmp_path / "a01_s01_e00_v01.json").write_text("[1")
    with pytest.raises(DataError, match="none of the 1 recordings can be read; the first: this is no JSON"):
        read_nw_ucla(tmp_path)
    (tmp_path / "a01_s01_e00_v01.json").write_text("[1]")
    with pytest.raises(DataError, match="the file holds no skeletons"):
        read_nw_ucla(tmp_path)


def test_the_published_split_is_by_camera_and_no_split_of_people(tmp_path: Path):
    for view in (1, 2, 3):
        put(tmp_path, f"a01_s01_e00_v0{view}")
    clips = read_nw_ucla(tmp_path)[0]
    check_subjects(clips)
    divided = by_view(clips)
    assert divided["split"].to_pylist() == ["train", "train", "test"]
    with pytest.raises(DataError, match="subject nw_ucla/s01: is in the splits train and test"):
        check_subjects(divided)


@pytest.mark.slow
@pytest.mark.data
@needs_data
def test_the_real_set_has_1484_sequences():
    clips, _, report = read_nw_ucla(DATA)
    assert (report["recordings"], report["subjects"], report["frames"]) == (1484, 10, 58_532)
    assert [item["clip_id"] for item in report["rejected"]] == ["a02_s09_e04_v02", "a02_s09_e04_v03"]
    split = by_view(clips)["split"].to_pylist()
    assert (split.count("train"), split.count("test")) == (1020, 464)
    original = read_nw_ucla(DATA / "original_files")[2]
    assert (original["recordings"], len(original["rejected"])) == (3, 1)

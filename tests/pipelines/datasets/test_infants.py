"""The infants' tables, made up in the published layout: as plain columns, and as pandas frames."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas
import pytest

from pipelines.datasets import infants
from pipelines.datasets.infants import read_infants
from pipelines.errors import DataError, SecurityError

VIDEOS = ["video_000001", "822487-2_1_1_GP_x"]
PUBLISHED = Path(__file__).parents[3] / "docs" / "data.md"


def frames() -> dict[str, pandas.DataFrame]:
    """Tables as published, a row per keypoint; keypoint 17 is never found, and frame 1 lacks the nose."""
    rows = [
        {"video": video, "frame": frame, "bp": f"part{part}", "part_idx": part, "x": x + part, "y": 5.0 + v}
        for v, video in enumerate(VIDEOS)
        for frame, x in enumerate((0.0, 100.0, 200.0))
        for part in range(17)
        if (frame, part) != (1, 0)
    ]
    info = pandas.DataFrame({"fps": [25.0, 30.0], "pixel_x": 640, "pixel_y": 480, "video": VIDEOS})
    youtube = pandas.DataFrame({"video": VIDEOS[:1], "infant_id": [7]})
    clinical = pandas.DataFrame({"infant": [2], "session": [1]})
    clinical["Risk_low0_mod1_high2_corr"], clinical["Risk_low0_mod1_high2_chron"] = [np.nan], [1.0]
    return {
        "video_info": info,
        "pose_estimates": pandas.DataFrame(rows),
        "meta_data_yt": youtube,
        "meta_data_clin": clinical,
    }


def converted(frame: pandas.DataFrame) -> dict:
    """What the lines in docs/data.md make of a frame."""
    code = PUBLISHED.read_text().partition("def plain(table):")[2].partition("\n```")[0].partition("\n\n")[0]
    names: dict = {"pandas": pandas}
    exec("def plain(table):" + code, names)
    return names["plain"](frame)


def put(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, frame in frames().items():
        content = changes.get(name, converted(frame))
        if content is not None:
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    return folder


def test_a_video_becomes_a_clip_with_its_own_clock_and_class(tmp_path: Path):
    clips, poses, report = read_infants(put(tmp_path))
    rows = clips.select(["clip_id", "subject_id", "group"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("video_000001", "yt_7", "healthy"),
        ("822487-2_1_1_GP_x", "clin_2", "moderate"),
    ]
    first, second = poses.to_pylist()
    assert (first["skeleton"], first["unit"]) == ("openpose18", "px")
    assert first["time_s"] == [0, 1 / 25, 2 / 25]
    assert second["time_s"] == [0, 1 / 30, 2 / 30]
    xy = np.reshape(first["keypoints"], (3, 18, 2))
    assert xy[2, 4].tolist() == [204, 5]
    assert np.isnan(xy[:, 17]).all()
    assert np.isnan(xy[1, 0]).all()
    assert np.isfinite(xy[[0, 2], 0]).all()
    assert np.reshape(second["keypoints"], (3, 18, 2))[2, 4].tolist() == [204, 6]
    assert report["masked_joints"] == 2 * (3 + 1)
    assert report["warnings"] == []


def test_the_published_frames_are_refused_with_the_way_out(tmp_path: Path):
    with pytest.raises(DataError, match="video_info.pkl: the file does not exist"):
        read_infants(tmp_path)
    put(tmp_path)
    frames()["video_info"].to_pickle(tmp_path / "video_info.pkl")
    with pytest.raises(
        SecurityError, match=r"video_info.pkl: the pickle is refused.*docs/data.md shows \(section"
    ):
        read_infants(tmp_path)


def test_without_meta_data_every_video_is_a_person_without_class(tmp_path: Path, in_process):
    clips, _, report = read_infants(put(tmp_path, **BARE))
    assert clips["subject_id"].to_pylist() == VIDEOS
    assert clips["group"].to_pylist() == [None, None]
    assert report["warnings"] == [f"2 videos without rating of risk, so without group: {', '.join(VIDEOS)}"]


@pytest.fixture
def in_process(monkeypatch):
    """Reads what this file pickled without the child process, which takes longer than all the rest."""
    monkeypatch.setattr(infants, "read_pickle", lambda path: pickle.loads(path.read_bytes()))


BARE: dict = {"meta_data_yt": None, "meta_data_clin": None}


def with_columns(name: str, **columns: object) -> dict:
    return converted(frames()[name]) | columns


@pytest.mark.parametrize(
    ("column", "value", "cause"),
    [
        ("part_idx", 18.0, "frames 0 to 2, keypoints 0 to 18; expected 0 to 199,999 and 0 to 17"),
        ("frame", 1.5, "frame and part_idx are no whole numbers"),
        ("frame", 2.0, "a keypoint of a frame is listed twice"),
    ],
)
def test_a_wrong_video_is_rejected(tmp_path: Path, in_process, column: str, value: float, cause: str):
    table = with_columns("pose_estimates")
    table[column] = table[column].copy()
    table[column][0] = value
    report = read_infants(put(tmp_path, pose_estimates=table, **BARE))[2]
    assert report["rejected"] == [{"clip_id": VIDEOS[0], "code": "bad_keypoints", "message": cause}]


def test_wrong_tables_are_named(tmp_path: Path, in_process):
    for content, cause in (
        ([1, 2], "holds a list, not a dictionary of columns"),
        ({"video": ["a"]}, "column 'fps' is absent, there are: video"),
        (with_columns("video_info", fps=np.zeros(3)), "the columns are empty or of different lengths"),
        (with_columns("video_info", fps=[{}]), "column 'fps' holds 'list', no numbers"),
        (with_columns("video_info", video_names=["only one"]), "video are no numbers of video_names"),
    ):
        with pytest.raises(DataError, match=cause):
            read_infants(put(tmp_path, video_info=content, **BARE))


def test_videos_that_do_not_fit_their_list_are_named(tmp_path: Path, in_process):
    info = with_columns("video_info", fps=np.array([0.0, 30.0]), video_names=["video_000001", "video_9"])
    with pytest.raises(DataError, match="the first: 0 frames per second is no rate of a video"):
        read_infants(put(tmp_path, video_info=info, **BARE))
    report = read_infants(put(tmp_path, video_info=info | {"fps": np.array([25.0, 30.0])}, **BARE))[2]
    assert report["missing"] == ["video_9"]
    assert f"poses of videos that video_info does not list: {VIDEOS[1]}" in report["warnings"]

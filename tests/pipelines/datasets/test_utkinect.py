"""UTKinect: hand-made recordings, and the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.datasets.utkinect import read_utkinect
from pipelines.errors import DataError

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "utkinect"
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
IDS = [10, 12, 12, 16, 22, 24, 30]
LABELS = "s01_e01\nwalk: 12 22\nsitDown: 24 30 \npush: 17 21\ncarry:  NaN NaN\n"


def frame(value: float) -> str:
    return "  ".join([f"{value:.6f}"] * 60)


def text_form(folder: Path, labels: str = LABELS, rows: list[str] | None = None) -> Path:
    lines = [f"{i}  {frame(number)}" for number, i in enumerate(IDS)] if rows is None else rows
    (folder / "joints").mkdir(parents=True)
    (folder / "joints" / "joints_s01_e01.txt").write_text("\n".join(lines) + "\n\n")
    (folder / "actionLabel.txt").write_text(labels)
    return folder


def array_form(folder: Path) -> Path:
    folder.mkdir()
    xyz = np.tile(np.arange(len(IDS), dtype=np.float32)[:, None, None], (1, 20, 3))
    np.savez(folder / "ut_joints.npz", s01_e01_frame_id=np.array(IDS, np.int32), s01_e01_xyz=xyz)
    lines = ["recording,action,start_frame_id,end_frame_id", "s01_e01,walk,12,22", "s01_e01,sitDown,24,30"]
    lines += ["s01_e01,push,17,21", "s01_e01,carry,,"]
    (folder / "ut_segments.csv").write_text("\n".join(lines) + "\n")
    (folder / "ut_segments_modified.csv").write_text("not read\n")
    return folder


@pytest.mark.parametrize("form", [text_form, array_form])
def test_a_segment_is_cut_out_and_timed_by_its_frame_ids(tmp_path: Path, form):
    clips, poses, report = read_utkinect(form(tmp_path / "ut"))
    assert clips["clip_id"].to_pylist() == [f"s01_e01_{a}" for a in ("walk", "sitDown", "push", "carry")]
    walk, pose = clips.to_pylist()[0], poses.to_pylist()[0]
    assert (walk["action_type"], walk["subject_id"], walk["start_s"]) == ("walk", "s01", 2 / 60)
    assert walk["end_s"] == pytest.approx(13 / 60)
    assert pose["frame_index"] == [12, 16, 22]
    np.testing.assert_allclose(pose["time_s"], np.array([2, 6, 12]) / 60)
    # Of the two rows of frame 12 the first one stays.
    assert np.reshape(pose["keypoints"], (3, 20, 3))[:, 0, 0].tolist() == [1, 3, 4]
    assert (pose["skeleton"], pose["unit"]) == ("kinect20", "m")
    assert pose["decoder_note"] == "time from the frame ids, 60 per second"
    assert report["duplicate_rows"] == 1
    assert poses["status"].to_pylist() == ["ok", "ok", "rejected", "rejected"]
    assert [item["message"] for item in report["rejected"]] == [
        "0 frames lie between the ids 17 and 21",
        "the label gives no boundaries",
    ]


def test_another_clock_may_be_given(tmp_path: Path):
    poses = read_utkinect(text_form(tmp_path / "ut"), ids_per_s=30)[1]
    np.testing.assert_allclose(poses["time_s"][0].as_py(), np.array([2, 6, 12]) / 30)


def test_overlaps_and_recordings_without_labels_are_warned_about(tmp_path: Path):
    folder = text_form(tmp_path / "ut", "s01_e01\nwalk: 10 24\npull: 22 30\n")
    (folder / "joints" / "joints_s02_e01.txt").write_text(f"1 {frame(0)}\n")
    (folder / "actionLabel.txt").write_text("s01_e01\nwalk: 10 24\npull: 22 30\ns03_e01\nwalk: 1 2\n")
    report = read_utkinect(folder)[2]
    assert report["warnings"] == [
        "s01_e01: the segments walk and pull share the frame ids 22 to 24",
        "recordings without labels, left out: s02_e01",
    ]
    assert report["missing"] == ["s03_e01_walk"]


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        (["10 1 2 3"], "joints_s01_e01.txt line 1 holds 4 numbers; a frame has its id and 20 x 3"),
        ([f"x {frame(0)}"], "line 1 holds 'x  ?0.000000.*, no numbers"),
        ([f"1.5 {frame(0)}"], "line 1 holds 61 numbers; a frame has its id"),
        ([""], "joints_s01_e01.txt holds no frame"),
    ],
)
def test_a_broken_recording_is_named(tmp_path: Path, rows: list[str], cause: str):
    with pytest.raises(DataError, match=f"none of the 4 recordings can be read; the first: .*{cause}"):
        read_utkinect(text_form(tmp_path / "ut", rows=rows))


def test_wrong_labels_are_named_all_at_once(tmp_path: Path):
    labels = "s01_e01\nwalk: 12 22\nwalk: 1 2\nfly: 1 2\npush: 9 8\npull: 1\ncarry: 1 x\n"
    with pytest.raises(DataError, match=r"(?s)5 problems.*line 3: found 's01_e01 walk 1 2', .*line 7: found"):
        read_utkinect(text_form(tmp_path / "ut", labels))


def test_absent_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such folder"):
        read_utkinect(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds neither actionLabel.txt nor \*joints\*.npz"):
        read_utkinect(tmp_path)
    folder = array_form(tmp_path / "ut")
    (folder / "ut_segments.csv").unlink()
    with pytest.raises(DataError, match=r"0 files match \*segments.csv, expected one"):
        read_utkinect(folder)
    folder = array_form(tmp_path / "other")
    np.savez(folder / "ut_joints.npz", s01_e01_xyz=np.zeros((7, 20, 3)))
    with pytest.raises(DataError, match="the first: there is no array s01_e01_frame_id"):
        read_utkinect(folder)
    np.savez(folder / "ut_joints.npz", s01_e01_xyz=np.zeros((7, 25, 3)), s01_e01_frame_id=np.arange(7))
    with pytest.raises(DataError, match=r"arrays of shape \(7,\) and \(7, 25, 3\), expected \(T,\) ids"):
        read_utkinect(folder)


@pytest.mark.data
@needs_data
def test_the_real_set_has_199_usable_segments_and_both_forms_agree():
    _, poses, report = read_utkinect(DATA)
    assert (report["recordings"], report["subjects"], report["duplicate_rows"]) == (200, 10, 542)
    assert [item["clip_id"] for item in report["rejected"]] == ["s10_e02_carry"]
    assert poses["status"].to_pylist().count("ok") == 199
    _, original, _ = read_utkinect(DATA / "original_files")
    assert len(original) == 20
    given = {row["clip_id"]: row for row in poses.to_pylist()}
    for row in original.to_pylist():
        assert row["time_s"] == given[row["clip_id"]]["time_s"]
        np.testing.assert_allclose(row["keypoints"], given[row["clip_id"]]["keypoints"], atol=3e-7)


@pytest.mark.data
@needs_data
def test_walkers_take_human_steps_at_sixty_ids_per_second():
    """The reason for IDS_PER_S: the ankles pass each other about once per 0.6 s."""
    clips, poses, _ = read_utkinect(DATA)
    rates = []
    for action, row in zip(clips["action_type"].to_pylist(), poses.to_pylist(), strict=True):
        if action != "walk":
            continue
        xyz, time_s = np.reshape(row["keypoints"], (-1, 20, 3)), np.array(row["time_s"])
        way = xyz[-1, 0] - xyz[0, 0]
        apart = (xyz[:, 14] - xyz[:, 18]) @ way / np.linalg.norm(way)
        grid = np.arange(time_s[0], time_s[-1], 1 / 60)
        signal = np.interp(grid, time_s, apart)
        signal = (signal - np.polyval(np.polyfit(grid, signal, 1), grid)) * np.hanning(len(grid))
        power = np.abs(np.fft.rfft(signal, 8192))
        hertz = np.fft.rfftfreq(8192, 1 / 60)
        power[hertz < 1.5 / (grid[-1] - grid[0])] = 0
        rates.append(2 * hertz[power.argmax()])
    assert 1.3 < np.median(rates) < 2.1

"""KIMORE's official folders: tiny hand-made ones, and the sample of real recordings."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.datasets.kimore import read_joint_positions, read_kimore, read_time_stamps
from pipelines.errors import AqaError, ClipError, DataError, SecurityError
from pipelines.schema import CLIPS, POSES

DATA = Path(os.environ.get("AQA_TEST_DATA", "."))
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
HEADER = ["Subject ID", *(f"clinical {kind} Ex#{k}" for kind in ("TS", "PO", "CF") for k in range(1, 6))]
SCORES = [40, 41, 42, 43, 44, 10, 11, 12, 13, 14, 30, 30, 30, 30, 30]


def frame(start: float = 0.0, state: str = "2") -> str:
    """One row as Kinect wrote it: x, y, z, state of 25 joints, a comma at the end."""
    return "".join(f"{start + joint:g},0.5,6.00685e-005,{state}," for joint in range(25))


def recording(root: Path, subject: str = "E_ID1", exercise: int = 1, *, rows: list[str], stamps=None) -> Path:
    group = {"E": "CG/Expert", "NE": "CG/NotExpert", "B": "GPP/BackPain"}[subject.split("_")[0]]
    folder = root / group / subject / f"Es{exercise}"
    (folder / "Raw").mkdir(parents=True)
    (folder / "Raw" / "JointPosition010100_1.csv").write_text("\n\n" + "\n\n".join(rows) + "\n")
    if stamps is not None:
        text = "\n\n" + "".join(f"{stamp},\n" for stamp in stamps)
        (folder / "Raw" / "TimeStamp010100_1.csv").write_text(text)
    sheet(folder, subject, SCORES)
    return folder


def sheet(folder: Path, subject: str, scores: list) -> None:
    (folder / "Label").mkdir(exist_ok=True)
    workbook = openpyxl.Workbook()
    workbook.active.append(HEADER)
    workbook.active.append([subject, *scores])
    workbook.save(folder / "Label" / f"ClinicalAssessment_{subject}.xlsx")


def test_a_recording_becomes_a_clip_and_a_row(tmp_path: Path):
    folder = recording(
        tmp_path, rows=[frame(0), frame(1, "1"), frame(2, "0")], stamps=[100, 400_100, 900_100]
    )
    clips, poses, report = read_kimore(tmp_path)
    assert clips.schema.equals(CLIPS, check_metadata=True)
    assert poses.schema.equals(POSES, check_metadata=True)
    clip, pose = clips.to_pylist()[0], poses.to_pylist()[0]
    path = folder / "Raw" / "JointPosition010100_1.csv"
    assert (clip["clip_id"], clip["action_type"], clip["score"]) == ("E_ID1_Es1", "Es1", 40.0)
    assert (clip["subject_id"], clip["group"], clip["dataset"]) == ("E_ID1", "Expert", "kimore")
    assert clip["uri"] == pose["uri"] == str(path)
    assert pose["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (pose["skeleton"], pose["unit"], pose["decoder"]) == ("kinect25", "m", "kimore")
    assert pose["decoder_note"] is None
    assert (pose["num_frames"], pose["num_joints"], pose["num_coordinates"]) == (3, 25, 3)
    assert pose["time_s"] == pytest.approx([0.0, 0.04, 0.09], abs=1e-12)
    assert pose["confidence"] == [1.0] * 25 + [0.5] * 25 + [0.0] * 25
    assert pose["keypoints"][75 + 6 : 75 + 9] == pytest.approx([3.0, 0.5, 6.00685e-5], rel=1e-6)
    assert report["labelled"] == 1
    assert report["frames"] == 3
    assert report["tracking"] == {"tracked": 1 / 3, "inferred": 1 / 3, "untracked": 1 / 3}
    assert report["missing"] == [f"E_ID1_Es{k}" for k in (2, 3, 4, 5)]


def test_rows_that_lost_their_line_break_are_split_and_reported(tmp_path: Path):
    rows = [frame(0), frame(1) + frame(2), frame(3) + frame(4) + frame(5)]
    recording(tmp_path, rows=rows, stamps=range(10, 16))
    _, poses, report = read_kimore(tmp_path)
    xyz = np.array(poses["keypoints"][0].as_py()).reshape(6, 25, 3)
    assert xyz[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert poses["decoder_note"][0].as_py() is None
    assert report["merged_rows"] == 2
    assert (
        "E_ID1_Es1: lines with several frames were split (JointPosition010100_1.csv line 5, 7)"
        in report["warnings"]
    )


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        (
            [frame(), frame()[:-20]],
            r"JointPosition\S+ line 5 holds 9\d numbers; a frame has 25 joints x 4 = 100",
        ),
        ([frame().replace("0.5", "0,5")], "line 3 holds 125 numbers; a frame has 25 joints"),
        ([frame(), frame(state="3")], "line 5: tracking state of joint 0 is 3, expected 0, 1 or 2"),
        ([frame() + frame(state="0.5")], "line 3: tracking state of joint 0 is 0.5, expected"),
        ([frame(), frame().replace("0.5", "x", 1)], "line 5, field 2: found 'x', expected a number"),
        ([frame().replace("0.5", "", 1)], "line 3, field 2: found '', expected a number"),
        ([frame().replace("0.5", "é", 1)], "line 3 holds bytes that are no text"),
        ([""], "JointPosition010100_1.csv holds no frame, only blank lines"),
    ],
)
def test_a_broken_recording_becomes_a_rejected_row(tmp_path: Path, rows: list[str], cause: str):
    folder = recording(tmp_path, rows=rows)
    with pytest.raises(ClipError, match=cause):
        read_joint_positions(folder / "Raw" / "JointPosition010100_1.csv")
    with pytest.raises(DataError, match=f"none of the 1 recordings can be read; the first: .*{cause}"):
        read_kimore(tmp_path)
    recording(tmp_path, "E_ID2", rows=[frame()])
    clips, poses, report = read_kimore(tmp_path)
    assert clips["clip_id"].to_pylist() == poses["clip_id"].to_pylist() == ["E_ID1_Es1", "E_ID2_Es1"]
    assert poses["status"].to_pylist() == ["rejected", "ok"]
    assert poses["error_code"].to_pylist() == ["bad_keypoints", None]
    assert report["rejected"][0]["message"] == poses["error_message"][0].as_py()
    assert report["labelled"] == 1


def test_joints_that_are_not_finite_are_masked_and_counted(tmp_path: Path):
    recording(tmp_path, rows=[frame().replace("0.5", "nan", 2), frame().replace("0.5", "1e300", 1)])
    _, poses, report = read_kimore(tmp_path)
    pose = poses.to_pylist()[0]
    assert report["masked_joints"] == 3
    assert [index for index, value in enumerate(pose["confidence"]) if value == 0] == [0, 1, 25]
    assert np.isnan(pose["keypoints"]).sum() == 9


@pytest.mark.parametrize(
    ("stamps", "note"),
    [
        (None, "no TimeStamp files; nominal 30 Hz used"),
        ([1, 2, 3], "TimeStamp010100_1.csv holds 3 stamps for 2 frames; nominal 30 Hz used"),
        ([5, 5], "TimeStamp010100_1.csv line 4: time does not increase; nominal 30 Hz used"),
        ([5, "x"], "TimeStamp010100_1.csv line 4 is no time stamp; nominal 30 Hz used"),
    ],
)
def test_nominal_time_is_never_silent(tmp_path: Path, stamps: list | None, note: str):
    recording(tmp_path, rows=[frame(), frame()], stamps=stamps)
    _, poses, report = read_kimore(tmp_path)
    assert poses["decoder_note"].to_pylist() == [note]
    assert poses["time_s"].to_pylist() == [[0, 1 / 30]]
    assert f"E_ID1_Es1: {note}" in report["warnings"]


def test_scores_and_their_doubts(tmp_path: Path):
    recording(tmp_path, rows=[frame()])
    two = recording(tmp_path, exercise=2, rows=[frame()])
    sheet(two, "E_ID1", [*SCORES[:1], 51, *SCORES[2:]])
    other = recording(tmp_path, "NE_ID4", rows=[frame()])
    sheet(other, "NE_ID5", SCORES)
    (other / "Label" / "ClinicalAssessment_NE_ID5.xlsx").replace(
        other / "Label" / "ClinicalAssessment_NE_ID4.xlsx"
    )
    broken = recording(tmp_path, "NE_ID6", rows=[frame()])
    (broken / "Label" / "ClinicalAssessment_NE_ID6.xlsx").write_bytes(b"broken")
    clips, _, report = read_kimore(tmp_path)
    assert clips["score"].to_pylist() == [40.0, 51.0, None, None]
    assert report["unlabelled"] == ["NE_ID4_Es1", "NE_ID6_Es1"]
    text = "\n".join(report["warnings"])
    assert "E_ID1 Es2: TS 51 is outside 0 to 50" in text
    assert "E_ID1 Es2: TS 51.00 is not PO + CF = 41.00" in text
    assert "E_ID1: the score sheets of its exercises differ; each uses its own" in text
    assert "ClinicalAssessment_NE_ID4.xlsx of NE_ID4 Es1 is about 'NE_ID5'; not used" in text
    assert "NE_ID6 Es1: score sheet not used" in text
    assert "NE_ID6: no score sheet, so unlabelled" in text


def test_the_sheet_of_another_exercise_folder_serves_too(tmp_path: Path):
    recording(tmp_path, rows=[frame()])
    two = recording(tmp_path, exercise=2, rows=[frame()])
    (two / "Label" / "ClinicalAssessment_E_ID1.xlsx").unlink()
    assert read_kimore(tmp_path)[0]["score"].to_pylist() == [40.0, 41.0]


def test_folders_that_are_not_kimore(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"this folder holds neither CG nor GPP\. Give the folder that holds CG/Expert"
    ):
        read_kimore(tmp_path)
    (tmp_path / "CG" / "Expert" / "E_ID1").mkdir(parents=True)
    with pytest.raises(DataError, match="no recording found"):
        read_kimore(tmp_path)
    recording(tmp_path, "E_ID2", rows=[frame()])
    (tmp_path / "CG" / "Expert" / "notes").mkdir()
    report = read_kimore(tmp_path)[2]
    assert "CG/Expert/notes is no subject folder and was left out" in report["warnings"]
    assert "the group GPP/Stroke is absent" in report["warnings"]
    assert len(report["missing"]) == 9


def test_two_files_of_one_recording_and_a_long_one_are_rejected(tmp_path: Path):
    folder = recording(tmp_path, rows=[frame()])
    (folder / "Raw" / "JointPosition020200_1.csv").write_text(frame())
    long = recording(tmp_path, "E_ID2", rows=[frame()])
    (long / "Raw" / "JointPosition010100_1.csv").write_bytes(b"\n" * (16 * 2**20 + 1))
    recording(tmp_path, "E_ID3", rows=[frame()])
    _, poses, _ = read_kimore(tmp_path)
    assert poses["error_message"][0].as_py() == "2 JointPosition files in E_ID1_Es1, expected one"
    assert poses["error_code"][1].as_py() == "too_long"
    assert "has 16,777,217 bytes; at most 16,777,216 are read" in poses["error_message"][1].as_py()


def test_links_out_of_the_folder_are_refused(tmp_path: Path):
    folder = recording(tmp_path / "data", rows=[frame()])
    secret = tmp_path / "secret.csv"
    secret.write_text("password\n")
    target = folder / "Raw" / "JointPosition010100_1.csv"
    target.unlink()
    target.symlink_to(secret)
    with pytest.raises(SecurityError, match="this link leads out of the data set"):
        read_kimore(tmp_path / "data")


REUSED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@REUSED
@given(data=st.data())
def test_damaged_recordings_raise_only_our_errors(tmp_path: Path, data: st.DataObject):
    content = bytearray(f"\n{frame(1)}\n{frame(2)}\n".encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"", b",", b"\n", b"\r", b"e", b"-", b"\0", b"\xff", b"inf", b"1e999", b"#", b'"', b" "]
            )
        )
    (tmp_path / "a.csv").write_bytes(content)
    with contextlib.suppress(AqaError):
        positions = read_joint_positions(tmp_path / "a.csv")
        assert positions.xyz.shape[1:] == (25, 3)
        assert positions.state.max() <= 2
    with contextlib.suppress(AqaError):
        read_time_stamps(tmp_path / "a.csv", 2)


@pytest.mark.data
@needs_data
def test_the_sample_of_real_recordings_equals_the_arrays():
    """26 recordings of 6 subjects; the arrays come from another copy of the data set."""
    root = DATA / "kimore" / "official_layout_sample"
    clips, poses, report = read_kimore(root)
    assert (report["recordings"], report["subjects"], report["labelled"]) == (26, 6, 21)
    assert report["missing"] == ["NE_ID11_Es3", "NE_ID11_Es5", "P_ID7_Es5", "S_ID5_Es3"]
    assert report["unlabelled"] == [f"E_ID17_Es{k}" for k in range(1, 6)]
    assert report["warnings"] == ["E_ID3 Es5: TS 44.67 is not PO + CF = 44.00"]
    assert report["rejected"] == []
    labels = {}
    for line in (DATA / "kimore" / "kimore_samples.csv").read_text().splitlines()[1:]:
        cells = line.split(",")
        labels[cells[0]] = (float(cells[5]), int(cells[4]))
    with (
        np.load(DATA / "kimore" / "kimore_positions_f32.npz", allow_pickle=False) as positions,
        np.load(DATA / "kimore" / "kimore_tracking_u8.npz", allow_pickle=False) as states,
    ):
        for clip, row in zip(clips.to_pylist(), range(len(poses)), strict=True):
            name, score = clip["clip_id"], labels[clip["clip_id"]][0]
            assert poses["clip_id"][row].as_py() == name
            xyz = poses["keypoints"][row].values.to_numpy().reshape(-1, 25, 3)
            assert len(xyz) == labels[name][1]
            np.testing.assert_allclose(xyz, positions[name], atol=1e-6, rtol=0)
            confidence = poses["confidence"][row].values.to_numpy().reshape(-1, 25)
            np.testing.assert_array_equal(confidence, states[name] / 2)
            assert (clip["score"] is None) == np.isnan(score)
            assert clip["score"] is None or clip["score"] == pytest.approx(score, abs=1e-6)
            time_s = poses["time_s"][row].values.to_numpy()
            assert time_s[0] == 0
            assert (np.diff(time_s) > 0).all()
            assert 20 < (len(time_s) - 1) / time_s[-1] < 31


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("exercise", [1, 2, 3, 4, 5])
def test_genuine_files_are_read(exercise: int):
    genuine = read_joint_positions(
        DATA / "kimore" / "original_files" / f"JointPositionExercise{exercise}.csv"
    )
    with np.load(DATA / "kimore" / "kimore_positions_f32.npz", allow_pickle=False) as positions:
        np.testing.assert_allclose(genuine.xyz, positions[f"B_ID1_Es{exercise}"], atol=1e-6, rtol=0)
    assert genuine.merged_lines == ()

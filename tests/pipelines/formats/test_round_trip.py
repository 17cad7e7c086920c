"""Store -> file -> store: equal where the format can hold it, and the rest is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines import data
from pipelines.errors import ConfigError, DataError, StorageError
from pipelines.formats import FORMATS, export_poses, import_poses
from pipelines.formats.clip_files import FACTS
from pipelines.store import open_store

export, load = export_poses.export_poses, import_poses.import_poses
SIZED = {"rate_hz": 29.97, "width": 1920, "height": 1080}
# Kind -> what the format cannot hold, and what the user must say when it is read.
CASES = {
    "coco": ((), {}),
    "mmpose": ((), {}),
    "pyskl": (("box",), {}),
    "openpose": (("box", "time_s"), SIZED),
    "trc": (("box", "confidence"), {"width": 1920, "height": 1080}),
}


@pytest.mark.parametrize("kind", CASES)
def test_two_people_come_back_equal(kind, tmp_path, poses, clips, row, rejected, assert_same) -> None:
    """Awkward names, a gap in the frames, people in other frames than the athlete, missing joints."""
    names = ("a", "dive 1_407c", ".hidden%2F", "Größe~person1")
    rows = [row(name, first=3 * number, step=2, seed=number) for number, name in enumerate(names)]
    before = poses(
        *rows, row("a", person=1, frames=3, first=4), row("a", person=4, frames=2), rejected("bad")
    )
    report = export(before, clips(*names), kind, tmp_path / "out")
    without, given = CASES[kind]
    _, after, read = load(kind, tmp_path / "out", **given)
    ok = poses(*[one for one in before.to_pylist() if one["status"] == "ok"])
    assert_same(ok, after, without=without)
    if kind == "trc":  # available joints come back with confidence 1, the others with 0
        for one in after.to_pylist():
            gone = np.isnan(np.array(one["keypoints"])).reshape(one["num_frames"], -1, 2).any(-1)
            assert np.array_equal(one["confidence"], 1.0 - gone.ravel())
    assert report["clips"] == 4
    assert report["people"] == read["people"] == 6
    assert report["frames"] == read["frames"] == 4 * 5 + 3 + 2
    assert report["rejected_left_out"] == {"corrupt": 1}
    assert report["missing_joints"] == read["masked_joints"] == 12
    assert any("12 of 425 joints are not available" in text for text in report["warnings"])
    assert not list(tmp_path.glob(".out*")), "the unfinished folder is still there"


@pytest.mark.parametrize("kind", ["mmpose", "pyskl", "openpose", "trc"])
def test_three_dimensions_come_back_equal(kind, tmp_path, poses, clips, row, assert_same) -> None:
    body = "coco17" if kind == "openpose" else "kinect25"
    before = poses(row("P1_Es1", body, size=3), row("P2_Es1", body, size=3, seed=1))
    export(before, clips("P1_Es1", "P2_Es1"), kind, tmp_path / "out")
    without, _ = CASES[kind]
    _, after, _ = load(kind, tmp_path / "out", rate_hz=29.97)
    assert_same(before, after, without=without)


def test_finediving_arrays_come_back_equal(tmp_path, poses, clips, row, assert_same) -> None:
    rows = [row(f"FINA_World_final_r{n}_{n}", "mpii16", frames=96, seed=n) for n in (1, 2)]
    rows.append(row("01_35", "mpii16", frames=96))
    other = row("01_35", "mpii16", frames=96, person=1)
    report = export(poses(*rows, other), clips("01_35"), "finediving-pose", tmp_path / "out")
    assert (report["people"], report["people_left_out"], report["frames"]) == (3, 1, 288)
    assert (tmp_path / "out" / "FINA_World_final_r1" / "pred_comp_1.npz").is_file()
    with np.load(tmp_path / "out" / "01" / "pred_comp_35.npz", allow_pickle=False) as file:
        assert file.files == ["pred"]
        assert file["pred"].shape == (96, 16, 2)
        assert file["pred"].dtype == np.float32
    _, after, _ = load("finediving-pose", tmp_path / "out", **SIZED)
    assert_same(poses(*rows), after, without=("box", "confidence", "time_s"))


@pytest.mark.parametrize("kind", ["coco", "mmpose", "pyskl"])
def test_facts_of_clips_travel_along(kind, tmp_path, poses, clips, row) -> None:
    table = clips("a", "b")
    export(poses(row("a"), row("b")), table, kind, tmp_path / "out")
    found, _, _ = load(kind, tmp_path / "out")
    columns = ["clip_id", "uri", *FACTS]
    assert found.select(columns).to_pylist() == table.select(columns).to_pylist()


@pytest.mark.parametrize("kind", FORMATS)
def test_one_person_one_frame_without_box_or_size(kind, tmp_path, poses, clips, row, assert_same) -> None:
    one = row("x_1", "mpii16", frames=96 if kind == "finediving-pose" else 1, gaps=False, box=False)
    one |= {"width_px": None, "height_px": None}
    if kind == "openpose":
        one = row("x_1", frames=1, gaps=False, box=False) | {"width_px": None, "height_px": None}
    report = export(poses(one), clips("x_1"), kind, tmp_path / "out")
    assert report["missing_joints"] == 0
    without = {*CASES.get(kind, (("confidence", "time_s"), {}))[0], "time_s"}
    _, after, _ = load(kind, tmp_path / "out", rate_hz=30)
    assert_same(poses(one), after, without=tuple(without))


def test_joints_are_mapped_by_name_when_asked(tmp_path, poses, clips, row) -> None:
    before = row("a", gaps=False)
    report = export(poses(before), clips("a"), "coco", tmp_path / "out", skeleton="mpii16")
    _, after, _ = load("coco", tmp_path / "out")
    found = after.to_pylist()[0]
    assert found["skeleton"] == "mpii16"
    xy = np.array(found["keypoints"], np.float32).reshape(5, 16, 2)
    source = np.array(before["keypoints"], np.float32).reshape(5, 17, 2)
    sure = np.array(found["confidence"], np.float32).reshape(5, 16)
    before_sure = np.array(before["confidence"], np.float32).reshape(5, 17)
    assert np.array_equal(xy[:, 0], source[:, 16])  # right ankle
    assert np.allclose(xy[:, 6], source[:, 11:13].mean(1))  # pelvis, between the hips
    assert np.allclose(sure[:, 6], before_sure[:, 11:13].mean(1))
    assert np.isnan(xy[:, 9]).all()  # the top of the head cannot be derived
    assert (sure[:, 9] == 0).all()
    assert report["missing_joints"] > 0
    with pytest.raises(ConfigError, match=r"unknown skeleton 'body99'\. Choose one of: coco17"):
        export(poses(before), clips("a"), "coco", tmp_path / "other", skeleton="body99")


def test_every_format_says_what_it_cannot_hold(tmp_path, poses, clips, row) -> None:
    for kind, (without, _) in CASES.items():
        report = export(poses(row("a")), clips("a"), kind, tmp_path / kind)
        said = " ".join(report["lost"])
        for column in without:
            assert {"box": "boxes", "time_s": "time stamps", "confidence": "confidence"}[column] in said
    report = export(poses(row("a")), clips("a"), "trc", tmp_path / "flat")
    assert any("pixels, y down, Z = 0; OpenSim expects metres" in text for text in report["warnings"])


def test_wrong_use_is_refused_and_leaves_nothing(tmp_path, poses, clips, row, rejected, monkeypatch) -> None:
    table, names = poses(row("a")), clips("a")
    with pytest.raises(ConfigError, match=r"unknown format of poses\. Did you mean 'coco'"):
        export(table, names, "cocoa", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"unknown format of poses\. Choose one of: coco, mmpose, pyskl"):
        load("???", tmp_path)
    with pytest.raises(ConfigError, match="it exists and is never overwritten"):
        export(table, names, "coco", tmp_path)
    with pytest.raises(DataError, match=r"no poses to export \(1 rejected rows\)"):
        export(poses(rejected("bad")), names, "coco", tmp_path / "out")
    flat = poses(row("a", size=3))
    with pytest.raises(DataError, match=r"COCO holds 2-D pixels, clip a has 3-D m\. Export 3-D"):
        export(flat, names, "coco", tmp_path / "out")
    with pytest.raises(DataError, match=r"clip a has mpii16\. Say --skeleton body25"):
        export(poses(row("a", "mpii16")), names, "openpose", tmp_path / "out")
    for one, reason in (
        (row("a_1", frames=96), r"MPII's 16 joints, clip a_1 has coco17\. Say --skeleton mpii16"),
        (
            row("a_1", "mpii16"),
            r"holds 96 frames, clip a_1 has 5\. Extract the clips with --sampling uniform:96",
        ),
        (row("a", "mpii16", frames=96), "clip a does not end in _ and the number of the dive"),
        (row("a_1", "mpii16", frames=96, size=3), "holds 2-D pixels, clip a_1 has 3-D m"),
    ):
        with pytest.raises(DataError, match=reason):
            export(poses(one), names, "finediving-pose", tmp_path / "out")
    with pytest.raises(DataError, match="makes a file name of 201 characters"):
        export(poses(row("x" * 201)), names, "trc", tmp_path / "out")
    broken = row("a") | {"time_s": [0.0]}
    with pytest.raises(DataError, match=r"a: the row's times, frames and confidences differ in length"):
        export(poses(broken), names, "coco", tmp_path / "out")
    broken = row("a") | {"keypoints": [0.0]}
    with pytest.raises(DataError, match=r"a: the row's keypoints or times do not fill its shape"):
        export(poses(broken), names, "coco", tmp_path / "out")

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(export_poses._WRITERS, "coco", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        export(table, names, "coco", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_the_file_does_not_say_is_asked_for(tmp_path, poses, clips, row) -> None:
    export(poses(row("a")), clips("a"), "openpose", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"the file holds no time stamps\. Give the frames per second"):
        load("openpose", tmp_path / "out")
    with pytest.raises(ConfigError, match="only one is given"):
        load("openpose", tmp_path / "out", rate_hz=30, width=5)
    with pytest.raises(DataError, match="there is no such file or folder"):
        load("trc", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"the file has 17 joints, mpii16 has 16"):
        export(poses(row("a")), clips("a"), "coco", tmp_path / "coco")
        load("coco", tmp_path / "coco", skeleton="mpii16")


def test_the_verb_import_puts_several_people_into_the_store(
    tmp_path: Path, poses, clips, row, assert_same
) -> None:
    before = poses(row("a"), row("a", person=1), row("b"))
    export(before, clips("a", "b"), "coco", tmp_path / "out")
    found, rows, report = data.import_("coco", tmp_path / "out")
    assert report["stats"]["clips"] == 2
    assert any("3 missing" in line or "masked joints" in line for line in data.report_lines(report))
    first = data.put(tmp_path / "store", "coco", found, rows)
    assert (first["new_clips"], first["new_poses"]) == (2, 3)
    assert data.put(tmp_path / "store", "coco", found, rows)["new_poses"] == 0
    store = open_store(tmp_path / "store")
    assert_same(before, store.poses(first["poses"]).read())
    changed = poses(row("a", seed=5), row("a", person=1), row("b"))
    export(changed, clips("a", "b"), "coco", tmp_path / "again")
    found, rows, _ = data.import_("coco", tmp_path / "again")
    data.put(tmp_path / "store", "coco", found, rows)
    assert_same(changed, store.poses(first["poses"]).read())
    with pytest.raises(ConfigError, match=r"says itself what it holds\. Leave out samples, unit"):
        data.import_("coco", tmp_path / "out", samples=tmp_path, unit="px")
    with pytest.raises(ConfigError, match="says itself what it holds"):
        data.import_("manifest", tmp_path, width=5, height=5)


def test_random_float32_survive_as_short_decimals() -> None:
    from pipelines.formats.json_text import short

    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    assert np.array_equal(np.array(short(values)).astype(np.float32), values)

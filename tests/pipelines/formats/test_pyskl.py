from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ConfigError, DataError, SecurityError
from pipelines.formats.export_poses import export_poses
from pipelines.formats.import_poses import import_poses


def annotation(**changes: object) -> dict:
    """As PYSKL's own tools write it: half precision, two people, the second one in one frame only."""
    random = np.random.default_rng(0)
    keypoint = random.uniform(1, 300, (2, 4, 17, 2)).astype(np.float16)
    score = random.uniform(0.1, 1, (2, 4, 17)).astype(np.float16)
    keypoint[1, :3], score[1, :3] = 0, 0
    found = {
        "frame_dir": "S001/A003", "total_frames": 4, "img_shape": (1080, 1920),
        "original_shape": (1080, 1920), "label": 2, "keypoint": keypoint, "keypoint_score": score,
    }  # fmt: skip
    return found | changes


def write(folder: Path, *listed: object, **extra: object) -> Path:
    path = folder / "ntu60_hrnet.pkl"
    path.write_bytes(pickle.dumps({"annotations": list(listed), **extra}))
    return path


def test_the_layout_is_pyskls(tmp_path: Path, poses, clips, row) -> None:
    rows = [row("a"), row("a", person=1, frames=2, first=3), row("b", frames=7)]
    export_poses(poses(*rows), clips("a", "b"), "pyskl", tmp_path / "out")
    with (tmp_path / "out" / "poses.pkl").open("rb") as stream:
        content = pickle.Unpickler(stream).load()  # as PYSKL reads it
    assert content["split"] == {"train": ["a"], "val": [], "test": ["b"]}
    assert content["action_types"] == ["400c", "401c"]
    one, two = content["annotations"]
    assert (one["frame_dir"], one["label"], two["label"]) == ("a", 0, 1)
    assert one["keypoint"].shape == (2, 5, 17, 2)
    assert one["keypoint_score"].shape == (2, 5, 17)
    assert one["keypoint"].dtype == one["keypoint_score"].dtype == np.float32
    assert one["total_frames"] == 5
    assert one["img_shape"] == one["original_shape"] == (1080, 1920)
    assert not one["keypoint"][1, :3].any()
    assert np.isfinite(one["keypoint"]).all()


def test_files_of_strangers_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, annotation(), split={"xsub_train": ["x"], "test": ["S001_A003"]})
    clips, poses, _ = import_poses("pyskl", path, skeleton="coco17", rate_hz=30)
    first, second = poses.to_pylist()
    assert first["clip_id"] == "S001_A003"
    assert (first["width_px"], first["height_px"], first["unit"]) == (1920, 1080, "px")
    assert np.array_equal(first["keypoints"], annotation()["keypoint"][0].ravel().astype(np.float32))
    assert first["time_s"] == [0, 1 / 30, 2 / 30, 3 / 30]
    assert second["frame_index"] == [3]
    assert clips.to_pylist()[0]["action_type"] == "2"
    assert clips.to_pylist()[0]["split"] == "test"


def test_sets_without_scores_are_read_as_metres(tmp_path: Path) -> None:
    keypoint = np.ones((1, 4, 25, 3), np.float32)
    keypoint[0, 2, 5] = 0
    path = write(tmp_path, {"frame_dir": "a", "keypoint": keypoint, "total_frames": 4})
    _, poses, _ = import_poses("pyskl", path, skeleton="kinect25", rate_hz=30)
    one = poses.to_pylist()[0]
    assert (one["unit"], one["num_coordinates"]) == ("m", 3)
    assert sum(one["confidence"]) == 99
    assert np.isnan(one["keypoints"]).sum() == 3


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    for listed, reason in (
        ([], "no list of annotations"),
        ([{}], "annotation 0 has no frame_dir"),
        ([annotation(), annotation()], "annotation 1: the name 'S001_A003' stands twice"),
        ([annotation(keypoint=[1])], "has no keypoint array"),
        ([annotation(keypoint=np.zeros((2, 4, 17, 2), bool))], "keypoint is bool"),
        ([annotation(keypoint=np.zeros((2, 0, 17, 2)))], r"keypoint is float64 \(2, 0, 17, 2\)"),
        ([annotation(keypoint_score=np.zeros((2, 4)))], "does not have one number per joint"),
        ([annotation(total_frames=9)], "total_frames is not the length of its arrays"),
        ([annotation(keypoint=np.zeros((2, 4, 16, 2)), keypoint_score=None)], "has 16 joints, coco17 has 17"),
        ([annotation(aqa={"person": [0, 0]})], "do not fit its arrays"),
        ([annotation(aqa={"person": 5})], "do not fit its arrays"),
        ([annotation(aqa={"time_s": [1.0]})], "do not fit its arrays"),
        ([annotation(aqa={"present": "x"})], "do not fit its arrays"),
        ([annotation(aqa={"unit": "ft"})], "do not fit its arrays"),
        ([annotation(aqa={"frame_index": ["x"] * 4})], "frame numbers do not increase"),
        ([annotation(aqa={"facts": {"split": "all"}})], "the split of a clip is not train, val or test"),
        ([annotation(keypoint=np.zeros((2, 4, 17, 2)), keypoint_score=None)], "no people in it"),
    ):
        with pytest.raises(DataError, match=reason):
            import_poses("pyskl", write(tmp_path, *listed), skeleton="coco17", rate_hz=30)
    with pytest.raises(ConfigError, match="it does not name its joints"):
        import_poses("pyskl", write(tmp_path, annotation()), rate_hz=30)
    with pytest.raises(SecurityError, match="the pickle is refused: it asks for builtins.print"):
        import_poses("pyskl", write(tmp_path, annotation(label=print)), rate_hz=30)


def test_people_of_one_clip_share_a_skeleton(tmp_path: Path, poses, clips, row) -> None:
    table = poses(row("a"), row("a", "mpii16", person=1))
    with pytest.raises(DataError, match="a: its people have different skeletons"):
        export_poses(table, clips("a"), "pyskl", tmp_path / "out")
    assert not (tmp_path / "out").exists()

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.formats.export_poses import export_poses
from pipelines.formats.import_poses import import_poses


@pytest.fixture(autouse=True, scope="module")
def _mmpose() -> None:
    from pipelines.stages.mmpose_compat import install

    install()


def instances(frames: int = 3, people: int = 2) -> list:
    """What a network hands to MMPose: (N, 17, 2) keypoints, scores and boxes per frame."""
    from mmengine.structures import InstanceData

    random = np.random.default_rng(0)
    return [
        InstanceData(
            keypoints=random.uniform(0, 640, (people, 17, 2)),
            keypoint_scores=random.uniform(0.1, 1, (people, 17)).astype(np.float32),
            bboxes=random.uniform(0, 640, (people, 4)).astype(np.float32),
            bbox_scores=np.array([0.9, 0.8][:people], np.float32),
        )
        for _ in range(frames)
    ]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list]:
    """A prediction file of a video, written by MMPose's own inferencer code."""
    from mmpose.apis.inferencers import Pose2DInferencer
    from mmpose.structures import split_instances

    frames = instances()
    inferencer = Pose2DInferencer.__new__(Pose2DInferencer)
    inferencer.video_info = {
        "writer": None, "name": "/videos/dive.mp4", "predictions": [split_instances(one) for one in frames],
    }  # fmt: skip
    inferencer._finalize_video_processing(str(tmp_path))
    return tmp_path / "dive.json", frames


def test_the_file_of_the_inferencer_is_read(written) -> None:
    path, frames = written
    clips, poses, report = import_poses("mmpose", path, skeleton="coco17", rate_hz=25, width=640, height=480)
    one, two = poses.to_pylist()
    assert clips["clip_id"].to_pylist() == ["dive"]
    assert (one["person"], two["person"]) == (0, 1)
    assert one["frame_index"] == [0, 1, 2]
    assert one["time_s"] == [0, 0.04, 0.08]
    wanted = np.stack([frame.keypoints[1] for frame in frames]).astype(np.float32)
    assert np.array_equal(np.array(two["keypoints"], np.float32).reshape(3, 17, 2), wanted)
    wanted = np.stack([frame.bboxes[0] for frame in frames])
    assert np.array_equal(np.array(one["box"], np.float32).reshape(3, 4), wanted)
    assert np.allclose(np.array(one["confidence"]).reshape(3, 17)[2], frames[2].keypoint_scores[0])
    assert (one["width_px"], one["height_px"], one["unit"]) == (640, 480, "px")
    assert any("numbered in the order" in text for text in report["warnings"])


def test_our_file_has_the_keys_of_the_inferencer(written, tmp_path: Path, poses, clips, row) -> None:
    theirs = json.loads(written[0].read_text())[0]
    export_poses(poses(row("a", first=4)), clips("a"), "mmpose", tmp_path / "out")
    ours = json.loads((tmp_path / "out" / "a.json").read_text())
    frame = ours["instance_info"][0]
    assert frame["frame_id"] == 5  # the demo's count from 1
    assert set(theirs) <= set(frame)
    assert set(theirs["instances"][0]) - set(frame["instances"][0]) == {"bbox_score"}
    for key in ("keypoints", "keypoint_scores", "bbox"):
        assert np.shape(theirs["instances"][0][key]) == np.shape(frame["instances"][0][key])
    assert ours["meta_info"]["keypoint_id2name"]["5"] == "left_shoulder"


def test_the_file_of_the_demo_counts_frames_from_1(tmp_path: Path) -> None:
    import mmengine
    import mmpose
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.structures import split_instances

    config = Path(mmpose.__file__).parent / ".mim/configs/_base_/datasets/mpii.py"
    meta = parse_pose_metainfo({"from_file": str(config)})
    listed = [
        {"frame_id": number, "instances": split_instances(one)} for number, one in enumerate(instances(), 1)
    ]
    for frame in listed:
        for one in frame["instances"]:
            one["keypoints"], one["keypoint_scores"] = one["keypoints"][:16], one["keypoint_scores"][:16]
    names = {key: meta[key] for key in ("dataset_name", "keypoint_id2name", "num_keypoints")}
    mmengine.dump({"meta_info": names, "instance_info": listed}, tmp_path / "results_dive.json")
    _, poses, _ = import_poses("mmpose", tmp_path, rate_hz=25)
    one = poses.to_pylist()[0]
    assert one["frame_index"] == [0, 1, 2]
    assert one["skeleton"] == "mpii16"
    assert one["clip_id"] == "results_dive"


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    points = {
        "keypoints": [[1, 2]] * 17,
        "keypoint_scores": [1] * 17,
        "bbox": [[0, 0, 1, 1]],
        "bbox_score": 1,
    }
    (tmp_path / "photo.json").write_text(json.dumps([points]))
    _, poses, _ = import_poses("mmpose", tmp_path, rate_hz=1, skeleton="coco17")
    assert poses["num_frames"].to_pylist() == [1]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    point = {"keypoints": [[1, 2]] * 17, "keypoint_scores": [1] * 17}
    for content, reason in (
        (5, "this is no prediction file of MMPose"),
        ({}, "the file has no 'meta_info'"),
        (
            {"meta_info": {}, "instance_info": [{"frame_id": 0, "instances": [point]}]},
            "do not increase from 0",
        ),
        ([{"frame_id": 0, "instances": 3}], "frame 0 has no 'instances'"),
        ([{"frame_id": 0, "instances": [3]}], "frame 0, instance 0 has no 'keypoints'"),
        ([{"frame_id": 0, "instances": [point | {"keypoints": [[1]]}]}], r"have the shape \(1, 1\)"),
        ([{"frame_id": 0, "instances": [point | {"keypoint_scores": [1]}]}], "is no list of 17 numbers"),
        ([{"frame_id": 0, "instances": [point | {"bbox": [1]}]}], "bbox of frame 0, instance 0 is no list"),
        ([{"frame_id": 0, "instances": []}], "there are no people in it"),
        (
            [{"frame_id": 0, "instances": [point]}, {"frame_id": 1, "instances": [
                {"keypoints": [[1, 2, 3]] * 17, "keypoint_scores": [1] * 17}]}],
            "the number of joints changes between frames",
        ),
    ):  # fmt: skip
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=reason):
            import_poses("mmpose", path, skeleton="coco17", rate_hz=25)
    path.write_text(json.dumps([{"frame_id": 0, "instances": [point]}]))
    with pytest.raises(ConfigError, match=r"it does not name its joints\. Give the skeleton, one of: coco17"):
        import_poses("mmpose", path, rate_hz=25)
    path.unlink()
    with pytest.raises(DataError, match=r"the folder holds no \.json file"):
        import_poses("mmpose", tmp_path)

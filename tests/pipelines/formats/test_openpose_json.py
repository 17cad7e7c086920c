from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aqa_models.skeletons import SKELETONS
from pipelines.errors import DataError
from pipelines.formats.export_poses import export_poses
from pipelines.formats.import_poses import import_poses
from pipelines.formats.joint_names import BODY25, OPENPOSE18, joints_of

# The two orders as OpenPose documents them (doc/02_output.md), in its own words.
_BODY_25 = """Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee
    LAnkle REye LEye REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"""
_COCO = """Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle REye
    LEye REar LEar"""
BODY_25, COCO = _BODY_25.split(), _COCO.split()


def write(folder: Path, frame: int, *people: list, clip: str = "dive", **extra: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{clip}_{frame:012d}_keypoints.json"
    listed = [
        {"person_id": [-1], "pose_keypoints_2d": one, "face_keypoints_2d": []} | extra for one in people
    ]
    path.write_text(json.dumps({"version": 1.3, "people": listed}))
    return path


def in_our_words(name: str) -> str:
    side = {"R": "right_", "L": "left_"}.get(name[0], "") if name[1].isupper() else ""
    plain = name.removeprefix("R" if side == "right_" else "L" if side else "")
    words = {"Neck": "shoulder_center", "MidHip": "pelvis", "BigToe": "big_toe", "SmallToe": "small_toe"}
    return side + words.get(plain, plain.lower())


def test_the_orders_are_openposes() -> None:
    assert [in_our_words(name) for name in BODY_25] == list(BODY25)
    assert [in_our_words(name) for name in COCO] == list(OPENPOSE18)
    assert set(OPENPOSE18) - set(joints_of("coco17")) == {"shoulder_center"}
    if "body25" in SKELETONS:
        assert SKELETONS["body25"].joints == BODY25


def test_files_of_openpose_are_read(tmp_path: Path) -> None:
    """Flat folder, 25 joints, nobody in one frame, two people in another, joints that were not found."""
    table = np.arange(75, dtype=float).reshape(25, 3)
    table[:, 2] = 0.5
    table[3] = 0
    write(tmp_path, 4, table.ravel().tolist())
    write(tmp_path, 5)
    write(tmp_path, 6, table.ravel().tolist(), (table + np.array([1, 1, 0])).ravel().tolist())
    (tmp_path / "other.json").write_text("not mine")
    _, poses, report = import_poses("openpose", tmp_path, rate_hz=10)
    one, two = poses.to_pylist()
    assert one["skeleton"] == "body25"
    assert one["frame_index"] == [4, 6]
    assert one["time_s"] == [0.4, 0.6]
    assert two["frame_index"] == [6]
    xy = np.array(one["keypoints"]).reshape(2, 25, 2)
    assert np.isnan(xy[:, 3]).all()
    assert xy[0, 24].tolist() == [72, 73]
    assert one["confidence"][3] == 0
    assert one["confidence"][4] == 0.5
    assert any("numbered in the order" in text for text in report["warnings"])


def test_the_order_coco_is_written_with_a_neck(tmp_path: Path, poses, clips, row) -> None:
    one = row("a", frames=2)
    export_poses(poses(one), clips("a"), "openpose", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "a" / "a_000000000000_keypoints.json").read_text())
    table = np.array(content["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
    xy = np.array(one["keypoints"]).reshape(2, 17, 2)[0]
    assert np.allclose(table[1, :2], (xy[5] + xy[6]) / 2)
    assert np.allclose(table[COCO.index("RWrist"), :2], xy[10])
    assert content["people"][0]["person_id"] == [0]


@pytest.mark.skipif("body25" not in SKELETONS, reason="there is no skeleton body25 to map to")
def test_coco_is_mapped_to_body25_and_read_back(tmp_path: Path, poses, clips, row) -> None:
    one = row("a", gaps=False)
    export_poses(poses(one), clips("a"), "openpose", tmp_path / "out", skeleton="body25")
    _, found, _ = import_poses("openpose", tmp_path / "out", rate_hz=10)
    after = found.to_pylist()[0]
    assert after["skeleton"] == "body25"
    xy = np.array(after["keypoints"], np.float32).reshape(5, 25, 2)
    before = np.array(one["keypoints"], np.float32).reshape(5, 17, 2)
    assert np.array_equal(xy[:, BODY_25.index("RWrist")], before[:, 10])
    assert np.array_equal(xy[:, BODY_25.index("LAnkle")], before[:, 15])
    assert np.allclose(xy[:, BODY_25.index("Neck")], before[:, 5:7].mean(1))
    assert np.allclose(xy[:, BODY_25.index("MidHip")], before[:, 11:13].mean(1))
    assert np.isnan(xy[:, 19:]).all()  # COCO has no feet


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    good = [1.0] * 75
    for number, (points, reason) in enumerate(
        (
            ([1.0] * 74, "person 0 has 74 numbers, no multiple of 3"),
            ([1.0] * 60, "a person has 20 joints, not the 25 of BODY_25 or the 18 of COCO"),
            (["1"] * 75, "keypoints of person 0 is no list"),
            ([], "person 0 has 0 numbers"),
        )
    ):
        folder = tmp_path / str(number)
        write(folder, 1, points)
        with pytest.raises(DataError, match=reason):
            import_poses("openpose", folder, rate_hz=10)
    folder = tmp_path / "twice"
    write(folder, 1, good)
    write(folder / "sub", 1, good)
    with pytest.raises(DataError, match="the same frame of this clip is in"):
        import_poses("openpose", folder, rate_hz=10)
    folder = tmp_path / "named"
    write(folder, 1, good).rename(folder / "dive_1_keypoints.json")
    with pytest.raises(DataError, match="the name is not CLIP_ and 12 digits"):
        import_poses("openpose", folder, rate_hz=10)
    folder = tmp_path / "path"
    write(folder, 1, good, clip="..%2Fa")
    with pytest.raises(DataError, match="the file name is no name of a clip"):
        import_poses("openpose", folder, rate_hz=10)
    folder = tmp_path / "changes"
    write(folder, 1, good)
    write(folder, 2, [1.0] * 54)
    with pytest.raises(DataError, match="the number of joints changes between frames"):
        import_poses("openpose", folder, rate_hz=10)
    folder = tmp_path / "double"
    write(folder, 1, good, good, person_id=[3])
    with pytest.raises(DataError, match="person 3: the frame numbers do not increase"):
        import_poses("openpose", folder, rate_hz=10)
    folder = tmp_path / "nobody"
    write(folder, 1)
    with pytest.raises(DataError, match="there are no people in it"):
        import_poses("openpose", folder, rate_hz=10)
    with pytest.raises(DataError, match="this is no folder"):
        import_poses("openpose", folder / "dive_000000000001_keypoints.json", rate_hz=10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \*_keypoints\.json"):
        import_poses("openpose", tmp_path / "empty", rate_hz=10)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aqa_models.skeletons import skeleton
from pipelines.errors import ConfigError, DataError
from pipelines.formats.export_poses import export_poses
from pipelines.formats.import_poses import import_poses

POINTS = [10.5, 20.0, 2] * 16 + [0, 0, 0]


def stranger(folder: Path, **changes: object) -> Path:
    """Annotations as other programs write them: no videos, no times, no scores."""
    content: dict = {
        "images": [
            {"id": 7, "file_name": "dive/000012.jpg", "width": 640, "height": 480},
            {"id": 3, "file_name": "dive/000010.jpg", "width": 640, "height": 480},
            {"id": 9, "file_name": "000000397133.jpg", "width": 32, "height": 24},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "keypoints": POINTS, "bbox": [1, 2, 30, 40.5]},
            {"id": 2, "image_id": 3, "category_id": 1, "keypoints": POINTS, "bbox": [5, 6, 7, 8]},
            {"id": 3, "image_id": 3, "category_id": 1, "keypoints": POINTS, "bbox": [0, 0, 1, 1]},
            {"id": 4, "image_id": 9, "category_id": 1, "keypoints": POINTS},
            {"id": 5, "image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]},
            {"id": 6, "image_id": 9, "category_id": 1, "iscrowd": 1, "keypoints": POINTS},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton("coco17").joints)}],
    }
    path = folder / "person_keypoints.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_pycocotools_loads_it(tmp_path: Path, poses, clips, row) -> None:
    from pycocotools.coco import COCO

    rows = [row("a", first=10), row("a", person=1, frames=3, first=10, box=False), row("b", seed=1)]
    export_poses(poses(*rows), clips("a", "b"), "coco", tmp_path / "out")
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(coco.getImgIds()) == 10
    assert len(coco.getAnnIds()) == 13
    category = coco.loadCats(coco.getCatIds())[0]
    assert category["keypoints"] == list(skeleton("coco17").joints)
    assert all(1 <= end <= 17 for bone in category["skeleton"] for end in bone)
    image = coco.loadImgs(coco.getImgIds()[1])[0]
    assert image["file_name"] == "a/00000011.jpg"
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
    xy = np.array(rows[0]["keypoints"], np.float32).reshape(5, 17, 2)[1]
    table = np.array(first["keypoints"]).reshape(17, 3)
    assert table[2].tolist() == [0, 0, 0]
    assert np.array_equal(np.delete(table[:, :2], 2, 0).astype(np.float32), np.delete(xy, 2, 0))
    assert first["num_keypoints"] == 16 == (table[:, 2] == 2).sum()
    x1, y1, x2, y2 = rows[0]["box"][4:8]
    assert np.allclose(first["bbox"], [x1, y1, x2 - x1, y2 - y1])
    assert first["area"] == pytest.approx((x2 - x1) * (y2 - y1))
    points = np.array(rows[1]["keypoints"], np.float32).reshape(3, 17, 2)[1]
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    assert np.allclose(second["bbox"], [*low, *(high - low)])
    assert second["bbox_from"] == "joints"


def test_pycocotools_scores_it_as_its_own_truth(tmp_path: Path, poses, clips, row) -> None:
    """The exported file as truth and as result: every person is found, so AP is 1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    export_poses(poses(row("a"), row("b", seed=3)), clips("a", "b"), "coco", tmp_path / "out")
    truth = COCO(str(tmp_path / "out" / "annotations.json"))
    keys = ("image_id", "category_id", "keypoints", "score")
    results = [{key: note[key] for key in keys} for note in truth.dataset["annotations"]]
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_files_of_strangers_are_read(tmp_path: Path) -> None:
    clips, poses, report = import_poses("coco", stranger(tmp_path), rate_hz=10)
    rows = {(row["clip_id"], row["person"]): row for row in poses.to_pylist()}
    assert set(rows) == {("dive", 0), ("dive", 1), ("000000397133", 0)}
    dive = rows["dive", 0]
    assert dive["frame_index"] == [10, 12]
    assert dive["time_s"] == [1.0, 1.2]
    assert dive["box"] == [5, 6, 12, 14, 1, 2, 31, 42.5]
    assert (dive["width_px"], dive["height_px"], dive["skeleton"]) == (640, 480, "coco17")
    assert dive["confidence"][:17] == [1] * 16 + [0]
    assert np.isnan(dive["keypoints"][32:34]).all()
    assert rows["dive", 1]["frame_index"] == [10]
    assert len(clips) == 2
    assert any("the people of a frame carry no names" in text for text in report["warnings"])
    assert len(dive["source_sha256"]) == 64


def test_numbers_of_a_tracker_keep_people_apart(tmp_path: Path) -> None:
    path = stranger(tmp_path)
    content = json.loads(path.read_text())
    for note, track in zip(content["annotations"], (88, 41, 88, 1, 1, 1), strict=True):
        note["track_id"] = track
    path.write_text(json.dumps(content))
    _, poses, report = import_poses("coco", path, rate_hz=10)
    rows = {(row["clip_id"], row["person"]): row["frame_index"] for row in poses.to_pylist()}
    assert rows["dive", 0] == [10]  # track 41, seen first
    assert rows["dive", 1] == [10, 12]
    assert not report["warnings"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a_1.jpg"}
    note = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": POINTS}
    with pytest.raises(ConfigError, match="the file holds no time stamps"):
        import_poses("coco", stranger(tmp_path))
    for changes, reason in (
        ({"images": None}, "the file has no 'images' of the expected type"),
        ({"images": [{"id": "1"}]}, "an entry has no 'id' of the expected type"),
        ({"images": [image, image]}, "two images have the same id"),
        ({"images": [{"id": 1}]}, "an image has no 'file_name'"),
        ({"annotations": [note | {"image_id": 99}]}, "annotation 1 names an unknown image or category"),
        ({"images": [image], "annotations": [note | {"keypoints": [1, 2]}]}, "is no list of 51 numbers"),
        ({"images": [image], "annotations": [note | {"bbox": "x"}]}, "bbox of annotation 1 is no list of 4"),
        ({"images": [image], "annotations": [note | {"person": 0}] * 2}, "frame numbers do not increase"),
        ({"annotations": []}, "there are no people in it"),
        ({"categories": [{"id": 1, "keypoints": ["a", "b"]}]}, "its 2 joints have unknown names or order"),
    ):
        error = ConfigError if "categories" in changes else DataError
        with pytest.raises(error, match=reason):
            import_poses("coco", stranger(tmp_path, **changes), rate_hz=10)
    video = {"id": 5, "name": "a", "score": "high"}
    framed = image | {"video_id": 5, "frame_id": 0}
    with pytest.raises(DataError, match="'score' of a clip is no number"):
        changes = {"videos": [video], "images": [framed], "annotations": [note]}
        import_poses("coco", stranger(tmp_path, **changes), rate_hz=10)
    video = {"id": 5, "name": "../a"}
    with pytest.raises(DataError, match=r"'\.\./a' is no name of a clip"):
        changes = {"videos": [video], "images": [framed], "annotations": [note]}
        import_poses("coco", stranger(tmp_path, **changes), rate_hz=10)


def test_a_category_without_names_takes_the_given_skeleton(tmp_path: Path) -> None:
    path = stranger(tmp_path, categories=[{"id": 1, "name": "person"}])
    _, poses, _ = import_poses("coco", path, rate_hz=10, skeleton="coco17")
    assert set(poses["skeleton"].to_pylist()) == {"coco17"}
    with pytest.raises(ConfigError, match="it does not name its joints"):
        import_poses("coco", path, rate_hz=10)

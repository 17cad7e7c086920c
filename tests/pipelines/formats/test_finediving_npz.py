from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.formats.import_poses import import_poses


def write(root: Path, pred: np.ndarray, name: str = "pred_comp_35.npz", key: str = "pred") -> Path:
    folder = root / "FINAWorldChampionships2019_Men10m_final_r1"
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **{key: pred})
    return root


def test_arrays_as_published_are_read(tmp_path: Path) -> None:
    """Flat, double precision, with and without confidence."""
    random = np.random.default_rng(0)
    pred = random.uniform(0, 455, (96, 16, 3))
    pred[..., 2] = 0.25
    write(tmp_path, pred.reshape(96, 48))
    write(tmp_path, pred[..., :2], "pred_comp_4.npz")
    _, poses, report = import_poses("finediving-pose", tmp_path, rate_hz=25, width=455, height=256)
    rows = {row["clip_id"]: row for row in poses.to_pylist()}
    base = "FINAWorldChampionships2019_Men10m_final_r1"
    assert set(rows) == {f"{base}_35", f"{base}_4"}
    one, two = rows[f"{base}_35"], rows[f"{base}_4"]
    assert np.array_equal(one["keypoints"], pred[..., :2].astype(np.float32).ravel())
    assert one["keypoints"] == two["keypoints"]
    assert set(one["confidence"]) == {0.25}
    assert set(two["confidence"]) == {1}
    assert (one["skeleton"], one["unit"], one["width_px"], one["height_px"]) == ("mpii16", "px", 455, 256)
    assert report["warnings"][0] == "arrays with confidence as third number: 1"


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    for number, (root, reason) in enumerate(
        (
            (lambda root: write(root, np.zeros((95, 16, 2))), "expected floats of 96 x 16 x 2"),
            (lambda root: write(root, np.zeros((96, 16, 2), int)), "pred is int64"),
            (lambda root: write(root, np.zeros((96, 16, 2)), key="poses"), "there is no array pred"),
            (
                lambda root: write(root, np.zeros((96, 16, 2)), "pred_comp_x.npz"),
                "the name is not pred_comp_",
            ),
            (lambda root: root, "holds 0 files named COMPETITION/pred_comp_INDEX.npz"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(DataError, match=reason):
            import_poses("finediving-pose", root(folder), rate_hz=25)
    write(tmp_path, np.zeros((96, 16, 2)))
    with pytest.raises(ConfigError, match="the file holds no time stamps"):
        import_poses("finediving-pose", tmp_path)
    with pytest.raises(DataError, match=r"has MPII's 16 joints\. Leave the skeleton out"):
        import_poses("finediving-pose", tmp_path, skeleton="coco17", rate_hz=25)

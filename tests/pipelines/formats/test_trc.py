from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aqa_models.skeletons import skeleton
from pipelines.errors import ConfigError, DataError, SecurityError
from pipelines.formats import trc
from pipelines.formats.export_poses import export_poses
from pipelines.formats.import_poses import import_poses

JOINTS = skeleton("c15").joints


def stranger(
    folder: Path, unit: str = "mm", names: tuple[str, ...] = JOINTS, rows: list[str] | None = None
) -> Path:
    """A file as motion capture programs write it: CRLF, trailing tabs, a gap at the end of a row."""
    count = len(names)
    body = rows or [
        "\t".join(
            [
                str(frame),
                f"{frame / 100:.3f}",
                *(f"{1000.5 * marker + frame:.3f}" for marker in range(3 * count)),
            ]
        )
        for frame in (1, 2, 3)
    ]
    text = [
        "PathFileType\t4\t(X/Y/Z)\twalk.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"100.00\t100.00\t3\t{count}\t{unit}\t100.00\t1\t3",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t\t",
        "\t\t" + "\t".join(f"{axis}{number + 1}" for number in range(count) for axis in "XYZ") + "\t",
        "",
        *body,
    ]
    path = folder / "walk.trc"
    path.write_bytes("\r\n".join(text).encode() + b"\r\n")
    return path


def test_the_layout_is_opensims(tmp_path: Path, poses, clips, row) -> None:
    """Read by pandas, which knows nothing of our reader."""
    one = row("a", "kinect25", size=3, first=9)
    export_poses(poses(one), clips("a"), "trc", tmp_path / "out")
    path = tmp_path / "out" / "a.trc"
    lines = path.read_text().split("\n")
    assert lines[0] == "PathFileType\t4\t(X/Y/Z)\ta.trc"
    head = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True))
    assert head["Units"] == "m"
    assert (head["NumFrames"], head["NumMarkers"], head["OrigDataStartFrame"]) == ("5", "25", "10")
    assert float(head["DataRate"]) == pytest.approx(29.97)
    assert lines[3].split("\t")[:2] == ["Frame#", "Time"]
    assert lines[3].split("\t")[2::3] == list(skeleton("kinect25").joints)
    assert lines[4].split("\t")[2:6] == ["X1", "Y1", "Z1", "X2"]
    assert lines[5] == ""
    table = pd.read_csv(path, sep="\t", skiprows=6, header=None)
    assert table.shape == (5, 2 + 75)
    assert table[0].tolist() == [10, 11, 12, 13, 14]
    wanted = np.array(one["keypoints"], np.float32).reshape(5, 75)
    assert np.array_equal(table.to_numpy()[:, 2:].astype(np.float32), wanted, equal_nan=True)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1000), ("cm", 100), ("m", 1)])
def test_lengths_become_metres(tmp_path: Path, unit: str, factor: float) -> None:
    _, poses, _ = import_poses("trc", stranger(tmp_path, unit))
    one = poses.to_pylist()[0]
    assert (one["clip_id"], one["skeleton"], one["unit"], one["num_coordinates"]) == ("walk", "c15", "m", 3)
    assert one["frame_index"] == [0, 1, 2]
    assert one["time_s"] == [0.01, 0.02, 0.03]
    xyz = np.array(one["keypoints"]).reshape(3, 15, 3)
    assert xyz[1, 1] * factor == pytest.approx([3003.5, 4004, 5004.5], rel=1e-6)


def test_markers_in_another_order_are_sorted_by_name(tmp_path: Path) -> None:
    path = stranger(tmp_path, names=("extra", *JOINTS[::-1]))
    with pytest.raises(ConfigError, match="its 16 joints have unknown names or order"):
        import_poses("trc", path)
    _, poses, _ = import_poses("trc", path, skeleton="c15")
    xyz = np.array(poses.to_pylist()[0]["keypoints"]).reshape(3, 15, 3)
    assert xyz[0, 0] * 1000 == pytest.approx([1 + 1000.5 * 45, 1 + 1000.5 * 46, 1 + 1000.5 * 47])
    with pytest.raises(DataError, match="there is no marker head_top for mpii16|there is no marker"):
        import_poses("trc", path, skeleton="mpii16")


def test_empty_cells_are_missing_joints(tmp_path: Path) -> None:
    rows = ["1\t0\t" + "\t".join(["1"] * 3 + [""] * 3 + ["1"] * 36), "2\t0.01\t1\t2\t3"]
    _, poses, report = import_poses("trc", stranger(tmp_path, rows=rows))
    gone = np.isnan(np.array(poses.to_pylist()[0]["keypoints"])).reshape(2, 15, 3).all(-1)
    assert np.flatnonzero(gone[0]).tolist() == [1, 14]
    assert gone[1].sum() == 14
    assert report["masked_joints"] == 16


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in (
        (lambda: stranger(tmp_path, "inch"), "line 3: the unit is 'inch', not m, cm, mm or px"),
        (
            lambda: stranger(tmp_path, rows=["1\t0\t1,5\t2\t3"]),
            r"line 7: '1,5' is no number\. Use a decimal point",
        ),
        (lambda: stranger(tmp_path, rows=["x"]), "line 7: 'x' is no number"),
        (lambda: stranger(tmp_path, rows=["1.5\t0"]), "a frame has no whole number or no time"),
        (lambda: stranger(tmp_path, rows=["1\t"]), "a frame has no whole number or no time"),
        (lambda: stranger(tmp_path, rows=["2\t0", "1\t1"]), "frame numbers do not increase"),
        (lambda: stranger(tmp_path, rows=["1e300\t0"]), "a frame number is out of range"),
        (lambda: stranger(tmp_path, rows=[""]), "no frames below the header"),
        (lambda: stranger(tmp_path, names=("a", "a")), "2 markers are named, NumMarkers says otherwise"),
    ):
        with pytest.raises(DataError, match=reason):
            import_poses("trc", path())
    (tmp_path / "walk.trc").write_text("hello")
    with pytest.raises(DataError, match="this is no TRC file: the header is absent"):
        import_poses("trc", tmp_path)
    (tmp_path / "walk.trc").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="this is no text"):
        import_poses("trc", tmp_path)
    (tmp_path / "walk.trc").unlink()
    with pytest.raises(DataError, match=r"holds 0 \.trc files"):
        import_poses("trc", tmp_path)
    monkeypatch.setattr(trc, "MAX_NUMBERS", 100)
    with pytest.raises(SecurityError, match="3 frames of 15 markers are more than 100 numbers"):
        import_poses("trc", stranger(tmp_path))

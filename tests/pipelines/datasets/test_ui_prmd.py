"""UI-PRMD: forward kinematics with answers known by hand and from SciPy, and the files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipelines.datasets.ui_prmd import CHAINS, forward_kinematics, read_ui_prmd
from pipelines.errors import DataError


def chain() -> tuple[np.ndarray, np.ndarray]:
    """One frame: the waist at (1, 2, 3), every other joint one unit above its parent, no rotation."""
    offsets = np.zeros((1, 22, 3))
    offsets[0, :, 1] = 1
    offsets[0, 0] = [1, 2, 3]
    return offsets, np.zeros((1, 22, 3))


def test_without_rotation_offsets_add_up():
    positions = forward_kinematics(*chain())[0]
    assert positions[:6, 1].tolist() == [2, 3, 4, 5, 6, 7]
    assert positions[[6, 9, 10, 13], 1].tolist() == [5, 8, 5, 8]  # arms hang on the chest
    assert positions[[14, 17, 18, 21], 1].tolist() == [3, 6, 3, 6]  # legs hang on the waist
    assert (positions[:, [0, 2]] == [1, 3]).all()


def test_a_bent_elbow_moves_the_hand_alone():
    """90 degrees about z at joint 8, the left elbow: what was up (y) goes to -x."""
    offsets, angles = chain()
    angles[0, 8, 2] = 90
    moved = forward_kinematics(offsets, angles)[0] - forward_kinematics(*chain())[0]
    np.testing.assert_allclose(moved[9], [-1, -1, 0], atol=1e-12)
    assert np.abs(np.delete(moved, 9, axis=0)).max() < 1e-12


def test_a_turned_waist_turns_spine_and_legs():
    """90 degrees about x at the waist: up (y) goes to z, for all joints further along spine and legs."""
    offsets, angles = chain()
    angles[0, 0, 0] = 90
    positions = forward_kinematics(offsets, angles)[0]
    np.testing.assert_allclose(positions[5], [1, 2, 8], atol=1e-12)
    np.testing.assert_allclose(positions[17], [1, 2, 7], atol=1e-12)
    # The arms begin at the chest, with the chest's own rotation, which is none.
    np.testing.assert_allclose(positions[9], positions[2] + [0, 4, 0], atol=1e-12)


def test_random_chains_agree_with_scipy():
    generator = np.random.default_rng(0)
    offsets, angles = generator.normal(size=(4, 22, 3)), generator.uniform(-180, 180, (4, 22, 3))
    positions = forward_kinematics(offsets, angles)
    for frame in range(4):
        for chain_ in CHAINS:
            turn, at = Rotation.identity(), positions[frame, chain_[0]]
            for parent, joint in itertools.pairwise(chain_):
                turn = turn * Rotation.from_euler("ZYX", angles[frame, parent][::-1], degrees=True)
                at = at + turn.apply(offsets[frame, joint])
                np.testing.assert_allclose(positions[frame, joint], at, atol=1e-9)


def put(folder: Path, name: str, frames: int = 3, kind: str = "", offsets=None, leg: float = 45.0) -> None:
    values = np.tile(chain()[0], (frames, 1, 1)) if offsets is None else offsets
    values[:, [15, 16]] = [0, -leg, 0]
    for what, rows in (("positions", values), ("angles", np.zeros_like(values))):
        place = folder / "Kinect" / what.capitalize()
        place.mkdir(parents=True, exist_ok=True)
        text = "\n".join(",".join(f"{x:.4f}" for x in row.ravel()) for row in rows)
        (place / f"{name}_{what}{kind}.txt").write_text(text + "\n")


def test_import_reads_both_halves_of_the_set(tmp_path: Path):
    put(tmp_path / "Segmented Movements", "m01_s01_e01")
    put(tmp_path / "Incorrect Segmented Movements", "m01_s01_e01", kind="_inc")
    vicon = tmp_path / "Segmented Movements" / "Vicon" / "Positions"
    vicon.mkdir(parents=True)
    (vicon / "m01_s01_e01_positions.txt").write_text("1\n")
    clips, poses, report = read_ui_prmd(tmp_path)
    assert clips["clip_id"].to_pylist() == ["m01_s01_e01", "m01_s01_e01_inc"]
    assert clips["group"].to_pylist() == ["correct", "incorrect"]
    assert clips["subject_id"].to_pylist() == ["s01", "s01"]
    xyz = np.reshape(poses["keypoints"][0].as_py(), (3, 22, 3))
    np.testing.assert_allclose(xyz[0, 0], [0.01, 0.02, 0.03], atol=1e-6)  # a leg of 90: centimetres
    assert poses["time_s"][0].as_py() == [0, 1 / 30, 2 / 30]
    assert report["warnings"] == ["of another sensor than the Kinect, left out: m01_s01_e01_positions.txt"]


def test_broken_repetitions_are_rejected_by_name(tmp_path: Path):
    put(tmp_path, "m01_s01_e01")
    for episode, _ in enumerate(range(5), start=2):
        put(tmp_path, f"m01_s01_e0{episode}", leg=7 if episode == 6 else 45)
    angles = tmp_path / "Kinect" / "Angles"
    (angles / "m01_s01_e02_angles.txt").unlink()
    (angles / "m01_s01_e03_angles.txt").write_text("1,2\n")
    (angles / "m01_s01_e04_angles.txt").write_text("x\n")
    (angles / "m01_s01_e05_angles.txt").write_text((",".join(["0"] * 66) + "\n") * 2)
    messages = [item["message"] for item in read_ui_prmd(tmp_path)[2]["rejected"]]
    assert messages == [
        "the file does not exist",
        "m01_s01_e03_angles.txt line 1 holds 2 numbers, expected 22 joints x 3",
        "m01_s01_e04_angles.txt line 1 holds 'x', no numbers",
        "3 frames of positions, 2 of angles",
        "a leg is 14 long, neither in m nor in cm nor in mm",
    ]
    with pytest.raises(DataError, match="no recording found"):
        read_ui_prmd(tmp_path / "Kinect" / "Angles")

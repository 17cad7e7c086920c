"""UWA3D: made-up bodies in MATLAB 7.3 files; the order of the joints is found by geometry or refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.datasets.uwa3d import ORDERS, joint_order, read_uwa3d
from pipelines.errors import DataError, SecurityError

# Canonical order: head, neck, torso, left arm, right arm, left leg, right leg.
LENGTHS = {
    3: 0.18,
    4: 0.28,
    5: 0.25,
    6: 0.18,
    7: 0.28,
    8: 0.25,
    9: 0.15,
    10: 0.42,
    11: 0.4,
    12: 0.15,
    13: 0.42,
    14: 0.4,
}
PARENTS = {0: 1, 3: 1, 4: 3, 5: 4, 6: 1, 7: 6, 8: 7, 9: 2, 10: 9, 11: 10, 12: 2, 13: 12, 14: 13}
REST = {3: (-1, -0.2, 0), 6: (1, -0.2, 0), 9: (-0.6, -1, 0), 12: (0.6, -1, 0), 0: (0, 1, 0)}


def moving_body(frames: int = 40, seed: int = 0) -> np.ndarray:
    """(T, 15, 3) in metres: rigid bones that swing about their rest position."""
    generator = np.random.default_rng(seed)
    phase = generator.uniform(0, 6, (15, 3))
    time = np.arange(frames)[:, None] / 6
    xyz = np.zeros((frames, 15, 3))
    xyz[:, 2] = [0, 1.2, 3]
    xyz[:, 1] = xyz[:, 2] + [0, 0.35, 0]
    for joint in (0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14):
        swing = 0.7 * np.sin(time * generator.uniform(0.5, 2) + phase[joint])
        way = np.array(REST.get(joint, (0, -1, 0))) + swing
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        xyz[:, joint] = xyz[:, PARENTS[joint]] + LENGTHS.get(joint, 0.25) * way
    return xyz + generator.normal(0, 0.005, xyz.shape)


def in_order(xyz: np.ndarray, name: str) -> np.ndarray:
    stored = np.empty_like(xyz)
    stored[:, ORDERS[name]] = xyz
    return stored


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["A"] = array


@pytest.mark.parametrize("name", list(ORDERS))
def test_the_order_is_found_by_the_length_of_bones(name: str):
    assert sorted(ORDERS[name]) == list(range(15))
    assert joint_order([in_order(moving_body(seed=seed), name) for seed in range(3)], Path("x")) == name


def test_bodies_in_no_known_order_are_refused():
    bodies = [moving_body(seed=seed) for seed in range(3)]
    shuffled = [body[:, np.random.default_rng(5).permutation(15)] for body in bodies]
    with pytest.raises(
        DataError, match="the joints are in no order known here; bones would change their length by limb"
    ):
        joint_order(shuffled, Path("x"))
    with pytest.raises(
        DataError, match="in the order limb by limb the body does not stand upright along y: head, "
    ):
        joint_order([body * [1, -1, 1] for body in bodies], Path("x"))
    still = [np.repeat(body[:1], 9, axis=0) for body in bodies]
    with pytest.raises(DataError, match="in no order known here"):  # nothing moves: every order fits
        joint_order(still, Path("x"))


def test_import_in_millimetres_with_a_broken_file(tmp_path: Path):
    folder = tmp_path / "ActionsSkeleton"
    first, second = moving_body(seed=1), moving_body(30, seed=2)
    put(folder / "a01_s02_e01_v01.mat", 1000 * in_order(first, "NiTE").reshape(40, 45))
    put(folder / "a30_s02_e02_v04.mat", 1000 * in_order(second, "NiTE"))
    put(folder / "a02_s01_e01_v02.mat", np.zeros((40, 44)))
    (folder / "a03_s01_e01_v02.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    clips, poses, report = read_uwa3d(tmp_path)
    assert report["joint_order"] == "NiTE"
    assert clips["action_type"].to_pylist() == ["a01", "a02", "a03", "a30"]
    assert clips["group"].to_pylist()[-1] == "view_4"
    np.testing.assert_allclose(poses["keypoints"][0].as_py(), first.ravel(), atol=1e-6)
    np.testing.assert_allclose(poses["keypoints"][3].as_py(), second.ravel(), atol=1e-6)
    assert poses["decoder_note"][0].as_py() == "nominal 30 Hz; joint order NiTE"
    messages = [item["message"] for item in report["rejected"]]
    assert messages[0] == "the array A has shape (40, 44), expected (frames, 45) or (frames, 15, 3)"
    assert messages[1].startswith("it is no readable MATLAB 7.3 file")


def test_arrays_of_other_files_are_refused(tmp_path: Path):
    put(tmp_path / "secret.h5", moving_body())
    with h5py.File(tmp_path / "a01_s01_e01_v01.mat", "w") as file:
        file["A"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "A")
    with h5py.File(tmp_path / "a01_s01_e01_v02.mat", "w") as file:
        file.create_dataset("A", (2, 45), "f8", external=[(str(tmp_path / "secret.h5"), 0, 720)])
    with h5py.File(tmp_path / "a01_s01_e01_v03.mat", "w") as file:
        file.create_dataset("A", (2**22, 45), "f8", chunks=(2**10, 45))  # 1.5 GB that nobody wrote
    put(tmp_path / "a01_s01_e01_v04.mat", moving_body())
    messages = [item["message"] for item in read_uwa3d(tmp_path)[2]["rejected"]]
    assert messages[0] == "it holds no array 'A' of its own"
    assert messages[1] == "the array 'A' lies in other files"
    assert messages[2] == "float64 (4194304, 45) is no array of numbers, or too large"


def test_what_is_no_data_set_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no recording found"):
        read_uwa3d(tmp_path)
    put(tmp_path / "a01_s01_e01_v01.mat", 7 * moving_body())
    with pytest.raises(DataError, match="a leg is 5.* long, neither in metres nor in millimetres"):
        read_uwa3d(tmp_path)
    (tmp_path / "a01_s01_e01_v01.mat").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(SecurityError, match="pickle files are not read"):
        read_uwa3d(tmp_path)

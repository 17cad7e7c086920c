"""UI-PRMD: repetitions of ten rehabilitation movements by healthy people, done well and badly on purpose.

    Segmented Movements/Kinect/Positions/m01_s01_e01_positions.txt          rows of 66 numbers
    Segmented Movements/Kinect/Angles/m01_s01_e01_angles.txt                the same, degrees
    Incorrect Segmented Movements/Kinect/.../m01_s01_e01_positions_inc.txt

Vakanski et al., "A data set of human body movements for physical rehabilitation exercises", Data 3(2), 2018.
Positions of the 22 joints are offsets from the parent joint in the parent's own axes, except the first, the
waist; angles are ZYX Euler angles in degrees. `forward_kinematics` puts them together as the scripts that
are passed around with the set do: the spine is a chain of rotations, but each arm begins anew at the chest's
own rotation, each leg at the waist's. Not compared with real files yet. The unit (m, cm or mm) is told by the
length of the leg; no time stamps: 30 Hz.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.csv_text import decode
from pipelines.datasets.problems import first_names, shorten
from pipelines.datasets.recordings import Recordings, check_folder
from pipelines.datasets.source_file import read_source, sha256_of
from pipelines.errors import DataError

RATE_HZ = 30.0
JOINTS = 22
SKELETON = "uiprmd22"
# Chains of joints; a joint is moved by the product of the rotations of those before it in its chain.
CHAINS = (
    (0, 1, 2, 3, 4, 5),
    (2, 6, 7, 8, 9),
    (2, 10, 11, 12, 13),
    (0, 14, 15, 16, 17),
    (0, 18, 19, 20, 21),
)
_SHANK = (15, 16)  # offsets of the left knee and ankle: as long as thigh and shank
MAX_BYTES = 16 * 2**20
_NAME = re.compile(r"(m\d{2})_(s\d{2})_e\d{2}_positions(_inc)?\.txt")
_LAYOUT = "the folder of the published files, with .../Kinect/Positions and .../Kinect/Angles"


def forward_kinematics(offsets: np.ndarray, angles_deg: np.ndarray) -> np.ndarray:
    """Positions of all joints in the camera frame.

    Args:
        offsets: (T, 22, 3) offset of each joint from its parent; of joint 0 the position.
        angles_deg: (T, 22, 3) rotations about x, y, z in degrees, applied in this order (R = Rz Ry Rx).

    Returns:
        (T, 22, 3), the unit of the offsets.
    """
    x, y, z = np.moveaxis(np.deg2rad(angles_deg), -1, 0)
    zero, one = np.zeros_like(x), np.ones_like(x)
    about_x = _matrices([one, zero, zero], [zero, np.cos(x), -np.sin(x)], [zero, np.sin(x), np.cos(x)])
    about_y = _matrices([np.cos(y), zero, np.sin(y)], [zero, one, zero], [-np.sin(y), zero, np.cos(y)])
    about_z = _matrices([np.cos(z), -np.sin(z), zero], [np.sin(z), np.cos(z), zero], [zero, zero, one])
    local = about_z @ about_y @ about_x
    positions = np.array(offsets, dtype=np.float64)
    for first, *rest in CHAINS:
        rotation, parent = local[:, first], first
        for joint in rest:
            positions[:, joint] = np.einsum("tij,tj->ti", rotation, offsets[:, joint]) + positions[:, parent]
            rotation, parent = rotation @ local[:, joint], joint
    return positions


def _matrices(*rows: list[np.ndarray]) -> np.ndarray:
    """Three rows of three (T, J) arrays -> (T, J, 3, 3)."""
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def read_ui_prmd(folder: Path) -> tuple[pa.Table, pa.Table, dict]:
    """Import UI-PRMD's segmented Kinect movements: one clip per repetition.

    Returns:
        Clips (`action_type` m01 to m10, `group` correct or incorrect), poses in the skeleton uiprmd22,
        metres, and a report. A repetition without its angles, or that cannot be read, is a rejected row.

    Raises:
        DataError: no such files, or none that can be read.
    """
    check_folder(folder)
    found = Recordings("ui_prmd", folder, SKELETON)
    files = [path for path in folder.rglob("m*_positions*.txt") if path.parent.name == "Positions"]
    kinect = [path for path in files if path.parent.parent.name.lower() == "kinect"]
    for path in sorted(kinect, key=lambda path: (path.name, str(path))):
        match = _NAME.fullmatch(path.name)
        if not match:
            found.warnings.append(f"{shorten(path.name)} is no name like m01_s01_e01_positions.txt; left out")
            continue
        clip = {
            "clip_id": path.stem.replace("_positions", ""), "uri": str(path.absolute()),
            "action_type": match[1], "subject_id": match[2], "group": "incorrect" if match[3] else "correct",
        }  # fmt: skip
        other = path.parent.parent / "Angles" / path.name.replace("positions", "angles")
        try:
            offsets, angles = _numbers(path), _numbers(other)
        except DataError as error:
            found.reject(clip, error.cause)
            continue
        if len(offsets) != len(angles):
            found.reject(clip, f"{len(offsets)} frames of positions, {len(angles)} of angles")
            continue
        leg = float(np.median(np.linalg.norm(offsets[:, _SHANK], axis=-1).sum(axis=1)))
        scale = next((scale for scale in (1.0, 0.01, 0.001) if 0.4 < leg * scale < 1.4), None)
        if scale is None:
            found.reject(clip, f"a leg is {leg:.3g} long, neither in m nor in cm nor in mm")
            continue
        xyz = scale * forward_kinematics(offsets, angles)
        time_s, note = np.arange(len(xyz)) / RATE_HZ, f"nominal {RATE_HZ:g} Hz; forward kinematics"
        found.add(clip, xyz, time_s, sha256=sha256_of(path), note=note)
    if spare := [path.name for path in files if path not in kinect]:
        found.warnings.append(f"of another sensor than the Kinect, left out: {first_names(spare, 3)}")
    return found.finish(_LAYOUT)


def _numbers(path: Path) -> np.ndarray:
    """(T, 22, 3) of a text file with 66 numbers per row, separated by commas or blanks."""
    rows = []
    for number, line in enumerate(decode(path, read_source(path, MAX_BYTES)).splitlines(), start=1):
        cells = line.replace(",", " ").split()
        if not cells:
            continue
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            cause = f"{path.name} line {number} holds {shorten(line[:80])}, no numbers"
            raise DataError(path, cause, "restore the file") from None
        if len(cells) != 3 * JOINTS:
            cause = f"{path.name} line {number} holds {len(cells)} numbers, expected 22 joints x 3"
            raise DataError(path, cause, "restore the file")
    if len(rows) < 2:
        raise DataError(path, f"{path.name} holds {len(rows)} frames", "restore the file")
    return np.array(rows).reshape(-1, JOINTS, 3)
